"""Rules about the ledger: rows never change, a slot has one open event, every plan says what Metronome said last.

A *reading* is a row of ``metronome.readings``: the core's own claim that it has read some hours completely. It is taken
at its word about when it began, and held against the requests that were made.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Context, Decimal, Inexact
from typing import Any

import psycopg

from metronome_pipeline_tests.simulation.history import Exchange
from metronome_pipeline_tests.simulation.metrics import MetricDefinition
from metronome_pipeline_tests.simulation.walks import GROUPS, USAGE, CompleteWalk, Walks

Connection = psycopg.Connection[Any]
Metrics = Mapping[str, MetricDefinition]


@dataclass(frozen=True)
class Event:
    """One row of the ledger."""

    event_id: int
    customer: str
    metric: str
    start: datetime
    slice: str
    properties: str | None
    kind: str
    revision: int | None
    number: Decimal | None
    deletes: int | None
    reference: str
    planned_at: datetime
    run: str

    @property
    def slot(self) -> tuple[str, str, datetime, str]:
        """Whose it is, and what it is about."""
        return self.customer, self.metric, self.start, self.slice


@dataclass(frozen=True)
class Reading:
    """The core's claim to have read some hours."""

    reading_id: int
    customer: str
    metric: str
    first: datetime
    last: datetime
    began: datetime
    completed: datetime
    run: str


class Plans:
    """The ledger of one seed as it grows."""

    def __init__(self, observer: Connection, origin: datetime) -> None:
        self.events: list[Event] = []
        self._observer = observer
        self._origin = origin
        self._readings: dict[int, Reading] = {}
        self._walks = Walks()
        self._told: dict[int, tuple[CompleteWalk, CompleteWalk | None]] = {}
        self._seen = 0

    def violations(self, metrics: Metrics, history: Sequence[Exchange], slack: timedelta) -> list[str]:
        """What is wrong with what has come since the last time."""
        self._walks.take(history[self._seen :])
        self._seen = len(history)
        events = [Event(*row) for row in self._observer.execute(_EVENTS)]
        readings = [Reading(*row) for row in self._observer.execute(_READINGS)]
        found = []
        if events[: len(self.events)] != self.events:
            found.append("A row of ledger.events has changed or is gone.")
        fresh, self.events = events[len(self.events) :], events
        for reading in readings:
            if reading.reading_id not in self._readings:
                found += self._of_reading(reading, metrics)
        if fresh:
            found += self._of_order(fresh, slack)
            found += self._of_values(fresh, metrics, slack)
        return found

    def _of_reading(self, reading: Reading, metrics: Metrics) -> Iterator[str]:
        """A reading rests on a complete walk of its own run, begun after it."""
        self._readings[reading.reading_id] = reading
        totals = self._walk_of(reading, USAGE)
        grouped = metrics[reading.metric].slicing is not None
        groups = self._walk_of(reading, GROUPS) if grouped and totals is not None else None
        had_usage = totals is not None and any(
            metric == reading.metric and reading.first <= hour < reading.last for metric, hour, _ in totals.values
        )
        if totals is None or (grouped and had_usage and groups is None):
            place = f"metric …{reading.metric[-2:]} for customer …{reading.customer[-2:]}"
            yield f"{reading.run} counts a reading of {place} that no complete walk has given."
            return
        self._told[reading.reading_id] = (totals, groups)

    def _walk_of(self, reading: Reading, path: str) -> CompleteWalk | None:
        began, ended = ((moment - self._origin).total_seconds() for moment in (reading.began, reading.completed))
        walks = [
            walk
            for walk in self._walks.complete
            if walk.path == path
            and walk.process == reading.run
            and walk.customer == reading.customer
            and reading.metric in walk.metrics
            and walk.began >= began - 0.001
            and walk.ended <= ended + 0.001
        ]
        # The last one: where the first had to be begun anew, a reading of its own began with it.
        return walks[-1] if walks else None

    def _of_order(self, fresh: Sequence[Event], slack: timedelta) -> Iterator[str]:
        """A slot takes no event before the last one has come to its end, but for a deletion and its successor."""
        ends = dict(self._observer.execute(_ENDS).fetchall())
        by_slot: dict[tuple[Any, ...], list[Event]] = {}
        for event in self.events:
            by_slot.setdefault(event.slot, []).append(event)
        new = {event.event_id for event in fresh}
        for events in by_slot.values():
            for number, event in enumerate(events):
                if event.event_id not in new:
                    continue
                for earlier in events[:number]:
                    together = (earlier.planned_at, earlier.run) == (event.planned_at, event.run)
                    ended = ends.get(earlier.event_id)
                    if not together and (ended is None or ended > event.planned_at + slack):
                        yield f"{event.reference} was planned while {earlier.reference} was still open."

    def _of_values(self, fresh: Sequence[Event], metrics: Metrics, slack: timedelta) -> Iterator[str]:
        """Every plan brings its slot to what the last reading says, or one that is later still."""
        restated = {event_id for (event_id,) in self._observer.execute("SELECT event_id FROM ledger.restatements")}
        for event in fresh:
            metric = metrics[event.metric]
            told = self._told_of(event, metric, slack)
            if told is None:
                yield f"{event.reference} was planned, and nothing was ever read of its hour."
                continue
            if not metric.is_maximum:
                slot = [e for e in self.events if e.slot == event.slot and e.event_id <= event.event_id]
                if any(each.event_id in restated for each in slot):
                    continue
                total: Decimal | None = exact_sum(each.number or Decimal(0) for each in slot)
            elif event.kind != "deletion":
                total = event.number
            else:
                continue
            if total not in told and _NOT_WHOLE not in told:
                values = ", ".join(str(each) for each in told)
                yield f"{event.reference} brings its slot to {total}, where Metronome's last answer was {values}."

    def _told_of(self, event: Event, metric: MetricDefinition, slack: timedelta) -> list[Decimal | None] | None:
        """What the readings say that a plan may rest on, the one that must be known last."""
        covering = sorted(
            (
                reading
                for reading in self._readings.values()
                if (reading.customer, reading.metric) == (event.customer, event.metric)
                and reading.first <= event.start < reading.last
                and reading.completed <= event.planned_at + slack
                and reading.reading_id in self._told
            ),
            key=lambda reading: reading.began,
        )
        if not covering:
            return None
        sure = [index for index, each in enumerate(covering) if each.completed <= event.planned_at - slack]
        allowed = covering[sure[-1] if sure else 0 :]
        return [_value(*self._told[each.reading_id], event, metric) for each in allowed]


_NOT_WHOLE = Decimal("NaN")
_EXACT = Context(prec=1_000, traps=[Inexact])


def exact_sum(numbers: Iterable[Decimal]) -> Decimal:
    """A sum to the last digit."""
    total = Decimal(0)
    for number in numbers:
        total = _EXACT.add(total, number)
    return total


def _value(totals: CompleteWalk, groups: CompleteWalk | None, event: Event, metric: MetricDefinition) -> Decimal | None:
    """What a reading says about a slot; NaN where its groups and its total disagree, so that it says little."""
    nothing = None if metric.is_maximum else Decimal(0)
    total = totals.values.get((event.metric, event.start, "total"), nothing)
    if metric.slicing is None:
        return total
    values = {} if groups is None else groups.values
    of_hour = [value for (_, hour, _), value in values.items() if hour == event.start]
    whole = max(of_hour, default=None) if metric.is_maximum else exact_sum(of_hour)
    if whole != total:
        return _NOT_WHOLE
    return values.get((event.metric, event.start, event.slice), nothing)


_EVENTS = """
SELECT event_id, customer_id::text, metric_id::text, start_at, slice, properties, kind, revision, number, deletes,
       reference, planned_at, run_id
FROM ledger.events ORDER BY event_id
"""
_READINGS = """
SELECT reading_id, customer_id::text, metric_id::text, lower(hours), upper(hours), began_at, completed_at, run_id
FROM metronome.readings ORDER BY reading_id
"""
_ENDS = """
SELECT event_id, min(at) FROM ledger.receipts WHERE outcome IN ('delivered', 'restated', 'dropped', 'superseded')
GROUP BY event_id
"""
