"""``POST /v1/usage/groups``: usage of one customer and metric by the values of a group key, simple or compound.

Here: the request, the rows, their pages. Not here: how usage is added up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from metronome_pipeline.sandbox.metronome import checks, metering
from metronome_pipeline.sandbox.metronome.aggregate import Group
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused
from metronome_pipeline.sandbox.metronome.customers import find_customer
from metronome_pipeline.sandbox.metronome.metrics import find_metric
from metronome_pipeline.sandbox.metronome.paging import MOST, State, answer_page, limit_of
from metronome_pipeline.sandbox.metronome.store import Call, Fields, Metric, Record, Store
from metronome_pipeline.sandbox.metronome.usage import arbitrary, value_of_window
from metronome_pipeline.sandbox.metronome.windows import Windows, instant_of, read_windows

MOST_FILTER_VALUES = 200
"""Values of all filters of a request together."""

Filters = dict[str, frozenset[str]]


@dataclass(frozen=True)
class _Asked:
    customer: Record
    metric: Metric
    windows: Windows
    keys: metering.Keys | None
    filters: Filters


def list_grouped_usage(store: Store, call: Call) -> Answer:
    """``POST /v1/usage/groups``."""
    metering.refresh(store)
    limit = limit_of(store, call, default=MOST)
    asked = _read(store, checks.body_of(call))
    kept = _kept_groups(store, asked)

    def read(state: State) -> tuple[list[Fields], State | None]:
        first, skipped = state or [0, 0]
        page: list[Fields] = []
        for index in range(first, len(asked.windows)):
            rows = list(_rows(store, call, asked, index, kept))[skipped if index == first else 0 :]
            before = skipped if index == first else 0
            room = limit - len(page)
            page += rows[:room]
            if len(rows) > room:
                return page, [index, before + room]
            if len(page) == limit:
                # A cursor to what may turn out to be an empty last page: it happens in the real API too.
                return page, [index + 1, 0] if index + 1 < len(asked.windows) else None
        return page, None

    return answer_page(store, call, read, style="offset")


def _read(store: Store, body: dict[str, Any]) -> _Asked:
    if body.get("current_period"):
        raise Refused("The customer does not have an active plan.")
    customer = find_customer(store, checks.uuid_text(body.get("customer_id"), "customer_id"))
    metric = find_metric(store, checks.uuid_text(body.get("billable_metric_id"), "billable_metric_id"))
    windows = read_windows(body)
    if "group_key" in body and "group_by" in body:
        raise Refused("group_key and group_by cannot be used together.")
    if "group_by" in body:
        return _Asked(customer, metric, windows, *_read_group_by(metric, body["group_by"]))
    return _Asked(customer, metric, windows, *_read_group_key(metric, body))


def _read_group_by(metric: Metric, given: Any) -> tuple[metering.Keys, Filters]:
    if not isinstance(given, dict):
        raise Refused("group_by must be an object with a key.")
    key = checks.text(given, "key")
    _require_declared(metric, (key,))
    if given.get("values") is None:
        return (key,), {}
    return (key,), {key: frozenset(checks.texts(given["values"], "group_by.values", least=1, most=MOST_FILTER_VALUES))}


def _read_group_key(metric: Metric, body: dict[str, Any]) -> tuple[metering.Keys | None, Filters]:
    keys: metering.Keys | None = None
    if body.get("group_key") is not None:
        keys = tuple(checks.texts(body["group_key"], "group_key", least=1))
        _require_declared(metric, keys)
    given = body.get("group_filters") or {}
    if not isinstance(given, dict):
        raise Refused("group_filters must map keys to lists of values.")
    for key in given:
        if key not in (keys or ()):
            raise Refused(f"Filter key {key!r} is not in group_key.")
    lists = {key: checks.texts(values, f"group_filters.{key}") for key, values in given.items()}
    if sum(len(values) for values in lists.values()) > MOST_FILTER_VALUES:
        raise Refused(f"group_filters may have at most {MOST_FILTER_VALUES} values in total.")
    return keys, {key: frozenset(values) for key, values in lists.items() if values}


def _require_declared(metric: Metric, keys: metering.Keys) -> None:
    declared = {frozenset(one) for one in metric.definition.group_keys}
    if len(set(keys)) != len(keys) or frozenset(keys) not in declared:
        raise Refused("group_key must be exactly a group key of the billable metric; part of a compound key is not.")


def _kept_groups(store: Store, asked: _Asked) -> list[Group] | None:
    """The groups to show in every window, where a knob asks for that or for a cap; ``None`` means those with usage."""
    settings = store.settings
    cap = settings.max_compound_groups
    capped = cap is not None and asked.keys is not None and len(asked.keys) > 1 and not asked.filters
    if asked.keys is None or not (capped or settings.empty_groups != "omit"):
        return None
    everywhere = metering.window(store, asked.customer, asked.metric, asked.keys, asked.windows.hours)
    groups = sorted((group for group in everywhere if _passes(asked, group)), key=arbitrary)
    return groups[:cap] if capped else groups


def _passes(asked: _Asked, group: Group) -> bool:
    return all(
        value in asked.filters[key] for key, value in zip(asked.keys or (), group, strict=True) if key in asked.filters
    )


def _loses(store: Store, asked: _Asked, index: int) -> bool:
    # Seen in production: a filter on a later key of a compound key alone returned 0 for hours that had usage.
    keys = asked.keys or ()
    later_only = bool(asked.filters) and len(keys) > 1 and keys[0] not in asked.filters
    return store.settings.filter_undercount and later_only and index % 3 == 0


def _rows(store: Store, call: Call, asked: _Asked, index: int, kept: list[Group] | None) -> Iterator[Fields]:
    hours = asked.windows.at(index)
    bounds: Fields = {"starting_on": instant_of(hours.start), "ending_before": instant_of(hours.stop)}
    aggregation = metering.aggregation_of(asked.metric)
    if asked.keys is None:
        value = value_of_window(store, asked.customer, asked.metric, hours)
        if value is not None or store.settings.empty_windows != "omit":
            shown = _shown(call, value, store.settings.empty_windows)
            yield {**bounds, "group_key": None, "group_value": None, "value": shown}
        return
    if aggregation is None or _loses(store, asked, index):
        return
    parts = metering.window(store, asked.customer, asked.metric, asked.keys, hours)
    groups = sorted((one for one in parts if _passes(asked, one)), key=arbitrary) if kept is None else kept
    for group in groups:
        if group in parts or store.settings.empty_groups != "omit":
            value = aggregation.value(parts[group]) if group in parts else None
            shown = _shown(call, value, store.settings.empty_groups)
            yield {**bounds, **_group_fields(store, asked.keys, group), "value": shown}


def _shown(call: Call, value: Decimal | None, empty: str) -> Decimal | None:
    if value is None and empty == "zero":
        value = Decimal(0)
    return None if call.fault == "null_for_zero" and value == 0 else value


def _group_fields(store: Store, keys: metering.Keys, group: Group) -> Fields:
    simple = len(keys) == 1
    fields: Fields = {"group_key": keys[0] if simple else None, "group_value": group[0] if simple else None}
    style = store.settings.null_groups
    if style == "missing_group" and None in group:
        return fields
    pairs = zip(keys, group, strict=True)
    fields["group"] = {key: value for key, value in pairs if value is not None or style != "missing_key"}
    return fields
