"""Jobs: one for each workflow, and one for all imports in the order of their dependencies.

Here: which assets a job materializes. Not here: when (``schedules.py``, ``sensors.py``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from metronome_pipeline.sweeps.sweeps import SweepKind
from metronome_pipeline.workflows.billing_health import BILLING_HEALTH
from metronome_pipeline.workflows.due import Workflow
from metronome_pipeline.workflows.grouped_usage import GROUPED_USAGE
from metronome_pipeline.workflows.period_usage import PERIOD_USAGE
from metronome_pipeline.workflows.reconciliation_reports import RECONCILIATION
from metronome_pipeline.workflows.retention import retire_usage
from metronome_pipeline.workflows.retry import retry
from metronome_pipeline.workflows.sweep import STEP, SWEEP
from metronome_pipeline.workflows.usage import USAGE

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


def jobs(owners: Sequence[str] = ()) -> Jobs:
    """Every job by its name."""
    made = [
        _import("import_customers", "Every Metronome customer becomes a Solvimon customer.", owners),
        _import("import_meters", "Every billable metric becomes a meter with its calculation.", owners),
        _import("import_products", "Usage and subscription products become products with one item each.", owners),
        _import("import_everything", "All imports: customers, meters, then products, which need meters.", owners),
        _ingest(USAGE, "Usage of the chosen hours, from Metronome into Solvimon. A range is one run.", owners),
        _ingest(
            GROUPED_USAGE,
            "Usage with properties of the chosen hours. Only metrics that are billed with properties.",
            owners,
        ),
        _ingest(
            PERIOD_USAGE,
            "Usage by period to date of the chosen days, whose billing periods are read whole. Only metrics that "
            "METRIC_CALCULATIONS bills by PERIOD_TO_DATE.",
            owners,
        ),
        _retry_quarantine(owners),
        _sweep(SweepKind.usage, "Compare the trailing days with the ledger, and open those that differ.", owners),
        _sweep(SweepKind.usage_by_hour, "Compare the trailing days with the ledger hour by hour.", owners),
        _sweep(SweepKind.closed_periods, "Compare everything older with the ledger, day by day.", owners),
        _correct(USAGE, owners),
        _correct(GROUPED_USAGE, owners),
        _reconcile(owners),
        _billing_health(owners),
        _retire_usage(owners),
    ]
    return {job.name: job for job in made}


def _reconcile(owners: Sequence[str]) -> Any:
    return dg.define_asset_job(
        "reconcile",
        dg.AssetSelection.assets(RECONCILIATION),
        description="Compare both sides over the chosen days, to the last digit. A range is one run. Nothing is sent.",
        tags={"workflow": "reconciliation"},
        metadata=shown(owners),
    )


def _billing_health(owners: Sequence[str]) -> Any:
    return dg.define_asset_job(
        "billing_health",
        dg.AssetSelection.assets(BILLING_HEALTH),
        description="The last 35 days at a glance, from the ledger alone. Neither API is asked anything.",
        tags={"workflow": "billing_health"},
        metadata=shown(owners),
    )


def _import(name: str, description: str, owners: Sequence[str]) -> Any:
    assets = [key for what in IMPORTS[name] for key in (["metronome", SOURCES[what]], ["solvimon", what])]
    selection = dg.AssetSelection.assets(*assets)
    return dg.define_asset_job(
        name, selection, description=description, tags={"workflow": name}, metadata=shown(owners)
    )


def _ingest(workflow: Workflow, description: str, owners: Sequence[str]) -> Any:
    selection = dg.AssetSelection.assets(workflow.source, workflow.destination)
    return dg.define_asset_job(
        f"ingest_{workflow.name}",
        selection,
        description=description,
        tags={"workflow": workflow.name},
        metadata=shown(owners),
    )


def _retry_quarantine(owners: Sequence[str]) -> dg.JobDefinition:
    @dg.job(
        name="retry_quarantine",
        description="Sends events in quarantine again, once their cause is mended. Asks who wants it, for the record.",
        tags={"workflow": "retry_quarantine"},
        metadata=shown(owners),
    )
    def job() -> None:
        retry()

    return job


def _retire_usage(owners: Sequence[str]) -> dg.JobDefinition:
    @dg.job(
        name="retire_usage",
        description="Remove raw usage that is older than USAGE_RETENTION_DAYS. The ledger is always kept.",
        tags={"workflow": "retention"},
        metadata=shown(owners),
    )
    def job() -> None:
        retire_usage()

    return job


def _sweep(kind: SweepKind, description: str, owners: Sequence[str]) -> Any:
    return dg.define_asset_job(
        f"sweep_{kind.value}",
        dg.AssetSelection.assets(SWEEP),
        description=description,
        config={"ops": {STEP: {"config": {"kind": kind.name}}}},
        tags={"workflow": "sweep"},
        metadata=shown(owners),
    )


def _correct(workflow: Workflow, owners: Sequence[str]) -> Any:
    """Of the destination alone: the hours were read by the sweep that the run's config names."""
    return dg.define_asset_job(
        f"correct_{workflow.name}",
        dg.AssetSelection.assets(workflow.destination),
        description="Plan and send what a sweep found, from the hours that it has read. Requested by the sensor "
        "sweep_findings.",
        tags={"workflow": workflow.name},
        metadata=shown(owners),
    )


def shown(owners: Sequence[str]) -> dict[str, str]:
    """Metadata with the owners of a job, schedule or sensor: Dagster's own field for them is in beta, and warns."""
    return {"owners": ", ".join(owners)}
