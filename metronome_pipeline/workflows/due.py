"""Whose usage is due: which customers, which metrics, through which slicing; and which metrics are refused, by name.

Here: settings held against what was read, imported and billed so far. Not here: reading usage (``ledger/``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from metronome_pipeline.errors import quoted
from metronome_pipeline.ledger.slicings import note_slicings
from metronome_pipeline.ledger.synchronise import Due
from metronome_pipeline.mapping.usage import (
    EXACT_CALCULATIONS,
    PERIOD_TO_DATE,
    UNGROUPED,
    BilledMetric,
    Calculation,
    slicing_of,
)
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage import accounts, imports
from metronome_pipeline.storage.accounts import KnownMetric
from metronome_pipeline.workflows.naming import asset_key
from metronome_pipeline.workflows.session import Session


@dataclass(frozen=True)
class Workflow:
    """A usage workflow: its step's name, its two assets, and whether its metrics are billed with properties."""

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

    def sentence(self, done: str) -> str:
        """For the log, which ends in a terminal: one line, with what is others' quoted and cut. ``done``: "sent"."""
        name, reason = quoted(self.name, 100), quoted(self.reason, 1_000)
        return f"Usage of metric {name} ({self.metric_id}) is not {done}. {reason}"


def destinations(settings: Settings) -> list[dg.AssetKey]:
    """The usage events of the workflows that are on.

    What depends on all events depends on these alone: Dagster calls an asset out of date, and asks whoever launches it
    whether they are sure, while anything that it depends on was never materialized.
    """
    periods = "PERIOD_TO_DATE" in settings.metric_calculations.values()
    names = ["usage_events"] + ["grouped_usage_events"] * settings.grouped_usage_enabled
    return [asset_key(settings, "solvimon", name) for name in names + ["period_usage_events"] * periods]


async def due_usage(session: Session, settings: Settings, *, grouped: bool) -> tuple[Due, list[RefusedMetric]]:
    """Whose usage is due in one of the two workflows by hour, and which of its metrics are refused, by name."""
    return await _due(
        session,
        settings,
        lambda slicing: slicing != PERIOD_TO_DATE and (slicing != UNGROUPED) == grouped,
    )


async def due_period_usage(session: Session, settings: Settings) -> tuple[Due, list[RefusedMetric]]:
    """The same for metrics that are billed by period to date."""
    return await _due(session, settings, lambda slicing: slicing == PERIOD_TO_DATE)


async def _due(session: Session, settings: Settings, is_own: Callable[[str], bool]) -> tuple[Due, list[RefusedMetric]]:
    pair_id = session.pair.pair_id
    customers, metrics, billed, reasons = await session.database.run(
        lambda c: (
            accounts.known_customers(c, pair_id),
            accounts.known_metrics(c, pair_id),
            imports.calculation_ids(c, pair_id),
            imports.reasons_of_meters(c, pair_id),
        )
    )
    due: list[BilledMetric] = []
    refused: list[RefusedMetric] = []
    for metric in metrics:
        slicing = slicing_wanted(metric, settings)
        if not is_own(slicing) or metric.metric_id not in settings.permitted_metrics:
            continue
        calculation = billed[metric.metric_id][1] if metric.metric_id in billed else None
        missing = reasons.get(metric.metric_id, "Its meter has not been imported: run import_meters.")
        reason = refusal(metric, slicing, settings) or (
            missing if calculation is None else _wrong_calculation(slicing, calculation)
        )
        if reason:
            refused.append(RefusedMetric(metric.metric_id, metric.name, reason))
        else:
            kind: Calculation = "MAX" if calculation == "MAX" else "SUM"
            due.append(BilledMetric(metric.metric_id, metric.name, kind, slicing))
    noted = {metric.metric_id: metric.slicing for metric in due}
    billed_through = await session.database.run(lambda c: note_slicings(c, pair_id, noted))
    switched = [metric for metric in due if billed_through[metric.metric_id] != metric.slicing]
    refused += [_refused_until_switched(metric, billed_through[metric.metric_id]) for metric in switched]
    allowed = [c for c in customers if not settings.usage_customers or c.customer_id in settings.usage_customers]
    due = [metric for metric in due if metric not in switched]
    return Due(allowed, due, settings.customer_usage_starts), sorted(refused, key=lambda metric: metric.metric_id)


def slicing_wanted(metric: KnownMetric, settings: Settings) -> str:
    """The slicing that the settings choose: by default the first declared group key, with grouped usage on.

    PERIOD_TO_DATE is chosen as a calculation, for metrics whose hours do not add up; it has no groups.
    """
    if settings.metric_calculations.get(metric.metric_id) == "PERIOD_TO_DATE" and not _adds_up(metric):
        return PERIOD_TO_DATE
    if not settings.grouped_usage_enabled:
        return UNGROUPED
    chosen = settings.metric_slicings.get(metric.metric_id)
    if chosen is None:
        return slicing_of(metric.group_keys[0]) if metric.group_keys else UNGROUPED
    return UNGROUPED if chosen == UNGROUPED else slicing_of(tuple(chosen))


def _adds_up(metric: KnownMetric) -> bool:
    return metric.aggregation_type in EXACT_CALCULATIONS


def refusal(metric: KnownMetric, slicing: str, settings: Settings) -> str | None:
    """Why the settings do not fit a metric, as sentences. ``slicing``: what ``slicing_wanted`` returned."""
    chosen = settings.metric_calculations.get(metric.metric_id)
    says_calculation = settings.says_calculation(metric.metric_id)
    says_slicing = settings.says_slicing(metric.metric_id)
    if chosen and _adds_up(metric) and chosen != EXACT_CALCULATIONS[metric.aggregation_type or ""]:
        return (
            f"{says_calculation} says {chosen}, and a {metric.aggregation_type} metric is billed exactly by its "
            f"hours, as {EXACT_CALCULATIONS[metric.aggregation_type or '']}: take it out of {says_calculation}."
        )
    groups = settings.metric_slicings.get(metric.metric_id, UNGROUPED) if settings.grouped_usage_enabled else UNGROUPED
    if slicing == PERIOD_TO_DATE and groups != UNGROUPED:
        return (
            f"{says_slicing} names group keys, and {says_calculation} says PERIOD_TO_DATE, which is read without "
            "groups: take it out of one of them."
        )
    declared = {UNGROUPED, PERIOD_TO_DATE, *map(slicing_of, metric.group_keys)}
    if slicing not in declared:
        choices = ", ".join(sorted(declared - {PERIOD_TO_DATE}))
        return f"{says_slicing} says {slicing}, which is no group key of the metric: choose one of {choices}."
    return None


def _wrong_calculation(slicing: str, calculation: str) -> str | None:
    if slicing == PERIOD_TO_DATE and calculation != "SUM":
        return (
            f"Its meter has a {calculation} calculation, and the increases of a period are summed: run import_meters, "
            "and bill its products by the new calculation."
        )
    return None


def _refused_until_switched(metric: BilledMetric, billed_through: str) -> RefusedMetric:
    return RefusedMetric(
        metric.metric_id,
        metric.name,
        f"It is billed through {billed_through}, and the settings say {metric.slicing}. Switch it with "
        f"`metronome-pipeline slicing switch {metric.metric_id}`, or change the setting back.",
    )
