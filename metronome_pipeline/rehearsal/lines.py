"""The lines of a plan: what a rehearsal foresees by customer and metric, and as requests and seconds.

Pure functions and records. Not here: the rehearsal itself (``synchroniser.py``, ``usage.py``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal

from metronome_pipeline.ledger.proposals import Proposal
from metronome_pipeline.mapping.usage import Calculation, exact_sum
from metronome_pipeline.rehearsal.synchroniser import Rehearsed

What = Literal["earlier", "send", "correct", "delete", "hold: brake", "hold: late", "wait"]
HOLDS: tuple[What, ...] = ("hold: brake", "hold: late", "wait")
_DOES: Mapping[str, What] = {"usage": "send", "correction": "correct", "deletion": "delete"}
_ORDER: Sequence[What] = ("earlier", "send", "correct", "delete", *HOLDS)

SOLVIMON_SECONDS = 0.5
"""What a request to Solvimon is assumed to take: it publishes no limit of its own."""
REQUESTS_A_DELETION = 2
"""It is asked for, and read back."""


def judged(step: Rehearsed, *, hold_late: bool) -> Iterator[tuple[What, Proposal]]:
    """What would become of each proposal of a step."""
    for proposal in step.written:
        yield "hold: late" if proposal.late and hold_late else _DOES[proposal.kind], proposal
    for proposal in step.braked:
        yield "hold: brake", proposal


@dataclass(frozen=True)
class Line:
    """What a run would do for one customer and metric.

    Attributes:
        customer_id: Metronome's id.
        metric_id: Metronome's id.
        what: ``earlier``: send what earlier runs planned and did not send. ``wait``: hours that differ and are not
            planned, for their last event is in quarantine, held or reverted; ``events`` counts the hours then.
        events: How many events.
        late: How many of them change a billing period whose invoice is final.
        quantity: The sum of their numbers, of a MAX meter the highest; of deletions what they take back.
        first: The first hour.
        last: The last hour.
    """

    customer_id: str
    metric_id: str
    what: What
    events: int
    late: int
    quantity: Decimal | None
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Requests:
    """How many requests a run would make, and how long they take at today's pace."""

    metronome: int = 0
    solvimon: int = 0
    metronome_seconds: float = 0.0
    solvimon_seconds: float = 0.0
    steps: int = 1

    @property
    def seconds(self) -> float:
        """Altogether: a run reads a step while it delivers the one before."""
        longer, shorter = sorted((self.metronome_seconds, self.solvimon_seconds), reverse=True)
        return longer + shorter / max(self.steps, 1)


@dataclass
class PlanLines:
    """Adds proposals up as they come, so that they need not be kept."""

    calculations: Mapping[str, Calculation]
    hold_late: bool
    _lines: dict[tuple[str, str, What], Line] = field(default_factory=dict)

    def add(self, step: Rehearsed) -> None:
        """Takes what one step would do."""
        for what, proposal in judged(step, hold_late=self.hold_late):
            self._take(proposal, what, step.taken_back)
        for customer_id, metric_id, start in step.waiting:
            self.put(Line(customer_id, metric_id, "wait", 1, 0, None, start, start))

    def _take(self, proposal: Proposal, what: What, taken_back: Mapping[str, Decimal]) -> None:
        deletion = proposal.kind == "deletion"
        number = taken_back.get(proposal.reference) if deletion else proposal.number
        # Where deletions are held beside their successors, only what would be sent is a quantity.
        quantity = None if deletion and what in HOLDS else number
        self.put(
            Line(
                proposal.customer_id,
                proposal.metric_id,
                what,
                1,
                int(proposal.late),
                quantity,
                proposal.start,
                proposal.start,
            )
        )

    def put(self, line: Line) -> None:
        """Adds one line to those of its customer, metric and kind."""
        key = (line.customer_id, line.metric_id, line.what)
        known = self._lines.get(key)
        if known is not None:
            line = Line(
                *key,
                known.events + line.events,
                known.late + line.late,
                self._quantity(line.metric_id, known.quantity, line.quantity),
                min(known.first, line.first),
                max(known.last, line.last),
            )
        self._lines[key] = line

    def _quantity(self, metric_id: str, one: Decimal | None, other: Decimal | None) -> Decimal | None:
        numbers = [number for number in (one, other) if number is not None]
        if not numbers:
            return None
        return max(numbers) if self.calculations.get(metric_id) == "MAX" else exact_sum(numbers)

    @property
    def all(self) -> list[Line]:
        """Every line, by metric, customer and kind."""
        return sorted(
            self._lines.values(), key=lambda line: (line.metric_id, line.customer_id, _ORDER.index(line.what))
        )


def requests_to_deliver(proposals: Iterable[Proposal], batch_limit: int) -> int:
    """How many requests to Solvimon it takes to deliver what one plan wrote.

    Batches of what can leave at once, two requests a deletion (it is read back), then batches of what waited for one.
    """
    proposals = list(proposals)
    deletions = {_slot(proposal) for proposal in proposals if proposal.kind == "deletion"}
    events = [proposal for proposal in proposals if proposal.kind != "deletion"]
    successors = sum(proposal.kind == "correction" and _slot(proposal) in deletions for proposal in events)
    numbers = (len(events) - successors, successors)
    return sum(-(-number // batch_limit) for number in numbers) + REQUESTS_A_DELETION * (len(proposals) - len(events))


def _slot(proposal: Proposal) -> tuple[str, str, datetime, datetime, str]:
    return proposal.customer_id, proposal.metric_id, proposal.start, proposal.end, proposal.slice
