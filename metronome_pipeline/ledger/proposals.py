"""Proposals: the events that would make what is committed equal what was observed, and how they are written down.

Here: the statements between the temporary tables ``due``, ``committed`` and ``observed`` and the ledger's own tables.
Whoever fills those three tables (a plan, from readings; a revert, from what was before) holds the pair's planning lock.
Not here: when a proposal is held back (``brakes.py``), and what the three tables are filled with (``plan.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import psycopg

from metronome_pipeline.ledger.late import Lateness

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Proposal:
    """One event that a plan would write. ``number`` is None for a deletion; ``late``: see ``late.py``."""

    customer_id: str
    metric_id: str
    start: datetime
    end: datetime
    slice: str
    properties: str | None
    kind: Literal["usage", "correction", "deletion"]
    revision: int | None
    number: Decimal | None
    reference: str
    late: bool


@dataclass(frozen=True)
class Written:
    """Events of one kind that were written: how many, how many of them late, and the hours they fall in."""

    kind: str
    events: int
    late: int
    hours: frozenset[datetime]


def propose(connection: Connection, pair_id: int, *, maxima: bool) -> bool:
    """Fills ``proposed`` and says whether there is anything. ``maxima``: some metric in ``due`` is a MAX."""
    connection.execute(_NEW_PROPOSALS)
    for statement in (_PROPOSE_SUMS, *((_PROPOSE_DELETIONS, _PROPOSE_MAXIMA) if maxima else ())):
        connection.execute(statement, {"pair_id": pair_id})
    return connection.execute("SELECT 1 FROM proposed LIMIT 1").fetchone() is not None


def lower_anything(connection: Connection) -> bool:
    """Whether some slot would count less than before: without one, nothing can fall."""
    lower = "SELECT 1 FROM proposed WHERE kind = 'deletion' OR number < 0 LIMIT 1"
    return connection.execute(lower).fetchone() is not None


def listed(connection: Connection) -> list[Proposal]:
    """What is proposed, in the order in which it would be written."""
    return [Proposal(*row) for row in connection.execute(_LIST)]


def write(connection: Connection, pair_id: int, lateness: Lateness, *, run_id: str) -> list[Written]:
    """Writes every proposal down as an event that waits to be sent, or that is held as late."""
    rows = connection.execute(
        _WRITE,
        {"pair_id": pair_id, "run_id": run_id, "hold_late": lateness.hold, "held": lateness.message},
    )
    return [Written(kind, events, late, frozenset(hours)) for kind, events, late, hours in rows]


def clear(connection: Connection, tables: Sequence[str]) -> None:
    """Drops the temporary tables, so that one transaction can plan more than once."""
    connection.execute(f"DROP TABLE IF EXISTS {', '.join(tables)}, proposed")


_NEW_PROPOSALS = """
CREATE TEMP TABLE proposed (
    customer_id uuid, metric_id uuid, start_at timestamptz, end_at timestamptz, slice text, properties text,
    kind text, revision int, number numeric, deletes bigint, deleted_reference text, late boolean DEFAULT false
) ON COMMIT DROP
"""

_PROPOSE_SUMS = """
INSERT INTO proposed
SELECT customer_id, metric_id, start_at, end_at, slice, coalesce(o.properties, c.properties),
       CASE WHEN c.revision IS NULL THEN 'usage' ELSE 'correction' END, coalesce(c.revision + 1, 0),
       coalesce(o.value, 0) - coalesce(c.total, 0)
FROM observed o
FULL JOIN committed c USING (customer_id, metric_id, start_at, end_at, slice)
JOIN due d USING (metric_id)
WHERE d.calculation = 'SUM' AND coalesce(o.value, 0) <> coalesce(c.total, 0) AND NOT coalesce(c.open, false)
"""

# A maximum can only be taken back by deleting every live event above it. One that was dropped is not there to delete.
_PROPOSE_DELETIONS = """
INSERT INTO proposed
SELECT customer_id, metric_id, start_at, end_at, slice, e.properties, 'deletion', NULL, NULL, e.event_id, e.reference
FROM committed c
JOIN due d USING (metric_id)
LEFT JOIN observed o USING (customer_id, metric_id, start_at, end_at, slice)
JOIN ledger.events e USING (customer_id, metric_id, start_at, end_at, slice)
LEFT JOIN ledger.restatements s USING (event_id)
WHERE d.calculation = 'MAX' AND NOT c.open AND e.pair_id = %(pair_id)s AND e.kind <> 'deletion'
  AND (s.event_id IS NULL OR s.number IS NOT NULL)
  AND (o.value IS NULL OR CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END > o.value)
  AND (SELECT outcome FROM ledger.receipts r WHERE r.event_id = e.event_id ORDER BY receipt_id DESC LIMIT 1)
      IS DISTINCT FROM 'dropped'
"""

_PROPOSE_MAXIMA = """
INSERT INTO proposed
SELECT customer_id, metric_id, start_at, end_at, slice, coalesce(o.properties, c.properties),
       CASE WHEN c.revision IS NULL THEN 'usage' ELSE 'correction' END, coalesce(c.revision + 1, 0), o.value
FROM observed o
LEFT JOIN committed c USING (customer_id, metric_id, start_at, end_at, slice)
JOIN due d USING (metric_id)
WHERE d.calculation = 'MAX' AND o.value IS NOT NULL AND NOT coalesce(c.open, false) AND NOT EXISTS (
    SELECT FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
    WHERE (e.customer_id, e.metric_id, e.start_at, e.end_at, e.slice) = (o.customer_id, o.metric_id, o.start_at,
        o.end_at, o.slice)
      AND e.pair_id = %(pair_id)s AND e.kind <> 'deletion'
      AND CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END = o.value)
"""

_LIST = """
SELECT customer_id::text, metric_id::text, start_at, end_at, slice, properties, kind, revision, number,
       coalesce(deleted_reference,
                ledger.event_reference(customer_id, metric_id, start_at, end_at, slice, revision)), late
FROM proposed ORDER BY metric_id, customer_id, start_at, kind = 'deletion' DESC, slice
"""

_WRITE = """
WITH written AS (
    INSERT INTO ledger.events (pair_id, customer_id, metric_id, start_at, end_at, slice, properties, kind, revision,
                               number, deletes, late, reference, planned_at, run_id)
    SELECT %(pair_id)s, customer_id, metric_id, start_at, end_at, slice, properties, kind, revision, number, deletes,
           late,
           coalesce(deleted_reference,
                    ledger.event_reference(customer_id, metric_id, start_at, end_at, slice, revision)),
           ledger.moment(), %(run_id)s
    FROM proposed
    ORDER BY metric_id, customer_id, start_at, kind = 'deletion' DESC
    RETURNING event_id, kind, start_at, late
), opened AS (
    INSERT INTO ledger.open_events (event_id, pair_id, state)
    SELECT event_id, %(pair_id)s, CASE WHEN late AND %(hold_late)s THEN 'held' ELSE 'planned' END FROM written
), held AS (
    INSERT INTO ledger.receipts (event_id, outcome, message, run_id)
    SELECT event_id, 'held', %(held)s, %(run_id)s FROM written WHERE late AND %(hold_late)s
)
SELECT kind, count(*), count(*) FILTER (WHERE late), array_agg(DISTINCT start_at) FROM written GROUP BY kind
"""
