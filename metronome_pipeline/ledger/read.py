"""Read: walk the usage of every due (customer, metric) over a window, and write down each walk that completes.

Here: which requests are made, when a walk counts as complete, and what becomes of one that does not. Not here: HTTP
(``metronome/api.py``) and the statements (``readings.py``). One failing pair never keeps the others from being read.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import CursorRepeated, Malformed, PipelineError, RateLimited, Refused, Unavailable
from metronome_pipeline.ledger import readings
from metronome_pipeline.ledger.readings import Reading, RepeatedRow, ShortHour, UsageRow, Walk
from metronome_pipeline.ledger.shelf import ReadReport, Shelf, UnstorableGroup
from metronome_pipeline.mapping.usage import BilledMetric, canonical_properties, slice_of
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.storage.database import Database

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_WALK_ATTEMPTS = 3
_METRICS_PER_WALK = 50
_STAGE_ROWS = 5_000


class ShortWalk(PipelineError):
    """The groups of a walk do not add up to their totals: usage came in between, or they are cut short."""


# What ends one walk and is no reason to give up the others. The first may pass when the walk is begun anew.
_OF_THE_WALK = (ShortWalk, RepeatedRow, Malformed, CursorRepeated, Refused)
_OUTAGE = (Unavailable, RateLimited)


CustomerMetrics = tuple[str, Sequence[BilledMetric]]
"""A customer's id, and those of its metrics that are read."""


@dataclass(frozen=True)
class Window:
    """Closed hours ``[start, end)``, UTC."""

    start: datetime
    end: datetime

    @property
    def days(self) -> tuple[datetime, datetime]:
        """The UTC midnights around it: usage is asked for in whole UTC days only (Metronome notes, section 6)."""
        return midnight(self.start), midnight(self.end + _DAY - timedelta(microseconds=1))


@dataclass(frozen=True)
class UsageReader:
    """Reads usage of one account pair into the database. ``new_shelf``: where its walks go; a rehearsal has its own."""

    api: MetronomeApi
    database: Database
    pair_id: int
    run_id: str
    in_flight: int = 8
    new_shelf: Callable[..., Shelf] = Shelf

    async def read(
        self,
        customer_ids: Sequence[str],
        metrics: Sequence[BilledMetric],
        window: Window,
        *,
        progress: Callable[[ReadReport], None] = lambda _: None,
    ) -> ReadReport:
        """Walks every (customer, metric) over the window, as ``read_some`` does."""
        return await self.read_some([(customer_id, metrics) for customer_id in customer_ids], window, progress=progress)

    async def read_some(
        self,
        pairs: Sequence[CustomerMetrics],
        window: Window,
        *,
        progress: Callable[[ReadReport], None] = lambda _: None,
    ) -> ReadReport:
        """Walks some metrics of each customer over the window. They are all ungrouped or all grouped.

        Raises:
            Unauthorised: Nothing is read any further.
            Unavailable, RateLimited: Several walks after each other got no answer: Metronome is down.
        """
        grouped = any(metric.group_key for _, metrics in pairs for metric in metrics)
        shelf = self.new_shelf(self.database, self.pair_id, self.run_id, grouped=grouped)
        walks = (
            (customer_id, part)
            for customer_id, metrics in pairs
            for part in parts_of(metrics, len(pairs), self.in_flight, grouped=grouped)
        )

        async def work() -> None:
            for customer_id, part in walks:
                await self._walk(customer_id, part, window, shelf)
                progress(shelf.report)

        await shelf.tidy()
        try:
            await work_together(work, self.in_flight)
            await shelf.store()
        finally:
            await shelf.clear()
        return shelf.report

    async def _walk(self, customer_id: str, metrics: Sequence[BilledMetric], window: Window, shelf: Shelf) -> None:
        """Walks some metrics of a customer together; where that does not complete, each alone, so that one is named."""
        try:
            await self._walk_once(customer_id, metrics, window, shelf)
        except _OUTAGE as error:
            shelf.note_outage(customer_id, metrics, error)
        except _OF_THE_WALK as error:
            for metric in metrics:
                await self._walk_again(customer_id, metric, window, shelf, error)

    async def _walk_again(
        self, customer_id: str, metric: BilledMetric, window: Window, shelf: Shelf, error: PipelineError
    ) -> None:
        accept_short = False
        for _ in range(1, _WALK_ATTEMPTS):
            accept_short = accept_short or isinstance(error, ShortWalk)
            try:
                await self._walk_once(customer_id, [metric], window, shelf, accept_short=accept_short)
            except _OUTAGE as outage:
                shelf.note_outage(customer_id, [metric], outage)
                return
            except _OF_THE_WALK as again:
                error = again
            else:
                return
        shelf.note_unread(customer_id, [metric], str(error))

    async def _walk_once(
        self,
        customer_id: str,
        metrics: Sequence[BilledMetric],
        window: Window,
        shelf: Shelf,
        *,
        accept_short: bool = False,
    ) -> None:
        walk = await shelf.begin()
        try:
            if shelf.grouped:
                await self._walk_groups(walk, customer_id, metrics[0], window, shelf, accept_short=accept_short)
            else:
                rows = [row async for row in self._totals(customer_id, metrics, window) if row.value is not None]
                await shelf.put(walk, rows, [_reading(walk, customer_id, metric, window) for metric in metrics])
        except PipelineError:
            await shelf.discard([walk])
            raise

    async def _walk_groups(
        self,
        walk: Walk,
        customer_id: str,
        metric: BilledMetric,
        window: Window,
        shelf: Shelf,
        *,
        accept_short: bool,
    ) -> None:
        """Totals first, then the groups of the days that have usage; each hour's groups must add up to its total."""
        totals = [row async for row in self._totals(customer_id, [metric], window) if row.value is not None]
        await shelf.stage(walk, totals)
        unstorable = await self._stage_groups(walk, customer_id, metric, totals, window, shelf)
        maximum = metric.calculation == "MAX"
        short = await self.database.run(lambda connection: readings.short_hours(connection, walk, maximum=maximum))
        if short and not accept_short:
            raise ShortWalk(
                f"The groups of metric {metric.metric_id} for customer {customer_id} do not add up to its usage"
            )
        await shelf.put(walk, [], [_reading(walk, customer_id, metric, window, short)], len(totals), unstorable)

    async def _totals(
        self, customer_id: str, metrics: Sequence[BilledMetric], window: Window
    ) -> AsyncIterator[UsageRow]:
        starting_on, ending_before = window.days
        metric_ids = [metric.metric_id for metric in metrics]
        seen: set[tuple[str, datetime]] = set()
        async for page in self.api.usage(
            customer_id=customer_id, metric_ids=metric_ids, starting_on=starting_on, ending_before=ending_before
        ):
            for usage in page:
                key = (usage.metric_id, usage.start)
                if key in seen:
                    raise RepeatedRow(
                        f"Metronome returned the hour {usage.start:%Y-%m-%dT%H:%MZ} of metric {usage.metric_id} for "
                        f"customer {customer_id} twice in one walk"
                    )
                seen.add(key)
                if window.start <= usage.start < window.end:
                    yield UsageRow(customer_id, usage.metric_id, usage.start, usage.start + _HOUR, usage.value)

    async def _stage_groups(
        self,
        walk: Walk,
        customer_id: str,
        metric: BilledMetric,
        totals: Sequence[UsageRow],
        window: Window,
        shelf: Shelf,
    ) -> list[UnstorableGroup]:
        """Stages the groups of the days that have usage, and returns those that cannot be stored.

        Postgres refuses a row that was staged before. A page that begins like an earlier one is noticed at once.
        """
        unstorable: list[UnstorableGroup] = []
        if not totals:
            return unstorable
        rows: list[UsageRow] = []
        beginnings: set[tuple[datetime, str]] = set()
        async for page in self.api.grouped_usage(
            customer_id=customer_id,
            metric_id=metric.metric_id,
            group_key=metric.group_key,
            starting_on=midnight(min(row.start for row in totals)),
            ending_before=midnight(max(row.start for row in totals)) + _DAY,
        ):
            named = [(usage, canonical_properties(usage.group)) for usage in page.rows]
            for usage, group in named[:1]:
                if (usage.start, group) in beginnings:
                    raise RepeatedRow(
                        f"Metronome returned {group} of {usage.start:%Y-%m-%dT%H:%MZ} twice in one walk of metric "
                        f"{metric.metric_id} for customer {customer_id}"
                    )
                beginnings.add((usage.start, group))
            rows += [
                UsageRow(
                    customer_id, metric.metric_id, usage.start, usage.start + _HOUR, usage.value, slice_of(group), group
                )
                for usage, group in named
                if window.start <= usage.start < window.end
            ]
            unstorable += [UnstorableGroup(customer_id, metric.metric_id, each.record_id) for each in page.refused]
            if len(rows) >= _STAGE_ROWS:
                await shelf.stage(walk, rows)
                rows = []
        await shelf.stage(walk, rows)
        return unstorable


def midnight(instant: datetime) -> datetime:
    """The UTC midnight at or before an instant."""
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def steps(window: Window, days: int = 7) -> list[Window]:
    """Cuts a window into steps of at most ``days`` UTC days: a step costs one page a pair, and memory stays flat."""
    cuts = [window.start]
    while (cut := midnight(cuts[-1]) + days * _DAY) < window.end:
        cuts.append(cut)
    return [Window(start, end) for start, end in zip(cuts, [*cuts[1:], window.end], strict=True)]


def parts_of(
    metrics: Sequence[BilledMetric], customers: int, in_flight: int, *, grouped: bool
) -> list[Sequence[BilledMetric]]:
    """The metrics that are walked together, for each of so many customers."""
    size = 1 if grouped else _metrics_per_walk(customers, len(metrics), in_flight)
    return [metrics[first : first + size] for first in range(0, len(metrics), size)]


def _metrics_per_walk(customers: int, metrics: int, in_flight: int) -> int:
    """One walk a customer; more when there are too few customers to keep the requests in flight busy."""
    walks_a_customer = -(-in_flight // max(customers, 1))
    return max(1, min(_METRICS_PER_WALK, -(-metrics // walks_a_customer)))


def _reading(
    walk: Walk, customer_id: str, metric: BilledMetric, window: Window, short: Sequence[ShortHour] = ()
) -> Reading:
    return Reading(walk, customer_id, metric.metric_id, metric.slicing, window.start, window.end, tuple(short))
