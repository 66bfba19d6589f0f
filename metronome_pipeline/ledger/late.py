"""Late for the destination: changes that come when the invoice of their billing period is already final.

Solvimon's invoices become final some hours after the period's end, 8 by default (Solvimon API notes, section 9), and
Metronome's a day after it: usage in between is billed on one side and lost on the other. Here: when a change is late,
and the list of those that were. Not here: what a person decides about a held one (``waiting.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]
LATE_COLUMNS = ("customer", "metric", "hour", "kind", "number", "state", "planned at", "reference")


@dataclass(frozen=True)
class Lateness:
    """When a change is late, and whether it is then sent or held.

    Late is a change, a first event included, to an hour that was planned before, once ``grace`` has passed since the
    end of the hour's billing period. Periods begin on ``anchor_day`` of the month. The first reading of a range, as in
    a backfill, is never late.
    """

    anchor_day: int = 1
    grace: timedelta = timedelta(hours=8)
    hold: bool = False

    @property
    def message(self) -> str:
        """Why an event is held."""
        hours = self.grace / timedelta(hours=1)
        return f"The invoice of its period has been final since {hours:g} hours after the period's end."


def mark(connection: Connection, lateness: Lateness) -> None:
    """Marks what is late in ``proposed``. Reads ``covered``, as it was before this plan."""
    connection.execute(_MARK, {"anchor_day": lateness.anchor_day, "grace": lateness.grace})


def note_planned(connection: Connection, pair_id: int) -> None:
    """Notes that the hours in ``covered`` were planned: a later change to them may be late."""
    connection.execute(_NOTE_PLANNED, {"pair_id": pair_id})


def late_events(connection: Connection, pair_id: int, *, sent_within: timedelta) -> Sequence[Sequence[Any]]:
    """Late events that wait, and those planned within a time, newest first, as rows of ``LATE_COLUMNS``."""
    return connection.execute(_LATE, {"pair_id": pair_id, "within": sent_within}).fetchall()


_MARK = """
UPDATE proposed p SET late = true FROM covered c
WHERE c.customer_id = p.customer_id AND c.metric_id = p.metric_id AND c.planned @> p.start_at
  AND ledger.moment() >= ledger.period_end(p.start_at, %(anchor_day)s) + %(grace)s
"""

_NOTE_PLANNED = """
INSERT INTO ledger.planned_hours AS p (pair_id, metric_id, customer_id, slicing, hours)
SELECT %(pair_id)s, metric_id, customer_id, slicing, hours FROM covered WHERE NOT planned @> hours
ON CONFLICT (pair_id, metric_id, customer_id, slicing) DO UPDATE SET hours = p.hours + excluded.hours
"""

_LATE = """
SELECT coalesce(customer, customer_id::text), coalesce(metric, metric_id::text), start_at, kind, number, state,
       planned_at, reference
FROM ledger.late_v1
WHERE pair_id = %(pair_id)s AND (state = 'held' OR planned_at > ledger.moment() - %(within)s)
ORDER BY event_id DESC
"""
