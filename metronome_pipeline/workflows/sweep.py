"""Sweep usage: look back over everything that was billed, coarse to fine, and write down what differs.

Here: the asset, whose usage is swept, and what Dagster is told. Not here: the way of a sweep (``sweeps/sweeper.py``),
and what becomes of its findings: a sensor requests the run that plans them (``automation/findings.py``).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.mapping.usage import EXACT_CALCULATIONS, PERIOD_TO_DATE
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import accounts
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.sweeps import findings, sweeps
from metronome_pipeline.sweeps.days import DayReader
from metronome_pipeline.sweeps.findings import FINDING_COLUMNS
from metronome_pipeline.sweeps.sweeper import StretchReader, Sweeper, SweepReport
from metronome_pipeline.sweeps.sweeps import STRETCH_DAYS, Sweep, SweepKind, Swept, SweptMetric
from metronome_pipeline.workflows.customers import read_customers
from metronome_pipeline.workflows.due import RefusedMetric, due_usage
from metronome_pipeline.workflows.hours import range_text
from metronome_pipeline.workflows.imports import column_schema, request_metadata, table
from metronome_pipeline.workflows.meters import read_metrics
from metronome_pipeline.workflows.naming import asset_key, pool_of
from metronome_pipeline.workflows.reports import time_in_words, warn_of_refused
from metronome_pipeline.workflows.session import Session, failing_in_a_sentence, open_session
from metronome_pipeline.workflows.tags import tag_run, tags_of

SWEEP_LOCK = 0x6D70_0003
_PATIENCE_SECONDS = 3.0
_DAYS_A_PAGE = 200

FINDINGS_SCHEMA = column_schema(
    {
        "finding_id": ("bigint", "Order of finding."),
        "pair_id": ("int", "The account pair."),
        "sweep_id": ("bigint", "The sweep that found it."),
        "customer_id": ("uuid", "Metronome's customer id."),
        "metric_id": ("uuid", "Metronome's billable metric id."),
        "slicing": ("text", "How the metric is billed: ungrouped, or its group key as a JSON list."),
        "from_at": ("timestamptz", "Start of the stretch that was read by hour."),
        "to_at": ("timestamptz", "End of the stretch."),
        "hours": ("tstzmultirange", "The hours that differ."),
        "committed": ("numeric", "What the ledger counts in these hours: a sum; of a MAX metric the highest."),
        "observed": ("numeric", "What Metronome says."),
        "state": ("text", "open, planned, or void where the metric is no longer billed that way."),
        "attempts": ("int", "How many runs began to plan it."),
        "found_at": ("timestamptz", "When."),
        "planned_by": ("text", "The run that planned it."),
    }
)


class SweepConfig(dg.Config):
    """How far a run looks back, and how closely."""

    kind: SweepKind = Field(
        default=SweepKind.usage,
        description="usage: the trailing days by day, and by hour where a day differs from the ledger. usage_by_hour: "
        "the trailing days and a week more, by hour. closed_periods: everything older since the cut-over, by day.",
    )


@dataclass(frozen=True)
class _Swept:
    """A sweep that a run has taken to its end."""

    metadata: dict[str, Any]
    unread: list[Unread]


def sweep_key(settings: Settings) -> dg.AssetKey:
    """The asset. As a Python identifier it is the name of its step, under which a run is configured."""
    return asset_key(settings, "metronome", "usage_sweep")


def usage_sweep_asset(settings: Settings) -> dg.AssetsDefinition:
    """The asset that all three kinds of sweeps materialize."""

    @dg.asset(
        key=sweep_key(settings),
        deps=[asset_key(settings, "metronome", name) for name in ("customers", "billable_metrics")],
        group_name="metronome",
        kinds={"metronome", "postgres"},
        owners=settings.resource_owners,
        tags=tags_of(settings, "sweep"),
        metadata={"dagster/column_schema": FINDINGS_SCHEMA, "dagster/table_name": "ledger.findings"},
        output_required=False,
        pool=pool_of(settings, "metronome"),
        description="What a look back over billed usage found: hours that differ from the ledger, one row a "
        "customer, metric and stretch of up to 8 days.\n\n**From** `POST /v1/usage`, held against the ledger: every "
        "customer and metric that was ever billed or read in the window is asked for, archived or not, by day, in "
        "one request each, and only where a day differs by hour.\n\n**Fresh:** the schedules sweep the trailing days "
        "each night, the same by hour each week, as days that agree can hide hours that do not, and everything older "
        "each month.\n\n**What is found** needs nobody: the hours are stored, and the sensor `sweep_findings` "
        "requests the run that plans and sends the corrections. **If it fails,** or is cut short, what was done is "
        "kept, and the next run within a day goes on where it was; the failure lists what could not be read and why.",
    )
    def usage_sweep(
        context: dg.AssetExecutionContext,
        config: SweepConfig,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> Iterator[dg.MaterializeResult[None]]:
        tag_run(context)
        with failing_in_a_sentence():
            swept = asyncio.run(_run(context, config.kind, metronome, solvimon, store, settings))
        if swept is None:
            return
        yield dg.MaterializeResult(metadata=swept.metadata)
        if swept.unread:
            raise _unread_failure(swept.unread)

    return usage_sweep


async def _run(
    context: dg.AssetExecutionContext,
    kind: SweepKind,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
    settings: Settings,
) -> _Swept | None:
    """One sweep from where it stands to its end; None where another run is sweeping, or nothing is to be swept."""
    async with (
        open_session(metronome, solvimon, store, context.run.run_id) as session,
        _alone(session) as alone,
    ):
        if not alone:
            other = await session.database.run(lambda c: sweeps.sweeping_run(c, session.pair.pair_id))
            context.log.info(f"Run {other or 'of somebody else'} is sweeping this account pair: nothing was done here.")
            return None
        await read_customers(session)
        await read_metrics(session)
        swept, refused = await _whose(session, settings)
        warn_of_refused(context, refused, "swept")
        sweep = await _taken_up(context, session, settings, swept, kind)
        if sweep is None:
            return None
        began = session.clock.monotonic()
        try:
            report = await _sweeper(context, session, swept, metronome).run(sweep)
        except PipelineError as error:
            raise dg.Failure(
                description=f"{error} What was done of sweep {sweep.sweep_id} is kept: the next run of this kind goes "
                "on from there, if it begins within a day.",
                allow_retries=False,
            ) from None
        return await _told(context, session, sweep, report, session.clock.monotonic() - began)


@asynccontextmanager
async def _alone(session: Session) -> AsyncIterator[bool]:
    """Holds the pair's lock on sweeping; False where another run holds it."""
    patience = asyncio.timeout(_PATIENCE_SECONDS)
    try:
        async with patience, session.database.lock(SWEEP_LOCK, session.pair.pair_id):
            patience.reschedule(None)
            yield True
    except TimeoutError:
        if not patience.expired():
            raise
        yield False


async def _whose(session: Session, settings: Settings) -> tuple[Swept, list[RefusedMetric]]:
    """Every customer and every metric that is billed by hour, archived or not, and the metrics that are refused."""
    known = await session.database.run(lambda c: accounts.known_metrics(c, session.pair.pair_id))
    additive = {metric.metric_id: metric.aggregation_type in EXACT_CALCULATIONS for metric in known}
    switches = ((False, settings.usage_enabled), (True, settings.grouped_usage_enabled))
    workflows = [await due_usage(session, settings, grouped=grouped) for grouped, is_on in switches if is_on]
    metrics = {
        metric.metric_id: SweptMetric(metric, additive[metric.metric_id])
        for due, _ in workflows
        for metric in due.metrics
        if metric.slicing != PERIOD_TO_DATE
    }
    customers = [customer.customer_id for due, _ in workflows[:1] for customer in due.customers]
    swept = Swept(session.pair.pair_id, customers, metrics, settings.usage_start, settings.customer_usage_starts)
    return swept, [metric for _, refused in workflows for metric in refused]


async def _taken_up(
    context: dg.AssetExecutionContext, session: Session, settings: Settings, swept: Swept, kind: SweepKind
) -> Sweep | None:
    """The unfinished sweep of this kind, or a new one; None where no day is closed yet."""
    pair_id, run_id, database = session.pair.pair_id, session.run_id, session.database
    given_up = await database.run(lambda c: sweeps.give_up_old(c, pair_id, kind))
    if given_up:
        context.log.warning(
            f"Sweep {given_up.sweep_id} ({range_text(given_up.window)}) was cut short over a day ago and is given up: "
            f"{given_up.pairs} pairs of it were not done. They are listed in ledger.sweep_pairs."
        )
    sweep = await database.run(lambda c: sweeps.resume(c, swept, kind, run_id=run_id))
    if sweep is None:
        last = await database.run(lambda c: sweeps.last_complete(c, pair_id, kind))
        window = sweeps.window_of(
            kind,
            session.clock.now() - timedelta(minutes=settings.usage_close_minutes),
            settings.usage_start,
            days=settings.sweep_days,
            swept_until=last[1] if last else None,
        )
        if window is None:
            context.log.info("Nothing to sweep yet: no day of the window lies after the cut-over.")
            return None
        sweep = await database.run(lambda c: sweeps.begin(c, swept, kind, window, run_id=run_id))
    requests = _requests_expected(sweep)
    context.log.info(
        f"Sweep {sweep.sweep_id}{' goes on' if sweep.resumed else ''}: {sweep.pairs} pairs, "
        f"{range_text(sweep.window)}. When nothing differs, all of it takes about {requests} requests to Metronome, "
        f"{time_in_words(requests / settings.metronome_requests_per_second)} at the set pace."
    )
    return sweep


def _requests_expected(sweep: Sweep) -> int:
    days = (sweep.window.end - sweep.window.start) // timedelta(days=1)
    return sweep.pairs * -(-days // (STRETCH_DAYS if sweep.kind is SweepKind.usage_by_hour else _DAYS_A_PAGE))


def _sweeper(
    context: dg.AssetExecutionContext, session: Session, swept: Swept, metronome: MetronomeResource
) -> Sweeper:
    in_flight = metronome.requests_in_flight
    return Sweeper(
        days=DayReader(session.metronome, in_flight),
        hours=StretchReader(
            session.metronome, session.database, session.pair.pair_id, session.run_id, in_flight=in_flight
        ),
        database=session.database,
        swept=swept,
        clock=session.clock,
        say=context.log.info,
    )


async def _told(
    context: dg.AssetExecutionContext, session: Session, sweep: Sweep, report: SweepReport, seconds: float
) -> _Swept:
    pair_id = session.pair.pair_id
    found = await session.database.run(lambda c: findings.listed(c, pair_id, sweep.sweep_id))
    count = await session.database.run(lambda c: findings.counted(c, pair_id, sweep.sweep_id))
    context.log.info(
        f"Sweep {sweep.sweep_id} is complete: {report.days_compared} days compared, {report.days_differing} differ, "
        f"{report.days_by_hour} read by hour, {count} findings, {len(report.unread)} walks not read; "
        f"{session.metronome.http.counts().requests} requests to Metronome."
    )
    by_hour = sweep.kind is SweepKind.usage_by_hour
    return _Swept(
        {
            "dagster/row_count": count,
            "sweep": sweep.sweep_id,
            "kind": sweep.kind.value,
            "window": range_text(sweep.window),
            "granularity": "hour" if by_hour else "day; hour where a day differed",
            "resumed": sweep.resumed,
            "pairs": sweep.pairs,
            "days_compared": report.days_compared,
            "days_that_differ": report.days_differing,
            "days_that_wait": report.days_waiting,
            "days_read_by_hour": report.days_by_hour,
            "findings": table(FINDING_COLUMNS, found),
            "unread": len(report.unread),
            "seconds": round(seconds, 1),
            **request_metadata(session.metronome.http.counts()),
        },
        report.unread,
    )


def _unread_failure(unread: list[Unread]) -> dg.Failure:
    return dg.Failure(
        description=f"{len(unread)} walks of the sweep did not complete, and nothing was found or planned from them; "
        f"everything else was done. The first: customer {unread[0].customer_id}, metric {unread[0].metric_ids[0]}: "
        f"{unread[0].reason}",
        allow_retries=False,
        metadata={
            "unread": table(
                ("customer", "metrics", "reason"), [(u.customer_id, ", ".join(u.metric_ids), u.reason) for u in unread]
            )
        },
    )
