"""What the two usage workflows share: the way of a Dagster run's hours through the synchronising core.

Here: which hours are read again, which are filled in, and when a run fails. Not here: the core (``ledger/``), what
Dagster is told (``reports.py``), whose usage is due (``due.py``), and the assets (``usage.py``, ``grouped_usage.py``).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from metronome_pipeline.ledger import rotation
from metronome_pipeline.ledger.read import Window, midnight
from metronome_pipeline.ledger.rotation import Turns
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.ledger.synchronise import Due, Gap, Step, Synchroniser, gaps
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.database import DatabaseUnavailable
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.corrections import corrected
from metronome_pipeline.workflows.customers import read_customers
from metronome_pipeline.workflows.due import Workflow, due_usage
from metronome_pipeline.workflows.hours import HOUR, KEY, hour_windows, range_text
from metronome_pipeline.workflows.imports import table
from metronome_pipeline.workflows.meters import read_metrics
from metronome_pipeline.workflows.reporting import report
from metronome_pipeline.workflows.reports import Progress, Reports, left_by_earlier_runs, warn_of_refused
from metronome_pipeline.workflows.session import Session, failing_in_a_sentence, open_session
from metronome_pipeline.workflows.synchronising import synchroniser_of
from metronome_pipeline.workflows.tags import tag_run
from metronome_pipeline.workflows.turns import turns_of


class IngestConfig(dg.Config):
    """How a run reads. The defaults suit a backfill; the schedule looks back."""

    look_back_days: int = Field(
        default=0,
        ge=0,
        le=35,
        description="UTC days, the last one of the range among them, that are read again for late usage, and "
        "corrected. 8 fill one page of Metronome's, so they cost no request more than one day.",
    )
    fill_gaps: bool = Field(
        default=False,
        description="Also read, from the cut-over on, hours that were never read for a customer or metric that is new "
        "since.",
    )
    take_turns: bool = Field(
        default=False,
        description="Of more pairs (customer, metric) than USAGE_HOURLY_SHARE of the hour's requests can read, read "
        "those with usage of late, and as many others as there are requests for; the rest is read at its turn.",
    )
    sweep: int | None = Field(
        default=None,
        description="Instead of hours: plan and send what this sweep found, from the hours that it has read.",
    )


def ingest(
    context: dg.AssetExecutionContext,
    config: IngestConfig,
    workflow: Workflow,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
    settings: Settings,
) -> Iterator[dg.AssetCheckResult]:
    """Takes the run's range of hours from Metronome to Solvimon, and reports each hour once it is done.

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
    config: IngestConfig
    workflow: Workflow
    metronome: MetronomeResource
    solvimon: SolvimonResource
    store: StoreResource
    settings: Settings

    async def events(self) -> AsyncIterator[dg.AssetCheckResult]:
        if self.workflow.grouped and not self.settings.grouped_usage_enabled and self.config.sweep is None:
            # Hours of a workflow that is off must not count as done. (What a sweep found for it is void.)
            raise dg.Failure(
                description="Usage with properties is off: set GROUPED_USAGE_ENABLED=true to bill metrics by their "
                "group keys. Nothing was read.",
                allow_retries=False,
            )
        async with open_session(self.metronome, self.solvimon, self.store, self.context.run.run_id) as session:
            if self.config.sweep is not None:
                async for event in self._correct(session, self.config.sweep):
                    yield event
                return
            asked = self._closed_range(session.clock.now())
            await read_customers(session)
            await read_metrics(session)
            due, refused = await due_usage(session, self.settings, grouped=self.workflow.grouped)
            warn_of_refused(self.context, refused, "sent")
            turns = await self._turns(session, due, asked)
            reports = Reports(self.context, self.workflow, turns)
            reports.tell_start(asked, due, self.metronome.requests_per_second)
            unread: list[Unread] = []
            try:
                async for step in self._steps(session, due, asked, turns):
                    reports.tell(step, session)
                    unread += step.read.unread
                    report(self.context, await reports.materializations(session, due, asked, step))
            finally:
                await self._end_turns(session, turns, unread)
            async for check in reports.checks(session, refused, due):
                yield check
            if unread:
                raise dg.Failure(
                    description=f"{len(unread)} walks of usage did not complete, and nothing was planned from them; "
                    f"their hours stay open. The first: customer {unread[0].customer_id}: {unread[0].reason}",
                    allow_retries=False,
                    metadata={
                        "unread": table(
                            ("customer", "metrics", "reason"),
                            [(u.customer_id, ", ".join(u.metric_ids), u.reason) for u in unread],
                        )
                    },
                )

    async def _correct(self, session: Session, sweep_id: int) -> AsyncIterator[dg.AssetCheckResult]:
        """Plans and delivers what a sweep found, and reports the hours that changed. Metronome is asked nothing."""
        due, refused = await due_usage(session, self.settings, grouped=self.workflow.grouped)
        reports = Reports(self.context, self.workflow)
        synchroniser, say = self._synchroniser(session), self.context.log.info
        async for step in corrected(session, synchroniser, due, sweep_id, grouped=self.workflow.grouped, say=say):
            reports.tell(step, session)
            report(self.context, await reports.materializations(session, due, step.window, step))
        async for check in reports.checks(session, refused, due):
            yield check

    def _closed_range(self, now: datetime) -> Window:
        """The hours that the run was asked for, as far as they are closed."""
        asked = self.context.partition_time_window
        start, end = asked.start.astimezone(UTC), asked.end.astimezone(UTC)
        closed = (now - timedelta(minutes=self.settings.usage_close_minutes)).replace(minute=0, second=0, microsecond=0)
        if closed <= start:
            raise dg.Failure(
                description=f"The hour {start:%Y-%m-%d %H:%M} UTC is not closed yet: it is read "
                f"{self.settings.usage_close_minutes} minutes after its end (USAGE_CLOSE_MINUTES).",
                allow_retries=False,
            )
        return Window(start, min(end, closed))

    @property
    def _reads(self) -> bool:
        return self.workflow.source in self.context.selected_asset_keys

    def _look_back(self, asked: Window) -> datetime:
        look_back = midnight(asked.end - HOUR) - timedelta(days=self.config.look_back_days - 1)
        return max(self.settings.usage_start, look_back)

    async def _turns(self, session: Session, due: Due, asked: Window) -> Turns | None:
        """Which pairs are read of the newest hours, where they take turns; None where all are."""
        if not (self.config.take_turns and self.config.look_back_days and self._reads):
            return None
        return await turns_of(
            session,
            self.settings,
            due,
            Window(self._look_back(asked), asked.end),
            grouped=self.workflow.grouped,
            per_second=self.metronome.requests_per_second,
        )

    async def _end_turns(self, session: Session, turns: Turns | None, unread: Sequence[Unread]) -> None:
        if turns is None:
            return
        # Where the database is gone, the pairs of this run wait one more round.
        with suppress(DatabaseUnavailable):
            await session.database.run(lambda c: rotation.end(c, session.pair.pair_id, session.run_id, unread))

    async def _steps(self, session: Session, due: Due, asked: Window, turns: Turns | None) -> AsyncIterator[Step]:
        synchroniser = self._synchroniser(session)
        read = self._reads
        send = self.workflow.destination in self.context.selected_asset_keys
        start = min(asked.start, self._look_back(asked)) if self.config.look_back_days else asked.start
        # Looking back is for the last week or so: all of it fits into the requests that the newest hours cost anyway.
        days = max(7, self.config.look_back_days)
        pairs = turns.chosen if turns else len(due.customer_ids(asked)) * len(due.metrics)
        progress = Progress(self.context.log.info, session.clock, pairs)
        window = Window(start, asked.end)
        stages = turns.stages(due, window, days) if turns else None
        finished = left_by_earlier_runs(self.context.log.info)
        async for step in synchroniser.run(
            due, window, read=read, send=send, days=days, stages=stages, progress=progress, finished=finished
        ):
            yield step
        if self.config.fill_gaps and read:
            waiting_from = rotation.first_of_page(asked.end) if turns else None
            async for step in self._fill_gaps(session, synchroniser, due, asked.end, waiting_from, send=send):
                yield step

    async def _fill_gaps(
        self,
        session: Session,
        synchroniser: Synchroniser,
        due: Due,
        end: datetime,
        waiting_from: datetime | None,
        *,
        send: bool,
    ) -> AsyncIterator[Step]:
        """What was never read or planned in hours that were reported as done: customers and metrics that came later."""
        pair_id = session.pair.pair_id

        async def missing(within: Sequence[Window]) -> Sequence[Gap]:
            return await session.database.run(
                lambda c: gaps(c, pair_id, due, within, planned=True, waiting_from=waiting_from)
            )

        if not await missing([Window(self.settings.usage_start, end)]):
            return
        keys = self.context.instance.get_materialized_partitions(self.workflow.destination)
        done = hour_windows(datetime.strptime(key, KEY).replace(tzinfo=UTC) for key in keys)
        for gap in await missing(done):
            customer_ids = set(gap.customer_ids)
            some = Due(
                [customer for customer in due.customers if customer.customer_id in customer_ids],
                [metric for metric in due.metrics if metric.metric_id in gap.metric_ids],
                due.starts,
            )
            self.context.log.info(
                f"Filling hours never read for {len(some.customers)} customers and {len(some.metrics)} metrics: "
                f"{range_text(gap.window)}."
            )
            async for step in synchroniser.run(some, gap.window, send=send):
                yield step

    def _synchroniser(self, session: Session) -> Synchroniser:
        return synchroniser_of(session, self.metronome, self.solvimon, self.settings)
