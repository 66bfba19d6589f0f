"""Read back: what Solvimon itself holds, from its own answers alone.

Here: its lists of unmatched, duplicate and deleted events, every event of a customer, and how these are held against
the ledger's. Nothing is sent, deleted or mended. Not here: totals and reasons (``differences.py``).
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from metronome_pipeline.errors import Malformed
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.mapping.meters import property_reference
from metronome_pipeline.mapping.usage import exact_sum
from metronome_pipeline.reconciliation.lines import Foreign, Found
from metronome_pipeline.reconciliation.standing import StandingEvent
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import MeterData

_ZERO = Decimal(0)
Look = Callable[[str], Awaitable[Sequence[MeterData]]]
"""Gives everything that Solvimon stores under a reference."""


@dataclass(frozen=True)
class Unmatched:
    """Events of one slot that Solvimon counts and does not bill: how many, what they amount to, and one of them."""

    customer_id: str
    metric_id: str
    start: datetime
    events: int
    number: Decimal
    reference: str


@dataclass(frozen=True)
class Listed:
    """A duplicate or deleted event within the window."""

    solvimon_id: str
    reference: str
    customer_id: str
    metric_id: str
    start: datetime


@dataclass
class SolvimonLists:
    """Solvimon's own lists, as far as they are about the window and the metrics asked for.

    Attributes:
        unmatched: By (customer, metric, start).
    """

    unmatched: dict[tuple[str, str, datetime], Unmatched] = field(default_factory=dict)
    duplicates: list[Listed] = field(default_factory=list)
    deleted: list[Listed] = field(default_factory=list)


_LISTS: Sequence[Mapping[str, Any]] = (
    {"processed_details_type": "NOT_MATCHED"},
    {"processed_details_type": "DUPLICATE"},
    {"deleted": True},
)


async def read_lists(
    api: SolvimonApi,
    window: Window,
    metric_ids: Collection[str],
    solvimon_customer_id: str | None = None,
    *,
    unmatched_only: bool = False,
) -> SolvimonLists:
    """Reads the three lists, of one customer or of the whole account, and keeps what is within the window.

    Raises:
        Malformed: Solvimon ignored a filter: the list would be everything that was ever stored.
    """
    lists = SolvimonLists()
    wanted = frozenset(metric_ids)
    for asked in _LISTS[:1] if unmatched_only else _LISTS:
        pages: AsyncIterator[list[MeterData]] = api.events(customer_id=solvimon_customer_id, **asked)
        async for page in pages:
            _require_filtered(page, asked)
            for data in page:
                if _is_within(data, window) and data.meter_reference in wanted:
                    _put(lists, data, asked)
    return lists


def _require_filtered(page: Sequence[MeterData], asked: Mapping[str, object]) -> None:
    kind = asked.get("processed_details_type")
    for data in page:
        found = data.processed_details.type if data.processed_details else None
        if (kind is not None and found != kind) or (kind is None and not data.deleted):
            name = next(iter(asked))
            raise Malformed(
                f"Solvimon ignored the filter {name} of its list of events, which is then everything that it stores.",
                system="Solvimon",
                endpoint="GET /v1/events",
                field=name,
            )


def _put(lists: SolvimonLists, data: MeterData, asked: Mapping[str, object]) -> None:
    key = (data.customer_reference or "", data.meter_reference or "", _start(data))
    if asked.get("processed_details_type") == "NOT_MATCHED":
        if data.deleted:
            return
        before = lists.unmatched.get(key, Unmatched(*key, 0, _ZERO, data.reference or data.id))
        number = exact_sum([before.number, number_of(data) or _ZERO])
        lists.unmatched[key] = Unmatched(*key, before.events + 1, number, before.reference)
        return
    target = lists.deleted if "deleted" in asked else lists.duplicates
    target.append(Listed(data.id, data.reference or "", *key))


async def judge_lists(lists: SolvimonLists, events: Iterable[StandingEvent], look: Look) -> list[Found]:
    """Which of our events the lists contradict: deleted in Solvimon and not by us, or taken as a duplicate of another.

    Each suspect is looked up under its reference, as a second copy may be the one that counts.
    """
    deleted = {each.reference for each in lists.deleted}
    duplicates = {each.solvimon_id for each in lists.duplicates}
    found = []
    for event in events:
        if event.kind == "deletion" or not event.accepted or event.counted is None or event.deletion is not None:
            continue
        if event.reference not in deleted and event.solvimon_id not in duplicates:
            continue
        live = live_copies(await look(event.reference))
        if (deviation := _deviation(event, live, was_deleted=event.reference in deleted)) is not None:
            found.append(deviation)
    return found


@dataclass(frozen=True)
class ReadBack:
    """What Solvimon holds of one customer, held against the ledger's events.

    Attributes:
        live: What it counts for each event, by the ledger's id; an event that it does not count is absent.
        found: Events that it holds otherwise than their receipts say.
        foreign: Events of our metrics within the window that the ledger did not send, or not for that slot.
    """

    live: Mapping[int, Decimal]
    found: Mapping[int, Found]
    foreign: Sequence[Foreign]


@dataclass
class Copies:
    """The stored events of a customer that matter: by reference, those of ours, and those within the window."""

    window: Window
    metric_ids: frozenset[str]
    references: frozenset[str]
    by_reference: dict[str, list[MeterData]] = field(default_factory=dict)
    events: int = 0

    def take(self, page: Iterable[MeterData]) -> None:
        """Takes a page of the walk."""
        for data in page:
            self.events += 1
            ours = data.reference in self.references
            if ours or (_is_within(data, self.window) and data.meter_reference in self.metric_ids):
                self.by_reference.setdefault(data.reference or data.id, []).append(data)

    def strangers(self) -> list[str]:
        """References within the window that the ledger did not have when the walk began."""
        return [reference for reference in self.by_reference if reference not in self.references]


def judge_copies(copies: Copies, events: Sequence[StandingEvent], ours_elsewhere: Collection[str]) -> ReadBack:
    """Holds everything that was read back against the ledger, event by event.

    Args:
        copies: What Solvimon stores of the customer.
        events: The ledger's events of the window.
        ours_elsewhere: References of the ledger's events of other hours.
    """
    live: dict[int, Decimal] = {}
    found: dict[int, Found] = {}
    foreign: list[Foreign] = []
    known = {event.reference for event in events} | set(ours_elsewhere)
    for event in events:
        if event.kind == "deletion":
            continue
        stored = copies.by_reference.get(event.reference, [])
        standing = live_copies(stored)
        in_slot = [data for data in standing if _is_of_slot(data, event)]
        foreign += [_foreign(data, ours=True) for data in standing if data not in in_slot and _counts(copies, data)]
        if in_slot:
            live[event.event_id] = exact_sum(number_of(data) or _ZERO for data in in_slot)
        deviation = _deviation(event, in_slot, was_deleted=any(data.deleted for data in stored))
        if deviation is not None:
            found[event.event_id] = deviation
    for reference, stored in copies.by_reference.items():
        if reference not in known:
            foreign += [_foreign(data, ours=False) for data in live_copies(stored) if _counts(copies, data)]
    return ReadBack(live, found, foreign)


def live_copies(stored: Iterable[MeterData]) -> list[MeterData]:
    """Those that Solvimon counts: neither deleted nor a duplicate. Unmatched ones count."""
    return [data for data in stored if not data.deleted and not data.is_duplicate]


def number_of(data: MeterData) -> Decimal | None:
    """The number of a stored event; None without a readable one."""
    return data.meter_values[0].quantity if data.meter_values else None


def _deviation(event: StandingEvent, live: Sequence[MeterData], *, was_deleted: bool) -> Found | None:
    """What stands in Solvimon for an event that it took, where that is not what the ledger counts."""
    if not event.accepted or event.deletion not in (None, "delivered"):
        return None
    numbers = [number_of(data) for data in live]
    if numbers == ([] if event.counted is None else [event.counted]):
        return None
    counted = exact_sum(number or _ZERO for number in numbers) if numbers else None
    if len(live) > 1:
        return Found(event.event_id, counted, "unknown", f"Solvimon counts {len(live)} copies under this reference")
    if live:
        return Found(event.event_id, counted, "changed by hand", f"Solvimon holds {numbers[0]} under this reference")
    if was_deleted:
        return Found(event.event_id, None, "deleted by hand", "Deleted in Solvimon, and not by this project")
    return Found(event.event_id, None, "unknown", "Solvimon has no event under this reference that counts")


def _foreign(data: MeterData, *, ours: bool) -> Foreign:
    key = (data.reference or data.id, data.customer_reference or "", data.meter_reference or "", _start(data))
    if not ours:
        return Foreign(*key, number_of(data))
    words = "It stands in Solvimon under a reference of ours, for another slot or with other properties"
    return Foreign(*key, number_of(data), "changed by hand", words)


def _counts(copies: Copies, data: MeterData) -> bool:
    return _is_within(data, copies.window) and data.meter_reference in copies.metric_ids


def _is_of_slot(data: MeterData, event: StandingEvent) -> bool:
    group: Mapping[str, str | None] = json.loads(event.properties) if event.properties else {}
    properties = {property_reference(key): value for key, value in group.items() if value is not None}
    return (
        data.customer_reference == event.customer_id
        and data.meter_reference == event.metric_id
        and data.timestamp == event.start
        and {given.reference: given.value for given in data.meter_properties} == properties
    )


def _is_within(data: MeterData, window: Window) -> bool:
    return data.timestamp is not None and window.start <= data.timestamp < window.end


def _start(data: MeterData) -> datetime:
    """The start of the hour of an event: one of other origin may lie anywhere in it."""
    assert data.timestamp is not None
    return data.timestamp.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
