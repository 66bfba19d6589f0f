"""Ingest usage: every closed hour of every customer and metric becomes a Solvimon usage event.

Here: the two assets, in one step, so that each week of a long range is delivered before the next is read. Not here:
the way of a range through the core (``ingestion.py``), the ledger (``ledger/``), the mapping (``mapping/usage.py``).
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

USAGE = Workflow("usage", dg.AssetKey(["metronome", "usage"]), dg.AssetKey(["solvimon", "usage_events"]), grouped=False)

SOURCE_COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "customer_id": ("uuid", "Metronome's customer id."),
        "metric_id": ("uuid", "Metronome's billable metric id."),
        "start_at": ("timestamptz", "Start of the hour, UTC."),
        "end_at": ("timestamptz", "End of the hour."),
        "value": ("numeric", "Usage in the metric's own unit, to the last digit. An hour without usage has no row."),
    }
)
EVENT_COLUMNS = column_schema(
    {
        "event_id": ("bigint", "Order of planning."),
        "pair_id": ("int", "The account pair."),
        "customer_id": ("uuid", "customer_reference of the event."),
        "metric_id": ("uuid", "meter_reference of the event."),
        "start_at": ("timestamptz", "timestamp of the event: start of the hour, UTC."),
        "end_at": ("timestamptz", "End of the hour."),
        "slice": ("text", "total, rest, or g and the hash of the properties."),
        "properties": ("text", "Group keys and values as canonical JSON; null without."),
        "kind": ("text", "usage, correction or deletion."),
        "revision": ("int", "0 for the first event of a slot."),
        "number": ("numeric", "What was sent."),
        "deletes": ("bigint", "The event that a deletion takes back."),
        "reference": ("text", "The event's reference in Solvimon."),
        "planned_at": ("timestamptz", "When it was written down, before it was sent."),
        "run_id": ("text", "The Dagster run that planned it."),
        "late": ("boolean", "A change that came when the invoice of its period was final."),
    }
)


def destination_checks(destination: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of events, which hold for the whole account pair."""
    return [
        dg.AssetCheckSpec(
            "nothing_in_quarantine",
            asset=destination,
            description="No event was refused by Solvimon. The list says which and why: mend the cause, then release "
            "them with `metronome-pipeline quarantine retry`.",
        ),
        dg.AssetCheckSpec(
            "nothing_held_by_the_brake",
            asset=destination,
            description="No plan of the last run took back an implausible share of what was billed. If it is right, "
            "let it through with `metronome-pipeline brake release DIGEST`.",
        ),
        dg.AssetCheckSpec(
            "nothing_left_unsettled",
            asset=destination,
            description="No hour is known to differ from what Solvimon was told. What is listed waits for a "
            "quarantined event, for the brake, or for the next run, which plans these hours first.",
        ),
        dg.AssetCheckSpec(
            "nothing_late",
            asset=destination,
            description="No hour of a billing period whose invoice is final (LATE_GRACE_HOURS after its end) was "
            "changed within 35 days. What is listed was sent anyway, or is held (LATE_USAGE): see "
            "`metronome-pipeline late list`, and bill or credit it by hand where the invoice does not.",
        ),
    ]


def every_metric_is_billed(source: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that no metric is left out."""
    return dg.AssetCheckSpec(
        "every_metric_is_billed",
        asset=source,
        description="Usage of every billable metric is sent. The list says which metrics are refused, why, and what "
        "to do.",
    )


def usage_assets(settings: Settings) -> dg.AssetsDefinition:
    """The two assets of the workflow, partitioned by hour from the cut-over on."""

    @dg.multi_asset(
        name=USAGE.name,
        specs=[
            dg.AssetSpec(
                USAGE.source,
                deps=[["metronome", "customers"], ["metronome", "billable_metrics"]],
                group_name="metronome",
                kinds={"metronome", "postgres"},
                owners=settings.resource_owners,
                skippable=True,
                metadata={"dagster/column_schema": SOURCE_COLUMNS, "dagster/table_name": "metronome.usage"},
                description="Hourly usage of every customer and metric that is billed without properties; one row an "
                "hour with usage.\n\nFrom `POST /v1/usage`, asked in whole UTC days and kept by the hour. A walk "
                "that does not complete changes nothing: its hours stay open, and the run fails by name after it has "
                "done the rest.",
            ),
            dg.AssetSpec(
                USAGE.destination,
                deps=[USAGE.source, ["solvimon", "customers"], ["solvimon", "meters"]],
                group_name="solvimon",
                kinds={"solvimon", "postgres"},
                owners=settings.resource_owners,
                skippable=True,
                metadata={"dagster/column_schema": EVENT_COLUMNS, "dagster/table_name": "ledger.events"},
                description="Every usage event that Solvimon has been or will be told: planned in the ledger, sent, "
                "and its answer written down.\n\nLate usage is corrected by the difference, a maximum that fell by "
                "deletion and successor. Refused events wait in quarantine with Solvimon's reason, and the rest goes "
                "through.",
            ),
        ],
        check_specs=[*destination_checks(USAGE.destination), every_metric_is_billed(USAGE.source)],
        partitions_def=hours_of(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(settings.backfill_partitions_per_run),
        can_subset=True,
        pool="metronome_api",
    )
    def usage(
        context: dg.AssetExecutionContext,
        config: IngestConfig,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> Iterator[dg.AssetCheckResult]:
        yield from ingest(context, config, USAGE, metronome, solvimon, store, settings)

    return usage
