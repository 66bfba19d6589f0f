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
from metronome_pipeline.workflows.naming import asset_key, pool_of
from metronome_pipeline.workflows.tags import tags_of
from metronome_pipeline.workflows.usage import (
    EVENT_COLUMNS,
    destination_checks,
    every_metric_is_billed,
    every_pair_is_read,
)

GROUPED_USAGE = "grouped_usage"
"""The workflow's name: its step's, and part of its jobs' and its schedule's."""

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


def grouped_usage_workflow(settings: Settings) -> Workflow:
    """The workflow with its assets."""
    return Workflow(
        GROUPED_USAGE,
        asset_key(settings, "metronome", "grouped_usage"),
        asset_key(settings, "solvimon", "grouped_usage_events"),
        grouped=True,
    )


def grouped_usage_assets(settings: Settings) -> dg.AssetsDefinition:
    """The two assets of the workflow, partitioned by hour from the cut-over on."""
    workflow = grouped_usage_workflow(settings)

    @dg.multi_asset(
        name=workflow.name,
        specs=[
            dg.AssetSpec(
                workflow.source,
                deps=[asset_key(settings, "metronome", name) for name in ("customers", "billable_metrics")],
                group_name="metronome",
                kinds={"metronome", "postgres"},
                owners=settings.resource_owners,
                tags=tags_of(settings, GROUPED_USAGE),
                skippable=True,
                metadata={"dagster/column_schema": SOURCE_COLUMNS, "dagster/table_name": "metronome.grouped_usage"},
                description="Hourly usage by group, for metrics that are billed with properties; one row a group and "
                "hour, and one for the hour's total.\n\n**From** `POST /v1/usage/groups`, held against the ungrouped "
                "total of `POST /v1/usage`.\n\n**Fresh:** as `metronome/usage`, by the schedule "
                "`hourly_grouped_usage`, which runs where GROUPED_USAGE_ENABLED is set.\n\n**If groups do not add "
                "up** after a second read, the check `groups_add_up` lists them, and the rest of their hour is "
                "billed without properties: ask Metronome why. **If it fails,** as `metronome/usage`: the list says "
                "whose usage was not read and why, and the next tick asks again.",
            ),
            dg.AssetSpec(
                workflow.destination,
                deps=[workflow.source, *(asset_key(settings, "solvimon", name) for name in ("customers", "meters"))],
                group_name="solvimon",
                kinds={"solvimon", "postgres"},
                owners=settings.resource_owners,
                tags=tags_of(settings, GROUPED_USAGE),
                skippable=True,
                metadata={"dagster/column_schema": EVENT_COLUMNS, "dagster/table_name": "ledger.events"},
                description="The usage events of metrics that are billed with properties: one for each group and "
                "hour, with the group's keys and values as meter properties.\n\n**From** `metronome/grouped_usage`: "
                "`meter_properties[].reference` ← group key, `.value` ← group value; all else as in "
                "`solvimon/usage_events`.\n\n**Fresh:** sent by the run that reads the hour.\n\n**If something "
                "waits,** a check is red and lists it, as for `solvimon/usage_events`. A property that Solvimon does "
                "not know: run `import_meters`, then `metronome-pipeline quarantine retry --all`.",
            ),
        ],
        check_specs=[
            *destination_checks(workflow.destination),
            every_metric_is_billed(workflow.source),
            every_pair_is_read(workflow.source),
            dg.AssetCheckSpec(
                "groups_add_up",
                asset=workflow.source,
                description="The groups of every hour add up to its total (for MAX: the highest group is the total). "
                "What is missing is billed without properties: ask Metronome why its grouped read is cut short.",
            ),
        ],
        partitions_def=hours_of(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(settings.backfill_partitions_per_run),
        can_subset=True,
        pool=pool_of(settings, "metronome"),
    )
    def grouped_usage(
        context: dg.AssetExecutionContext,
        config: IngestConfig,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> Iterator[dg.AssetCheckResult]:
        yield from ingest(context, config, workflow, metronome, solvimon, store, settings)

    return grouped_usage
