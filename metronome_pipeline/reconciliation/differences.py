"""Differences: how far Metronome and Solvimon are apart, in one slot after the other, and why as far as it is known.

Pure functions over what was read of both and what the ledger knows (``standing.py``). Every part of a difference of
sums is exact, and the parts add up to the whole. Not here: reading anything, and the records (``lines.py``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from metronome_pipeline.errors import quoted
from metronome_pipeline.mapping.periods import DAY
from metronome_pipeline.mapping.usage import Calculation, exact_sum
from metronome_pipeline.reconciliation.lines import (
    DayLine,
    Difference,
    Evidence,
    Found,
    Granularity,
    Reason,
    ReconciledMetric,
    SlotTotals,
)
from metronome_pipeline.reconciliation.standing import Standing, StandingEvent

_ZERO = Decimal(0)
_OPEN: Mapping[str | None, Reason] = {
    "planned": "not delivered yet",
    "quarantined": "quarantined",
    "held": "late (held)",
}
_LONGEST_WORDS = 200


@dataclass(frozen=True)
class _Part:
    amount: Decimal | None
    reason: Reason
    detail: str = ""
    reference: str | None = None


def total(calculation: Calculation, numbers: Iterable[Decimal | None]) -> Decimal | None:
    """What numbers amount to, to the last digit: their sum, or the highest. None: there are none."""
    there = [number for number in numbers if number is not None]
    if not there:
        return None
    return max(there) if calculation == "MAX" else exact_sum(there)


def same(calculation: Calculation, one: Decimal | None, other: Decimal | None) -> bool:
    """Whether two totals are equal. No usage and 0 are the same for sums; a maximum of 0 is a value."""
    return one == other if calculation == "MAX" else (one or _ZERO) == (other or _ZERO)


def apart(calculation: Calculation, one: Decimal | None, other: Decimal | None) -> Decimal | None:
    """``one`` less ``other``, exactly; None where one of two maxima is missing, for nothing is no number."""
    if calculation == "MAX" and (one is None) != (other is None):
        return None
    return exact_sum([one or _ZERO, (other or _ZERO).copy_negate()])


def compare_day(metric: ReconciledMetric, customer_id: str, read: Decimal | None, standing: Standing) -> DayLine | None:
    """A day by its total alone; None where its hours must be looked at to say what differs.

    A day without any event, of a metric that is refused or in hours that were never read, needs no look.
    """
    counted = standing.highest if metric.calculation == "MAX" else standing.total
    line = DayLine(
        customer_id,
        metric.metric_id,
        standing.day,
        read,
        counted,
        counted,
        None,
        apart(metric.calculation, read, counted),
        standing.events,
        standing.accepted,
        "day",
    )
    if standing.accepted == standing.events and same(metric.calculation, read, counted):
        return line
    if standing.events or (standing.read and metric.refused is None):
        return None
    return replace(line, differences=(_whole_day(metric, line),))


def _whole_day(metric: ReconciledMetric, line: DayLine) -> Difference:
    return Difference(
        line.customer_id,
        line.metric_id,
        line.day,
        line.day + DAY,
        line.metronome,
        None,
        None,
        line.metronome,
        "refused metric" if metric.refused else "never read",
        metric.refused or "",
        "day",
    )


def compare_slot(metric: ReconciledMetric, customer_id: str, read: Decimal | None, evidence: Evidence) -> SlotTotals:
    """One slot: Metronome's value against what Solvimon has taken of the ledger's events, part by part."""
    calculation = metric.calculation
    counted = total(calculation, (event.counted for event in evidence.events))
    taken = {event.event_id: _taken(event, evidence) for event in evidence.events}
    delivered = total(calculation, [*taken.values(), *(each.number for each in evidence.foreign)])
    parts = [*_unplanned(metric, read, counted, evidence), *_undelivered(metric, evidence, taken)]
    if calculation == "MAX":
        parts = _of_a_maximum(parts, apart(calculation, read, delivered), equal=read == delivered)
    granularity: Granularity = "hour" if evidence.live is None else "event"
    differences = [
        Difference(
            customer_id,
            metric.metric_id,
            evidence.slot.start,
            evidence.end,
            read,
            counted,
            delivered,
            amount,
            reason,
            detail,
            granularity,
            references,
        )
        for reason, detail, amount, references in _merged(parts)
    ]
    acknowledged = sum(_acknowledged(event, evidence.found) for event in evidence.events)
    return SlotTotals(read, counted, delivered, len(evidence.events), acknowledged, tuple(differences))


def line_of(
    metric: ReconciledMetric, customer_id: str, day: datetime, slots: Sequence[SlotTotals], *, read_back: bool
) -> DayLine:
    """The slots of one UTC day as one line."""
    calculation = metric.calculation
    read = total(calculation, (slot.metronome for slot in slots))
    delivered = total(calculation, (slot.delivered for slot in slots))
    return DayLine(
        customer_id,
        metric.metric_id,
        day,
        read,
        total(calculation, (slot.ledger for slot in slots)),
        delivered,
        delivered if read_back else None,
        apart(calculation, read, delivered),
        sum(slot.events for slot in slots),
        sum(slot.acknowledged for slot in slots),
        "event" if read_back else "hour",
        tuple(part for slot in slots for part in slot.parts),
    )


def _taken(event: StandingEvent, evidence: Evidence) -> Decimal | None:
    """What Solvimon counts for an event: what it was seen to hold, else what the receipts say."""
    if evidence.live is not None:
        return evidence.live.get(event.event_id)
    if event.event_id in evidence.found:
        return evidence.found[event.event_id].live
    if event.deletion == "dropped":
        # The ledger counts it as gone, and it still stands there.
        return event.number
    return event.counted if event.accepted else None


def _acknowledged(event: StandingEvent, found: Mapping[int, Found]) -> bool:
    return event.accepted and event.event_id not in found and event.deletion in (None, *_TOOK_EFFECT)


_TOOK_EFFECT = ("delivered",)


def _unplanned(
    metric: ReconciledMetric, read: Decimal | None, counted: Decimal | None, evidence: Evidence
) -> list[_Part]:
    """What Metronome says now against what plan counts."""
    slot, calculation = evidence.slot, metric.calculation
    if same(calculation, read, counted):
        return []
    if metric.refused:
        return [_Part(apart(calculation, read, counted), "refused metric", metric.refused)]
    if not slot.read:
        return [_Part(apart(calculation, read, counted), "never read")]
    parts = []
    if not same(calculation, read, slot.value):
        parts.append(_Part(apart(calculation, read, slot.value), "changed since read"))
    if not same(calculation, slot.value, counted):
        reason, detail = _why_not_planned(evidence)
        parts.append(_Part(apart(calculation, slot.value, counted), reason, detail))
    return parts


def _why_not_planned(evidence: Evidence) -> tuple[Reason, str]:
    """Why what was read of a slot is not what its events amount to."""
    slot = evidence.slot
    if slot.reverted:
        return "reverted", f"Taken back by the revert of run {slot.reverted}, and not released"
    waiting = [event for event in evidence.events if event.state in _OPEN]
    if waiting:
        return _OPEN[str(waiting[0].state)], _words(waiting[0])
    if slot.brakes:
        return "held by the brake", f"Held plans: {slot.brakes}"
    if slot.short:
        return "groups short", "Its groups do not add up to its total"
    if slot.unsettled or not slot.planned:
        return "not delivered yet", "Read, and planned by the next run"
    return "unknown", "Read and planned, and yet the ledger counts otherwise"


def _undelivered(metric: ReconciledMetric, evidence: Evidence, taken: Mapping[int, Decimal | None]) -> list[_Part]:
    """What plan counts against what Solvimon has taken, event by event."""
    parts = []
    for event in evidence.events:
        equal = same(metric.calculation, event.counted, taken[event.event_id])
        if equal and (_acknowledged(event, evidence.found) or event.deletion == "delivered"):
            continue
        reason, detail = _why_not_taken(event, evidence.found)
        amount = apart("SUM", event.counted, taken[event.event_id])
        parts.append(_Part(amount, reason, detail, event.reference))
    for foreign in evidence.foreign:
        amount = apart("SUM", None, foreign.number)
        parts.append(_Part(amount, foreign.reason, foreign.detail, foreign.reference))
    return parts


def _why_not_taken(event: StandingEvent, found: Mapping[int, Found]) -> tuple[Reason, str]:
    if event.event_id in found:
        return found[event.event_id].reason, found[event.event_id].detail
    if event.state in _OPEN:
        return _OPEN[event.state], _words(event)
    if event.deletion is not None and event.deletion != "delivered":
        return ("dropped", "Its deletion was given up") if event.deletion == "dropped" else (
            _OPEN.get(event.deletion, "unknown"), "Its deletion has not come to an end"
        )  # fmt: skip
    if event.state == "dropped":
        return "dropped", _words(event)
    return "unknown", "It has no receipt, and does not wait either"


def _words(event: StandingEvent) -> str:
    return quoted(event.said, _LONGEST_WORDS)


def _of_a_maximum(parts: Sequence[_Part], amount: Decimal | None, *, equal: bool) -> list[_Part]:
    """Maxima do not add up: the whole difference stands with the first reason, and the others stand beside it."""
    if not parts and not equal:
        parts = [_Part(None, "unknown", "Solvimon's highest event is not the ledger's")]
    whole = _ZERO if equal else amount
    return [replace(part, amount=whole if number == 0 else _ZERO) for number, part in enumerate(parts)]


def _merged(parts: Sequence[_Part]) -> list[tuple[Reason, str, Decimal | None, tuple[str, ...]]]:
    """Parts of one reason as one, with every reference."""
    by_reason: dict[Reason, list[_Part]] = {}
    for part in parts:
        by_reason.setdefault(part.reason, []).append(part)
    merged = []
    for reason, same_reason in by_reason.items():
        amounts = [part.amount for part in same_reason]
        amount = None if any(one is None for one in amounts) else total("SUM", amounts)
        details = dict.fromkeys(part.detail for part in same_reason if part.detail)
        references = tuple(dict.fromkeys(part.reference for part in same_reason if part.reference))
        merged.append((reason, "; ".join(details), amount, references))
    return merged
