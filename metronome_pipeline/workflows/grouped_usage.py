"""Ingest usage with properties: every closed hour of every group becomes an event with meter properties.

Off until GROUPED_USAGE_ENABLED. A metric is billed through this workflow or through ``usage.py``, never through both.
Not here: what the two share (``ingestion.py``), and how groups are held against their total (``ledger/``).
"""

from collections.abc import Iterator

import dagster as dg

from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.due import Workflow
from metronome_pipeline.workflows.hours import hours_of
from metronome_pipeline.workflows.imports import column_schema
from metronome_pipeline.workflows.ingestion import IngestConfig, ingest
from metronome_pipeline.workflows.usage import EVENT_COLUMNS, destination_checks, every_metric_is_billed

GROUPED_USAGE = Workflow(
    "grouped_usage",
    dg.AssetKey(["metronome", "grouped_usage"]),
    dg.AssetKey(["solvimon", "grouped_usage_events"]),
    grouped=True,
)

SOURCE_COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "customer_id": ("uuid", "Metronome's customer id."),
        "metric_id": ("uuid", "Metronome's billable metric id."),
        "start_at": ("timestamptz", "Start of the hour, UTC."),
        "end_at": ("timestamptz", "End of the hour."),
        "slice": ("text", "total: the hour's ungrouped value; g and a hash: one group."),
        "properties": ("text", "Group keys and values as canonical JSON."),
        "value": ("numeric", "Usage in the metric's own unit, to the last digit."),
    }
)


def grouped_usage_assets(settings: Settings) -> dg.AssetsDefinition:
    """The two assets of the workflow, partitioned by hour from the cut-over on."""

    @dg.multi_asset(
        name=GROUPED_USAGE.name,
        specs=[
            dg.AssetSpec(
                GROUPED_USAGE.source,
                deps=[["metronome", "customers"], ["metronome", "billable_metrics"]],
                group_name="metronome",
                kinds={"metronome", "postgres"},
                owners=settings.resource_owners,
                skippable=True,
                metadata={"dagster/column_schema": SOURCE_COLUMNS, "dagster/table_name": "metronome.grouped_usage"},
                description="Hourly usage by group, for metrics that are billed with properties; one row a group and "
                "hour, and one for the hour's total.\n\nFrom `POST /v1/usage/groups`, held against the ungrouped "
                "total of `POST /v1/usage`. Groups that do not add up after a second read are listed; the rest of "
                "their hour is billed without properties.",
            ),
            dg.AssetSpec(
                GROUPED_USAGE.destination,
                deps=[GROUPED_USAGE.source, ["solvimon", "customers"], ["solvimon", "meters"]],
                group_name="solvimon",
                kinds={"solvimon", "postgres"},
                owners=settings.resource_owners,
                skippable=True,
                metadata={"dagster/column_schema": EVENT_COLUMNS, "dagster/table_name": "ledger.events"},
                description="The usage events of metrics that are billed with properties: one for each group and "
                "hour, with the group's keys and values as meter properties. The rules are those of "
                "`solvimon/usage_events`.",
            ),
        ],
        check_specs=[
            *destination_checks(GROUPED_USAGE.destination),
            every_metric_is_billed(GROUPED_USAGE.source),
            dg.AssetCheckSpec(
                "groups_add_up",
                asset=GROUPED_USAGE.source,
                description="The groups of every hour add up to its total (for MAX: the highest group is the total). "
                "What is missing is billed without properties: ask Metronome why its grouped read is cut short.",
            ),
        ],
        partitions_def=hours_of(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(settings.backfill_partitions_per_run),
        can_subset=True,
        pool="metronome_api",
    )
    def grouped_usage(
        context: dg.AssetExecutionContext,
        config: IngestConfig,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> Iterator[dg.AssetCheckResult]:
        yield from ingest(context, config, GROUPED_USAGE, metronome, solvimon, store, settings)

    return grouped_usage
