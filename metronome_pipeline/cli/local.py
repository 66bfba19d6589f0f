"""The services of ``demo`` and ``dev`` on this machine: an embedded Postgres of their own, and both emulators.

Here: the folder, the process, the state file, and what is loaded into the emulators. Not here: the process's own code
(``emulators.py``), and any run. Nothing here reads the environment's settings: a demonstration never meets a real
account.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from metronome_pipeline.cli.terminal import Failed, WrongUse, uninterrupted
from metronome_pipeline.sandbox import flights
from metronome_pipeline.sandbox.server import listen, url_of
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.embedded import embedded_postgres

TOKEN = "sandbox-token"  # noqa: S105 - the emulators' own, on loopback
KEY = "sandbox-key"
PACE = "1000"
"""Requests a second to an emulator whose own limit is off."""

_STATE = "services.json"
# Seconds: a year of flights takes a while to load on a busy machine.
_PATIENCE = 600.0


@dataclass(frozen=True)
class Services:
    """Running services. ``contents`` says what was loaded into Metronome's emulator; None: nothing yet."""

    folder: str
    metronome_url: str
    solvimon_url: str
    pid: int
    started: float
    contents: str | None = None

    @property
    def postgres_url(self) -> str:
        """The embedded server, held by this process as well from now on."""
        return embedded_postgres(Path(self.folder)).url

    @property
    def metronome(self) -> "Control":
        """Metronome's emulator."""
        return Control(self.metronome_url, {"Authorization": f"Bearer {TOKEN}"})

    @property
    def solvimon(self) -> "Control":
        """Solvimon's emulator."""
        return Control(self.solvimon_url, {"X-API-KEY": KEY})


@dataclass(frozen=True)
class Control:
    """The control routes of one emulator."""

    url: str
    headers: Mapping[str, str]

    def call(self, method: str, path: str, body: object = None, **query: str) -> Any:
        """One request under ``/_sandbox/``; its decoded answer.

        Raises:
            Failed: The emulator does not answer, or refuses.
        """
        address = f"{self.url}/_sandbox/{path}"
        try:
            answer = httpx.request(
                method, address, json=body, params=query, headers=dict(self.headers), timeout=_PATIENCE
            )
        except httpx.HTTPError as error:
            raise Failed(f"The emulator at {self.url} does not answer ({type(error).__name__}): start again.") from None
        if not answer.is_success:
            raise Failed(f"The emulator refused {method} {address} with {answer.status_code}: {answer.text[:300]}")
        return answer.json() if answer.content else None


def home() -> Path:
    """The folder of everything embedded, as METRONOME_PIPELINE_HOME names it: the one variable that a demo heeds."""
    return Path(os.environ.get("METRONOME_PIPELINE_HOME") or ".metronome_pipeline").expanduser().resolve()


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keeps a second command out of the same folder.

    Raises:
        Failed: The folder cannot be made.
        WrongUse: Another command is using it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f"{folder.name}.lock").open("ab")
    except OSError as error:
        raise Failed(
            f"{folder.parent} can't be written ({error.strerror}): go to a folder of yours, or set "
            "METRONOME_PIPELINE_HOME."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongUse(f"Another command is using {folder}: wait for it, or stop it.") from None
        yield


def kept_services(folder: Path) -> Services | None:
    """The services that an earlier command left running, if they still do."""
    try:
        services = Services(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return services if _process(services) is not None else None


@contextmanager
def local_services(folder: Path) -> Iterator[Services]:
    """Fresh services that end with the block, and their data with them."""
    services, process = start(folder, stay=False)
    try:
        yield services
    finally:
        with uninterrupted():
            stop(services)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def start(folder: Path, *, stay: bool) -> tuple[Services, "subprocess.Popen[bytes]"]:
    """Starts services in a folder that is emptied first. Unless they are to ``stay``, they die with this process.

    Raises:
        EmbeddedPostgresError: Postgres could not be started.
        Failed: The folder holds something that no such command made.
    """
    _empty(folder)
    process: subprocess.Popen[bytes] | None = None
    try:
        folder.mkdir(parents=True)
        (folder / _STATE).write_text("{}", encoding="utf-8")
        embedded_postgres(folder)
        with listen() as metronome, listen() as solvimon:
            process = _start_emulators(folder, metronome.fileno(), solvimon.fileno(), stay=stay)
            started = psutil.Process(process.pid).create_time()
            services = Services(str(folder), url_of(metronome), url_of(solvimon), process.pid, started)
        _remember(services)
    except BaseException:
        with uninterrupted():
            if process is not None:
                process.kill()
                process.wait()
            _empty(folder)
        raise
    return services, process


def _start_emulators(folder: Path, metronome: int, solvimon: int, *, stay: bool) -> "subprocess.Popen[bytes]":
    """Starts the process that serves two listening sockets, given by their file descriptors."""
    module = "metronome_pipeline.cli.emulators"
    with (folder / "sandbox.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own module
            (sys.executable, "-m", module, str(folder), str(metronome), str(solvimon)),
            pass_fds=(metronome, solvimon),
            stdin=subprocess.DEVNULL if stay else subprocess.PIPE,
            stdout=log,
            stderr=log,
            # A Ctrl-C is for the command, which then stops this process in its own time.
            start_new_session=True,
        )


def note_contents(services: Services, contents: str) -> Services:
    """Remembers what was loaded."""
    loaded = replace(services, contents=contents)
    _remember(loaded)
    return loaded


def _remember(services: Services) -> None:
    """Writes the state file, whole or not at all."""
    new = Path(services.folder) / f"{_STATE}.new"
    new.write_text(json.dumps(asdict(services), indent=2), encoding="utf-8")
    new.rename(new.with_name(_STATE))


def stop(services: Services) -> None:
    """Ends services and removes their data."""
    folder = Path(services.folder)
    # Attached before its last other holder goes, so that it need not be started again to be stopped.
    server = embedded_postgres(folder)
    process = _process(services)
    if process is not None:
        process.terminate()
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(10)
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _process(services: Services) -> psutil.Process | None:
    """The services' process, if it lives: ids are used again, so the time of its start must fit too."""
    try:
        process = psutil.Process(services.pid)
        alive = process.create_time() == services.started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def _empty(folder: Path) -> None:
    """Removes what a command left that could not put it away, and nothing else."""
    if not folder.exists():
        return
    if any(folder.iterdir()) and not (folder / _STATE).exists():
        raise Failed(
            f"{folder} holds files that this command has not made: move them away, or set METRONOME_PIPELINE_HOME."
        )
    if (folder / "postgres").exists():
        embedded_postgres(folder).stop()
    shutil.rmtree(folder)


def load_flights(services: Services, start: datetime, end: datetime, *, shift_weeks: int = 0) -> int:
    """Loads flights into Metronome's emulator and gives every airline a subscription in Solvimon's; how many flights.

    Without a subscription events are stored unmatched, as in the real thing. The limit on requests is taken off.
    """
    services.metronome.call("PATCH", "settings", {"rate_limit": None})
    wanted = {"dataset": "flights", "from": start.isoformat(), "to": end.isoformat(), "shift_weeks": shift_weeks}
    loaded: int = services.metronome.call("PUT", "dataset", wanted)["events"]
    for customer in flights.customers():
        services.solvimon.call("POST", "subscriptions", {"customer_reference": customer["id"]})
    return loaded


def local_settings(services: Services, usage_start: datetime, **variables: str) -> Settings:
    """Settings for the emulators alone, made without a look at the environment or ``.env``."""
    return Settings.from_environment({**local_variables(services, usage_start), **variables})


def local_variables(services: Services, usage_start: datetime) -> dict[str, str]:
    """The variables that point every command at these services."""
    return {
        "METRONOME_BASE_URL": services.metronome_url,
        "METRONOME_BEARER_TOKEN": TOKEN,
        "METRONOME_ENVIRONMENT": "sandbox",
        "METRONOME_REQUESTS_PER_SECOND": PACE,
        "SOLVIMON_BASE_URL": services.solvimon_url,
        "SOLVIMON_API_KEY": KEY,
        "METRONOME_PIPELINE_HOME": services.folder,
        "USAGE_START": usage_start.isoformat(),
    }
