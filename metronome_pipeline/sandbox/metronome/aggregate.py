"""Usage from events: which events a metric counts, and what they add up to, by hour and group.

Here: filters and the five aggregations, as pure functions over events. Not here: windows, pages, the control total of
``/_sandbox/truth`` (that one is computed in its own way, see :mod:`.truth`).
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

from metronome_pipeline.sandbox.metronome.answers import to_json
from metronome_pipeline.sandbox.metronome.events import Event

EXACT = Context(prec=5000, traps=[Inexact, InvalidOperation, Overflow])
"""Sums are exact or fail."""

Group = tuple[str | None, ...]
"""The values of a group key's properties; ``None`` where an event lacks one. ``()`` is no grouping."""

Partial = Any
"""What an aggregation keeps between events; only :class:`Aggregation` looks inside."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class PropertyFilter:
    """One filter on a property; each part that is given must hold, values compared as text."""

    name: str
    exists: bool | None = None
    in_values: frozenset[str] | None = None
    not_in_values: frozenset[str] | None = None

    def passes(self, value: str | None) -> bool:
        """Whether a property's text (``None``: it is not there) passes."""
        if self.exists is not None and (value is not None) != self.exists:
            return False
        if self.in_values is not None and value not in self.in_values:
            return False
        return self.not_in_values is None or value not in self.not_in_values


@dataclass(frozen=True)
class Definition:
    """What a metric counts: its aggregation in upper case, its key, its filters and its group keys."""

    aggregation: str
    key: str | None = None
    event_types: frozenset[str] | None = None
    not_event_types: frozenset[str] | None = None
    filters: tuple[PropertyFilter, ...] = ()
    group_keys: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Definition":
        """From a metric's fields as the API spells them."""
        types = fields.get("event_type_filter") or {}
        return cls(
            aggregation=str(fields.get("aggregation_type", "")).upper(),
            key=fields.get("aggregation_key"),
            event_types=_texts(types.get("in_values")),
            not_event_types=_texts(types.get("not_in_values")),
            filters=tuple(
                PropertyFilter(
                    one["name"], one.get("exists"), _texts(one.get("in_values")), _texts(one.get("not_in_values"))
                )
                for one in fields.get("property_filters") or ()
            ),
            group_keys=tuple(tuple(keys) for keys in fields.get("group_keys") or ()),
        )

    def matches(self, event: Event) -> bool:
        """Whether the event passes the event type filter and every property filter."""
        if self.event_types is not None and event.event_type not in self.event_types:
            return False
        if self.not_event_types is not None and event.event_type in self.not_event_types:
            return False
        return all(one.passes(text_of(event.properties.get(one.name))) for one in self.filters)


@dataclass(frozen=True)
class Aggregation:
    """How events become a value: the part of one event, the merge of two parts, and the value of a part."""

    part: Callable[[Event, str | None], Partial]
    merge: Callable[[Partial, Partial], Partial]
    value: Callable[[Partial], Decimal]


def _texts(values: Sequence[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def text_of(value: object) -> str | None:
    """A property as text: filters and groups compare texts. Null is the same as absent."""
    if value is None or isinstance(value, str):
        return value
    return to_json(value)


@functools.lru_cache(maxsize=65536)
def _read_number(text: str) -> Decimal | None:
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def number_of(value: object) -> Decimal | None:
    """A property as a number, from a JSON number or from text; ``None`` when it is neither."""
    if isinstance(value, str):
        return _read_number(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    # As for text, an exponent of four digits is no number: its sum would fill the memory.
    return Decimal(value) if abs(Decimal(value).adjusted()) < 1000 else None


def _number_part(event: Event, key: str | None) -> Decimal | None:
    return number_of(event.properties.get(key or ""))


def _latest_part(event: Event, key: str | None) -> tuple[datetime, int, Decimal] | None:
    number = number_of(event.properties.get(key or ""))
    # The receipt number settles a tie of timestamps: the last received wins.
    return None if number is None else (event.timestamp, event.number, number)


def _unique_part(event: Event, key: str | None) -> frozenset[str] | None:
    text = text_of(event.properties.get(key or ""))
    return None if text is None else frozenset((text,))


AGGREGATIONS: Mapping[str, Aggregation] = {
    "COUNT": Aggregation(lambda event, key: 1, lambda one, two: one + two, Decimal),
    "SUM": Aggregation(_number_part, EXACT.add, lambda total: total),
    "MAX": Aggregation(_number_part, max, lambda greatest: greatest),
    "LATEST": Aggregation(_latest_part, max, lambda latest: latest[2]),
    "UNIQUE": Aggregation(_unique_part, lambda one, two: one | two, lambda texts: Decimal(len(texts))),
}
"""The aggregations by name. A metric of any other type has no usage."""


def parts_by_group(events: Sequence[Event], definition: Definition, keys: Sequence[str]) -> dict[Group, Partial]:
    """The parts of some events, by the values of the group's keys; groups without any part are left out."""
    aggregation = AGGREGATIONS.get(definition.aggregation)
    parts: dict[Group, Partial] = {}
    if aggregation is None:
        return parts
    for event in events:
        if not definition.matches(event):
            continue
        part = aggregation.part(event, definition.key)
        if part is None:
            continue
        group = tuple(text_of(event.properties.get(key)) for key in keys)
        parts[group] = aggregation.merge(parts[group], part) if group in parts else part
    return parts


def merge_into(parts: dict[Group, Partial], more: Mapping[Group, Partial], aggregation: Aggregation) -> None:
    """Merge parts by group into the first argument."""
    for group, part in more.items():
        parts[group] = aggregation.merge(parts[group], part) if group in parts else part
