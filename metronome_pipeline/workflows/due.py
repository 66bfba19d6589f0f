"""Whose usage is due: which customers, which metrics, through which slicing; and which metrics are refused, by name.

Here: settings held against what was read, imported and billed so far. Not here: reading usage (``ledger/``).
"""

from dataclasses import dataclass

import dagster as dg

from metronome_pipeline.ledger.slicings import note_slicings
from metronome_pipeline.ledger.synchronise import Due
from metronome_pipeline.mapping.usage import UNGROUPED, BilledMetric, slicing_of
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage import accounts, imports
from metronome_pipeline.storage.accounts import KnownMetric
from metronome_pipeline.workflows.session import Session


@dataclass(frozen=True)
class Workflow:
    """One of the two usage workflows: its step's name, its two assets, and which metrics are its own."""

    name: str
    source: dg.AssetKey
    destination: dg.AssetKey
    grouped: bool


@dataclass(frozen=True)
class RefusedMetric:
    """A metric whose usage this run leaves alone, and why."""

    metric_id: str
    name: str
    reason: str


async def due_usage(session: Session, settings: Settings, *, grouped: bool) -> tuple[Due, list[RefusedMetric]]:
    """Whose usage is due in one of the two workflows, and which of its metrics are refused, by name."""
    pair_id = session.pair.pair_id
    customers = await session.database.run(lambda c: accounts.known_customers(c, pair_id))
    metrics = await session.database.run(lambda c: accounts.known_metrics(c, pair_id))
    billed = await session.database.run(lambda c: imports.calculation_ids(c, pair_id))
    reasons = await session.database.run(lambda c: imports.reasons_of_meters(c, pair_id))
    wanted = {
        metric.metric_id: slicing_wanted(metric, settings)
        for metric in metrics
        if not settings.usage_metrics or metric.metric_id in settings.usage_metrics
    }
    own = {metric_id: slicing for metric_id, slicing in wanted.items() if (slicing != UNGROUPED) == grouped}
    declared = {metric.metric_id: {UNGROUPED, *map(slicing_of, metric.group_keys)} for metric in metrics}
    noted = {
        metric_id: slicing
        for metric_id, slicing in own.items()
        if metric_id in billed and slicing in declared[metric_id]
    }
    billed_through = await session.database.run(lambda c: note_slicings(c, pair_id, noted))
    due, refused = [], []
    for metric in metrics:
        if metric.metric_id not in own:
            continue
        slicing = own[metric.metric_id]
        if metric.metric_id not in billed:
            reason = reasons.get(metric.metric_id, "Its meter has not been imported: run import_meters.")
        elif slicing not in declared[metric.metric_id]:
            choices = ", ".join(sorted(declared[metric.metric_id]))
            reason = f"METRIC_SLICINGS says {slicing}, which is no group key of the metric: choose one of {choices}."
        elif billed_through[metric.metric_id] != slicing:
            reason = (
                f"It is billed through {billed_through[metric.metric_id]}, and the settings say {slicing}. Switch it "
                f"with `metronome-pipeline slicing switch {metric.metric_id}`, or change the setting back."
            )
        else:
            calculation = billed[metric.metric_id][1]
            due.append(BilledMetric(metric.metric_id, metric.name, "MAX" if calculation == "MAX" else "SUM", slicing))
            continue
        refused.append(RefusedMetric(metric.metric_id, metric.name, reason))
    allowed = [c for c in customers if not settings.usage_customers or c.customer_id in settings.usage_customers]
    return Due(allowed, due, settings.customer_usage_starts), refused


def slicing_wanted(metric: KnownMetric, settings: Settings) -> str:
    """The slicing that the settings choose: by default the first declared group key, with grouped usage on."""
    if not settings.grouped_usage_enabled:
        return UNGROUPED
    chosen = settings.metric_slicings.get(metric.metric_id)
    if chosen is None:
        return slicing_of(metric.group_keys[0]) if metric.group_keys else UNGROUPED
    return UNGROUPED if chosen == UNGROUPED else slicing_of(tuple(chosen))
