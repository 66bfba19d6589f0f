"""Read: walk the usage of every due (customer, metric) over a window, and write down each walk that completes.

Here: which requests are made, when a walk counts as complete, and what becomes of one that does not. Not here: HTTP
(``metronome/api.py``) and the statements (``readings.py``). One failing pair never keeps the others from being read.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import CursorRepeated, Malformed, PipelineError, Unavailable
from metronome_pipeline.ledger import readings
from metronome_pipeline.ledger.readings import TOTAL, Reading, ShortHour, UsageRow, Walk
from metronome_pipeline.mapping.usage import BilledMetric, canonical_properties, exact_sum, slice_of
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.storage.database import Database

_DAY = timedelta(days=1)
_WALK_ATTEMPTS = 3
_METRICS_PER_WALK = 50
_STAGE_ROWS = 20_000
_STORE_ROWS = 10_000
_STORE_WALKS = 32
_LONGEST_OUTAGE_WALKS = 3


class IncompleteWalk(PipelineError):
    """A walk returned one (customer, metric, window, group) twice, so it may lack another."""


@dataclass(frozen=True)
class Window:
    """Closed hours ``[start, end)``, UTC."""

    start: datetime
    end: datetime

    @property
    def days(self) -> tuple[datetime, datetime]:
        """The UTC midnights around the window: usage is asked for in whole UTC days only (Metronome notes, section 6)."""
        return midnight(self.start), midnight(self.end + _DAY - timedelta(microseconds=1))


@dataclass(frozen=True)
class Unread:
    """A pair whose walk did not complete, and why. Nothing is planned from what was seen of it."""

    customer_id: str
    metric_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class ReadReport:
    """What a read did: walks stored, rows with usage, pairs that could not be read, hours whose groups fell short."""

    pairs: int = 0
    rows: int = 0
    unread: tuple[Unread, ...] = ()
    short_hours: int = 0


@dataclass(frozen=True)
class UsageReader:
    """Reads usage of one account pair into the database."""

    api: MetronomeApi
    database: Database
    pair_id: int
    run_id: str
    in_flight: int = 8

    async def read(
        self,
        customer_ids: Sequence[str],
        metrics: Sequence[BilledMetric],
        window: Window,
        *,
        progress: Callable[[ReadReport], None] = lambda _: None,
    ) -> ReadReport:
        """Walks every (customer, metric) over the window. ``metrics`` are all ungrouped or all grouped."""
        grouped = any(metric.group_key for metric in metrics)
        shelf = _Shelf(self, grouped=grouped)
        size = _metrics_per_walk(len(customer_ids), len(metrics), self.in_flight)
        parts = [metrics[first : first + size] for first in range(0, len(metrics), size)]
        walks = iter([(customer_id, part) for customer_id in customer_ids for part in parts])
        outages = 0

        async def work() -> None:
            nonlocal outages
            for customer_id, part in walks:
                try:
                    await self._walk_until_complete(customer_id, part, window, shelf)
                except (IncompleteWalk, Malformed, CursorRepeated, Unavailable) as error:
                    outages += isinstance(error, Unavailable)
                    if outages > _LONGEST_OUTAGE_WALKS:
                        raise
                    shelf.unread.append(Unread(customer_id, tuple(m.metric_id for m in part), str(error)))
                progress(shelf.report)

        await work_together(work, self.in_flight)
        await shelf.store()
        return shelf.report

    async def _walk_until_complete(
        self, customer_id: str, metrics: Sequence[BilledMetric], window: Window, shelf: "_Shelf"
    ) -> None:
        walk_once = self._walk_groups if metrics[0].group_key else self._walk_totals
        for attempt in range(1, _WALK_ATTEMPTS + 1):
            try:
                await walk_once(customer_id, metrics, window, shelf, last_attempt=attempt == _WALK_ATTEMPTS)
            except (IncompleteWalk, Malformed, CursorRepeated):
                if attempt == _WALK_ATTEMPTS:
                    raise
            else:
                return

    async def _walk_totals(
        self,
        customer_id: str,
        metrics: Sequence[BilledMetric],
        window: Window,
        shelf: "_Shelf",
        *,
        last_attempt: bool,  # noqa: ARG002 - the walks share one signature
    ) -> None:
        walk = await self.database.run(readings.begin_walk)
        rows = [
            UsageRow(customer_id, metric_id, start, start + timedelta(hours=1), value)
            async for metric_id, start, value in self._totals(customer_id, metrics, window)
            if value is not None
        ]
        await shelf.put(walk, rows, [_reading(walk, customer_id, metric, window) for metric in metrics])

    async def _walk_groups(
        self,
        customer_id: str,
        metrics: Sequence[BilledMetric],
        window: Window,
        shelf: "_Shelf",
        *,
        last_attempt: bool,
    ) -> None:
        """Totals first, then the groups of each metric that has usage; each hour's groups must add up to its total."""
        walk = await self.database.run(readings.begin_walk)
        totals: dict[str, dict[datetime, Decimal]] = {metric.metric_id: {} for metric in metrics}
        async for metric_id, start, value in self._totals(customer_id, metrics, window):
            if value is not None:
                totals[metric_id][start] = value
        readings_of_walk = []
        for metric in metrics:
            short = await self._groups(walk, customer_id, metric, totals[metric.metric_id], window, shelf)
            if short and not last_attempt:
                await self.database.run(lambda connection: readings.discard(connection, walk))
                raise IncompleteWalk(
                    f"The groups of metric {metric.metric_id} for customer {customer_id} do not add up to its usage"
                )
            readings_of_walk.append(_reading(walk, customer_id, metric, window, short))
        await shelf.put(walk, [], readings_of_walk)

    async def _totals(
        self, customer_id: str, metrics: Sequence[BilledMetric], window: Window
    ) -> AsyncIterator[tuple[str, datetime, Decimal | None]]:
        starting_on, ending_before = window.days
        metric_ids = [metric.metric_id for metric in metrics]
        seen: set[tuple[str, datetime]] = set()
        async for page in self.api.usage(
            customer_id=customer_id, metric_ids=metric_ids, starting_on=starting_on, ending_before=ending_before
        ):
            for usage in page:
                key = (usage.metric_id, usage.start)
                if key in seen:
                    raise IncompleteWalk(
                        f"Metronome returned the hour {usage.start:%Y-%m-%dT%H:%MZ} of metric {usage.metric_id} for "
                        f"customer {customer_id} twice in one walk"
                    )
                seen.add(key)
                if window.start <= usage.start < window.end:
                    yield usage.metric_id, usage.start, usage.value

    async def _groups(
        self,
        walk: Walk,
        customer_id: str,
        metric: BilledMetric,
        totals: dict[datetime, Decimal],
        window: Window,
        shelf: "_Shelf",
    ) -> list[ShortHour]:
        """Stages the totals and groups of one metric's hours, and returns the hours where they disagree."""
        hour = timedelta(hours=1)
        rows = [UsageRow(customer_id, metric.metric_id, start, start + hour, value) for start, value in totals.items()]
        grouped: dict[datetime, list[Decimal]] = {}
        seen: set[tuple[datetime, str]] = set()
        async for start, properties, value in self._group_rows(customer_id, metric, totals, window):
            slice_name = slice_of(properties)
            if (start, slice_name) in seen:
                raise IncompleteWalk(
                    f"Metronome returned the group {properties} of {start:%Y-%m-%dT%H:%MZ} twice in one walk of metric "
                    f"{metric.metric_id} for customer {customer_id}"
                )
            seen.add((start, slice_name))
            if value is None:
                continue
            grouped.setdefault(start, []).append(value)
            rows.append(UsageRow(customer_id, metric.metric_id, start, start + hour, value, slice_name, properties))
            if len(rows) >= _STAGE_ROWS:
                await shelf.stage(walk, rows)
                rows = []
        await shelf.stage(walk, rows)
        return _short_hours(metric, totals, grouped)

    async def _group_rows(
        self, customer_id: str, metric: BilledMetric, totals: dict[datetime, Decimal], window: Window
    ) -> AsyncIterator[tuple[datetime, str, Decimal | None]]:
        """The groups of the days that have usage. A group that cannot be stored is left to the rest of its hour."""
        if not totals:
            return
        starting_on, ending_before = midnight(min(totals)), midnight(max(totals)) + _DAY
        async for page in self.api.grouped_usage(
            customer_id=customer_id,
            metric_id=metric.metric_id,
            group_key=metric.group_key,
            starting_on=starting_on,
            ending_before=ending_before,
        ):
            for usage in page.rows:
                if window.start <= usage.start < window.end:
                    yield usage.start, canonical_properties(usage.group or {}), usage.value


@dataclass
class _Shelf:
    """Completed walks on their way into the database, stored many at a time."""

    reader: UsageReader
    grouped: bool
    unread: list[Unread] = field(default_factory=list)
    pairs: int = 0
    rows: int = 0
    short_hours: int = 0
    _waiting: list[tuple[Walk, list[UsageRow], list[Reading]]] = field(default_factory=list)
    _waiting_rows: int = 0

    @property
    def report(self) -> ReadReport:
        return ReadReport(self.pairs, self.rows, tuple(self.unread), self.short_hours)

    async def stage(self, walk: Walk, rows: list[UsageRow]) -> None:
        if rows:
            await self.reader.database.run(lambda connection: readings.stage(connection, walk, rows))
            self.rows += len(rows)

    async def put(self, walk: Walk, rows: list[UsageRow], complete: list[Reading]) -> None:
        self._waiting.append((walk, rows, complete))
        self._waiting_rows += len(rows)
        if self._waiting_rows >= _STORE_ROWS or len(self._waiting) >= _STORE_WALKS:
            await self.store()

    async def store(self) -> None:
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not waiting:
            return
        complete = [reading for _, _, readings_of_walk in waiting for reading in readings_of_walk]

        def work(connection: readings.Connection) -> None:
            for walk, rows, _ in waiting:
                readings.stage(connection, walk, rows)
            readings.store(connection, self.reader.pair_id, complete, grouped=self.grouped, run_id=self.reader.run_id)

        await self.reader.database.run(work)
        self.pairs += len(complete)
        self.rows += sum(len(rows) for _, rows, _ in waiting)
        self.short_hours += sum(len(reading.short_hours) for reading in complete)


def midnight(instant: datetime) -> datetime:
    """The UTC midnight at or before an instant."""
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def steps(window: Window, days: int = 7) -> list[Window]:
    """Cuts a window into steps of at most ``days`` UTC days, so that a step costs one page a pair and memory stays flat."""
    cuts = [window.start]
    while (cut := midnight(cuts[-1]) + days * _DAY) < window.end:
        cuts.append(cut)
    return [Window(start, end) for start, end in zip(cuts, [*cuts[1:], window.end], strict=True)]


def _metrics_per_walk(customers: int, metrics: int, in_flight: int) -> int:
    """One walk a customer; more when there are too few customers to keep the requests in flight busy."""
    walks_a_customer = -(-in_flight // max(customers, 1))
    return max(1, min(_METRICS_PER_WALK, -(-metrics // walks_a_customer)))


def _reading(
    walk: Walk, customer_id: str, metric: BilledMetric, window: Window, short: Sequence[ShortHour] = ()
) -> Reading:
    return Reading(walk, customer_id, metric.metric_id, metric.slicing, window.start, window.end, tuple(short))


def _short_hours(
    metric: BilledMetric, totals: dict[datetime, Decimal], grouped: dict[datetime, list[Decimal]]
) -> list[ShortHour]:
    """Hours whose groups do not add up to the total; for a maximum, whose highest group is not the total."""
    short = []
    for start in totals.keys() | grouped.keys():
        total, values = totals.get(start), grouped.get(start, [])
        if metric.calculation == "MAX":
            whole = max(values) if values else None
            short += [ShortHour(start, total, whole)] if whole != total else []
        elif (added := exact_sum(values)) != (total or 0):
            short.append(ShortHour(start, total, added))
    return short
