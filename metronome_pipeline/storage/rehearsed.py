"""Transactions that are rolled back: the database as a rehearsal sees it, in which nothing lasts.

Here: how such a transaction begins and ends, and how it gives way to runs. Not here: what is rehearsed (``ledger/``,
``workflows/``).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

from metronome_pipeline.clock import Clock
from metronome_pipeline.errors import PipelineError
from metronome_pipeline.storage.database import Database

T = TypeVar("T")
Connection = psycopg.Connection[TupleRow]

# Shorter than Postgres waits before it looks for a deadlock (1 s), so that it is never a run that has to end.
_LONGEST_WAIT = "500ms"
_PAUSES = (*(0.2,) * 5, *(1.0,) * 60)


class RunsAreBusy(PipelineError):
    """A rehearsal found no gap between the transactions of runs."""


async def rolled_back(database: Database, clock: Clock, work: Callable[[Connection], T]) -> T:
    """Does ``work`` in a transaction, and rolls it back.

    Never waits long for a lock, and begins again instead: whoever needs what ``work`` has locked gets it.

    Raises:
        RunsAreBusy: Runs held what it needs for more than a minute.
    """
    for pause in _PAUSES:
        try:
            return await database.run(lambda connection: _rolled_back(connection, work))
        except psycopg.errors.LockNotAvailable:
            await clock.sleep(pause)
    raise RunsAreBusy("Runs are writing what this would have to read: nothing was done. Try again in some minutes.")


def _rolled_back(connection: Connection, work: Callable[[Connection], T]) -> T:
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [_LONGEST_WAIT])
        return work(connection)


class RehearsedDatabase(Database):
    """A database for a rehearsal: each transaction sees what the ones before it did, and is rolled back.

    What was done before is done again in each, so no lock is held in between, however long that is.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        # Not Database's own: the connections are those of `database`.
        self._database = database
        self._clock = clock
        self._before: list[Callable[[Connection], Any]] = []

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Does ``work`` after everything that was done before, and rolls it all back."""
        result = await rolled_back(self._database, self._clock, lambda c: self._after_the_others(c, work))
        self._before.append(work)
        return result

    async def at_once(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine that waits for nothing but its transactions, all of them in one that is rolled back."""

        def inside(connection: Connection) -> T:
            return asyncio.run(work(_Connected(connection)))

        return await rolled_back(self._database, self._clock, lambda c: self._after_the_others(c, inside))

    def _after_the_others(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        for earlier in self._before:
            earlier(connection)
        return work(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Not in a rehearsal: it would be committed."""
        raise RuntimeError("A rehearsal commits nothing: whoever rehearses must not ask for a transaction.")
        yield

    @asynccontextmanager
    async def lock(self, *key: int) -> AsyncIterator[None]:
        """Not in a rehearsal: it would keep runs out."""
        raise RuntimeError(f"A rehearsal takes no lock, it would keep runs out: {key}.")
        yield

    def close(self) -> None:
        """Nothing to close: the connections are another's."""


class _Connected(RehearsedDatabase):
    """The database within one transaction of another."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def run(self, work: Callable[[Connection], T]) -> T:
        return work(self._connection)
