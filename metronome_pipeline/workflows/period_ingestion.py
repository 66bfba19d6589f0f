"""The way of a Dagster run's days through the synchronising core, for metrics that are billed by period to date.

Here: which billing periods are read, which are filled in, and when a run fails. Not
here: the core (``ledger/``), whose usage is due (``due.py``), what Dagster is told (``period_reports.py``), the assets
(``period_usage.py``).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from metronome_pipeline.ledger import periods
from metronome_pipeline.ledger.deliver import Delivery, DeliveryReport
from metronome_pipeline.ledger.periods import Billing, PeriodReader
from metronome_pipeline.ledger.plan import Planned
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.shelf import ReadReport, Unread
from metronome_pipeline.ledger.synchronise import Due, Step, Synchroniser, gaps
from metronome_pipeline.ledger.unsettled import unsettled_windows
from metronome_pipeline.mapping.periods import DAY
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.customers import ensure_customers, read_customers
from metronome_pipeline.workflows.due import Workflow, due_period_usage
from metronome_pipeline.workflows.hours import range_text
from metronome_pipeline.workflows.imports import table
from metronome_pipeline.workflows.limits import brake_of, lateness_of
from metronome_pipeline.workflows.meters import read_metrics
from metronome_pipeline.workflows.period_reports import DAY_KEY, Days
from metronome_pipeline.workflows.reporting import report
from metronome_pipeline.workflows.reports import Progress, Reports, left_by_earlier_runs, warn_of_refused
from metronome_pipeline.workflows.session import Session, failing_in_a_sentence, open_session
from metronome_pipeline.workflows.tags import tag_run


class PeriodConfig(dg.Config):
    """How a run reads. The defaults suit a backfill; the schedule looks back."""

    look_back_days: int = Field(
        default=0,
        ge=0,
        le=400,
        description="Also read every billing period that overlaps so many days before the end of the range, whole, for "
        "late usage. Metronome takes usage 34 days late, so 35 find all of it.",
    )
    fill_gaps: bool = Field(
        default=False,
        description="Also read, from the cut-over on, periods that were never read for a customer or metric that is "
        "new since.",
    )


def billing_of(settings: Settings) -> Billing:
    """What is billed by period, by the settings."""
    return Billing(
        anchor_day=settings.billing_period_anchor_day,
        start=settings.usage_start,
        starts=settings.customer_usage_starts,
        closes_after=timedelta(minutes=settings.usage_close_minutes),
    )


def bills_by_period(settings: Settings) -> bool:
    """Whether any metric is billed by period to date."""
    return "PERIOD_TO_DATE" in settings.metric_calculations.values()


def ingest_periods(
    context: dg.AssetExecutionContext,
    config: PeriodConfig,
    workflow: Workflow,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
    settings: Settings,
) -> Iterator[dg.AssetCheckResult]:
    """Takes the billing periods of the run's days from Metronome to Solvimon, and reports each day once it is done.

    Raises:
        dg.Failure: Something needs a person. Whatever could be done was done and reported before.
    """
    tag_run(context)
    run = _Run(context, config, workflow, metronome, solvimon, store, settings)
    with failing_in_a_sentence(), asyncio.Runner() as runner:
        events = run.events()
        while (event := runner.run(_next(events))) is not None:
            yield event


async def _next(
    events: AsyncIterator[dg.AssetCheckResult],
) -> dg.AssetCheckResult | None:
    return await anext(events, None)


@dataclass(frozen=True)
class _Run:
    context: dg.AssetExecutionContext
    config: PeriodConfig
    workflow: Workflow
    metronome: MetronomeResource
    solvimon: SolvimonResource
    store: StoreResource
    settings: Settings
    billing: Billing = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "billing", billing_of(self.settings))

    @property
    def read(self) -> bool:
        return self.workflow.source in self.context.selected_asset_keys

    @property
    def send(self) -> bool:
        return self.workflow.destination in self.context.selected_asset_keys

    async def events(self) -> AsyncIterator[dg.AssetCheckResult]:
        if not bills_by_period(self.settings):
            # Days of a workflow that is off must not count as done.
            raise dg.Failure(
                description="No metric is billed by period to date: METRIC_CALCULATIONS names PERIOD_TO_DATE for none. "
                "Nothing was read.",
                allow_retries=False,
            )
        async with open_session(self.metronome, self.solvimon, self.store, self.context.run.run_id) as session:
            closed = self.billing.closed(await session.database.run(periods.moment))
            asked = self._closed_range(closed)
            await read_customers(session)
            await read_metrics(session)
            due, refused = await due_period_usage(session, self.settings)
            warn_of_refused(self.context, refused, "sent")
            reports = Reports(self.context, self.workflow)
            days = Days(self.context, self.workflow, asked, closed, self._days_reported())
            unread: list[Unread] = []
            async for step in self._steps(session, due, days):
                reports.tell(step, session)
                unread += step.read.unread
                report(self.context, await days.materializations(session, due, step))
            async for check in reports.checks(session, refused):
                yield check
            if unread:
                raise _incomplete(unread)

    def _closed_range(self, closed: datetime) -> Window:
        """The days that the run was asked for, as far as they are closed."""
        asked = self.context.partition_time_window
        start, end = asked.start.astimezone(UTC), asked.end.astimezone(UTC)
        if closed <= start:
            raise dg.Failure(
                description=f"The day {start:%Y-%m-%d} UTC is not closed yet: it is read "
                f"{self.settings.usage_close_minutes} minutes after its end (USAGE_CLOSE_MINUTES).",
                allow_retries=False,
            )
        return Window(start, min(end, closed))

    def _days_reported(self) -> set[datetime]:
        keys = self.context.instance.get_materialized_partitions(self.workflow.destination)
        return {datetime.strptime(key, DAY_KEY).replace(tzinfo=UTC) for key in keys}

    async def _steps(self, session: Session, due: Due, days: Days) -> AsyncIterator[Step]:
        asked = days.asked
        look_back = asked.end - self.config.look_back_days * DAY
        windows = self.billing.windows(min(asked.start, look_back), asked.end)
        synchroniser = self._synchroniser(session)
        days.tell_start(due, windows, self.metronome.requests_per_second)
        progress = Progress(self.context.log.info, session.clock, len(due.customer_ids(asked)) * len(due.metrics))
        if self.send:
            await synchroniser.finish(left_by_earlier_runs(self.context.log.info))
            for window in await self._unsettled(session, due, windows):
                planned, delivered = await synchroniser.send(due, window)
                yield Step(window, ReadReport(), planned, delivered, revisited=True)
        for window in windows:
            yield await self._step(session, synchroniser, due, window, asked.end, progress)
        if self.config.fill_gaps and self.read:
            for some, window in await self._gaps(session, due, windows, days.reported):
                self.context.log.info(
                    f"Filling a period never read for {len(some.customers)} customers and {len(some.metrics)} metrics: "
                    f"{range_text(window)}."
                )
                step = await self._step(session, synchroniser, some, window, asked.end, progress)
                # Not all that is due was read of this period, so only what was reported before is reported again.
                yield replace(step, revisited=True)

    async def _step(
        self, session: Session, synchroniser: Synchroniser, due: Due, window: Window, end: datetime, progress: Progress
    ) -> Step:
        """One billing period: read whole, and planned whole in one transaction, so that its days always add up."""
        if self.read:
            report = await synchroniser.read(due, window, lambda so_far: progress(window, so_far))
        else:
            report = await self._never_read(session, due, Window(window.start, min(window.end, end)))
        planned, delivered = Planned(), DeliveryReport()
        if self.send:
            planned, delivered = await synchroniser.send(due, window)
        return Step(window, report, planned, delivered)

    async def _unsettled(self, session: Session, due: Due, windows: Sequence[Window]) -> list[Window]:
        """Other periods with days that could not be planned when their difference was seen."""
        pair_id, metric_ids = session.pair.pair_id, [metric.metric_id for metric in due.metrics]
        noted = await session.database.run(lambda c: unsettled_windows(c, pair_id, metric_ids))
        of_notes = (window for each in noted for window in self.billing.windows(each.start, each.end))
        return [window for window in dict.fromkeys(of_notes) if window not in windows]

    async def _never_read(self, session: Session, due: Due, window: Window) -> ReadReport:
        """What a plan from stored readings alone would lack."""
        missing = await session.database.run(lambda c: gaps(c, session.pair.pair_id, due, [window]))
        reason = "Some of these days were never read: materialize the source as well."
        return ReadReport(
            unread=tuple(Unread(customer, gap.metric_ids, reason) for gap in missing for customer in gap.customer_ids)
        )

    async def _gaps(
        self, session: Session, due: Due, windows: Sequence[Window], reported: set[datetime]
    ) -> list[tuple[Due, Window]]:
        """Periods before ``windows`` that were reported as done, and never read or planned for some of what is due."""
        before = [Window(max(day, self.settings.usage_start), day + DAY) for day in reported if day < windows[0].start]
        missing = await session.database.run(lambda c: gaps(c, session.pair.pair_id, due, before, planned=True))
        return [
            (
                Due(
                    [customer for customer in due.customers if customer.customer_id in gap.customer_ids],
                    [metric for metric in due.metrics if metric.metric_id in gap.metric_ids],
                    due.starts,
                ),
                window,
            )
            for gap in missing
            for window in self.billing.windows(gap.window.start, gap.window.end)
            if window not in windows
        ]

    def _synchroniser(self, session: Session) -> Synchroniser:
        pair_id, run_id = session.pair.pair_id, session.run_id
        return Synchroniser(
            reader=PeriodReader(
                session.metronome,
                session.database,
                pair_id,
                run_id,
                in_flight=self.metronome.requests_in_flight,
                billing=self.billing,
            ),
            delivery=Delivery(
                session.solvimon,
                session.database,
                session.clock,
                pair_id,
                run_id,
                deduplicated=session.pair.deduplication == "proved",
                batch_limit=self.solvimon.batch_limit,
                in_flight=self.solvimon.requests_in_flight,
                request_timeout=timedelta(seconds=self.solvimon.timeout_seconds),
                restored_at=session.pair.restored_at,
            ),
            database=session.database,
            pair_id=pair_id,
            run_id=run_id,
            brake=brake_of(self.settings),
            ensure_customers=lambda: ensure_customers(session, email=self.settings.default_customer_email),
            lateness=lateness_of(self.settings),
        )


def _incomplete(unread: Sequence[Unread]) -> dg.Failure:
    return dg.Failure(
        description=f"{len(unread)} walks of billing periods did not complete, and nothing was planned from them; "
        f"their days stay open. The first: customer {unread[0].customer_id}: {unread[0].reason}",
        allow_retries=False,
        metadata={
            "unread": table(
                ("customer", "metrics", "reason"),
                [(u.customer_id, ", ".join(u.metric_ids), u.reason) for u in unread],
            )
        },
    )
