"""Read, plan, deliver, settle: one window of usage from Metronome into Solvimon, a week at a time.

Here: the order of the four, and the numbers that they leave. Each step is committed before the next begins, so that a
crash keeps what was done. Not here: Dagster, and which workflow asks.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from metronome_pipeline.ledger.brakes import BrakeLimits
from metronome_pipeline.ledger.deliver import Delivery, DeliveryReport
from metronome_pipeline.ledger.late import Lateness
from metronome_pipeline.ledger.plan import Connection, Planned, Scope, plan
from metronome_pipeline.ledger.read import CustomerMetrics, UsageReader, Window, steps
from metronome_pipeline.ledger.shelf import ReadReport, Unread
from metronome_pipeline.ledger.unsettled import unsettled_windows
from metronome_pipeline.mapping.usage import BilledMetric
from metronome_pipeline.storage.accounts import KnownCustomer
from metronome_pipeline.storage.database import Database

# Usage may still change for 34 days after an hour, so an archived customer stays due a little longer than that.
_ARCHIVED_STAYS_DUE = timedelta(days=35)
# A restated event leaves a difference, which the next plan closes under the next revision.
_PLAN_ROUNDS = 3


@dataclass(frozen=True)
class Due:
    """Whose usage is due: customers, metrics (of one workflow), and where each customer's billing starts.

    ``only``: which of them are read now, where not all are. A plan is about all of them in any case.
    """

    customers: Sequence[KnownCustomer]
    metrics: Sequence[BilledMetric]
    starts: Mapping[str, datetime] = field(default_factory=dict)
    only: Sequence[CustomerMetrics] | None = None

    def customer_ids(self, window: Window) -> list[str]:
        """The customers that may have usage in a window."""
        return [
            customer.customer_id
            for customer in self.customers
            if (customer.archived_at is None or customer.archived_at > window.start - _ARCHIVED_STAYS_DUE)
            and self.starts.get(customer.customer_id, window.start) < window.end
        ]


@dataclass(frozen=True)
class Stage:
    """What is read before the next plan: a window of what is due. ``last``: nothing more of it is to come."""

    due: Due
    window: Window
    last: bool = True


@dataclass(frozen=True)
class Step:
    """What one step did.

    ``revisited``: hours of an earlier run, planned from what was read then. ``left_open``: some pairs that are to be
    read of these hours come in a later step, or could not be read in an earlier one.
    """

    window: Window
    read: ReadReport
    planned: Planned
    delivered: DeliveryReport
    revisited: bool = False
    left_open: bool = False

    @property
    def complete(self) -> bool:
        """Whether every pair that was to be read was read, so that the step's hours may count as done."""
        return not (self.read.unread or self.left_open)


@dataclass(frozen=True)
class Synchroniser:
    """One workflow's way from Metronome to Solvimon. ``ensure_customers`` makes those that Solvimon lacks."""

    reader: UsageReader
    delivery: Delivery
    database: Database
    pair_id: int
    run_id: str
    brake: BrakeLimits
    ensure_customers: Callable[[], Awaitable[None]]
    lateness: Lateness = field(default_factory=Lateness)

    async def read(
        self, due: Due, window: Window, progress: Callable[[ReadReport], None] = lambda _: None
    ) -> ReadReport:
        """Reads a window of every due pair, or of those of them that are read now."""
        if due.only is not None:
            return await self.reader.read_some(due.only, window, progress=progress)
        if not due.metrics or not (customer_ids := due.customer_ids(window)):
            return ReadReport()
        return await self.reader.read(customer_ids, due.metrics, window, progress=progress)

    def scope(self, due: Due, window: Window) -> Scope:
        """What a plan of a window is about."""
        return Scope(
            pair_id=self.pair_id,
            start=window.start,
            end=window.end,
            metrics=due.metrics,
            customers=[customer.customer_id for customer in due.customers],
            starts=due.starts,
            brake=self.brake,
            lateness=self.lateness,
        )

    async def send(self, due: Due, window: Window) -> tuple[Planned, DeliveryReport]:
        """Plans a window from what was read, and delivers whatever is planned for this pair."""
        scope = self.scope(due, window)
        planned = Planned()
        delivered = DeliveryReport()
        for _ in range(_PLAN_ROUNDS):
            planned += await self.database.run(lambda connection: plan(connection, scope, run_id=self.run_id))
            await self.ensure_customers()
            round_report = await self.delivery.deliver()
            delivered += round_report
            if not round_report.restated:
                break
        return planned, delivered

    async def finish(self, finished: Callable[[DeliveryReport], None] = lambda _: None) -> None:
        """Delivers what earlier runs left planned, and says what became of it, if there was any.

        It comes first: nothing new is planned for a slot before its last event has come to an end.
        """
        await self.ensure_customers()
        report = await self.delivery.deliver()
        if report != DeliveryReport():
            finished(report)

    async def _never_read(self, due: Due, window: Window) -> ReadReport:
        """What a plan from stored readings alone would lack."""
        missing = await self.database.run(lambda c: gaps(c, self.pair_id, due, [window]))
        reason = "Some of these hours were never read: materialize the source as well."
        return ReadReport(
            unread=tuple(Unread(customer, gap.metric_ids, reason) for gap in missing for customer in gap.customer_ids)
        )

    async def run(
        self,
        due: Due,
        window: Window,
        *,
        read: bool = True,
        send: bool = True,
        days: int = 7,
        stages: Sequence[Stage] | None = None,
        progress: Callable[[Window, ReadReport], None] = lambda _window, _report: None,
        finished: Callable[[DeliveryReport], None] = lambda _: None,
    ) -> AsyncIterator[Step]:
        """Goes through a window step by step and yields each step once it is committed.

        The steps are ``stages`` where these are given, else the weeks of the window, or other stretches of ``days``.

        What earlier runs left planned is delivered first, and ``finished`` is told. Then come the hours that could not
        be planned when their difference was seen.
        """
        if send:
            await self.finish(finished)
            metric_ids = [metric.metric_id for metric in due.metrics]
            for hours in await self.database.run(lambda c: unsettled_windows(c, self.pair_id, metric_ids)):
                planned, delivered = await self.send(due, hours)
                yield Step(hours, ReadReport(), planned, delivered, revisited=True)
        stages = stages or [Stage(due, step) for step in steps(window, days)]
        unread_before = False
        async with aclosing(self._read_ahead(stages, progress, read=read)) as reports:
            async for stage, report in reports:
                planned, delivered = Planned(), DeliveryReport()
                if send:
                    planned, delivered = await self.send(due, stage.window)
                left_open = unread_before or not stage.last
                yield Step(stage.window, report, planned, delivered, left_open=left_open)
                unread_before = not stage.last and (unread_before or bool(report.unread))

    async def _read_ahead(
        self, stages: Sequence[Stage], progress: Callable[[Window, ReadReport], None], *, read: bool
    ) -> AsyncGenerator[tuple[Stage, ReadReport], None]:
        """The report of each step, while the next one is being read: Metronome's budget is used while Solvimon is sent.

        At most one step ahead, so that memory and what a crash loses stay within a week.
        """

        def begin(stage: Stage) -> asyncio.Task[ReadReport]:
            if not read:
                return asyncio.create_task(self._never_read(stage.due, stage.window))
            return asyncio.create_task(
                self.read(stage.due, stage.window, lambda so_far: progress(stage.window, so_far))
            )

        following: asyncio.Task[ReadReport] | None = None
        try:
            for number, stage in enumerate(stages):
                report = await (following or begin(stage))
                following = begin(stages[number + 1]) if number + 1 < len(stages) else None
                yield stage, report
        finally:
            if following is not None:
                following.cancel()
                await asyncio.wait([following])


@dataclass(frozen=True)
class Gap:
    """Hours that were never read for some customers and metrics."""

    window: Window
    customer_ids: tuple[str, ...]
    metric_ids: tuple[str, ...]


def gaps(
    connection: Connection,
    pair_id: int,
    due: Due,
    within: Sequence[Window],
    *,
    planned: bool = False,
    waiting_from: datetime | None = None,
) -> list[Gap]:
    """Hours of some windows that were never read, for customers and metrics that are due: those new since then.

    An archived customer's hours end where it is no longer due. Several gaps of one customer and metric are one, from
    the first to the last.

    Args:
        connection: In whose transaction.
        pair_id: The account pair.
        due: Whose hours.
        within: Which hours.
        planned: Hours that were read and never planned are gaps too, as a run leaves them that failed between the two.
        waiting_from: Where pairs take turns: from here on, hours after those that were read of a pair are no gaps.
    """
    rows = connection.execute(
        _GAPS,
        {
            "pair_id": pair_id,
            "firsts": [window.start for window in within],
            "lasts": [window.end for window in within],
            "customers": [customer.customer_id for customer in due.customers],
            "ends": [_due_until(customer) for customer in due.customers],
            "starts_of": list(due.starts),
            "starts": list(due.starts.values()),
            "metrics": [metric.metric_id for metric in due.metrics],
            "slicings": [metric.slicing for metric in due.metrics],
            "planned": planned,
            "waiting_from": waiting_from,
        },
    )
    return [Gap(Window(first, last), tuple(customers), tuple(metrics)) for first, last, metrics, customers in rows]


def _due_until(customer: KnownCustomer) -> datetime | None:
    """The first hour that is not due any more; None while it is active."""
    if customer.archived_at is None:
        return None
    return (customer.archived_at + _ARCHIVED_STAYS_DUE).replace(minute=0, second=0, microsecond=0)


# Hours whose usage is no longer kept are no gap, unless something is to be planned for them.
_GAPS = """
WITH unsettled AS (
    SELECT customer_id, metric_id, range_agg(tstzrange(start_at, start_at + interval '1 hour')) AS hours
    FROM ledger.unsettled_hours WHERE pair_id = %(pair_id)s GROUP BY customer_id, metric_id
), asked AS (
    SELECT range_agg(tstzrange(start_at, end_at)) AS hours
    FROM unnest(%(firsts)s::timestamptz[], %(lasts)s::timestamptz[]) AS w (start_at, end_at)
), due AS (
    SELECT c.customer_id, m.metric_id, m.slicing, tstzrange(s.start_at, NULL) * tstzrange(NULL, c.end_at) AS hours
    FROM unnest(%(customers)s::uuid[], %(ends)s::timestamptz[]) AS c (customer_id, end_at)
    CROSS JOIN unnest(%(metrics)s::uuid[], %(slicings)s::text[]) AS m (metric_id, slicing)
    LEFT JOIN unnest(%(starts_of)s::uuid[], %(starts)s::timestamptz[]) AS s (customer_id, start_at) USING (customer_id)
), missing AS (
    SELECT d.customer_id, d.metric_id,
           a.hours * tstzmultirange(d.hours)
               - coalesce(CASE WHEN %(planned)s THEN c.covered * p.hours ELSE c.covered END, '{}')
               - coalesce(c.retired - u.hours, c.retired, '{}')
               - CASE WHEN %(waiting_from)s::timestamptz IS NULL THEN '{}'::tstzmultirange
                      ELSE tstzmultirange(tstzrange(greatest(upper(c.covered), %(waiting_from)s), NULL)) END AS hours
    FROM asked a CROSS JOIN due d LEFT JOIN metronome.coverage c
        ON c.pair_id = %(pair_id)s AND (c.customer_id, c.metric_id, c.slicing) = (d.customer_id, d.metric_id, d.slicing)
    LEFT JOIN ledger.planned_hours p
        ON p.pair_id = %(pair_id)s AND (p.customer_id, p.metric_id, p.slicing) = (d.customer_id, d.metric_id, d.slicing)
    LEFT JOIN unsettled u ON (u.customer_id, u.metric_id) = (d.customer_id, d.metric_id)
), by_customer AS (
    SELECT customer_id, lower(hours) AS start_at, upper(hours) AS end_at,
           array_agg(metric_id::text ORDER BY metric_id) AS metrics
    FROM missing WHERE NOT isempty(hours) GROUP BY customer_id, lower(hours), upper(hours)
)
SELECT start_at, end_at, metrics, array_agg(customer_id::text ORDER BY customer_id) FROM by_customer
GROUP BY start_at, end_at, metrics ORDER BY start_at, end_at, metrics
"""
