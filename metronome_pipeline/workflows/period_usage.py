"""Ingest usage by period to date: what a billing period's value rose by on each closed day becomes a Solvimon event.

For UNIQUE, LATEST and SQL metrics, whose hours do not add up; off until METRIC_CALCULATIONS names one. Here: the two
assets, in one step. Not here: the way of a run's days through the core (``period_ingestion.py``), which values are read
(``ledger/periods.py``), the arithmetic (``mapping/periods.py``).
"""

from collections.abc import Iterator

import dagster as dg

from metronome_pipeline.mapping.periods import last_midnight
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.due import Workflow
from metronome_pipeline.workflows.imports import column_schema
from metronome_pipeline.workflows.naming import asset_key, pool_of
from metronome_pipeline.workflows.period_ingestion import PeriodConfig, ingest_periods
from metronome_pipeline.workflows.tags import tags_of
from metronome_pipeline.workflows.usage import EVENT_COLUMNS, destination_checks, every_metric_is_billed

PERIOD_USAGE = "period_usage"
"""The workflow's name: its step's, and part of its job's and its schedule's."""

SOURCE_COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "customer_id": ("uuid", "Metronome's customer id."),
        "metric_id": ("uuid", "Metronome's billable metric id."),
        "start_at": ("timestamptz", "Start of the day, UTC."),
        "end_at": ("timestamptz", "End of the day."),
        "value": ("numeric", "What the value of the billing period rose by on this day; negative where it fell."),
    }
)


def period_usage_workflow(settings: Settings) -> Workflow:
    """The workflow with its assets."""
    return Workflow(
        PERIOD_USAGE,
        asset_key(settings, "metronome", "period_usage"),
        asset_key(settings, "solvimon", "period_usage_events"),
        grouped=False,
    )


def period_usage_assets(settings: Settings) -> dg.AssetsDefinition:
    """The two assets of the workflow, partitioned by UTC day from the cut-over's day on."""
    workflow = period_usage_workflow(settings)

    @dg.multi_asset(
        name=workflow.name,
        specs=[
            dg.AssetSpec(
                workflow.source,
                deps=[asset_key(settings, "metronome", name) for name in ("customers", "billable_metrics")],
                group_name="metronome",
                kinds={"metronome", "postgres"},
                owners=settings.resource_owners,
                tags=tags_of(settings, PERIOD_USAGE),
                skippable=True,
                metadata={"dagster/column_schema": SOURCE_COLUMNS, "dagster/table_name": "metronome.usage"},
                description="Usage of metrics that are billed by PERIOD_TO_DATE, as the daily increase of the "
                "billing period's value; one row a day on which the period has a value.\n\n**From** `POST /v1/usage` "
                "with `window_size` NONE, from the period's start to each midnight: one request a midnight for each "
                "customer and metric. A period is always read whole, by one walk, for late usage may change any of "
                "its days.\n\n**Fresh:** the schedule `daily_period_usage` reads each day when it is closed, and "
                "every period of the last 35 days again; it runs where METRICS_FILE or METRIC_CALCULATIONS names "
                "PERIOD_TO_DATE.\n\n**If it fails:** a walk that does not complete changes nothing. Its days stay "
                "open, the failure lists whose period was not read and why, and the next day's run reads it again.",
            ),
            dg.AssetSpec(
                workflow.destination,
                deps=[workflow.source, *(asset_key(settings, "solvimon", name) for name in ("customers", "meters"))],
                group_name="solvimon",
                kinds={"solvimon", "postgres"},
                owners=settings.resource_owners,
                tags=tags_of(settings, PERIOD_USAGE),
                skippable=True,
                metadata={"dagster/column_schema": EVENT_COLUMNS, "dagster/table_name": "ledger.events"},
                description="The usage events of metrics that are billed by period to date: one a day, at its "
                "midnight, so that their sum is the period's exact value on any day.\n\n**From** "
                "`metronome/period_usage`: `meter_values[].number` ← the day's increase, negative where the value "
                "fell.\n\n**Fresh:** sent by the run that reads the period.\n\n**If something waits,** a check is red "
                "and lists it, as for `solvimon/usage_events`.",
            ),
        ],
        check_specs=[*destination_checks(workflow.destination), every_metric_is_billed(workflow.source)],
        partitions_def=days_of(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        pool=pool_of(settings, "metronome"),
    )
    def period_usage(
        context: dg.AssetExecutionContext,
        config: PeriodConfig,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> Iterator[dg.AssetCheckResult]:
        yield from ingest_periods(context, config, workflow, metronome, solvimon, store, settings)

    return period_usage


def days_of(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Daily partitions in UTC, from the cut-over's day on. A day that it cuts is one, and nothing of it is billed."""
    return dg.DailyPartitionsDefinition(
        start_date=last_midnight(settings.usage_start).replace(tzinfo=None), timezone="UTC"
    )
