"""The lines of a reconciliation: what is compared, what one slot or day amounts to, and the parts of its difference.

Here: records and the words for reasons. Not here: comparing (``differences.py``), and what the ledger says itself
(``standing.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal

from metronome_pipeline.mapping.usage import Calculation
from metronome_pipeline.reconciliation.standing import Slot, StandingEvent

Reason = Literal[
    "not delivered yet",
    "quarantined",
    "late (held)",
    "held by the brake",
    "reverted",
    "dropped",
    "refused metric",
    "never read",
    "changed since read",
    "groups short",
    "unmatched",
    "deleted by hand",
    "changed by hand",
    "foreign",
    "unknown",
]
Granularity = Literal["day", "hour", "event"]
Outcome = Literal["equal", "explained", "unexplained", "unread"]
_OPEN: Mapping[str | None, Reason] = {
    "planned": "not delivered yet",
    "quarantined": "quarantined",
    "held": "late (held)",
}


@dataclass(frozen=True)
class ReconciledMetric:
    """A metric whose two sides are compared.

    Attributes:
        calculation: How hours make up a total, for sums and maxima.
        slicing: What it is billed through; for one that is not billed, what it would be.
        refused: Why its usage is not billed; None where it is.
        by_day: Whether a day's value is that of its hours: a distinct count or a last value of a day is not.
    """

    metric_id: str
    name: str
    aggregation: str | None
    calculation: Calculation
    slicing: str
    refused: str | None = None
    by_day: bool = True


@dataclass(frozen=True)
class Found:
    """What Solvimon holds for an event, where that is not what its receipt says. ``live`` None: it counts nothing."""

    event_id: int
    live: Decimal | None
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Foreign:
    """An event that Solvimon counts in one of our slots, and that the ledger did not send."""

    reference: str
    customer_id: str
    metric_id: str
    start: datetime
    number: Decimal | None
    reason: Reason = "foreign"
    detail: str = "Not sent by this project, and counted by Solvimon"


@dataclass(frozen=True)
class Difference:
    """A part of the difference of one slot that has one reason.

    Attributes:
        metronome, ledger, solvimon: The slot's totals. ``solvimon`` is what has been taken.
        amount: What Metronome has beyond Solvimon, as far as it has this reason; None where one lacks a maximum.
        references: The events that it is about, where it is about some.
    """

    customer_id: str
    metric_id: str
    start: datetime
    end: datetime
    metronome: Decimal | None
    ledger: Decimal | None
    solvimon: Decimal | None
    amount: Decimal | None
    reason: Reason
    detail: str = ""
    granularity: Granularity = "hour"
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class DayLine:
    """One (customer, metric) and UTC day. ``solvimon`` is None unless every event was read back from there.

    ``delivered`` is what Solvimon has taken: by its receipts, or by its own events where ``granularity`` is event.
    ``difference`` is what Metronome has beyond it, None where one of two maxima is missing.
    """

    customer_id: str
    metric_id: str
    day: datetime
    metronome: Decimal | None
    ledger: Decimal | None
    delivered: Decimal | None
    solvimon: Decimal | None
    difference: Decimal | None
    events: int
    acknowledged: int
    granularity: Granularity
    differences: tuple[Difference, ...] = ()
    read: bool = True

    @property
    def outcome(self) -> Outcome:
        """In one word."""
        if not self.read:
            return "unread"
        if not self.differences:
            return "equal"
        return "unexplained" if any(part.reason == "unknown" for part in self.differences) else "explained"

    @property
    def is_empty(self) -> bool:
        """Whether neither side has anything that day."""
        return self.read and not (self.metronome or self.events or self.solvimon or self.differences)


@dataclass(frozen=True)
class SlotTotals:
    """What one slot amounts to on either side, and the parts of its difference."""

    metronome: Decimal | None
    ledger: Decimal | None
    delivered: Decimal | None
    events: int
    acknowledged: int
    parts: tuple[Difference, ...]


@dataclass(frozen=True)
class Evidence:
    """What is known of one slot: its events, what was read of it, and what Solvimon itself shows of either.

    ``live`` is what Solvimon counts for each event, by its id, where every event was read back; else None.
    """

    slot: Slot
    end: datetime
    events: Sequence[StandingEvent] = ()
    found: Mapping[int, Found] = field(default_factory=dict)
    foreign: Sequence[Foreign] = ()
    live: Mapping[int, Decimal] | None = None
