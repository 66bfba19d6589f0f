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
from metronome_pipeline.workflows.naming import asset_key, pool_of
from metronome_pipeline.workflows.reports import EVERY_PAIR_IS_READ
from metronome_pipeline.workflows.tags import tags_of

USAGE = "usage"
"""The workflow's name: its step's, and part of its jobs' and its schedule's."""

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
        "start_at": ("timestamptz", "timestamp of the event: start of the hour (of the day, by period), UTC."),
        "end_at": ("timestamptz", "End of the hour, or of the day."),
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


def usage_workflow(settings: Settings) -> Workflow:
    """The workflow with its assets."""
    return Workflow(
        USAGE, asset_key(settings, "metronome", "usage"), asset_key(settings, "solvimon", "usage_events"), grouped=False
    )


def destination_checks(destination: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """The checks of events, which hold for the whole account pair."""
    return [
        dg.AssetCheckSpec(
            "nothing_in_quarantine",
            asset=destination,
            description="No event was refused by Solvimon. The list says which and why: mend the cause, then release "
            "them with `metronome-pipeline quarantine retry --all`.",
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


def every_pair_is_read(source: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that no pair waits for too long where pairs take turns."""
    return dg.AssetCheckSpec(
        EVERY_PAIR_IS_READ,
        asset=source,
        description="Every metric of every customer was read within 24 hours, where there are more of them than "
        "USAGE_HOURLY_SHARE of an hour's requests can read and some take turns. The list says which were not: they "
        "could not be read, or the account is too large for the pace.",
    )


def usage_assets(settings: Settings) -> dg.AssetsDefinition:
    """The two assets of the workflow, partitioned by hour from the cut-over on."""
    workflow = usage_workflow(settings)

    @dg.multi_asset(
        name=workflow.name,
        specs=[
            dg.AssetSpec(
                workflow.source,
                deps=[asset_key(settings, "metronome", name) for name in ("customers", "billable_metrics")],
                group_name="metronome",
                kinds={"metronome", "postgres"},
                owners=settings.resource_owners,
                tags=tags_of(settings, USAGE),
                skippable=True,
                metadata={"dagster/column_schema": SOURCE_COLUMNS, "dagster/table_name": "metronome.usage"},
                description="Hourly usage of every customer and metric that is billed without properties; one row an "
                "hour with usage.\n\n**From** `POST /v1/usage`, asked in whole UTC days and kept by the "
                f"hour.\n\n**Fresh:** the schedule `hourly_usage` reads each hour {settings.usage_close_minutes} "
                f"minutes after its end, and the last {settings.usage_look_back_days} UTC days again for late usage; "
                "sweeps look further back. Where there are more customers and metrics than an hour's requests can "
                "read, some take turns.\n\n**If it fails:** a walk that does not complete changes nothing. Its hours "
                "stay open, the run has done the rest and fails with a list of whose usage was not read and why, and "
                "the next tick asks again. Mend what the list says; nothing has to be run by hand. To read hours "
                "again, materialize them.",
            ),
            dg.AssetSpec(
                workflow.destination,
                deps=[workflow.source, *(asset_key(settings, "solvimon", name) for name in ("customers", "meters"))],
                group_name="solvimon",
                kinds={"solvimon", "postgres"},
                owners=settings.resource_owners,
                tags=tags_of(settings, USAGE),
                skippable=True,
                metadata={"dagster/column_schema": EVENT_COLUMNS, "dagster/table_name": "ledger.events"},
                description="Every usage event that Solvimon has been or will be told: planned in the ledger, sent, "
                "and its answer written down; one row an event.\n\n**From** `metronome/usage`: `customer_reference`, "
                "`meter_reference` and `timestamp` say whose hour it is, `meter_values[].number` is its value. Late "
                "usage is corrected by the difference, a maximum that fell by deletion and successor.\n\n**Fresh:** "
                "sent by the run that reads the hour, and what a run left unsent by the next one.\n\n**If something "
                "waits,** a check is red and lists it, and the rest went through: refused events are in quarantine "
                "with Solvimon's reason (mend it, then `metronome-pipeline quarantine retry --all`), implausible "
                "decreases are held by the brake (`metronome-pipeline brake list`). To see a change before it is made, "
                "run `metronome-pipeline plan usage`; to take back a wrong backfill, `metronome-pipeline revert`.",
            ),
        ],
        check_specs=[
            *destination_checks(workflow.destination),
            every_metric_is_billed(workflow.source),
            every_pair_is_read(workflow.source),
        ],
        partitions_def=hours_of(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(settings.backfill_partitions_per_run),
        can_subset=True,
        pool=pool_of(settings, "metronome"),
    )
    def usage(
        context: dg.AssetExecutionContext,
        config: IngestConfig,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> Iterator[dg.AssetCheckResult]:
        yield from ingest(context, config, workflow, metronome, solvimon, store, settings)

    return usage
