"""``POST /v1/usage``: usage of many customers and metrics, page chains of one (customer, metric) pair each.

Here: the request, the rows, the chain of pages. Not here: groups with more than one key (see :mod:`.groups`).
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from metronome_pipeline.sandbox.metronome import checks, metering
from metronome_pipeline.sandbox.metronome.aggregate import Group
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused
from metronome_pipeline.sandbox.metronome.paging import State, answer_page
from metronome_pipeline.sandbox.metronome.store import Call, Fields, Metric, Record, Store
from metronome_pipeline.sandbox.metronome.windows import Windows, instant_of, read_windows

MOST_GROUPS = 200
"""``group_by`` without values answers at most so many, and does not say so."""


@dataclass(frozen=True)
class _GroupBy:
    key: str
    values: tuple[str, ...] | None


@dataclass(frozen=True)
class _Asked:
    customers: list[Record]
    metrics: list[tuple[Metric, _GroupBy | None]]
    windows: Windows


_Pair = tuple[Record, Metric, _GroupBy | None]


def arbitrary(group: Group) -> tuple[int, Group]:
    """A sort key for groups: an order that is always the same and means nothing, as the real API promises none."""
    return zlib.crc32(repr(group).encode()), tuple(value or "" for value in group)


def list_usage(store: Store, call: Call) -> Answer:
    """``POST /v1/usage``: refuses any ``limit``."""
    if "limit" in call.query:
        raise Refused("limit is not a parameter of this endpoint.")
    metering.refresh(store)
    asked = _read(store, checks.body_of(call))
    return answer_page(store, call, lambda state: _page(store, call, asked, state), style="Z")


def _read(store: Store, body: dict[str, Any]) -> _Asked:
    windows = read_windows(body)
    archived = store.settings.archived_usage
    customers = list(store.customers.values())
    if body.get("customer_ids") is not None:
        ids = {
            checks.uuid_text(one, "customer_ids") for one in checks.texts(body["customer_ids"], "customer_ids", least=1)
        }
        _require_known(store, ids, store.customers, "customer")
        customers = [one for one in customers if one.id in ids and (archived != "never" or one.archived_at is None)]
    else:
        customers = [one for one in customers if archived == "always" or one.archived_at is None]
    group_bys = _read_metrics(body.get("billable_metrics"))
    metrics = list(store.metrics.values())
    if group_bys is not None:
        _require_known(store, set(group_bys), store.metrics, "billable metric")
        metrics = [one for one in metrics if one.id in group_bys and (archived != "never" or one.archived_at is None)]
    else:
        metrics = [one for one in metrics if archived == "always" or one.archived_at is None]
    pairs = [(metric, (group_bys or {}).get(metric.id)) for metric in metrics]
    for metric, group_by in pairs:
        if group_by is not None and (group_by.key,) not in metric.definition.group_keys:
            raise Refused(f"{group_by.key!r} is not a simple group key of the billable metric.")
    return _Asked(customers, pairs, windows)


def _read_metrics(given: Any) -> dict[str, _GroupBy | None] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise Refused("billable_metrics must be a list of objects with an id.")
    return {checks.uuid_text(one.get("id"), "billable_metrics.id"): _read_group_by(one) for one in given}


def _read_group_by(metric: dict[str, Any]) -> _GroupBy | None:
    group_by = metric.get("group_by")
    if group_by is None:
        return None
    if not isinstance(group_by, dict):
        raise Refused("group_by must be an object with a key.")
    values = group_by.get("values")
    if values is not None:
        values = tuple(checks.texts(values, "group_by.values", least=1, most=MOST_GROUPS))
    return _GroupBy(checks.text(group_by, "key"), values)


def _require_known(store: Store, ids: set[str], known: Any, what: str) -> None:
    if store.settings.unknown_filter_ids == "404" and any(one not in known for one in ids):
        raise Refused(f"Unknown {what} id.", 404)


def _page(store: Store, call: Call, asked: _Asked, state: State) -> tuple[list[Fields], State | None]:
    """The windows from a state ``[customer number, metric number, window]``, which is passed by what follows it."""
    rows: list[Fields] = []
    budget = store.settings.rows_per_page
    crossing = store.settings.pages_cross_pairs
    after_a_pair = False
    for customer, metric, group_by in _pairs_from(asked, state):
        begins = state[2] if state[:2] == [customer.number, metric.number] else 0
        if budget == 0 or (after_a_pair and not crossing):
            return rows, [customer.number, metric.number, begins]
        ends = min(len(asked.windows), begins + budget)
        for index in range(begins, ends):
            row = _row(store, call, (customer, metric, group_by), asked.windows.at(index))
            if row is not None:
                rows.append(row)
        budget -= ends - begins
        if ends < len(asked.windows):
            return rows, [customer.number, metric.number, ends]
        after_a_pair = True
    return rows, None


def _pairs_from(asked: _Asked, state: State) -> Iterator[_Pair]:
    first = tuple(state[:2]) if state else (0, 0)
    for customer in asked.customers:
        if customer.number < first[0]:
            continue
        for metric, group_by in asked.metrics:
            if (customer.number, metric.number) >= first:
                yield customer, metric, group_by


def _row(store: Store, call: Call, pair: _Pair, hours: range) -> Fields | None:
    customer, metric, group_by = pair
    value = value_of_window(store, customer, metric, hours)
    if value is None:
        if store.settings.empty_windows == "omit":
            return None
        value = Decimal(0) if store.settings.empty_windows == "zero" else None
    if call.fault == "null_for_zero" and value == 0:
        value = None
    row: Fields = {
        "customer_id": customer.id,
        "billable_metric_id": metric.id,
        "billable_metric_name": metric.fields["name"],
        "start_timestamp": instant_of(hours.start),
        "end_timestamp": instant_of(hours.stop),
        "value": value,
    }
    if group_by is not None:
        row["groups"] = _groups(store, customer, metric, group_by, hours)
    return row


def value_of_window(store: Store, customer: Record, metric: Metric, hours: range) -> Decimal | None:
    """The ungrouped value of a window; ``None`` where nothing matched."""
    aggregation = metering.aggregation_of(metric)
    if aggregation is None:
        return None
    part = metering.window(store, customer, metric, (), hours).get(())
    if part is None and metric.definition.aggregation == "LATEST" and store.settings.latest_carries:
        part = metering.carried(store, customer, metric, hours.start)
    return None if part is None else aggregation.value(part)


def _groups(store: Store, customer: Record, metric: Metric, by: _GroupBy, hours: range) -> dict[str, Decimal | None]:
    aggregation = metering.aggregation_of(metric)
    if aggregation is None:
        return {}
    parts = metering.window(store, customer, metric, (by.key,), hours)
    values = {group[0]: aggregation.value(part) for group, part in parts.items() if group[0] is not None}
    if by.values is not None:
        return {value: values.get(value) for value in by.values}
    return {value: values[value] for value in sorted(values, key=lambda one: arbitrary((one,)))[:MOST_GROUPS]}
