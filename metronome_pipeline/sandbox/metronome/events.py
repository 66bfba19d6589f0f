"""The raw events of a store, indexed for reading: by the customer id that they were sent with, and by hour.

Here: keeping, deduplicating, and when an event becomes visible. Not here: checking a request, adding anything up.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

DEDUPLICATION = timedelta(days=34)
"""For how long a repeated transaction id is ignored."""

_START = datetime.min.replace(tzinfo=UTC)


def hour_of(instant: datetime) -> int:
    """The hour that an instant is in, counted from 1970 in UTC."""
    return int(instant.timestamp() // 3600)


@dataclass(frozen=True, slots=True)
class Event:
    """One usage event as it was sent; ``sent_for`` is a customer's UUID or an alias, resolved when usage is read."""

    number: int
    transaction_id: str
    sent_for: str
    event_type: str
    timestamp: datetime
    properties: Mapping[str, object]
    received_at: datetime


@dataclass
class EventLog:
    """Every event, and the index of those that are visible at the horizon: received by then."""

    everything: list[Event] = field(default_factory=list)
    duplicates: dict[str, list[Event]] = field(default_factory=dict)
    changed: dict[str, set[int]] = field(default_factory=dict)
    _by_transaction: dict[str, Event] = field(default_factory=dict)
    _visible: dict[str, dict[int, list[Event]]] = field(default_factory=dict)
    _waiting: list[tuple[datetime, int, Event]] = field(default_factory=list)
    _horizon: datetime = _START
    _numbers: int = 0

    @property
    def last_number(self) -> int:
        """The number of the event that was received last, kept or not."""
        return self._numbers

    def next_number(self) -> int:
        """The number that the next event is to carry: the order of receipt."""
        self._numbers += 1
        return self._numbers

    def add(self, event: Event) -> bool:
        """Keep an event; ``False`` when its transaction id was seen in the 34 days before, and it is ignored."""
        earlier = self._by_transaction.get(event.transaction_id)
        if earlier is not None and abs(event.received_at - earlier.received_at) <= DEDUPLICATION:
            self.duplicates.setdefault(event.transaction_id, []).append(event)
            return False
        self._by_transaction[event.transaction_id] = event
        self.everything.append(event)
        self._place(event)
        return True

    def find(self, transaction_id: str) -> Event | None:
        """The event that was kept under a transaction id."""
        return self._by_transaction.get(transaction_id)

    def remove(self, transaction_ids: set[str]) -> int:
        """Forget events, as corrections by the vendor's staff may; the count of those that were there."""
        kept = [event for event in self.everything if event.transaction_id not in transaction_ids]
        removed = len(self.everything) - len(kept)
        self.everything = kept
        for transaction_id in transaction_ids:
            self._by_transaction.pop(transaction_id, None)
        self._rebuild(self._horizon)
        return removed

    def advance(self, horizon: datetime) -> None:
        """Make visible what was received until the horizon; a horizon in the past hides again what came later."""
        if horizon < self._horizon:
            self._rebuild(horizon)
            return
        self._horizon = horizon
        while self._waiting and self._waiting[0][0] <= horizon:
            self._place(heapq.heappop(self._waiting)[2])

    def hours(self, sent_for: str) -> Mapping[int, list[Event]]:
        """The visible events sent for one id, by hour."""
        return self._visible.get(sent_for, {})

    def take_changed(self) -> Iterator[tuple[str, set[int]]]:
        """The ids and hours whose visible events changed since the last call."""
        changed, self.changed = self.changed, {}
        yield from changed.items()

    def _rebuild(self, horizon: datetime) -> None:
        for sent_for, hours in self._visible.items():
            self.changed.setdefault(sent_for, set()).update(hours)
        self._visible, self._waiting, self._horizon = {}, [], horizon
        for event in self.everything:
            self._place(event)

    def _place(self, event: Event) -> None:
        if event.received_at > self._horizon:
            heapq.heappush(self._waiting, (event.received_at, event.number, event))
            return
        hour = hour_of(event.timestamp)
        self._visible.setdefault(event.sent_for, {}).setdefault(hour, []).append(event)
        self.changed.setdefault(event.sent_for, set()).add(hour)
