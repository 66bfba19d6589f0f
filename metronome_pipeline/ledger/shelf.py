"""The shelf of a read: where its walks wait until they are stored, and what the read has to report.

Here: which walks are under way, complete or given up, so that none leaves rows behind. Not here: requests (``read.py``)
and the statements (``readings.py``).
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from metronome_pipeline.errors import RateLimited, Unavailable
from metronome_pipeline.ledger import readings
from metronome_pipeline.ledger.readings import Reading, UsageRow, Walk
from metronome_pipeline.mapping.usage import BilledMetric
from metronome_pipeline.storage.database import Database, DatabaseUnavailable

_STORE_ROWS = 10_000
_STORE_WALKS = 32
_LONGEST_OUTAGE_WALKS = 3
_MOST_NAMED = 100


@dataclass(frozen=True)
class Unread:
    """Pairs whose walk did not complete, and why. Nothing is planned from what was seen of them."""

    customer_id: str
    metric_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class UnstorableGroup:
    """Usage of a group that Postgres cannot store. It is billed with the rest of its hour, without properties."""

    customer_id: str
    metric_id: str
    group: str


@dataclass(frozen=True)
class ReadReport:
    """What a read did: pairs stored, rows with usage, pairs that could not be read, hours whose groups fell short.

    ``unstorable`` names the first of the groups that cannot be stored.
    """

    pairs: int = 0
    rows: int = 0
    unread: tuple[Unread, ...] = ()
    short_hours: int = 0
    unstorable: tuple[UnstorableGroup, ...] = ()


@dataclass
class Shelf:
    """Walks of one read: begun, staged, and once complete stored many at a time. ``grouped``: with properties."""

    database: Database
    pair_id: int
    run_id: str
    grouped: bool
    _unread: list[Unread] = field(default_factory=list)
    _stored: int = 0
    _rows: int = 0
    _short_hours: int = 0
    _unstorable: list[UnstorableGroup] = field(default_factory=list)
    _outages: int = 0
    _begun: dict[int, Walk] = field(default_factory=dict)
    _waiting: list[tuple[Walk, list[UsageRow], list[Reading]]] = field(default_factory=list)
    _waiting_rows: int = 0

    @property
    def report(self) -> ReadReport:
        """What the read did so far."""
        return ReadReport(self._stored, self._rows, tuple(self._unread), self._short_hours, tuple(self._unstorable))

    async def tidy(self) -> None:
        """Forgets what dead runs left behind."""
        await self.database.run(readings.forget_old_walks)

    async def begin(self) -> Walk:
        """A new walk, to be put here or discarded."""
        walk = await self.database.run(readings.begin_walk)
        self._begun[walk.walk_id] = walk
        return walk

    async def stage(self, walk: Walk, rows: list[UsageRow]) -> None:
        """Puts rows of a walk aside in the database, before it is known whether the walk will complete."""
        if rows:
            await self.database.run(lambda connection: readings.stage(connection, walk, rows))

    async def put(
        self,
        walk: Walk,
        rows: list[UsageRow],
        complete: list[Reading],
        staged: int = 0,
        unstorable: Iterable[UnstorableGroup] = (),
    ) -> None:
        """Takes a complete walk: its rows, those that were ``staged`` before, and what its readings cover."""
        self._outages = 0
        self._waiting.append((walk, rows, complete))
        self._waiting_rows += len(rows)
        self._rows += len(rows) + staged
        self._unstorable = [*self._unstorable, *unstorable][:_MOST_NAMED]
        if self._waiting_rows >= _STORE_ROWS or len(self._waiting) >= _STORE_WALKS:
            await self.store()

    async def store(self) -> None:
        """Stores every complete walk that waits, in one transaction."""
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not waiting:
            return
        complete = [reading for _, _, readings_of_walk in waiting for reading in readings_of_walk]

        def work(connection: readings.Connection) -> list[Reading]:
            for walk, rows, _ in waiting:
                readings.stage(connection, walk, rows)
            return readings.store(connection, self.pair_id, complete, grouped=self.grouped, run_id=self.run_id)

        left = await self.database.run(work)
        for walk, _, _ in waiting:
            del self._begun[walk.walk_id]
        for reading in left:
            why = f"Metric {reading.metric_id} was switched away from {reading.slicing} while it was read"
            self._unread.append(Unread(reading.customer_id, (reading.metric_id,), why))
        self._stored += len(complete) - len(left)
        self._short_hours += sum(len(reading.short_hours) for reading in complete)

    def note_outage(self, customer_id: str, metrics: Sequence[BilledMetric], error: Unavailable | RateLimited) -> None:
        """Leaves the pairs unread. Raises the error when nothing was read since several others like it."""
        self._outages += 1
        if self._outages > _LONGEST_OUTAGE_WALKS:
            raise error
        self.note_unread(customer_id, metrics, str(error))

    def note_unread(self, customer_id: str, metrics: Sequence[BilledMetric], reason: str) -> None:
        """Notes pairs that were not read."""
        self._unread.append(Unread(customer_id, tuple(metric.metric_id for metric in metrics), reason))

    async def discard(self, walks: Sequence[Walk]) -> None:
        """Forgets walks that did not complete, with their staged rows."""
        await self.database.run(lambda connection: readings.discard(connection, walks))
        for walk in walks:
            del self._begun[walk.walk_id]

    async def clear(self) -> None:
        """Forgets what was begun and not stored. Where the database is gone, a later read does it."""
        if self._begun:
            with suppress(DatabaseUnavailable):
                await self.discard(list(self._begun.values()))
