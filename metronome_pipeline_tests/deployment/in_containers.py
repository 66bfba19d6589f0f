"""The image and ``deploy/compose.yaml`` in a real engine, by the commands of docs/deployment.md.

Run by ``make container-test``: it needs Docker with Compose 2.24 or later, and a registry with the images that these
files build on. The checkout's own ``.env``, images and volumes are not touched.
"""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from metronome_pipeline_tests.deployment.services import ROOT, Deployment, minute_long_off

_OVERRIDE = Path(__file__).with_name("containers.yaml")
_FIRST, _LAST = "2025-01-01-00:00", "2025-01-14-23:00"
_COMPARED = ("metronome-pipeline", "reconcile", "--from", "2025-01-01", "--to", "2025-01-15")


@dataclass(frozen=True)
class Containers:
    """A project of Compose's, of a name and an image that nobody else has."""

    folder: Path
    name: str

    def compose(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """One command of Docker Compose, as the page gives it."""
        files = ("--file", "deploy/compose.yaml", "--file", str(_OVERRIDE))
        command = ["docker", "compose", "--project-name", self.name, "--env-file", ".env", *files, *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "TEST_IMAGE": self.name},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-3_000:]}{done.stderr[-3_000:]}"
        return done

    def asked(self, query: str) -> str:
        """The one value that a query of the ledger gives."""
        psql = ("exec", "-T", "postgres", "psql", "--username", "metronome", "--tuples-only", "--no-align", "--command")
        return self.compose(*psql, query).stdout.strip()

    def services(self, folder: Path) -> Deployment:
        """Dagster behind the webserver's port."""
        address = self.compose("port", "webserver", "3000").stdout.strip()
        return Deployment(folder, {}, "", f"http://{address}", 0)


@pytest.fixture
def containers(folder: Path) -> Iterator[Containers]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in ["Dockerfile", ".dockerignore", "deploy", *(line[1:].rstrip("/") for line in lines if line[:1] == "!")]:
        source, target = ROOT / name, folder / "project" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    settings = {
        "METRONOME_BASE_URL": "http://127.0.0.1:8701",
        "METRONOME_BEARER_TOKEN": "sandbox-token",
        "SOLVIMON_BASE_URL": "http://127.0.0.1:8702",
        "SOLVIMON_API_KEY": "sandbox-key",
        "USAGE_START": "2025-01-01",
        "USAGE_CLOSE_MINUTES": minute_long_off(),
        # JSON, as the page says to write it.
        "METRIC_CALCULATIONS": "'{}'",
        "POSTGRES_PASSWORD": uuid.uuid4().hex,
    }
    text = "".join(f"{name}={value}\n" for name, value in settings.items())
    (folder / "project" / ".env").write_text(text, encoding="utf-8")
    made = Containers(folder / "project", f"mp-test-{uuid.uuid4().hex[:12]}")
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5", check=False)
        subprocess.run(["docker", "image", "rm", "--force", made.name], capture_output=True, check=False)


def test_the_page_on_containers_holds(containers: Containers, folder: Path) -> None:
    containers.compose("build", "code")
    said = containers.compose("run", "--rm", "code", "metronome-pipeline", "check").stdout
    assert "checks are ok" in said, said
    containers.compose("up", "--detach", "--wait")
    assert_without_rights(containers)

    dagster = containers.services(folder)
    dagster.wait_for("the code location", dagster.is_up)
    dagster.wait_for("the sensor's import", lambda: "import_everything" in {run.job for run in dagster.runs().values()})
    (imported,) = dagster.runs()
    assert dagster.end_of(imported) == "SUCCESS"

    lost = dagster.launch_range(_FIRST, _LAST)
    dagster.wait_for("its first events", lambda: containers.asked("SELECT count(*) FROM ledger.events") != "0", 0.05)
    containers.compose("kill", "code")
    containers.compose("up", "--detach", "--wait")
    dagster.wait_for("the code location once more", dagster.is_up)
    # As the page says: nobody tells Dagster of its death, and the next run brings its events to their end.
    assert dagster.runs()[lost].status == "STARTED"
    assert dagster.end_of(dagster.launch_range(_FIRST, _LAST)) == "SUCCESS"
    assert containers.asked("SELECT count(*) FROM ledger.claims") == "0"
    # 3: done, but for what no subscription bills, as nobody has one here. 1 would be a difference.
    compared = containers.compose("exec", "-T", "code", *_COMPARED, check=False)
    assert (compared.returncode, "Proved: 140 by day" in compared.stdout) == (3, True), compared.stdout

    containers.compose("exec", "-T", "code", "metronome-pipeline", "backup", "create", "storage/today.dump")
    containers.compose("cp", "code:/opt/dagster/storage/today.dump", str(folder))
    assert (folder / "today.dump").stat().st_size > 100_000


def assert_without_rights(containers: Containers) -> None:
    """Not root, without capabilities, and not able to change the program."""
    shown = "id --user; grep CapEff /proc/self/status; touch /opt/venv/changed 2>/dev/null || echo refused"
    said = containers.compose("exec", "-T", "code", "sh", "-c", shown).stdout.split()
    assert said == ["10001", "CapEff:", "0000000000000000", "refused"]
