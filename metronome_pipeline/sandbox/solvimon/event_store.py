"""The events of a store and their state: what was ingested, what is a duplicate, what was deleted, what was matched.

Here: storage, indexes and the decision about duplicates. Not here: whether an event is valid (event_checks.py), and
sums (truth.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from metronome_pipeline.sandbox.solvimon.wire import IdSource, JsonObject, instant_text

Outcome = Literal["DEFAULT", "NOT_MATCHED", "DUPLICATE"]

_MOST_LISTS = 32
"""Lists that are remembered from page to page: more than a client reads at once."""


@dataclass(slots=True)
class Event:
    """One ingested event (``MeterData``). What was sent never changes; the state below it does.

    ``values`` and ``properties`` are the objects that the answer repeats; ``number`` and ``quantity`` in them are
    decimal strings.
    """

    reference: str
    customer_id: str
    customer_reference: str | None
    meter_id: str
    meter_reference: str
    instant: datetime
    values: tuple[JsonObject, ...]
    properties: tuple[JsonObject, ...]
    subscription_id: str | None = None
    type: str = "INGEST"
    id: str = ""
    created_at: datetime | None = None
    duplicate_of: str | None = None
    deleted: bool = False
    processed_at: datetime | None = None
    outcome: Outcome | None = None

    @property
    def counts(self) -> bool:
        """Whether Solvimon counts it: stored, not deleted, not a duplicate. Unmatched events count."""
        return not self.deleted and self.duplicate_of is None

    def as_json(self) -> JsonObject:
        """The ``MeterData`` of the API: the fields of the specification that this emulator fills."""
        return {
            "object_type": "METER_DATA",
            "id": self.id,
            "reference": self.reference,
            "type": self.type,
            "customer_id": self.customer_id,
            "customer_reference": self.customer_reference,
            "meter_id": self.meter_id,
            "meter_reference": self.meter_reference,
            "pricing_plan_subscription_id": self.subscription_id,
            "timestamp": instant_text(self.instant),
            "created_at": None if self.created_at is None else instant_text(self.created_at),
            "meter_properties": self.properties,
            "meter_values": self.values,
            "processed_details": self._details(),
            "deleted": self.deleted,
        }

    def _details(self) -> JsonObject | None:
        if self.outcome == "DUPLICATE":
            of = self.duplicate_of
            return {"type": "DUPLICATE", "duplicate_of_meter_data_id": of, "duplicate": {"of_meter_data_id": of}}
        if self.outcome == "NOT_MATCHED":
            # The values of the variant are not published.
            return {"type": "NOT_MATCHED", "not_matched": {"variant": "NO_SUBSCRIPTION"}}
        return None if self.outcome is None else {"type": self.outcome}


class EventStore:
    """All events of a store, found by id, reference and customer."""

    def __init__(self, ids: IdSource) -> None:
        self._ids = ids
        self.all: list[Event] = []
        self.pending: list[Event] = []
        self.by_id: dict[str, Event] = {}
        self.by_reference: dict[str, list[Event]] = {}
        self.by_customer: dict[str, list[Event]] = {}
        self._lists: dict[object, list[Event]] = {}

    def original(self, reference: str) -> Event | None:
        """The event that took effect under a reference and still counts: the first one, where deduplication is off."""
        return next((event for event in self.by_reference.get(reference, ()) if event.counts), None)

    def original_of_any_state(self, reference: str) -> Event | None:
        """As :meth:`original`, else the last deleted event that once took effect under the reference."""
        taken = [event for event in self.by_reference.get(reference, ()) if event.duplicate_of is None]
        return next((event for event in taken if not event.deleted), taken[-1] if taken else None)

    def add(self, event: Event, *, at: datetime, duplicate_of: str | None) -> Event:
        """Store a valid event; it waits to be processed."""
        event.id = self._ids.make("metd")
        event.created_at = at
        event.duplicate_of = duplicate_of
        self.all.append(event)
        self.pending.append(event)
        self.by_id[event.id] = event
        self.by_reference.setdefault(event.reference, []).append(event)
        self.by_customer.setdefault(event.customer_id, []).append(event)
        self.touch()
        return event

    def process(self, matches: Callable[[Event], bool], *, at: datetime) -> int:
        """Settle what every waiting event is: a duplicate, matched or not. Gives how many there were."""
        waiting, self.pending = self.pending, []
        for event in waiting:
            self.settle(event, matches, at=at)
        self.touch()
        return len(waiting)

    def settle(self, event: Event, matches: Callable[[Event], bool], *, at: datetime) -> None:
        """Settle one event."""
        event.processed_at = at
        if event.duplicate_of is not None:
            event.outcome = "DUPLICATE"
        else:
            event.outcome = "DEFAULT" if matches(event) else "NOT_MATCHED"

    def delete(self, event: Event) -> None:
        """Delete softly: the event stays readable, as deleted."""
        event.deleted = True
        self.touch()

    def touch(self) -> None:
        """Note that events changed, so that lists are made anew."""
        self._lists.clear()

    def select(
        self, key: object, candidates: Callable[[], Sequence[Event]], keep: Callable[[Event], bool]
    ) -> list[Event]:
        """The candidates to keep, newest first.

        Remembered for ``key`` while nothing changes, as the pages of a list are asked for one by one, and of several
        lists in turn.
        """
        if key not in self._lists:
            if len(self._lists) == _MOST_LISTS:
                del self._lists[next(iter(self._lists))]
            self._lists[key] = [event for event in reversed(candidates()) if keep(event)]
        return self._lists[key]
