"""Dagster's services as a deployment runs them: code server, webserver and daemon, each a process with its own home.

Here: the homes, the processes, and the GraphQL that a person's clicks become. Not here: what is asserted. They share
nothing but Postgres: no folder, no instance, no socket but the code server's port and the webserver's.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]

from metronome_pipeline.sandbox.server import listen
from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.world import World

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
"""Seconds until something that must come is taken not to come."""
UNDER_WAY = frozenset({"QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"})
Launcher = Mapping[str, Any]
"""``run_launcher`` of ``dagster.yaml``."""
Storage = Mapping[str, Any]
"""``storage`` of ``dagster.yaml``."""
DAGSTER = (sys.executable, "-m", "dagster")
WEBSERVER = (sys.executable, "-m", "dagster_webserver")
DAEMON = (sys.executable, "-m", "dagster._daemon")
WORKSPACE = ("--workspace", "workspace.yaml")
MODULE = "metronome_pipeline.definitions"
_LOCATION = "metronome_pipeline"
_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_RUNS = "query { runsOrError { ... on Runs { results { runId status jobName tags { key value } } } } }"
_LOADED = """
query { workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }
"""


@dataclass(frozen=True)
class Run:
    """A run as the webserver shows it."""

    run_id: str
    status: str
    job: str
    tags: Mapping[str, str]


@dataclass
class Deployment:
    """Running services."""

    folder: Path
    environment: Mapping[str, str]
    instance: str
    url: str
    code_port: int
    locations: int = 1
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def launch(self, job: str, *, location: str = _LOCATION, assets: Sequence[str] = (), **tags: str) -> str:
        """Launches a run at the webserver, as its launchpad does, or the page of some assets; the run's id."""
        selected = {"assetSelection": [{"path": asset.split("/")} for asset in assets]} if assets else {}
        params = {
            "selector": {
                "repositoryLocationName": location,
                "repositoryName": "__repository__",
                "jobName": job,
                **selected,
            },
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self.ask(_LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def launch_range(self, first: str, last: str) -> str:
        """Launches usage of a range of hours, given by their partitions."""
        return self.launch(
            "ingest_usage",
            **{"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        )

    def runs(self) -> dict[str, Run]:
        """Every run, whoever launched it."""
        found = self.ask(_RUNS)["runsOrError"]["results"]
        return {
            one["runId"]: Run(
                one["runId"], one["status"], one["jobName"], {tag["key"]: tag["value"] for tag in one["tags"]}
            )
            for one in found
        }

    def end_of(self, run_id: str) -> str:
        """How a run ended, once it has."""
        self.wait_for(f"the end of run {run_id}", lambda: self.runs()[run_id].status not in UNDER_WAY)
        return self.runs()[run_id].status

    def wait_for(self, what: str, reached: Callable[[], bool], every: float = 0.2) -> None:
        patience = time.monotonic() + PATIENCE
        while not reached():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            assert not ended, f"{ended} ended by themselves. {self.last_words()}"
            assert time.monotonic() < patience, f"{what} did not come within {PATIENCE:.0f} s. {self.last_words()}"
            time.sleep(every)

    def last_words(self) -> str:
        logs = sorted(self.folder.glob("*/service.log")) + sorted(self.folder.glob("workers/*/worker.log"))
        return "\n".join(f"{log.parent.name}: {log.read_text(encoding='utf-8')[-1_500:]}" for log in logs)

    def is_up(self) -> bool:
        """Whether the webserver has loaded every code location."""
        with suppress(httpx.HTTPError):
            entries = self.ask(_LOADED)["workspaceOrError"]["locationEntries"]
            loaded = [one["locationOrLoadError"] for one in entries]
            return loaded == [{"__typename": "RepositoryLocation"}] * self.locations
        return False

    def start(self, name: str, *command: str) -> None:
        """Starts a service in a home of its own, and in a process group of its own."""
        home = self.folder / name
        make_home(home, self.instance, self.code_port)
        with (home / "service.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=home,
                env={**self.environment, "DAGSTER_HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self) -> None:
        """Ends every service, and what it has started."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def ask(self, query: str, **variables: Any) -> Any:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
        body = answer.raise_for_status().json()
        assert "errors" not in body, body["errors"]
        return body["data"]


@contextmanager
def deployment(
    folder: Path, world: World, launcher: Launcher | None, storage: Storage | None = None, **variables: str
) -> Iterator[Deployment]:
    """Services for a world, with the project's own ``dagster.yaml``; they end with the block.

    Args:
        folder: In which each service gets its home.
        world: Whose accounts and whose database.
        launcher: What starts runs; None for Dagster's own default, in which the code server runs them.
        storage: Where Dagster keeps its own state; None for the project's.
        variables: Settings other than the world's, and what else the services find in their environment.
    """
    code, web = free_port(), free_port()
    environment = _environment(world, variables)
    opened = Deployment(folder, environment, _instance(launcher, storage), f"http://127.0.0.1:{web}", code)
    try:
        opened.start("code", *DAGSTER, "api", "grpc", "--port", str(code), "--module-name", MODULE)
        opened.wait_for("the code server", lambda: is_healthy(code), every=1)
        opened.start("webserver", *WEBSERVER, "--host", "127.0.0.1", "--port", str(web), *WORKSPACE)
        opened.start("daemon", *DAEMON, "run", *WORKSPACE)
        opened.wait_for("the webserver", opened.is_up)
        yield opened
    finally:
        opened.end()


def process_for_each_run(folder: Path, storage: Storage | None = None) -> Launcher:
    """A process and a home for each run, as Kubernetes and Docker have a container."""
    workers = folder / "workers"
    launcher = {
        "module": "metronome_pipeline_tests.deployment.workers",
        "class": "ProcessForEachRun",
        "config": {"homes": str(workers)},
    }
    workers.mkdir()
    (workers / "dagster.yaml").write_text(_instance(launcher, storage), encoding="utf-8")
    return launcher


def make_home(home: Path, instance: str, code_port: int) -> None:
    """A folder with what Dagster reads from its home; nothing where it is there already."""
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(instance, encoding="utf-8")
    server = {"host": "127.0.0.1", "port": code_port, "location_name": _LOCATION}
    (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}), encoding="utf-8")


def free_port() -> int:
    """A port that nobody has now. Other people's servers bind by themselves, so there is a moment for somebody else."""
    with listen() as listening:
        return int(listening.getsockname()[1])


def _instance(launcher: Launcher | None, storage: Storage | None) -> str:
    """The project's ``dagster.yaml``, which looks after runs every few seconds instead of every minute."""
    instance = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    instance["run_monitoring"]["poll_interval_seconds"] = 2
    if launcher is not None:
        instance["run_launcher"] = dict(launcher)
    if storage is not None:
        instance["storage"] = dict(storage)
    return str(yaml.safe_dump(instance))


def _environment(world: World, variables: Mapping[str, str]) -> dict[str, str]:
    """Every setting is set, the others to nothing. No schedule by the hour ticks within the test."""
    blanks = {field.alias: "" for field in Settings.model_fields.values() if field.alias}
    settings = world.settings()
    return {
        **os.environ,
        **blanks,
        # For programs that start others by name.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "METRONOME_BASE_URL": world.metronome.url,
        "METRONOME_BEARER_TOKEN": settings.metronome_bearer_token.get_secret_value(),
        "METRONOME_ENVIRONMENT": settings.metronome_environment,
        "SOLVIMON_BASE_URL": world.solvimon.url,
        "SOLVIMON_API_KEY": settings.solvimon_api_key.get_secret_value(),
        "USAGE_START": settings.usage_start.isoformat(),
        "USAGE_CLOSE_MINUTES": minute_long_off(),
        "DAGSTER_POSTGRES_URL": world.database_url,
        **variables,
    }


def minute_long_off() -> str:
    """Minutes after which hours close, so that no schedule by the hour ticks within a test."""
    return str((datetime.now(UTC) - timedelta(minutes=5)).minute)


def is_healthy(port: int) -> bool:
    """What the image's own health check asks."""
    command = (*DAGSTER, "api", "grpc-health-check", "--port", str(port))
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
