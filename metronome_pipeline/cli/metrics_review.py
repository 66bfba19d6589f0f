"""What holds for each billable metric, which setting says so, and what a person should mend.

Here: settings held against Metronome's metrics, as rows of text. Not here: the terminal (``metrics.py``), and what runs
do with the settings (``workflows/due.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metronome_pipeline.errors import quoted
from metronome_pipeline.mapping.meters import one_line_name
from metronome_pipeline.mapping.usage import EXACT_CALCULATIONS, PERIOD_TO_DATE
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.accounts import KnownMetric
from metronome_pipeline.workflows.due import refusal, slicing_wanted
from metronome_pipeline.workflows.imports import walk


@dataclass(frozen=True)
class Reviewed:
    """One metric: what holds, with the setting that says so in brackets, and what is to be mended."""

    metric_id: str
    name: str
    billed: str
    slicing: str
    calculation: str
    to_do: str = ""


async def listed_metrics(api: MetronomeApi) -> list[KnownMetric]:
    """Every billable metric as Metronome lists it now, archived ones too, in the order of their ids."""
    listing = await walk(api.billable_metrics())
    return [
        KnownMetric(one.id, one.name, one.aggregation_type, one.group_keys, one.sql is not None, one.archived_at)
        for _, one in sorted(listing.records.items())
    ]


def named_metrics(settings: Settings) -> frozenset[str]:
    """The metrics that any setting names."""
    file = settings.metrics_file.metrics if settings.metrics_file else {}
    return frozenset({*file, *settings.usage_metrics, *settings.metric_slicings, *settings.metric_calculations})


def review(metrics: Sequence[KnownMetric], settings: Settings) -> list[Reviewed]:
    """Each metric, and then those that settings name and Metronome does not list.

    Args:
        metrics: All of the account's, archived ones too.
        settings: Variables and file.
    """
    unlisted = sorted(named_metrics(settings) - {metric.metric_id for metric in metrics})
    return [*(_reviewed(metric, settings) for metric in metrics), *(_unlisted(each, settings) for each in unlisted)]


def _reviewed(metric: KnownMetric, settings: Settings) -> Reviewed:
    slicing = slicing_wanted(metric, settings)
    return Reviewed(
        metric.metric_id,
        metric.name,
        _billed(metric.metric_id, settings),
        f"{slicing} ({_says_slicing(metric.metric_id, slicing, settings)})",
        _calculation(metric.metric_id, EXACT_CALCULATIONS.get(metric.aggregation_type or ""), settings),
        " ".join(filter(None, [_unbillable(metric, slicing, settings), _renamed(metric, settings)])),
    )


def _unlisted(metric_id: str, settings: Settings) -> Reviewed:
    entry = settings.metrics_file.metrics.get(metric_id) if settings.metrics_file else None
    return Reviewed(
        metric_id,
        (entry and entry.name) or "",
        _billed(metric_id, settings),
        "",
        _calculation(metric_id, None, settings),
        "Metronome does not list it: correct the id, or take it out.",
    )


def _unbillable(metric: KnownMetric, slicing: str, settings: Settings) -> str | None:
    """Why a metric that is not left out is not billed either."""
    if metric.metric_id not in settings.permitted_metrics:
        return None
    unfit = refusal(metric, slicing, settings)
    if unfit or metric.aggregation_type in EXACT_CALCULATIONS or metric.metric_id in settings.metric_calculations:
        return unfit
    return "Not billed until a calculation is chosen: PERIOD_TO_DATE is exact. Or leave it out."


def _renamed(metric: KnownMetric, settings: Settings) -> str | None:
    """A file holds names as one line; so does Solvimon."""
    entry = settings.metrics_file.metrics.get(metric.metric_id) if settings.metrics_file else None
    if entry is None or entry.name is None or one_line_name(entry.name) == one_line_name(metric.name):
        return None
    name, written = quoted(one_line_name(metric.name), 100), quoted(entry.name, 100)
    return f"Metronome calls it {name}, METRICS_FILE {written}: make sure that this is the metric you mean."


def _billed(metric_id: str, settings: Settings) -> str:
    file = settings.metrics_file
    entry = file.metrics.get(metric_id) if file else None
    if entry is not None and entry.billed is not None:
        says = "METRICS_FILE"
    elif settings.usage_metrics:
        says = "USAGE_METRICS"
    else:
        says = "METRICS_FILE" if file and file.others.billed is not None else "default"
    return f"{'yes' if metric_id in settings.permitted_metrics else 'no'} ({says})"


def _says_slicing(metric_id: str, slicing: str, settings: Settings) -> str:
    if slicing == PERIOD_TO_DATE:
        return settings.says_calculation(metric_id)
    if metric_id not in settings.metric_slicings:
        return "default"
    return settings.says_slicing(metric_id) if settings.grouped_usage_enabled else "GROUPED_USAGE_ENABLED is off"


def _calculation(metric_id: str, exact: str | None, settings: Settings) -> str:
    chosen = settings.metric_calculations.get(metric_id)
    if chosen is not None:
        return f"{chosen} ({settings.says_calculation(metric_id)})"
    return f"{exact} (default)" if exact else ""
