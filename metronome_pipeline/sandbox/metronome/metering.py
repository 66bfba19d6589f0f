"""A customer's usage of a metric, by window and group: added up from the events of its ids, hour by hour, and cached.

Here: which events count, resolution of aliases when usage is read, the cache. Not here: requests and answers.
"""

from collections.abc import Iterable

from metronome_pipeline.sandbox.metronome.aggregate import (
    AGGREGATIONS,
    Aggregation,
    Group,
    Partial,
    merge_into,
    parts_by_group,
)
from metronome_pipeline.sandbox.metronome.events import Event
from metronome_pipeline.sandbox.metronome.store import Metric, Record, Store

Keys = tuple[str, ...]
"""The properties of a group key; ``()`` is no grouping."""


def refresh(store: Store) -> None:
    """Bring the index to the present and forget the cached hours whose events changed. Call once a request."""
    store.events.advance(store.horizon())
    for sent_for, hours in store.events.take_changed():
        for cached in store.parts.get(sent_for, {}).values():
            for hour in hours:
                cached.pop(hour, None)


def aggregation_of(metric: Metric) -> Aggregation | None:
    """The metric's aggregation; ``None`` for a type that has no usage here."""
    return AGGREGATIONS.get(metric.definition.aggregation)


def counts(store: Store, metric: Metric, event: Event) -> bool:
    """Whether the event came in the metric's time.

    A streaming metric counts what was received since it was created (unless history was reflowed); a SQL metric all.
    """
    settings = store.settings
    archived = metric.archived_at
    if archived is not None and not settings.archived_metrics_meter and event.received_at > archived:
        return False
    if settings.reflow or "sql" in metric.fields:
        return True
    return event.number > metric.events_before and event.received_at >= metric.created_at


def window(store: Store, customer: Record, metric: Metric, keys: Keys, hours: range) -> dict[Group, Partial]:
    """The parts of a window of hours, by group. No entry for ``()`` means that nothing matched."""
    parts: dict[Group, Partial] = {}
    aggregation = aggregation_of(metric)
    if aggregation is None:
        return parts
    for sent_for in store.sent_for(customer):
        for hour in _both(store.events.hours(sent_for), hours):
            merge_into(parts, _hour(store, sent_for, metric, keys, hour), aggregation)
    for source in store.sources:
        for hour in _overlap(source.hours(), hours):
            merge_into(parts, source.parts(customer.id, metric.id, keys, hour), aggregation)
    return parts


def carried(store: Store, customer: Record, metric: Metric, before: int) -> Partial | None:
    """The part of all hours before one: what LATEST carries into a window without events."""
    return window(store, customer, metric, (), range(before)).get(())


def _hour(store: Store, sent_for: str, metric: Metric, keys: Keys, hour: int) -> dict[Group, Partial]:
    cached = store.parts.setdefault(sent_for, {}).setdefault((metric.id, keys), {})
    if hour not in cached:
        events = [event for event in store.events.hours(sent_for)[hour] if counts(store, metric, event)]
        cached[hour] = parts_by_group(events, metric.definition, keys)
    return cached[hour]


def _both(present: Iterable[int], hours: range) -> Iterable[int]:
    known = present if isinstance(present, dict) else dict.fromkeys(present)
    if len(hours) <= len(known):
        return [hour for hour in hours if hour in known]
    return [hour for hour in known if hour in hours]


def _overlap(one: range, two: range) -> range:
    return range(max(one.start, two.start), min(one.stop, two.stop))
