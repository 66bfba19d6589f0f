"""The real Postgres under simulated processes: production SQL, with a point at every statement where a process may die,
lose its connection, or let another go first.

Here: connections, and what a kill does to them. Not here: what the core sees of them (``database.py``). Connections are
kept and cleaned, since opening one costs as much as a run: a rollback and the release of all session locks are what
the death of a client does.
"""

import asyncio
import select
from collections.abc import Awaitable, Generator
from typing import Any, Protocol, TypeVar

import psycopg

from metronome_pipeline.storage.migrations import migrate
from metronome_pipeline_tests.simulation.strands import Strand

T = TypeVar("T")
_OPTIONS = " ".join(
    f"-c {option}"
    for option in (
        "TimeZone=UTC",
        "client_min_messages=warning",
        # What costs time and decides nothing.
        *("jit=off", "synchronous_commit=off", "track_activities=off", "track_counts=off"),
        *("default_statistics_target=1", "max_parallel_workers_per_gather=0"),
    )
)
_A_MOMENT = 2
"""Milliseconds in which a statement that waits for no lock usually ends."""


class ConnectionLost(Exception):
    """The server went away, as one statement sees it."""


class Owner(Protocol):
    """The process that a connection works for."""

    def point(self, where: str) -> None:
        """A moment at which the process may die."""

    def loses_its_connection(self) -> str | None:
        """``before`` or ``after`` this statement, when the server goes away then."""

    def takes_a_moment(self) -> Awaitable[object]:
        """How long a statement takes, in virtual time."""


class Backend(psycopg.Connection[Any]):
    """A connection that knows whose it is while it is used, and in which strand."""

    owner: Owner | None = None
    lost = False
    strand: Strand[Any] | None = None
    server: "Server"

    def wait(self, gen: Generator[Any, Any, T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Runs one exchange with the server."""
        owner = self.owner
        if owner is None:
            return super().wait(gen, interval, timeout)
        owner.point("before a statement")
        lost = owner.loses_its_connection()
        self.lost = self.lost or lost is not None
        if self.lost and lost != "after":
            raise ConnectionLost
        result = super().wait(gen, interval, timeout) if self.strand is None else self._in_turn(gen, owner, self.strand)
        if lost:
            raise ConnectionLost
        owner.point("after a statement")
        return result

    def _in_turn(self, gen: Generator[Any, Any, T], owner: Owner, strand: Strand[Any]) -> T:
        """Lets others go first, and while it waits for a lock: how long that takes in real time decides nothing."""
        strand.pause(owner.takes_a_moment)
        owner.point("before a statement")
        try:
            wanted = next(gen)
            while True:
                ready = _ready(self.pgconn.socket, wanted)
                if ready:
                    wanted = gen.send(ready)
                elif self.server.is_blocked(self.info.backend_pid):
                    strand.pause(self.server.something_happened)
                    owner.point("waiting for a lock")
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            self.server.notify()

    def is_clean(self) -> bool:
        """Whether it can be used again after its process died: not in the midst of an exchange."""
        return (
            not self.closed
            and self.pgconn.pipeline_status == psycopg.pq.PipelineStatus.OFF
            and self.pgconn.transaction_status
            in {psycopg.pq.TransactionStatus.IDLE, psycopg.pq.TransactionStatus.INTRANS, _FAILED}
        )


_FAILED = psycopg.pq.TransactionStatus.INERROR


def _ready(descriptor: int, wanted: int) -> int:
    poll = select.poll()
    poll.register(descriptor, (select.POLLIN if wanted & 1 else 0) | (select.POLLOUT if wanted & 2 else 0))
    found = poll.poll(_A_MOMENT)
    events = found[0][1] if found else 0
    return (1 if events & ~select.POLLOUT else 0) | (2 if events & select.POLLOUT else 0)


class Server:
    """One database for one seed after the other, and its connections."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Backend] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._seeds = 0
        # What stands in the database, as anybody else would see it. Never part of a process.
        self.observer = self._connect()
        with self.observer.transaction():
            migrate(self.observer)
        rows = self.observer.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname IN ('metronome', 'solvimon', 'ledger') ORDER BY 1"
        )
        self._tables = [table for (table,) in rows]
        sequences = self.observer.execute(
            "SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences "
            "WHERE schemaname IN ('metronome', 'solvimon', 'ledger') ORDER BY 1"
        )
        self._sequences = [sequence for (sequence,) in sequences]

    def _connect(self) -> Backend:
        connection = Backend.connect(self._url, autocommit=True, prepare_threshold=None, options=_OPTIONS)
        connection.server = self
        return connection

    def empty(self) -> None:
        """Empties every table for the next seed, and starts every number at 1 again."""
        self._seeds += 1
        numbers = ", ".join(f"setval('{sequence}', 1, false)" for sequence in self._sequences)
        if self._seeds % 100 == 0:
            self.observer.execute(f"TRUNCATE {', '.join(self._tables)}")
            self.observer.execute(f"SELECT {numbers}")
            for catalog in ("pg_attribute", "pg_class", "pg_type", "pg_depend", "pg_statistic"):
                self.observer.execute(f"VACUUM {catalog}")
            return
        emptied = "; ".join(f"DELETE FROM {table}" for table in self._tables)
        self.observer.execute(
            f"BEGIN; SET LOCAL session_replication_role = replica; {emptied}; SELECT {numbers}; COMMIT"
        )

    def take(self, owner: Owner) -> Backend:
        """A clean connection for a process."""
        connection = self._idle.pop() if self._idle else self._connect()
        connection.owner = owner
        return connection

    def give_back(self, connection: Backend) -> None:
        """A connection that its process has left clean."""
        connection.owner = connection.strand = None
        self._idle.append(connection)

    def drop(self, connection: Backend) -> None:
        """What the death of its client does to a connection: its transaction is rolled back and its locks are free."""
        in_turn, connection.lost = connection.strand is not None, False
        connection.owner = connection.strand = None
        if connection.is_clean() and not in_turn:
            # Not by `execute`: what died in the midst of one still holds the connection's own lock.
            connection.pgconn.exec_(b"ROLLBACK; SELECT pg_advisory_unlock_all()")
            self._idle.append(connection)
        else:
            pid = connection.info.backend_pid
            connection.close()
            # Seen where it matters: a dead client's statement goes on until it needs its client. The server's own wait
            # for a terminated backend looks every 100 ms only.
            self.observer.execute("SELECT pg_terminate_backend(%s)", [pid])
            while self.observer.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
                pass
        self.notify()

    def is_blocked(self, pid: int) -> bool:
        """Whether a backend waits for a lock that somebody else holds."""
        row = self.observer.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchone()
        return row == (True,)

    def notify(self) -> None:
        """Some statement has ended: whoever waits for a lock looks again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            # From a strand too: the loop stands still meanwhile.
            if not future.done():
                future.set_result(None)

    async def something_happened(self) -> None:
        """Until the next statement of anybody has ended."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def close(self) -> None:
        """Closes every idle connection."""
        for connection in (*self._idle, self.observer):
            connection.close()
