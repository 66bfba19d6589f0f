"""Reconciliations, written down: a row for each customer, metric and UTC day, and what they show over some weeks.

Here: the statements. Not here: comparing (``reconcile.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg

from metronome_pipeline.reconciliation.lines import DayLine

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class DayTotals:
    """One metric and day over all customers: sums and highest values, and whether anything differed or was not read."""

    metric_id: str
    day: datetime
    metronome: Decimal | None
    delivered: Decimal | None
    highest_metronome: Decimal | None
    highest_delivered: Decimal | None
    differs: bool


def store(connection: Connection, pair_id: int, lines: Sequence[DayLine], *, run_id: str) -> None:
    """Writes lines down in place of earlier ones. A pair without anything on either side leaves no row."""
    kept = [line for line in lines if not line.is_empty]
    parameters = {
        "pair_id": pair_id,
        "run_id": run_id,
        "customers": [line.customer_id for line in kept],
        "metrics": [line.metric_id for line in kept],
        "days": [line.day.date() for line in kept],
        "metronome": [line.metronome for line in kept],
        "ledger": [line.ledger for line in kept],
        "delivered": [line.delivered for line in kept],
        "solvimon": [line.solvimon for line in kept],
        "differences": [line.difference for line in kept],
        "events": [line.events for line in kept],
        "acknowledged": [line.acknowledged for line in kept],
        "outcomes": [line.outcome for line in kept],
        "reasons": ["|".join(dict.fromkeys(part.reason for part in line.differences)) for line in kept],
        "granularities": [line.granularity for line in kept],
    }
    connection.execute(_STORE, parameters)


def forget_others(connection: Connection, pair_id: int, start: datetime, end: datetime, *, run_id: str) -> None:
    """Forgets rows of days ``[start, end)`` that a run over all pairs did not write: there is nothing any more."""
    connection.execute(
        "DELETE FROM ledger.reconciliations WHERE pair_id = %s AND day >= %s AND day < %s AND run_id <> %s",
        [pair_id, start.date(), end.date(), run_id],
    )


def day_totals(connection: Connection, pair_id: int, end: datetime, days: int) -> list[DayTotals]:
    """Totals by metric and day of the last ``days`` days before the midnight ``end`` that were reconciled."""
    rows = connection.execute(
        _TOTALS, {"pair_id": pair_id, "first": (end - timedelta(days=days)).date(), "end": end.date()}
    )
    return [DayTotals(*row) for row in rows]


_STORE = """
INSERT INTO ledger.reconciliations AS r (pair_id, customer_id, metric_id, day, metronome, ledger, delivered, solvimon,
    difference, events, acknowledged, outcome, reasons, granularity, run_id)
SELECT %(pair_id)s, customer_id, metric_id, day, metronome, ledger, delivered, solvimon, difference, events,
       acknowledged, outcome, string_to_array(reasons, '|'), granularity, %(run_id)s
FROM unnest(%(customers)s::uuid[], %(metrics)s::uuid[], %(days)s::date[], %(metronome)s::numeric[],
            %(ledger)s::numeric[], %(delivered)s::numeric[], %(solvimon)s::numeric[], %(differences)s::numeric[],
            %(events)s::int[], %(acknowledged)s::int[], %(outcomes)s::text[], %(reasons)s::text[],
            %(granularities)s::text[])
    AS l (customer_id, metric_id, day, metronome, ledger, delivered, solvimon, difference, events, acknowledged,
          outcome, reasons, granularity)
ON CONFLICT (pair_id, day, metric_id, customer_id) DO UPDATE SET
    metronome = excluded.metronome, ledger = excluded.ledger, delivered = excluded.delivered,
    solvimon = excluded.solvimon, difference = excluded.difference, events = excluded.events,
    acknowledged = excluded.acknowledged, outcome = excluded.outcome, reasons = excluded.reasons,
    granularity = excluded.granularity, at = excluded.at, run_id = excluded.run_id
"""

_TOTALS = """
SELECT metric_id::text, day::timestamp AT TIME ZONE 'UTC', sum(metronome), sum(delivered), max(metronome),
       max(delivered), bool_or(outcome = 'unread' OR array_remove(reasons, 'unmatched') <> '{}')
FROM ledger.reconciliations WHERE pair_id = %(pair_id)s AND day >= %(first)s AND day < %(end)s
GROUP BY metric_id, day ORDER BY metric_id, day
"""
