"""Rules at rest: what Solvimon counts is what Metronome reports, to the last digit, or the difference is listed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any

import psycopg

from metronome_pipeline.sandbox.metronome import truth
from metronome_pipeline.sandbox.metronome.store import Store as MetronomeStore
from metronome_pipeline.sandbox.solvimon.store import Store as SolvimonStore
from metronome_pipeline_tests.simulation.metrics import MetricDefinition

Connection = psycopg.Connection[Any]
Slot = tuple[str, str, datetime, frozenset[tuple[str, str]]]

_LISTED = """
SELECT e.customer_id::text, e.metric_id::text, e.start_at FROM ledger.open_events JOIN ledger.events e USING (event_id)
WHERE state <> 'planned'
UNION SELECT customer_id::text, metric_id::text, start_at FROM ledger.unsettled_hours
"""
_LEFT = """
SELECT 'a claim on events ' || event_ids::text FROM ledger.claims
UNION ALL SELECT 'the event ' || reference || ', ' || state
    FROM ledger.open_events JOIN ledger.events USING (event_id) WHERE state = 'planned' OR %(exact)s
UNION ALL SELECT 'the unsettled hour ' || start_at FROM ledger.unsettled_hours u
    WHERE %(exact)s OR NOT EXISTS (SELECT FROM ledger.brakes WHERE released_at IS NULL) AND NOT EXISTS (
        SELECT FROM ledger.events e JOIN ledger.open_events USING (event_id)
        WHERE (e.customer_id, e.metric_id, e.start_at) = (u.customer_id, u.metric_id, u.start_at))
"""


def violations(
    observer: Connection,
    metronome: MetronomeStore,
    solvimon: SolvimonStore,
    metrics: Sequence[MetricDefinition],
    start: datetime,
    closed: datetime,
    *,
    exact: bool,
) -> list[str]:
    """What is wrong once nothing is left to do. ``closed``: the end of the hours that count."""
    listed = set() if exact else {tuple(row) for row in observer.execute(_LISTED)}
    ours = {reference for (reference,) in observer.execute("SELECT reference FROM ledger.events")}
    left = [f"At rest there is still {what}." for (what,) in observer.execute(_LEFT, {"exact": exact})]
    return [
        *left,
        *_doubled(solvimon),
        *_differences(_reported(metronome, metrics, start, closed), _counted(solvimon, metrics, ours), metrics, listed),
    ]


def _doubled(solvimon: SolvimonStore) -> Iterator[str]:
    copies = Counter(event.reference for event in solvimon.events.all if event.counts)
    for reference, count in copies.items():
        if count > 1:
            yield f"{reference} counts {count} times."


def _reported(
    store: MetronomeStore, metrics: Sequence[MetricDefinition], start: datetime, closed: datetime
) -> dict[Slot, Fraction]:
    reported: dict[Slot, Fraction] = {}
    for metric in metrics:
        question = truth.Question(start, closed, metric_id=metric.metric_id, group_key=metric.slicing or ())
        for row in truth.rows(store, question):
            group = frozenset((key, value) for key, value in (row["group"] or {}).items() if value is not None)
            reported[row["customer_id"], metric.metric_id, row["start"], group] = Fraction(row["value"])
    return reported


def _counted(store: SolvimonStore, metrics: Sequence[MetricDefinition], ours: set[str]) -> dict[Slot, Fraction]:
    """What Solvimon counts of ours: what somebody else has sent is for the daily reconciliation to find."""
    maxima = {metric.metric_id for metric in metrics if metric.is_maximum}
    counted: dict[Slot, Fraction] = {}
    for event in store.events.all:
        if not event.counts or event.reference not in ours:
            continue
        group = frozenset((each["reference"], each["value"]) for each in event.properties)
        slot = (str(event.customer_reference), event.meter_reference, event.instant, group)
        number = Fraction(event.values[0]["number"])
        if slot not in counted:
            counted[slot] = number
        else:
            counted[slot] = max(counted[slot], number) if event.meter_reference in maxima else counted[slot] + number
    return counted


def _differences(
    reported: dict[Slot, Fraction],
    counted: dict[Slot, Fraction],
    metrics: Sequence[MetricDefinition],
    listed: set[tuple[Any, ...]],
) -> Iterator[str]:
    maxima = {metric.metric_id for metric in metrics if metric.is_maximum}
    for slot in sorted(reported.keys() | counted.keys(), key=repr):
        customer, metric, hour, group = slot
        nothing = None if metric in maxima else Fraction(0)
        one, two = reported.get(slot, nothing), counted.get(slot, nothing)
        if one != two and (customer, metric, hour) not in listed:
            place = f"{hour:%d %H:%M} of metric …{metric[-2:]} for customer …{customer[-2:]} {dict(group) or ''}"
            yield f"{place}: Metronome reports {_text(one)}, Solvimon counts {_text(two)}, and nothing says so."


def _text(number: Fraction | None) -> str:
    return "nothing" if number is None else str(number)
