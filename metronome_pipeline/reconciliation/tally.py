"""The tally of a reconciliation: totals, counts and everything that differs, as its lines come in.

Here: adding up. Lines without a difference are counted and forgotten, so that memory follows what differs. Not here:
comparing (``differences.py``).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.reconciliation.differences import apart, total
from metronome_pipeline.reconciliation.lines import DayLine, Difference, Granularity, Outcome, ReconciledMetric

EQUAL, UNEXPLAINED, EXPLAINED = 0, 1, 3
"""The exit statuses of a reconciliation."""


@dataclass(frozen=True)
class Totals:
    """Some lines together. ``solvimon`` is None unless all of them were read back from there."""

    metronome: Decimal | None = None
    ledger: Decimal | None = None
    delivered: Decimal | None = None
    solvimon: Decimal | None = None
    events: int = 0
    acknowledged: int = 0


def solvimon_says(totals: Totals | DayLine, *, deep: bool) -> Decimal | str | None:
    """Solvimon's side of some lines: its own number where it was read back, else how much of it is acknowledged."""
    if deep:
        return totals.solvimon
    if totals.events == totals.acknowledged:
        return "acknowledged"
    return f"{totals.acknowledged:,} of {totals.events:,} acknowledged"


@dataclass
class Tally:
    """What a reconciliation has found so far.

    Attributes:
        metrics: Every metric that was compared, by its id.
        differences: Every part of every difference, by day of its slot.
        unread: Pairs that could not be read, and why.
        by_day: Totals by (metric, day).
        outcomes: Lines by outcome, of each day.
        granularities: Lines by the granularity at which they were proved.
        events_read_back: Events that Solvimon was asked for, page by page.
        list_requests: What Solvimon's lists took.
    """

    metrics: Mapping[str, ReconciledMetric]
    differences: dict[datetime, list[Difference]] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    by_day: dict[tuple[str, datetime], Totals] = field(default_factory=dict)
    outcomes: dict[datetime, Counter[Outcome]] = field(default_factory=dict)
    granularities: Counter[Granularity] = field(default_factory=Counter)
    events_read_back: int = 0
    list_requests: int = 0

    def take(self, lines: Iterable[DayLine]) -> None:
        """Takes lines."""
        for line in lines:
            self.outcomes.setdefault(line.day, Counter())[line.outcome] += 1
            if not line.read:
                continue
            self.granularities[line.granularity] += 1
            if line.differences:
                self.differences.setdefault(line.day, []).extend(line.differences)
            if not line.is_empty:
                key = (line.metric_id, line.day)
                self.by_day[key] = self._added(line.metric_id, self.by_day.get(key), _totals_of(line))

    @property
    def all_differences(self) -> list[Difference]:
        """Every part of every difference, by time, then customer and metric."""
        parts = [part for day in sorted(self.differences) for part in self.differences[day]]
        return sorted(parts, key=lambda part: (part.start, part.customer_id, part.metric_id))

    @property
    def status(self) -> int:
        """0: everything is equal. 1: something differs and nobody knows why, or was not read. 3: the rest."""
        counted = self.counted
        if counted["unexplained"] or counted["unread"] or self.unread:
            return UNEXPLAINED
        return EXPLAINED if counted["explained"] else EQUAL

    @property
    def counted(self) -> "Counter[Outcome]":
        """Lines by outcome."""
        return sum(self.outcomes.values(), Counter())

    def by_metric(self) -> dict[str, Totals]:
        """The totals of every metric that has any, over all customers and days."""
        totals: dict[str, Totals] = {}
        for (metric_id, _), of_day in sorted(self.by_day.items()):
            totals[metric_id] = self._added(metric_id, totals.get(metric_id), of_day)
        return totals

    def difference(self, metric_id: str, totals: Totals) -> Decimal | None:
        """What Metronome has beyond Solvimon; None where one of two maxima is missing."""
        return apart(self.metrics[metric_id].calculation, totals.metronome, totals.delivered)

    def _added(self, metric_id: str, one: Totals | None, other: Totals) -> Totals:
        if one is None:
            return other
        calculation = self.metrics[metric_id].calculation
        return Totals(
            total(calculation, (one.metronome, other.metronome)),
            total(calculation, (one.ledger, other.ledger)),
            total(calculation, (one.delivered, other.delivered)),
            total(calculation, (one.solvimon, other.solvimon)),
            one.events + other.events,
            one.acknowledged + other.acknowledged,
        )


def _totals_of(line: DayLine) -> Totals:
    return Totals(line.metronome, line.ledger, line.delivered, line.solvimon, line.events, line.acknowledged)
