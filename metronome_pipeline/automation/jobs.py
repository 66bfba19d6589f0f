"""Jobs: one for each workflow, and one for all imports in the order of their dependencies.

Here: which assets a job materializes. Not here: when (``schedules.py``, ``sensors.py``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from metronome_pipeline.workflows.due import Workflow
from metronome_pipeline.workflows.grouped_usage import GROUPED_USAGE
from metronome_pipeline.workflows.retry import retry_quarantine
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
        _retry_quarantine(owners),
    ]
    return {job.name: job for job in made}


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
        retry_quarantine()

    return job


def shown(owners: Sequence[str]) -> dict[str, str]:
    """Metadata with the owners of a job, schedule or sensor: Dagster's own field for them is in beta, and warns."""
    return {"owners": ", ".join(owners)}
