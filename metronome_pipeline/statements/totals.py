"""The totals of a customer's statement, from all three sides, and what a person must know to read them.

Here: adding up, comparing, remarks: pure functions of lines. Not here: where lines come from (``statement_lines.py``).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from metronome_pipeline.mapping.usage import exact_sum
from metronome_pipeline.statements.lines import EVENT, FOREIGN, MISSING, SLOT, Line
from metronome_pipeline.statements.metered import StatedMetric, Totals
from metronome_pipeline.statements.returned import COUNTING, DELETED, DUPLICATE, UNMATCHED


class Total(NamedTuple):
    """One metric of one customer, from all three sides. ``difference`` is Solvimon's total less Metronome's.

    ``agrees`` is yes, no, or *not billed*; ``remarks`` counts what a person should know, and why it may differ.
    """

    metric_id: str
    metric: str
    calculation: str | None
    slots: int
    events: int
    metronome: Decimal | None
    ledger: Decimal | None
    solvimon: Decimal | None
    difference: Decimal | None
    agrees: str
    remarks: str

    @property
    def empty(self) -> bool:
        """Whether there is nothing to say of it."""
        nothing = not self.slots and not self.events and not self.remarks
        return nothing and not any((self.metronome, self.ledger, self.solvimon)) and self.agrees != "no"


@dataclass
class _Side:
    """A running total. ``highest`` is what counts of a maximum."""

    added: Decimal = Decimal(0)
    highest: Decimal | None = None

    def add(self, number: Decimal) -> None:
        self.added = exact_sum((self.added, number))
        self.highest = number if self.highest is None else max(self.highest, number)

    def total(self, *, maximum: bool) -> Decimal | None:
        return self.highest if maximum or self.highest is None else self.added


@dataclass
class _Sums:
    slots: int = 0
    events: int = 0
    quantities: _Side = field(default_factory=_Side)
    counted: _Side = field(default_factory=_Side)
    returned: _Side = field(default_factory=_Side)
    remarks: Counter[str] = field(default_factory=Counter)


class Tally:
    """Adds up lines as they pass, so that totals and lines cannot differ."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def add(self, line: Line) -> None:
        """Takes in one line."""
        sums = self._sums.setdefault(line.metric_id, _Sums())
        if line.record == SLOT:
            sums.slots += 1
            if line.quantity is not None:
                sums.quantities.add(line.quantity)
            return
        sums.events += line.record == EVENT
        if line.counted is not None:
            sums.counted.add(line.counted)
        if line.solvimon_state in COUNTING and line.solvimon_number is not None:
            sums.returned.add(line.solvimon_number)
        sums.remarks.update(_remarks(line))

    def totals(self, metrics: Sequence[StatedMetric], metered: Totals) -> list[Total]:
        """Every metric that there is something to say of, by name."""
        found = (self._total(metric, metered.get(metric.metric_id)) for metric in metrics)
        return sorted((total for total in found if not total.empty), key=lambda total: (total.metric, total.metric_id))

    def _total(self, metric: StatedMetric, metronome: Decimal | None) -> Total:
        sums = self._sums.get(metric.metric_id, _Sums())
        maximum = metric.calculation == "MAX"
        ledger = sums.quantities.total(maximum=maximum)
        solvimon = sums.returned.total(maximum=maximum)
        assert ledger == sums.counted.total(maximum=maximum), "the slots of a statement are what its events add up to"
        reason = [metric.reason] if metric.reason and not metric.billed else []
        remarks = [f"{count:,} {what}" for what, count in sorted(sums.remarks.items())]
        return Total(
            metric.metric_id,
            metric.name,
            metric.calculation or metric.aggregation,
            sums.slots,
            sums.events,
            metronome,
            ledger,
            solvimon,
            _difference(metronome, solvimon, maximum=maximum),
            _agreement(metric, metronome, ledger, solvimon),
            "; ".join([*remarks, *(reason if metronome or remarks else [])]),
        )


def _difference(metronome: Decimal | None, solvimon: Decimal | None, *, maximum: bool) -> Decimal | None:
    if maximum and (metronome is None or solvimon is None):
        return Decimal(0) if metronome is solvimon else None
    return exact_sum((solvimon or Decimal(0), (metronome or Decimal(0)).copy_negate()))


def _agreement(
    metric: StatedMetric, metronome: Decimal | None, ledger: Decimal | None, solvimon: Decimal | None
) -> str:
    if not metric.billed and ledger is None and solvimon is None:
        return "not billed"
    if metric.calculation == "MAX":
        return "yes" if metronome == ledger == solvimon else "no"
    return "yes" if (metronome or 0) == (ledger or 0) == (solvimon or 0) else "no"


# What a person must know of an event by its state in the ledger; the others came to their end as they should.
_OPEN = MappingProxyType(
    {
        "planned": "not delivered yet",
        "sending": "not delivered yet",
        "quarantined": "in quarantine",
        "held": "held as late",
        "dropped": "dropped",
    }
)


def _remarks(line: Line) -> Iterator[str]:
    if line.record == FOREIGN:
        yield "second copy not counted" if line.solvimon_state in (DUPLICATE, DELETED) else "only in Solvimon"
    else:
        yield from _remarks_on_numbers(line)
    if line.state is not None and line.state in _OPEN:
        yield _OPEN[line.state]
    if line.late:
        yield "late"
    if line.solvimon_state == UNMATCHED:
        yield "unmatched"


def _remarks_on_numbers(line: Line) -> Iterator[str]:
    """Where Solvimon's number of an event is not what the ledger counts for it."""
    if line.solvimon_state == MISSING:
        yield "missing in Solvimon"
    elif line.solvimon_state == DUPLICATE:
        yield "a duplicate in Solvimon"
    elif line.solvimon_state == DELETED and line.counted is not None:
        yield "deleted in Solvimon, counted in the ledger"
    elif line.solvimon_state in COUNTING and line.counted is None:
        yield "counted in Solvimon, not in the ledger"
    elif line.solvimon_state in COUNTING and line.solvimon_number != line.counted:
        yield "with another number in Solvimon"
