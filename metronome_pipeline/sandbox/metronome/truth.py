"""The control totals: what the usage endpoints should say, added up from the raw events in a way of its own.

Here: a plain walk over every event and every metric. It shares no code with the usage endpoints and keeps no cache, so
that a mistake there shows as a difference. It knows of archived customers and metrics, whatever the knobs hide.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext
from fractions import Fraction
from typing import Any

from metronome_pipeline.sandbox.metronome.datasets import SyntheticSource
from metronome_pipeline.sandbox.metronome.events import Event
from metronome_pipeline.sandbox.metronome.store import Metric, Store

Key = tuple[str, datetime | None, tuple[str | None, ...]]
"""Metric, hour (``None``: the whole range), group values: of one customer."""

Number = Fraction | int


@dataclass(frozen=True)
class Question:
    """What is asked: a range, optionally one customer, one metric, a group key; by hour or as a whole."""

    start: datetime | None = None
    end: datetime | None = None
    customer_id: str | None = None
    metric_id: str | None = None
    group_key: tuple[str, ...] = ()
    by_hour: bool = True


def rows(store: Store, question: Question) -> Iterator[dict[str, Any]]:
    """One row for each customer, metric, hour and group in which something matched; values as plain decimal text.

    Customers come one after the other, so that memory does not grow with their number.
    """
    metrics = [one for one in store.metrics.values() if question.metric_id in {None, one.id}]
    events = _events_by_owner(store, question)
    for customer_id in sorted(store.customers):
        if question.customer_id in {None, customer_id}:
            observed = _observed(store, question, metrics, customer_id, events.get(customer_id, []))
            yield from _rows_of(store, question, customer_id, observed)


def _rows_of(
    store: Store, question: Question, customer_id: str, observed: dict[Key, list[Any]]
) -> Iterator[dict[str, Any]]:
    for key in sorted(observed, key=lambda one: (one[0], str(one[1]), [value or "" for value in one[2]])):
        metric_id, hour, group = key
        row: dict[str, Any] = {"customer_id": customer_id, "metric_id": metric_id}
        if question.by_hour:
            row["start"] = hour
            row["group"] = dict(zip(question.group_key, group, strict=True)) if question.group_key else None
        total = _total(observed[key], store.metrics[metric_id].definition.aggregation)
        if total is not None:
            yield {**row, "value": total}


def _events_by_owner(store: Store, question: Question) -> dict[str, list[Event]]:
    owners = {one.id: one.id for one in store.customers.values()}
    for one in store.customers.values():
        owners.update(dict.fromkeys(one.fields.get("ingest_aliases") or (), one.id))
    lag = timedelta(seconds=float(store.settings.ingestion_lag_s))
    events: dict[str, list[Event]] = {}
    for event in store.events.everything:
        owner = owners.get(event.sent_for)
        if owner is not None and event.received_at + lag <= store.now() and _within(question, event):
            events.setdefault(owner, []).append(event)
    return events


def _observed(
    store: Store, question: Question, metrics: list[Metric], customer_id: str, events: list[Event]
) -> dict[Key, list[Any]]:
    observed: dict[Key, list[Any]] = {}
    for event in events:
        for metric in metrics:
            value = event_value(metric, event) if _is_metered(store, metric, event) else None
            if value is not None:
                hour = event.timestamp.replace(minute=0, second=0, microsecond=0) if question.by_hour else None
                group = tuple(_as_text(event.properties.get(key)) for key in question.group_key)
                observed.setdefault((metric.id, hour, group), []).append(value)
    for source in store.sources:
        if isinstance(source, SyntheticSource):
            _observe_synthetic(source, question, metrics, customer_id, observed)
    return observed


def _observe_synthetic(
    source: SyntheticSource,
    question: Question,
    metrics: list[Metric],
    customer_id: str,
    observed: dict[Key, list[Any]],
) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for number in source.account.window_hours():
        hour = epoch + timedelta(hours=number)
        if (question.start and hour < question.start) or (question.end and hour >= question.end):
            continue
        for metric in metrics:
            for segment, value in source.account.values(customer_id, metric.id, number):
                group = tuple(segment if key == "segment" else None for key in question.group_key)
                key = (metric.id, hour if question.by_hour else None, group)
                observed.setdefault(key, []).append((hour, 0, Fraction(value)))


def _within(question: Question, event: Event) -> bool:
    if question.start is not None and event.timestamp < question.start:
        return False
    return question.end is None or event.timestamp < question.end


def _is_metered(store: Store, metric: Metric, event: Event) -> bool:
    settings, archived = store.settings, metric.archived_at
    late = archived is not None and event.received_at > archived and not settings.archived_metrics_meter
    early = event.number <= metric.events_before or event.received_at < metric.created_at
    sees_all = "sql" in metric.fields or settings.reflow
    return not late and (sees_all or not early) and _is_wanted(metric, event)


def _is_wanted(metric: Metric, event: Event) -> bool:
    wanted = metric.definition
    refusals = [
        wanted.event_types is not None and event.event_type not in wanted.event_types,
        wanted.not_event_types is not None and event.event_type in wanted.not_event_types,
    ]
    for one in wanted.filters:
        text = _as_text(event.properties.get(one.name))
        refusals += [
            one.exists is True and text is None,
            one.exists is False and text is not None,
            one.in_values is not None and text not in one.in_values,
            one.not_in_values is not None and text in one.not_in_values,
        ]
    return not any(refusals)


def event_value(metric: Metric, event: Event) -> tuple[datetime, int, Any] | None:
    """What one event contributes: its time and number with 1, its number, or its text; ``None`` when it has none."""
    kind, raw = metric.definition.aggregation, event.properties.get(metric.definition.key or "")
    if kind == "COUNT":
        return event.timestamp, event.number, 1
    if kind == "UNIQUE":
        return None if raw is None else (event.timestamp, event.number, _as_text(raw))
    number = _as_fraction(raw)
    return None if number is None else (event.timestamp, event.number, number)


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _as_fraction(value: object) -> Number | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    if isinstance(value, str) and (value != value.strip() or "_" in value or not value.isascii()):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return Fraction(number) if number.is_finite() and abs(number.adjusted()) < 1000 else None


def _total(values: Sequence[tuple[datetime, int, Any]], kind: str) -> str | None:
    if not values:
        return None
    if kind == "UNIQUE":
        return str(len({text for _, _, text in values}))
    if kind == "LATEST":
        return _plain(max(values, key=lambda one: one[:2])[2])
    numbers = [number for _, _, number in values]
    if kind in {"COUNT", "SUM"}:
        return _plain(sum(numbers))
    return _plain(max(numbers)) if kind == "MAX" else None


def _plain(number: Number) -> str:
    """The decimal text of a fraction whose denominator has no other factors than 2 and 5, as sums of decimals have."""
    with localcontext() as exact:
        exact.prec = 5000
        text = format(Decimal(number.numerator) / Decimal(number.denominator), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
