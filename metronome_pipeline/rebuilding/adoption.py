"""Adoption: which slot of the ledger an event stands for that Solvimon stores, or why it stands for none.

Pure functions. An event of ours says so by its reference; one of other origin (Solvimon's own integration, or a person)
is placed by its customer, meter, time and properties. Not here: walking Solvimon's events (``stocktake.py``), and what
the ledger does with them (``rebuild.py``).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from urllib.parse import unquote

from metronome_pipeline.ledger.readings import TOTAL
from metronome_pipeline.mapping.meters import property_reference, value_reference
from metronome_pipeline.mapping.usage import canonical_properties, slice_of
from metronome_pipeline.solvimon.records import MeterData

NO_REFERENCE = "it has no reference"
UNSTORABLE = "its text cannot be stored"
UNKNOWN_CUSTOMER = "its customer is unknown here"
UNKNOWN_METER = "its meter is unknown here"
NOT_ITS_SLOT = "another event stands under this reference, for another slot"
NOT_ON_THE_HOUR = "its time is not the start of an hour"
FOREIGN_PROPERTY = "it has a property that no group key is sent as"
NO_NUMBER = "it has no plain number of the meter's value"

_HOUR = timedelta(hours=1)
_STAMP = "%Y%m%dT%H%M%SZ"
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_MOMENT = r"\d{8}T\d{6}Z"
# The form of `ledger.event_reference`, which never changes between versions.
_REFERENCE = re.compile(
    rf"({_UUID})_({_UUID})_({_MOMENT})_({_MOMENT})_(total|rest|g[0-9a-f]{{32}})(?:_r([1-9]\d{{0,8}}))?", re.ASCII
)
# A group key has a handful of keys; two to the power of more is not worth a guess.
_MOST_GUESSED = 10


@dataclass(frozen=True)
class Slot:
    """What one number of the ledger is about: a customer's usage of a metric in ``[start, end)``, or a group of it."""

    customer_id: str
    metric_id: str
    start: datetime
    end: datetime
    slice: str


@dataclass(frozen=True)
class Known:
    """The records of this account pair.

    Attributes:
        customers: Customer id by what an event may name it by: Metronome's id, or Solvimon's.
        metrics: Metric id, likewise.
        group_keys: The ways to group each metric's usage, the one that it is billed by first.
    """

    customers: Mapping[str, str]
    metrics: Mapping[str, str]
    group_keys: Mapping[str, Sequence[tuple[str, ...]]]


@dataclass(frozen=True)
class Placement:
    """What a stored event is to the ledger.

    Attributes:
        ours: Its reference is one that the ledger makes.
        slot: Where it belongs; None: it is left alone, for ``why``.
        revision: Of its slot. An event of other origin is a first event, so that what follows is a correction of it.
        properties: Group keys and values as canonical JSON; None without.
        exact: Whether ``properties`` are known to be those that were billed, null values too, which are never sent.
        customer_id: Whom it is of, by its own fields.
        metric_id: What it is of, by its own fields.
        number: What it counts.
        why: Why Solvimon's number does not become the slot's.
    """

    ours: bool = False
    slot: Slot | None = None
    revision: int = 0
    properties: str | None = None
    exact: bool = True
    customer_id: str | None = None
    metric_id: str | None = None
    number: Decimal | None = None
    why: str | None = None


def slot_of(reference: str) -> tuple[Slot, int] | None:
    """The slot and revision that a reference of ours names; None for any other text."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return None
    customer_id, metric_id, first, last, slice_name, revision = found.groups()
    try:
        start, end = (datetime.strptime(text, _STAMP).replace(tzinfo=UTC) for text in (first, last))
    except ValueError:
        return None
    return (Slot(customer_id, metric_id, start, end, slice_name), int(revision or 0)) if start < end else None


def sent_group(stored: MeterData) -> dict[str, str] | None:
    """Group key → value as they stand on an event; None when it has a property that no group key is sent as."""
    group: dict[str, str] = {}
    for given in stored.meter_properties:
        if given.value is None:
            continue
        key = unquote(given.reference or "")
        if not given.reference or property_reference(key) != given.reference:
            return None
        group[key] = given.value
    return group


def billed_group(sent: Mapping[str, str], slice_name: str, group_keys: Sequence[tuple[str, ...]]) -> str | None:
    """The canonical properties whose slice has this name, found by trying what is never sent: keys that are null.

    None when no way to group the metric explains the name: its group keys have changed since.
    """
    return next((text for text in _guesses(sent, group_keys) if slice_of(text) == slice_name), None)


def _guesses(sent: Mapping[str, str], group_keys: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield canonical_properties(sent)
    for group_key in group_keys:
        missing = [key for key in group_key if key not in sent]
        if not sent.keys() <= set(group_key) or len(missing) > _MOST_GUESSED:
            continue
        # Null as Metronome gives it first; then absent, which is another group.
        for nulls in product((True, False), repeat=len(missing)):
            null = [key for key, is_null in zip(missing, nulls, strict=True) if is_null]
            yield canonical_properties({**sent, **dict.fromkeys(null)})


def place(stored: MeterData, known: Known) -> Placement:
    """What a stored event is to the ledger, whether it counts or not."""
    if stored.reference is None:
        return Placement(why=NO_REFERENCE)
    customer_id = known.customers.get(stored.customer_reference or "") or known.customers.get(stored.customer_id or "")
    metric_id = known.metrics.get(stored.meter_reference or "") or known.metrics.get(stored.meter_id or "")
    own = slot_of(stored.reference)
    number = None if metric_id is None else _number(stored, metric_id, ours=own is not None)
    standing = Placement(ours=own is not None, customer_id=customer_id, metric_id=metric_id, number=number)
    if any("\0" in text for text in _texts(stored)):
        return _left_alone(standing, UNSTORABLE)
    if own is not None:
        return _place_ours(stored, standing, *own, known)
    if customer_id is None:
        return _left_alone(standing, UNKNOWN_CUSTOMER)
    if metric_id is None:
        return _left_alone(standing, UNKNOWN_METER)
    return _place_foreign(stored, standing, customer_id, metric_id, known.group_keys.get(metric_id, ()))


def _place_ours(stored: MeterData, standing: Placement, slot: Slot, revision: int, known: Known) -> Placement:
    """By its reference, which stays used whatever stands under it."""
    if slot.customer_id not in known.customers:
        return _left_alone(standing, UNKNOWN_CUSTOMER)
    if slot.metric_id not in known.metrics:
        return _left_alone(standing, UNKNOWN_METER)
    sent = sent_group(stored)
    properties, exact, why = None, True, None
    grouped = slot.slice.startswith("g")
    named = (slot.customer_id, slot.metric_id, slot.start)
    if (standing.customer_id, standing.metric_id, stored.timestamp) != named or sent is None or (sent and not grouped):
        why = NOT_ITS_SLOT
    elif standing.number is None:
        why = NO_NUMBER
    if grouped and sent is not None:
        found = billed_group(sent, slot.slice, known.group_keys.get(slot.metric_id, ()))
        # A correction must carry what its record carries, and nulls are never sent: so this is enough for that.
        properties, exact = found or canonical_properties(sent), found is not None
    return Placement(
        ours=True,
        slot=slot,
        revision=revision,
        properties=properties,
        exact=exact,
        customer_id=standing.customer_id,
        metric_id=standing.metric_id,
        number=standing.number,
        why=why,
    )


def _place_foreign(
    stored: MeterData, standing: Placement, customer_id: str, metric_id: str, group_keys: Sequence[tuple[str, ...]]
) -> Placement:
    """By its own fields: the hour that begins at its time, whole or of a group."""
    start, sent = stored.timestamp, sent_group(stored)
    if start is None or start.astimezone(UTC).replace(minute=0, second=0, microsecond=0) != start:
        return _left_alone(standing, NOT_ON_THE_HOUR)
    if sent is None:
        return _left_alone(standing, FOREIGN_PROPERTY)
    if standing.number is None:
        return _left_alone(standing, NO_NUMBER)
    properties = None
    if sent:
        billed = next((key for key in group_keys if sent.keys() <= set(key)), tuple(sent))
        properties = canonical_properties({key: sent.get(key) for key in billed})
    slot = Slot(customer_id, metric_id, start, start + _HOUR, slice_of(properties) if properties else TOTAL)
    return Placement(
        slot=slot, properties=properties, customer_id=customer_id, metric_id=metric_id, number=standing.number
    )


def _left_alone(standing: Placement, why: str) -> Placement:
    return Placement(
        ours=standing.ours,
        customer_id=standing.customer_id,
        metric_id=standing.metric_id,
        number=standing.number,
        why=why,
    )


def _number(stored: MeterData, metric_id: str, *, ours: bool) -> Decimal | None:
    """The number of the meter value that the metric is billed by; an event of ours has no other."""
    values = stored.meter_values
    named = [value for value in values if value.reference == value_reference(metric_id)]
    if not named and len(values) == 1 and (ours or values[0].reference is None):
        named = list(values)
    return named[0].quantity if named else None


def _texts(stored: MeterData) -> Iterator[str]:
    yield from (stored.id, stored.reference or "", stored.customer_reference or "", stored.meter_reference or "")
    for given in stored.meter_properties:
        yield from (given.reference or "", given.value or "")
