"""Jobs: one for each workflow, and one for all imports in the order of their dependencies."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from metronome_pipeline.workflows.grouped_usage import GROUPED_USAGE
from metronome_pipeline.workflows.usage import USAGE

Jobs = Mapping[str, Any]


def jobs() -> Jobs:
    """Every job by its name."""
    customers = dg.AssetSelection.assets(["metronome", "customers"], ["solvimon", "customers"])
    meters = dg.AssetSelection.assets(["metronome", "billable_metrics"], ["solvimon", "meters"])
    products = dg.AssetSelection.assets(["metronome", "products"], ["solvimon", "products"])
    made = [
        _import("import_customers", customers, "Every Metronome customer becomes a Solvimon customer."),
        _import("import_meters", meters, "Every billable metric becomes a meter with its calculation."),
        _import("import_products", products, "Usage and subscription products become products with one item each."),
        _import(
            "import_everything",
            customers | meters | products,
            "All imports: customers, meters, then products, which need meters.",
        ),
        dg.define_asset_job(
            "ingest_usage",
            dg.AssetSelection.assets(USAGE.source, USAGE.destination),
            description="Usage of the chosen hours, from Metronome into Solvimon. A range is one run.",
            tags={"workflow": "usage"},
        ),
        dg.define_asset_job(
            "ingest_grouped_usage",
            dg.AssetSelection.assets(GROUPED_USAGE.source, GROUPED_USAGE.destination),
            description="Usage with properties of the chosen hours. Only metrics that are billed with properties.",
            tags={"workflow": "grouped_usage"},
        ),
    ]
    return {job.name: job for job in made}


def _import(name: str, selection: dg.AssetSelection, description: str) -> Any:
    return dg.define_asset_job(name, selection, description=description, tags={"workflow": name})
