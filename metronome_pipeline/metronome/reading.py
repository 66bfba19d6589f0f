"""Reading Metronome's JSON into records, strictly.

Unknown fields pass; a missing or wrong one fails by name. One bad customer, metric or product is refused by its id
while the others pass; one bad usage row fails its page, for usage left out would be taken back from the bill.

Here: functions from the bytes of an answer. Not here: the shapes (``records.py``), requests (``api.py``).
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from metronome_pipeline.errors import quoted
from metronome_pipeline.metronome.records import (
    AuditLog,
    BillableMetric,
    Bounds,
    CreatedCustomer,
    Customer,
    EventTypeFilter,
    GroupedUsage,
    GroupedUsagePage,
    Instant,
    Page,
    Product,
    PropertyFilter,
    Refusal,
    SearchedEvent,
    Usage,
)
from metronome_pipeline.wire import (
    BEYOND,
    UNSTORABLE,
    NotAsPromised,
    decoded,
    exact_number,
    field_and_reason,
    field_beyond,
    in_utc,
    unstorable_field,
    visible,
)

R = TypeVar("R")

_LONGEST_FIELD = 200
"""Characters of a field's path in a refusal: the keys in it are the other side's."""
_LONGEST_GROUP_VALUE = 4_096
"""Characters of a group value. Metronome takes property values of at most 256 bytes (its notes, section 9)."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _List(Struct, frozen=True):
    data: list[Raw]
    next_page: str | None = None


class _One(Struct, frozen=True):
    data: Raw


class _Identified(Struct, frozen=True):
    id: Any = None


class _Id(Struct, frozen=True):
    id: str


class _CreatedId(Struct, frozen=True):
    data: _Id


class _CreatedCustomer(Struct, frozen=True):
    data: CreatedCustomer


class _MetricBody(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    aggregation_type: str | None = None
    aggregation_key: str | None = None
    group_keys: tuple[tuple[str, ...], ...] | None = None
    event_type_filter: EventTypeFilter | None = None
    property_filters: tuple[PropertyFilter, ...] | None = None
    custom_fields: dict[str, str] | None = None
    sql: str | None = None
    archived_at: Instant | None = None


class _UsageRow(Struct, frozen=True):
    customer_id: str
    billable_metric_id: str
    start_timestamp: Instant
    end_timestamp: Instant
    value: Raw


class _UsageRows(Struct, frozen=True):
    data: list[_UsageRow]
    next_page: str | None = None


class _GroupRow(Struct, frozen=True):
    starting_on: Instant
    ending_before: Instant
    value: Raw
    group: dict[str, str | None] | None = None
    group_key: str | None = None
    group_value: str | None = None


class _GroupRows(Struct, frozen=True):
    data: list[_GroupRow]
    next_page: str | None = None


_LIST = msgspec.json.Decoder(_List)
_ONE = msgspec.json.Decoder(_One)
_IDENTIFIED = msgspec.json.Decoder(_Identified)
_CREATED_ID = msgspec.json.Decoder(_CreatedId)
_CREATED_CUSTOMER = msgspec.json.Decoder(_CreatedCustomer)
_USAGE = msgspec.json.Decoder(_UsageRows)
_GROUPS = msgspec.json.Decoder(_GroupRows)
_EVENTS = msgspec.json.Decoder(tuple[SearchedEvent, ...])
_SHAPES: dict[type, msgspec.json.Decoder[Any]] = {
    Customer: msgspec.json.Decoder(Customer),
    BillableMetric: msgspec.json.Decoder(_MetricBody),
    Product: msgspec.json.Decoder(Product),
    AuditLog: msgspec.json.Decoder(AuditLog),
}


def read_list(kind: type[R], content: bytes) -> tuple[Page[R], str | None]:
    """A page of ``{"data": [...], "next_page": ...}``, and the cursor of the next one.

    Raises:
        NotAsPromised: A record has no id to be refused by.
    """
    envelope = decoded(_LIST, content)
    page: Page[R] = Page([], [])
    for index, raw in enumerate(envelope.data):
        record = _read_record(kind, bytes(raw), f"data[{index}]")
        if isinstance(record, Refusal):
            page.refused.append(record)
        else:
            page.records.append(record)
    return page, envelope.next_page or None


def read_one(kind: type[R], content: bytes, record_id: str) -> R:
    """The record in ``{"data": {...}}``, which must be the one that was asked for."""
    record = _read_record(kind, bytes(decoded(_ONE, content).data), "data")
    if isinstance(record, Refusal):
        raise NotAsPromised(f"data.{record.field}", f"{record.reason} (of {record.record_id})")
    if getattr(record, "id", None) != record_id:
        raise NotAsPromised("data.id", f"is not {record_id}, which was asked for")
    return record


def _read_record(kind: type[R], raw: bytes, place: str) -> R | Refusal:
    try:
        record_id = decoded(_IDENTIFIED, raw).id
    except msgspec.ValidationError:
        raise NotAsPromised(place, "is not an object") from None
    if not isinstance(record_id, str) or not record_id:
        raise NotAsPromised(f"{place}.id", "is missing or not a text")
    name = quoted(record_id, 100)
    unstorable = unstorable_field(raw)
    if unstorable:
        return Refusal(name, quoted(unstorable, _LONGEST_FIELD), UNSTORABLE)
    if kind is not AuditLog and not _UUID.fullmatch(record_id):
        return Refusal(name, "id", "is not a lower-case UUID")
    try:
        record = decoded(_SHAPES[kind], raw)
    except msgspec.ValidationError as error:
        field, reason = field_and_reason(error)
        return Refusal(name, quoted(field, _LONGEST_FIELD), quoted(reason))
    beyond = field_beyond(record)
    if beyond:
        return Refusal(name, beyond, BEYOND)
    checked: R = _metric(record) if kind is BillableMetric else record
    return checked


def _metric(body: _MetricBody) -> Any:
    return BillableMetric(
        id=body.id,
        name=body.name,
        aggregation_type=body.aggregation_type.upper() if body.aggregation_type else None,
        aggregation_key=body.aggregation_key,
        group_keys=body.group_keys or (),
        event_type_filter=body.event_type_filter,
        property_filters=body.property_filters or (),
        custom_fields=body.custom_fields or {},
        sql=body.sql,
        archived_at=body.archived_at,
    )


def read_usage(
    content: bytes, bounds: Bounds, customer_id: str, metric_ids: AbstractSet[str]
) -> tuple[list[Usage], str | None]:
    """A page of ``POST /v1/usage``, and the cursor of the next one.

    Raises:
        NotAsPromised: A value that is not a plain finite number, or a row that was not asked for.
    """
    envelope = decoded(_USAGE, content)
    rows = []
    for index, row in enumerate(envelope.data):
        start, end = _window(row.start_timestamp, row.end_timestamp, bounds, index)
        if row.customer_id != customer_id:
            raise NotAsPromised(f"data[{index}].customer_id", f"is {quoted(row.customer_id, 60)}: not asked for")
        if row.billable_metric_id not in metric_ids:
            metric = quoted(row.billable_metric_id, 60)
            raise NotAsPromised(f"data[{index}].billable_metric_id", f"is {metric}: not asked for")
        value = _value(row.value, index, row.customer_id, row.billable_metric_id, start)
        rows.append(Usage(row.customer_id, row.billable_metric_id, start, end, value))
    return rows, envelope.next_page or None


def read_grouped_usage(content: bytes, bounds: Bounds, group_key: Sequence[str]) -> tuple[GroupedUsagePage, str | None]:
    """A page of ``POST /v1/usage/groups``, and the cursor of the next one.

    A group value that is null, or a key that is missing, is None in the row: such rows are usage. Rows of simple keys
    may carry only the deprecated ``group_value``.

    Raises:
        NotAsPromised: A value that is not a plain finite number, or a row or key that was not asked for.
    """
    envelope = decoded(_GROUPS, content)
    page = GroupedUsagePage([], [])
    for index, row in enumerate(envelope.data):
        start, end = _window(row.starting_on, row.ending_before, bounds, index)
        group = _group(row, index, group_key)
        usage = GroupedUsage(start, end, group, _value(row.value, index, start, group))
        unstorable = next(((key, why) for key, value in group.items() if (why := _fault_of_group(value))), None)
        if unstorable is None:
            page.rows.append(usage)
        else:
            key, why = unstorable
            page.refused.append(Refusal(quoted(f"{start.isoformat()} {group}", 200), f"group.{key}", why))
    return page, envelope.next_page or None


def read_events(content: bytes) -> tuple[SearchedEvent, ...]:
    """The answer of ``POST /v1/events/search``: a bare array."""
    events = decoded(_EVENTS, visible(content))
    beyond = field_beyond(events)
    if beyond:
        raise NotAsPromised(beyond, BEYOND)
    return events


def read_id(content: bytes) -> str:
    """The id in ``{"data": {"id": ...}}``, which is all that most writes answer."""
    return decoded(_CREATED_ID, content).data.id


def read_created_customer(content: bytes) -> CreatedCustomer:
    """The answer of ``POST /v1/customers``."""
    return decoded(_CREATED_CUSTOMER, content).data


def read_nothing(content: bytes) -> None:
    """An answer without a body. Some other JSON is no fault; a page of HTML is, for it is a proxy's word."""
    if content.strip():
        msgspec.json.decode(content)


def _group(row: _GroupRow, index: int, group_key: Sequence[str]) -> dict[str, str | None]:
    told = row.group
    if told is None:
        told = {group_key[0]: row.group_value} if len(group_key) == 1 else {}
    unasked = next((key for key in told if key not in group_key), None)
    if unasked is not None:
        raise NotAsPromised(f"data[{index}].group", f"has the key {quoted(unasked, 60)}: not asked for")
    return {key: told.get(key) for key in group_key}


def _fault_of_group(value: str | None) -> str | None:
    if not value:
        return None
    too_long = len(value) > _LONGEST_GROUP_VALUE
    return UNSTORABLE if "\0" in value else f"is over {_LONGEST_GROUP_VALUE:,} characters long" if too_long else None


def _value(raw: Raw, index: int, *record: object) -> Decimal | None:
    try:
        return exact_number(bytes(raw))
    except ValueError as error:
        named = ", ".join(each.isoformat() if isinstance(each, datetime) else str(each) for each in record)
        raise NotAsPromised(f"data[{index}].value", f"{error} ({quoted(named, 200)})") from None


def _window(start: datetime, end: datetime, bounds: Bounds, index: int) -> tuple[datetime, datetime]:
    """A row's window in UTC, which is one that was asked for."""
    try:
        first, last = in_utc(start), in_utc(end)
        fault = bounds.fault_of(first, last)
    except OverflowError:
        first, last, fault = start, end, BEYOND
    if fault:
        raise NotAsPromised(f"data[{index}]", f"{fault} ({first.isoformat()} to {last.isoformat()})")
    return first, last
