"""Jobs: one for each workflow, and one for all imports in the order of their dependencies.

Here: which assets a job materializes. Not here: when (``schedules.py``, ``sensors.py``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from metronome_pipeline.settings import Settings
from metronome_pipeline.sweeps.sweeps import SweepKind
from metronome_pipeline.workflows.billing_health import billing_health_key
from metronome_pipeline.workflows.due import Workflow
from metronome_pipeline.workflows.grouped_usage import grouped_usage_workflow
from metronome_pipeline.workflows.naming import asset_key
from metronome_pipeline.workflows.period_usage import period_usage_workflow
from metronome_pipeline.workflows.reconciliation_reports import reconciliation_key
from metronome_pipeline.workflows.retention import retire_usage
from metronome_pipeline.workflows.retry import retry_op
from metronome_pipeline.workflows.sweep import sweep_key
from metronome_pipeline.workflows.tags import tags_of
from metronome_pipeline.workflows.usage import usage_workflow

Jobs = Mapping[str, Any]

IMPORTS = {
    "import_customers": ["customers"],
    "import_meters": ["meters"],
    "import_products": ["products"],
    "import_everything": ["customers", "meters", "products"],
}
"""The import jobs, and what each brings over."""
SOURCES = {"customers": "customers", "meters": "billable_metrics", "products": "products"}
"""What each of them is in Metronome."""


def jobs(settings: Settings) -> Jobs:
    """Every job by its name."""
    made = [
        _import("import_customers", "Every Metronome customer becomes a Solvimon customer.", settings),
        _import("import_meters", "Every billable metric becomes a meter with its calculation.", settings),
        _import("import_products", "Usage and subscription products become products with one item each.", settings),
        _import("import_everything", "All imports: customers, meters, then products, which need meters.", settings),
        _ingest(
            usage_workflow(settings),
            "Usage of the chosen hours, from Metronome into Solvimon. A range is one run.",
            settings,
        ),
        _ingest(
            grouped_usage_workflow(settings),
            "Usage with properties of the chosen hours. Only metrics that are billed with properties.",
            settings,
        ),
        _ingest(
            period_usage_workflow(settings),
            "Usage by period to date of the chosen days, whose billing periods are read whole. Only metrics that "
            "METRIC_CALCULATIONS bills by PERIOD_TO_DATE.",
            settings,
        ),
        _retry_quarantine(settings),
        _sweep(SweepKind.usage, "Compare the trailing days with the ledger, and open those that differ.", settings),
        _sweep(SweepKind.usage_by_hour, "Compare the trailing days with the ledger hour by hour.", settings),
        _sweep(SweepKind.closed_periods, "Compare everything older with the ledger, day by day.", settings),
        _correct(usage_workflow(settings), settings),
        _correct(grouped_usage_workflow(settings), settings),
        _reconcile(settings),
        _billing_health(settings),
        _retire_usage(settings),
    ]
    return {job.name: job for job in made}


def _reconcile(settings: Settings) -> Any:
    return dg.define_asset_job(
        "reconcile",
        dg.AssetSelection.assets(reconciliation_key(settings)),
        description="Compare both sides over the chosen days, to the last digit. A range is one run. Nothing is sent.",
        tags=tags_of(settings, "reconciliation"),
        metadata=shown(settings.resource_owners),
    )


def _billing_health(settings: Settings) -> Any:
    return dg.define_asset_job(
        "billing_health",
        dg.AssetSelection.assets(billing_health_key(settings)),
        description="The last 35 days at a glance, from the ledger alone. Neither API is asked anything.",
        tags=tags_of(settings, "billing_health"),
        metadata=shown(settings.resource_owners),
    )


def _import(name: str, description: str, settings: Settings) -> Any:
    sources = [asset_key(settings, "metronome", SOURCES[what]) for what in IMPORTS[name]]
    destinations = [asset_key(settings, "solvimon", what) for what in IMPORTS[name]]
    selection = dg.AssetSelection.assets(*sources, *destinations)
    return dg.define_asset_job(
        name, selection, description=description, tags=tags_of(settings, name), metadata=shown(settings.resource_owners)
    )


def _ingest(workflow: Workflow, description: str, settings: Settings) -> Any:
    selection = dg.AssetSelection.assets(workflow.source, workflow.destination)
    return dg.define_asset_job(
        f"ingest_{workflow.name}",
        selection,
        description=description,
        tags=tags_of(settings, workflow.name),
        metadata=shown(settings.resource_owners),
    )


def _retry_quarantine(settings: Settings) -> dg.JobDefinition:
    retry = retry_op(settings)

    @dg.job(
        name="retry_quarantine",
        description="Sends events in quarantine again, once their cause is mended. Asks who wants it, for the record.",
        tags=tags_of(settings, "retry_quarantine"),
        metadata=shown(settings.resource_owners),
    )
    def job() -> None:
        retry()

    return job


def _retire_usage(settings: Settings) -> dg.JobDefinition:
    @dg.job(
        name="retire_usage",
        description="Remove raw usage that is older than USAGE_RETENTION_DAYS. The ledger is always kept.",
        tags=tags_of(settings, "retention"),
        metadata=shown(settings.resource_owners),
    )
    def job() -> None:
        retire_usage()

    return job


def _sweep(kind: SweepKind, description: str, settings: Settings) -> Any:
    asset = sweep_key(settings)
    return dg.define_asset_job(
        f"sweep_{kind.value}",
        dg.AssetSelection.assets(asset),
        description=description,
        config={"ops": {asset.to_python_identifier(): {"config": {"kind": kind.name}}}},
        tags=tags_of(settings, "sweep"),
        metadata=shown(settings.resource_owners),
    )


def _correct(workflow: Workflow, settings: Settings) -> Any:
    """Of the destination alone: the hours were read by the sweep that the run's config names."""
    return dg.define_asset_job(
        f"correct_{workflow.name}",
        dg.AssetSelection.assets(workflow.destination),
        description="Plan and send what a sweep found, from the hours that it has read. Requested by the sensor "
        "sweep_findings.",
        tags=tags_of(settings, workflow.name),
        metadata=shown(settings.resource_owners),
    )


def shown(owners: Sequence[str]) -> dict[str, str]:
    """Metadata with the owners of a job, schedule or sensor: Dagster's own field for them is in beta, and warns."""
    return {"owners": ", ".join(owners)}
