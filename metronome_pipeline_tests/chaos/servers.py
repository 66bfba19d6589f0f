"""What runs need around them, each in processes of its own: a Postgres, both sandboxes, and folders for all of it.

Here: starting and ending them, and what is done to Postgres from outside. Not here: what is in them (``account.py``).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psutil
import psycopg

from metronome_pipeline.storage.embedded import EmbeddedPostgres, embedded_postgres
from metronome_pipeline.storage.migrations import migrate
from metronome_pipeline_tests.world import instance_on

_MEMORY = Path("/dev/shm")
_ROOM = 3 * 1024**3


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that goes with the block: in memory, where the machine offers enough of it as files."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
    # A Unix socket's path may have 103 characters.
    path = Path(tempfile.mkdtemp(prefix="mpc-", dir=_MEMORY if roomy else "/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class Postgres:
    """An embedded server, and the name of the database in it that every world's own is a copy of."""

    home: Path
    server: EmbeddedPostgres
    template: str
    _numbers: Iterator[int] = field(default_factory=count)

    def database(self) -> str:
        """The URL of a new database with Dagster's tables and ours."""
        return self._made(f"TEMPLATE {self.template}")

    def empty_database(self) -> str:
        """The URL of a new database with nothing in it."""
        return self._made("TEMPLATE template1")

    def _made(self, template: str) -> str:
        name = f"chaos_{next(self._numbers)}"
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {template} STRATEGY FILE_COPY")
        return self._url(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected."""
        name = url.partition("?")[0].rpartition("/")[2]
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def make_template(self) -> None:
        """Make the database that the others are copies of."""
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {self.template} STRATEGY FILE_COPY")
        with psycopg.connect(self._url(self.template)) as connection:
            migrate(connection)
        with instance_on(self._url(self.template)):
            pass

    def stop_at_once(self) -> None:
        """As ``pg_ctl stop -m immediate``: every session is cut off in the midst, nothing is written out."""
        pid = self._pid()
        os.kill(pid, signal.SIGQUIT)
        patience = time.monotonic() + 60
        while _runs(pid):
            if time.monotonic() > patience:
                raise RuntimeError("Postgres does not end.")
            time.sleep(0.01)

    def use_up_its_log(self) -> bool:
        """Write until the server's log needs another file: on a full disk it gives up then. Whether it did."""
        try:
            with psycopg.connect(self.server.url, autocommit=True) as connection:
                for _ in range(200):
                    connection.execute("SELECT pg_logical_emit_message(false, 'chaos', 'more')")
                    connection.execute("SELECT pg_switch_wal()")
        except psycopg.OperationalError:
            return True
        return False

    def start_again(self) -> bool:
        """Start the server if it does not run: it replays what was committed. Whether it had to be started."""
        runs = _runs(self._pid())
        self.server = embedded_postgres(self.home)
        return not runs

    def _pid(self) -> int:
        """The server's process; 0 where it says none."""
        try:
            return int((self.home / "postgres" / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
        except FileNotFoundError:
            return 0

    def _url(self, database: str) -> str:
        return self.server.url.replace("/postgres?", f"/{database}?", 1)


@contextmanager
def postgres(home: Path) -> Iterator[Postgres]:
    """A server of the block's own. It waits for the disk: a crash of it must lose nothing that it has committed."""
    made = Postgres(home, embedded_postgres(home), "template_of_chaos")
    try:
        made.make_template()
        yield made
    finally:
        made.server.stop()


@dataclass(frozen=True)
class Sandboxes:
    """Both sandboxes in one process of their own."""

    metronome: str
    solvimon: str
    process: "subprocess.Popen[str]"


@contextmanager
def sandboxes() -> Iterator[Sandboxes]:
    """Both sandboxes, which end with the block, or with this process however that ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "metronome_pipeline_tests.chaos.sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        metronome, solvimon = json.loads(process.stdout.readline())
        yield Sandboxes(metronome, solvimon, process)
    finally:
        process.kill()
        process.communicate()


def _runs(pid: int) -> bool:
    return pid != 0 and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
