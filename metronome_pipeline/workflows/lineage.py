"""Column lineage: of each asset's columns, the columns of other assets that they are made from.

Here: which columns, and how Dagster is told. Not here: the columns themselves, which stand beside each asset, and what
is made of them (``mapping/``, ``ledger/``). Columns that come from an API alone have no lineage.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import dagster as dg

from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.due import destinations

SCHEMA, LINEAGE = "dagster/column_schema", "dagster/column_lineage"

Sources = Mapping[str, Sequence[str]]
"""By column: the columns that it is made from, each as ``layer/asset.column``."""

_EVENTS = {
    "solvimon/usage_events": "metronome/usage",
    "solvimon/grouped_usage_events": "metronome/grouped_usage",
    "solvimon/period_usage_events": "metronome/period_usage",
}


def _of_every_workflow(events: Sequence[str] = (), usage: Sequence[str] = ()) -> list[str]:
    """Columns of the events, and of the usage, of all three workflows."""
    return [
        *(f"{asset}.{column}" for asset in _EVENTS for column in events),
        *(f"{asset}.{column}" for asset in _EVENTS.values() for column in usage),
    ]


def _of_events(usage: str, *properties: str) -> Sources:
    """Events: the usage that they carry, under the reference that is made of all but the number."""
    identity = ("customer_id", "metric_id", "start_at", "end_at", *properties)
    return {
        **{column: [f"{usage}.{column}"] for column in identity},
        "number": [f"{usage}.value"],
        "reference": [f"{usage}.{column}" for column in identity],
    }


_OF_USAGE: Sources = {
    "customer_id": ["metronome/customers.customer_id"],
    "metric_id": ["metronome/billable_metrics.metric_id"],
}
_OF: Mapping[str, Sources] = {
    "metronome/usage": _OF_USAGE,
    "metronome/grouped_usage": {**_OF_USAGE, "properties": ["metronome/billable_metrics.group_keys"]},
    "metronome/period_usage": _OF_USAGE,
    "metronome/usage_sweep": {**_OF_USAGE, "committed": _of_every_workflow(["number"])},
    "solvimon/customers": {
        "reference": ["metronome/customers.customer_id"],
        "legal_name": ["metronome/customers.name"],
    },
    "solvimon/meters": {
        "reference": ["metronome/billable_metrics.metric_id"],
        "name": ["metronome/billable_metrics.name"],
        "calculation_type": ["metronome/billable_metrics.aggregation_type"],
        "properties": ["metronome/billable_metrics.group_keys"],
    },
    "solvimon/products": {
        "reference": ["metronome/products.product_id"],
        "name": ["metronome/products.initial"],
        "model_type": ["metronome/products.type"],
        "calculation_id": ["solvimon/meters.calculation_id"],
    },
    "solvimon/usage_events": _of_events("metronome/usage"),
    "solvimon/grouped_usage_events": _of_events("metronome/grouped_usage", "slice", "properties"),
    "solvimon/period_usage_events": _of_events("metronome/period_usage"),
    "solvimon/reconciliation": {
        "customer_id": _of_every_workflow(["customer_id"]),
        "metric_id": _of_every_workflow(["metric_id"]),
        "day": _of_every_workflow(["start_at"]),
        "ledger": _of_every_workflow(["number"]),
        "delivered": _of_every_workflow(["number"]),
        "difference": _of_every_workflow(["number"]),
        "events": _of_every_workflow(["event_id"]),
        "acknowledged": _of_every_workflow(["event_id"]),
    },
    "solvimon/billing_health": {
        "day": _of_every_workflow(["start_at"]),
        "metric_id": _of_every_workflow(["metric_id"]),
        "metric": ["metronome/billable_metrics.name"],
        "calculation": ["solvimon/meters.calculation_type"],
        "metronome": _of_every_workflow(usage=["value"]),
        "delivered": _of_every_workflow(["number"]),
        "difference": _of_every_workflow(["number"], ["value"]),
        "events": _of_every_workflow(["event_id"]),
        "delivered_events": _of_every_workflow(["event_id"]),
        "corrections": _of_every_workflow(["kind"]),
        "corrected": _of_every_workflow(["number"]),
        "open_events": _of_every_workflow(["event_id"]),
        "late": _of_every_workflow(["late"]),
        "reconciled": ["solvimon/reconciliation.outcome"],
    },
}


def with_column_lineage(settings: Settings, spec: dg.AssetSpec) -> dg.AssetSpec:
    """The asset with its lineage, as Dagster's metadata and as words at the end of each column's description.

    The words are what a person sees: Dagster's own UI keeps the metadata to itself, other readers of it do not. Of the
    workflows that are off nothing is made, so what is made of all workflows names those that are on.

    Args:
        settings: Which workflows are on.
        spec: An asset of this project, under any prefix: the last two parts of its key say which one.
    """
    *prefix, layer, name = spec.key.path
    of_asset = _OF.get(f"{layer}/{name}")
    if of_asset is None:
        return spec
    unused = _unused(settings, f"{layer}/{name}")
    made_from = {
        column: [each for each in sources if each.partition(".")[0] not in unused]
        for column, sources in of_asset.items()
    }
    schema: dg.TableSchema = spec.metadata[SCHEMA]
    columns = [_told(column, made_from.get(column.name, ())) for column in schema.columns]
    lineage = {column: [_dependency(prefix, each) for each in sources] for column, sources in made_from.items()}
    return spec.merge_attributes(
        metadata={
            SCHEMA: dg.TableSchema(columns=columns, constraints=schema.constraints),
            LINEAGE: dg.TableColumnLineage(lineage),
        }
    )


def _unused(settings: Settings, asset: str) -> set[str]:
    """The assets of workflows that are off, but for the own workflow of an asset."""
    on = {"/".join(key.path[-2:]) for key in destinations(settings)} | {asset}
    return {one for events, usage in _EVENTS.items() if events not in on for one in (events, usage)}


def _told(column: dg.TableColumn, sources: Sequence[str]) -> dg.TableColumn:
    if not sources:
        return column
    return dg.TableColumn(
        column.name,
        column.type,
        description=f"{column.description} ← {_in_words(sources)}",
        constraints=column.constraints,
        tags=column.tags,
    )


def _in_words(sources: Sequence[str]) -> str:
    """``metronome/usage: customer_id, metric_id; …``."""
    by_asset = groupby((each.split(".") for each in sources), key=lambda parts: parts[0])
    return "; ".join(f"{asset}: {', '.join(column for _, column in of_asset)}" for asset, of_asset in by_asset)


def _dependency(prefix: Sequence[str], source: str) -> dg.TableColumnDep:
    asset, _, column = source.partition(".")
    return dg.TableColumnDep(dg.AssetKey([*prefix, *asset.split("/")]), column)
