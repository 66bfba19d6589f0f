"""Reconcile: what Metronome says, what the ledger counts and what Solvimon holds, day by day, all three read afresh.

Here: what is compared, for the asset and for the command alike, and the asset. Not here: comparing
(``reconciliation/``), and what Dagster is told (``reconciliation_reports.py``).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from metronome_pipeline.errors import PipelineError, quoted
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.slicings import slicings
from metronome_pipeline.ledger.synchronise import Due
from metronome_pipeline.mapping.periods import DAY, last_midnight
from metronome_pipeline.mapping.usage import EXACT_CALCULATIONS, BilledMetric
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.reconciliation import reconciliations, standing
from metronome_pipeline.reconciliation.lines import DayLine, ReconciledMetric
from metronome_pipeline.reconciliation.reconcile import Accounts, Question, Take
from metronome_pipeline.reconciliation.reconcile import reconcile as reconcile_accounts
from metronome_pipeline.reconciliation.tally import Tally
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import imports
from metronome_pipeline.storage.accounts import KnownMetric
from metronome_pipeline.storage.rehearsed import RehearsedDatabase
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.customers import read_customers
from metronome_pipeline.workflows.due import RefusedMetric, destinations, due_period_usage, due_usage, slicing_wanted
from metronome_pipeline.workflows.imports import column_schema
from metronome_pipeline.workflows.meters import read_metrics
from metronome_pipeline.workflows.naming import pool_of
from metronome_pipeline.workflows.reconciliation_reports import CHECKS, Reports, reconciliation_key
from metronome_pipeline.workflows.session import Session, failing_in_a_sentence, open_session
from metronome_pipeline.workflows.tags import tag_run, tags_of

COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "customer_id": ("uuid", "Metronome's customer id."),
        "metric_id": ("uuid", "Metronome's billable metric id."),
        "day": ("date", "The UTC day."),
        "metronome": ("numeric", "Metronome's total, read afresh; null without usage."),
        "ledger": ("numeric", "What the ledger counts: planned, waiting and taken."),
        "delivered": (
            "numeric",
            "What Solvimon has taken: by receipts, or by its own events where they were read back.",
        ),
        "solvimon": ("numeric", "Solvimon's total by its own events; null where only receipts were looked at."),
        "difference": ("numeric", "metronome less delivered, exactly; null where one of two maxima is missing."),
        "events": ("int", "Events in the ledger."),
        "acknowledged": ("int", "Those of them that Solvimon has taken."),
        "outcome": ("text", "equal, explained, unexplained, or unread."),
        "reasons": ("text[]", "Why, as far as it is known."),
        "granularity": ("text", "At which it was proved: day, hour or event."),
        "at": ("timestamptz", "When."),
        "run_id": ("text", "The run that compared it."),
    }
)


class NoSuchCustomer(PipelineError):
    """No customer, or more than one, has the id or name that was given."""


class ReconcileConfig(dg.Config):
    """How a run compares."""

    deep: bool = Field(
        default=False,
        description="Read every event of every customer back from Solvimon, page by page: its list has no filter by "
        "date, so this takes all pages of all customers, however short the range.",
    )


@dataclass(frozen=True)
class Scope:
    """What there is to compare: the metrics, and whose usage is due, by which the hours of a day are complete."""

    metrics: Sequence[ReconciledMetric]
    dues: Sequence[Due]


async def reconcile(
    session: Session,
    settings: Settings,
    window: Window,
    take: Take,
    *,
    customer: str | None = None,
    deep: bool = False,
    in_flight: int = 8,
    say: Callable[[str], None],
) -> tuple[Tally, Scope]:
    """Compares both sides over closed hours, for one customer (id or name) or for all. Sends nothing.

    Raises:
        NoSuchCustomer: Nobody, or more than one, has that id or name.
        PipelineError: One of the two APIs or the database could not be used.
    """
    await read_customers(session)
    await read_metrics(session)
    scope = await scope_of(session, settings)
    pair_id, metric_ids = session.pair.pair_id, [metric.metric_id for metric in scope.metrics]
    customers = await session.database.run(
        lambda c: standing.customers_within(c, pair_id, metric_ids, window.start, window.end)
    )
    allowed = settings.usage_customers
    if allowed:
        billed = await session.database.run(
            lambda c: standing.customers_with_events(c, pair_id, metric_ids, window.start, window.end)
        )
        customers = [each for each in customers if each in allowed or each in billed]
    if customer is not None:
        customers = [await _customer(session, customer)]
    starts = {each: settings.usage_start_of(each) for each in customers}
    solvimon_ids = await session.database.run(lambda c: standing.solvimon_ids(c, pair_id))
    say(
        f"Comparing {len(starts)} customers and {len(scope.metrics)} metrics, {window.start:%Y-%m-%d %H:%M} to "
        f"{window.end:%Y-%m-%d %H:%M} UTC" + (", event by event." if deep else ".")
    )
    accounts = Accounts(
        session.metronome,
        session.solvimon,
        session.database,
        pair_id,
        session.clock,
        say,
        in_flight,
        settings.billing_period_anchor_day,
    )
    question = Question(window, scope.metrics, starts, solvimon_ids, deep, whole_account=customer is None)
    return await reconcile_accounts(accounts, question, take), scope


async def scope_of(session: Session, settings: Settings) -> Scope:
    """Every metric that is billed, was ever billed, or is refused, with what a run would say of it.

    What a run would note (the slicing of a metric that is billed for the first time) is not noted.
    """
    looking = replace(session, database=RehearsedDatabase(session.database, session.clock))
    found = [
        await due_usage(looking, settings, grouped=False),
        await due_usage(looking, settings, grouped=True),
        await due_period_usage(looking, settings),
    ]
    due = {metric.metric_id: metric for one, _ in found for metric in one.metrics}
    refused = {metric.metric_id: metric for _, several in found for metric in several}
    pair_id = session.pair.pair_id
    known = await session.database.run(lambda c: standing.metrics_ever_known(c, pair_id))
    noted = await session.database.run(lambda c: slicings(c, pair_id))
    calculations = await session.database.run(lambda c: imports.calculation_ids(c, pair_id))
    metrics = []
    for metric in known:
        billed = due.get(metric.metric_id)
        was_billed = metric.metric_id in noted
        if billed is None and not was_billed and metric.metric_id not in refused:
            continue
        calculation = calculations.get(metric.metric_id, ("", ""))[1]
        metrics.append(
            _reconciled(
                metric, billed, refused.get(metric.metric_id), noted.get(metric.metric_id), calculation, settings
            )
        )
    return Scope(metrics, [one for one, _ in found])


def _reconciled(
    metric: KnownMetric,
    billed: BilledMetric | None,
    refused: RefusedMetric | None,
    noted: str | None,
    calculation: str,
    settings: Settings,
) -> ReconciledMetric:
    adds_up = metric.aggregation_type in EXACT_CALCULATIONS
    reason = None
    if billed is None:
        reason = refused.reason if refused else "The settings leave it out, or Metronome does not list it any more."
    usual = EXACT_CALCULATIONS.get(metric.aggregation_type or "", "SUM")
    return ReconciledMetric(
        metric.metric_id,
        metric.name,
        metric.aggregation_type,
        billed.calculation if billed else "MAX" if (calculation or usual) == "MAX" else "SUM",
        noted or (billed.slicing if billed else slicing_wanted(metric, settings)),
        reason,
        # Of a metric that was never billed, the day's own value is all that there is to tell.
        by_day=adds_up or (billed is None and noted is None),
    )


async def _customer(session: Session, customer: str) -> str:
    """The id of the customer with an id or name."""
    pair_id = session.pair.pair_id
    found = await session.database.run(lambda c: standing.customers_named(c, pair_id, customer))
    if len(found) == 1:
        return found[0]
    if not found:
        raise NoSuchCustomer(f"Metronome lists no customer with the id or name {quoted(customer, 100)}.")
    raise NoSuchCustomer(f"{len(found)} customers are named {quoted(customer, 100)}: name one by its id.")


def closed_until(settings: Settings, now: datetime) -> datetime:
    """The end of the last hour that is closed."""
    closed = now.astimezone(UTC) - timedelta(minutes=settings.usage_close_minutes)
    return closed.replace(minute=0, second=0, microsecond=0)


def days_since_cut_over(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Daily partitions in UTC, from the day of the cut-over on."""
    return dg.DailyPartitionsDefinition(
        start_date=last_midnight(settings.usage_start).replace(tzinfo=None), timezone="UTC"
    )


def reconciliation_asset(settings: Settings) -> dg.AssetsDefinition:
    """The asset, partitioned by day from the cut-over on."""
    asset = reconciliation_key(settings)

    @dg.multi_asset(
        name="reconciliation",
        specs=[
            dg.AssetSpec(
                asset,
                deps=destinations(settings),
                group_name="solvimon",
                kinds={"solvimon", "metronome", "postgres"},
                owners=settings.resource_owners,
                tags=tags_of(settings, "reconciliation"),
                skippable=True,
                metadata={"dagster/column_schema": COLUMNS, "dagster/table_name": "ledger.reconciliations"},
                description="Metronome's totals, the ledger's and Solvimon's, side by side; one row for each "
                "customer, metric and UTC day in which either side has anything.\n\n**From** Metronome read afresh, "
                "by day, and by hour where a day differs or is cut; the ledger; and Solvimon's receipts and its "
                "lists of unmatched, duplicate and deleted events. With `deep`, every single event as Solvimon has "
                "it.\n\n**Fresh:** the schedule `daily_reconciliation` compares the last 8 days each night, and each "
                "older day once it is ingested.\n\n**If something differs,** a check is red, and lists each "
                "difference to the last digit with its reason; the runbook says for each reason what to do. Nothing "
                "is sent. **If it fails,** a walk did not complete: what was compared is stored, and the next night "
                "compares again.",
            )
        ],
        check_specs=[dg.AssetCheckSpec(name, asset=asset, description=text) for name, text in CHECKS.items()],
        partitions_def=days_since_cut_over(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=pool_of(settings, "metronome"),
    )
    def reconciliation(
        context: dg.AssetExecutionContext,
        config: ReconcileConfig,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetCheckResult]:
        tag_run(context)
        with failing_in_a_sentence():
            reports = asyncio.run(_reconcile_days(context, config, metronome, solvimon, store, settings))
            yield from reports.materializations()
            yield from reports.checks()
            reports.fail_if_unread()

    return reconciliation


async def _reconcile_days(
    context: dg.AssetExecutionContext,
    config: ReconcileConfig,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
    settings: Settings,
) -> Reports:
    """Compares the days of a run in one walk a pair, and writes every line down."""
    async with open_session(metronome, solvimon, store, context.run.run_id) as session:
        asked = context.partition_time_window
        start, end = asked.start.astimezone(UTC), asked.end.astimezone(UTC)
        if closed_until(settings, session.clock.now()) < end:
            raise dg.Failure(
                description=f"The day {end - DAY:%Y-%m-%d} is not closed yet: its last hour is read "
                f"{settings.usage_close_minutes} minutes after its end (USAGE_CLOSE_MINUTES).",
                allow_retries=False,
            )
        window = Window(max(start, settings.usage_start), end)
        pair_id, run_id = session.pair.pair_id, session.run_id

        async def take(lines: Sequence[DayLine]) -> None:
            await session.database.run(lambda c: reconciliations.store(c, pair_id, lines, run_id=run_id))

        tally, scope = await reconcile(
            session,
            settings,
            window,
            take,
            deep=config.deep,
            in_flight=metronome.requests_in_flight,
            say=context.log.info,
        )
        await session.database.run(lambda c: reconciliations.forget_others(c, pair_id, start, end, run_id=run_id))
        asset = reconciliation_key(settings)
        return await Reports.of(asset, session, tally, scope.dues, window, deep=config.deep)
