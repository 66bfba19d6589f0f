"""``metronome-pipeline dev``: the emulators, Dagster's UI and its daemon, with usage that goes on as time does.

Here: the order of the start, and the end. Not here: services (``local.py``), runs (``runs.py``).
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say, show_table, uninterrupted

if TYPE_CHECKING:
    from metronome_pipeline.cli.local import Services

_WEEK = timedelta(weeks=1)
# The week of 2013 that stands for this one, early enough for weeks of usage still to come.
_THIS_WEEK = datetime(2013, 3, 4, tzinfo=UTC)
_BILLED = timedelta(days=14)
_AHEAD = timedelta(days=60)
_START_SECONDS = 180.0
_STOP_SECONDS = 45.0


@click.command(
    "dev", short_help="The same services with Dagster's UI and daemon, until Ctrl-C.", epilog=example("dev --port 3001")
)
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Of Dagster's UI.")
def command(port: int) -> None:
    """Bring up Dagster on emulated accounts, with usage up to this very hour.

    The flights of 2013 are shifted by whole weeks, so that each hour brings new usage for the schedule to take over.
    Two weeks are billed. No setting is read and no account is touched; everything ends, and its data goes, with Ctrl-C.
    """
    say("Starting …")
    from metronome_pipeline.cli import local  # noqa: PLC0415

    folder = local.home() / "dev"
    with local.only_one(folder):
        _require_free(port)
        with local.local_services(folder) as services:
            variables = _prepare(services, datetime.now(UTC))
            with _dagster(services, variables, port) as process:
                _wait_until_up(process, services, port)
                _show(services, port, variables)
                status = process.wait()
                raise Failed(f"Dagster ended by itself with status {status}. Its last words: {_last_words(services)}")


def _require_free(port: int) -> None:
    from metronome_pipeline.sandbox.server import listen  # noqa: PLC0415

    try:
        listen(port).close()
    except OSError:
        raise WrongUse(f"Port {port} is taken: choose another one with --port.") from None


def _prepare(services: "Services", now: datetime) -> dict[str, str]:
    """Loads usage, proves deduplication, imports; the variables that Dagster's processes get."""
    from metronome_pipeline.cli import local, runs  # noqa: PLC0415
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415

    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    usage_start = midnight - _BILLED
    weeks = (now - _THIS_WEEK) // _WEEK
    loaded = local.load_flights(
        services, usage_start - weeks * _WEEK, midnight + _AHEAD - weeks * _WEEK, shift_weeks=weeks
    )
    say(f"{loaded:,} flights of 2013, shifted by {weeks} weeks, are in Metronome's emulator: shown from their time on.")
    settings = local.local_settings(services, usage_start)
    with open_pair(settings) as opened, runs.runner(settings, _dagster_home(services), say) as runner:
        say(f"Deduplication by reference: {asyncio.run(runs.prove_deduplication(opened)).found}.")
        say("Importing customers, meters and products …")
        runner.run("import_everything")
    # An hour closes so many minutes after its end, and the schedule ticks then: here, some two minutes from now.
    minutes = str((datetime.now(UTC) + timedelta(minutes=3)).minute)
    return {**local.local_variables(services, usage_start), "USAGE_CLOSE_MINUTES": minutes}


def _dagster_home(services: "Services") -> Path:
    return Path(services.folder) / "dagster"


@contextmanager
def _dagster(services: "Services", variables: dict[str, str], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """``dagster dev`` in a process group of its own, which ends with the block, runs under way included."""
    from metronome_pipeline.cli.runs import PROJECT  # noqa: PLC0415

    workspace = PROJECT / "workspace.yaml"
    if not workspace.exists():
        raise Failed(f"{workspace} is missing: run this from a checkout of the project.")
    home = _dagster_home(services)
    shutil.copy(workspace, home)
    arguments = ("dev", "-w", str(home / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port))
    with _log(services).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - Dagster's own module
            (sys.executable, "-m", "dagster", *arguments),
            cwd=home,
            env=_environment(variables, home),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with uninterrupted():
            say("Stopping Dagster …")
            _end(process)


def _environment(variables: dict[str, str], home: Path) -> dict[str, str]:
    """The environment of Dagster's processes. Every setting is set, the others to nothing: no ``.env`` can add any."""
    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    blanks = {field.alias: "" for field in Settings.model_fields.values() if field.alias}
    return {**os.environ, **blanks, **variables, "DAGSTER_HOME": str(home)}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks Dagster to stop its services, and ends what is left of its process group."""
    if process.poll() is None:
        # Not SIGINT, which a process started in the background by a shell ignores, and its children with it.
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            say("Dagster does not stop by itself: ending its processes.")
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def _wait_until_up(process: "subprocess.Popen[bytes]", services: "Services", port: int) -> None:
    import httpx  # noqa: PLC0415

    say("Starting Dagster's UI and daemon …")
    patience = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < patience:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise Failed(f"Dagster did not come up. Its last words: {_last_words(services)}")


def _show(services: "Services", port: int, variables: dict[str, str]) -> None:
    rows = [
        ("Dagster", f"http://127.0.0.1:{port}", ""),
        ("Metronome's emulator", services.metronome_url, variables["METRONOME_BEARER_TOKEN"]),
        ("Solvimon's emulator", services.solvimon_url, variables["SOLVIMON_API_KEY"]),
        ("Postgres", services.postgres_url, ""),
    ]
    show_table("Running until Ctrl-C", ("service", "address", "token or key"), rows)
    say(
        f"The schedule hourly_usage ticks at minute {variables['USAGE_CLOSE_MINUTES']} of each hour (UTC); at first it "
        f"takes over every hour since {variables['USAGE_START'][:10]}."
    )


def _log(services: "Services") -> Path:
    return Path(services.folder) / "dagster.log"


def _last_words(services: "Services") -> str:
    lines = _log(services).read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-8:] if line.strip())
