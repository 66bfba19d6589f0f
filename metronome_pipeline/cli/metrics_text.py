"""The text of a metrics file: every metric with its name, as today's settings bill it.

Here: metrics and settings to text. Not here: what the file may say (``metrics_file.py``), where the metrics come from
(``metrics.py``).
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import yaml  # type: ignore[import-untyped]

from metronome_pipeline.cli.metrics_review import named_metrics
from metronome_pipeline.mapping.meters import one_line_name
from metronome_pipeline.mapping.usage import EXACT_CALCULATIONS
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.accounts import KnownMetric

# What YAML lets no stream hold, and what ends a comment.
_NOT_IN_A_COMMENT = re.compile("[^\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def metrics_text(metrics: Iterable[KnownMetric], settings: Settings, schema: str) -> str:
    """A metrics file that, in place of the variables, leaves everything as it is.

    Each slicing that is chosen is written, and with grouped usage on also the default one; each calculation that is
    chosen; and what is not billed. Metrics that the settings name and Metronome does not list come last.

    Args:
        metrics: All that are known, archived ones too.
        settings: Today's.
        schema: The address of the schema, for editors.
    """
    known = sorted(metrics, key=lambda metric: (metric.archived_at is not None, metric.name, metric.metric_id))
    entries = [line for metric in known for line in _entry(metric, settings)]
    for metric_id in sorted(named_metrics(settings) - {metric.metric_id for metric in known}):
        entries += ["", "  # Metronome does not list it.", *_settings(metric_id, [], settings)]
    lines = [
        f"# yaml-language-server: $schema={schema}",
        "# How each billable metric is billed. METRICS_FILE names this file; runs read it when they start.",
        "",
    ]
    if settings.permitted_metrics.only is not None:
        lines += ["# Metrics that do not stand here are not billed.", "others:", "  billed: false", ""]
    return "\n".join([*lines, *(["metrics:", *entries[1:]] if entries else ["metrics: {}"]), ""])


def _entry(metric: KnownMetric, settings: Settings) -> Iterator[str]:
    """A comment that tells what there is to choose from, and the metric's settings; an empty line before."""
    kind = "SQL" if metric.is_sql else metric.aggregation_type or "unknown"
    keys = ", ".join(_keys(key) for key in metric.group_keys)
    known = [kind, f"group keys: {keys}" if keys else "no group keys"]
    if metric.archived_at is not None:
        known.append("archived")
    chosen = settings.metric_calculations.get(metric.metric_id)
    if metric.aggregation_type not in EXACT_CALCULATIONS and chosen is None:
        known.append("not billed until it has a calculation, such as PERIOD_TO_DATE")
    yield ""
    yield "  # " + _NOT_IN_A_COMMENT.sub(lambda found: ascii(found[0])[1:-1], "; ".join(known))
    yield from _settings(metric.metric_id, [f"    name: {_text(one_line_name(metric.name))}"], settings, metric)


def _settings(
    metric_id: str, lines: Sequence[str], settings: Settings, metric: KnownMetric | None = None
) -> Iterator[str]:
    own = list(lines)
    slicing = settings.metric_slicings.get(metric_id)
    calculation = settings.metric_calculations.get(metric_id)
    if slicing is None and metric and metric.group_keys and settings.grouped_usage_enabled:
        # By period to date, a metric has no groups, and a slicing that names some is refused.
        slicing = None if calculation == "PERIOD_TO_DATE" else metric.group_keys[0]
    if slicing is not None:
        own.append(f"    slicing: {slicing if isinstance(slicing, str) else _keys(slicing)}")
    if calculation is not None:
        own.append(f"    calculation: {calculation}")
    if metric_id not in settings.permitted_metrics:
        own.append("    billed: false")
    yield f"  {metric_id}:" if own else f"  {metric_id}: {{}}"
    yield from own


def _keys(keys: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, keys))}]"


def _text(text: str) -> str:
    """In quotes, so that no name is taken for a number or a switch, in one line."""
    written: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=sys.maxsize)
    return written.rstrip("\n")
