"""The core's ``Database`` for one simulated process: transactions and locks as in production, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import psycopg

from metronome_pipeline.storage.database import DatabaseUnavailable
from metronome_pipeline_tests.simulation.postgres import Backend, ConnectionLost, Owner, Server
from metronome_pipeline_tests.simulation.strands import Strand

T = TypeVar("T")
_LOST = "The connection to Postgres was lost: run again."


class SimulatedProcess(Owner, Protocol):
    """What a database needs to know of its process."""

    interleaved: bool
    dead: bool

    def moment(self) -> str:
        """The database's time, for ``ledger.moment``."""

    def lock_is_lost_after(self) -> float | None:
        """Virtual seconds after which the server ends the session of a lock that is held."""


class SimulatedDatabase:
    """Stands in for ``metronome_pipeline.storage.database.Database``.

    In an interleaved process every transaction is a strand, so that two processes meet in the midst of theirs.
    """

    def __init__(self, server: Server, process: SimulatedProcess, connections: int = 3) -> None:
        self._server = server
        self._process = process
        self._places = asyncio.Semaphore(connections)
        self._held: set[Backend] = set()

    async def run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """One transaction: committed when ``work`` returns, rolled back when it raises."""
        async with self._places:
            await self._process.takes_a_moment()
            self._process.point("before a transaction")
            if not self._process.interleaved:
                return self._transact(work, None)
            return await Strand[T](lambda strand: self._transact(work, strand)).run()

    def _transact(self, work: Callable[[psycopg.Connection[Any]], T], strand: Strand[Any] | None) -> T:
        connection = self._take(strand)
        try:
            connection.execute(f"BEGIN; SET LOCAL ledger.moment = '{self._process.moment()}'")
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            lost = connection.lost
            if not self._process.dead:
                self._drop(connection)
            # Whatever the library makes of it: in the midst of a pipeline it says something else.
            if lost and isinstance(error, Exception):
                raise DatabaseUnavailable(_LOST) from None
            raise
        self._give_back(connection)
        return result

    @asynccontextmanager
    async def lock(self, *key: int) -> AsyncIterator[None]:
        """An advisory lock of a session of its own, freed by death; the body is cancelled when the session ends."""
        places = ", ".join(["%s"] * len(key))
        await self._process.takes_a_moment()
        self._process.point("before a lock")
        connection = self._take(None)
        try:
            await self._statement(connection, f"SELECT pg_advisory_lock({places})", key)
        except BaseException:
            if not self._process.dead:
                self._drop(connection)
            raise
        held = _HeldLock(self._process, connection, self._drop)
        try:
            async with held:
                yield
        finally:
            if not held.lost and not self._process.dead:
                await self._statement(connection, f"SELECT pg_advisory_unlock({places})", key)
                self._give_back(connection)

    async def _statement(self, connection: Backend, statement: str, parameters: tuple[int, ...]) -> None:
        def work(strand: Strand[Any] | None) -> None:
            connection.strand = strand
            try:
                connection.execute(statement, parameters)
            except ConnectionLost:
                self._drop(connection)
                raise DatabaseUnavailable(_LOST) from None

        if self._process.interleaved:
            await Strand[None](work).run()
        else:
            work(None)

    def _take(self, strand: Strand[Any] | None) -> Backend:
        connection = self._server.take(self._process)
        connection.strand = strand
        self._held.add(connection)
        return connection

    def _give_back(self, connection: Backend) -> None:
        if connection in self._held:
            self._held.discard(connection)
            self._server.give_back(connection)

    def _drop(self, connection: Backend) -> None:
        if connection in self._held:
            self._held.discard(connection)
            self._server.drop(connection)

    def die(self) -> None:
        """The death of the process: every connection goes at once."""
        while self._held:
            self._server.drop(self._held.pop())


class _HeldLock:
    """The time in which a lock is held: its body is cancelled when the server ends the lock's session."""

    def __init__(self, process: SimulatedProcess, connection: Backend, drop: Callable[[Backend], None]) -> None:
        self.lost = False
        self._process = process
        self._connection = connection
        self._drop = drop
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        after = self._process.lock_is_lost_after()
        if after is not None:
            self._timer = asyncio.get_running_loop().call_later(after, self._lose)

    def _lose(self) -> None:
        if not self._process.dead and self._task is not None:
            self.lost = True
            self._drop(self._connection)
            self._task.cancel()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.lost or self._task is None:
            return
        self._task.uncancel()
        if error is None or isinstance(error, asyncio.CancelledError):
            raise DatabaseUnavailable(_LOST) from None
