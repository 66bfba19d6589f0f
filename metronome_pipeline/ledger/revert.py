"""Revert: what one run delivered is taken back, exactly, as events of the ledger's own, and stays so until released.

Here: which slots a run changed, what they were before it, and the list of slots that a revert keeps closed. The events
come from the statements that every plan uses (``proposals.py``). Not here: who asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.ledger import proposals
from metronome_pipeline.ledger.late import Lateness
from metronome_pipeline.ledger.plan import PLANNING_LOCK
from metronome_pipeline.ledger.proposals import Proposal

Connection = psycopg.Connection[Any]
REFUSED_COLUMNS = ("customer", "metric", "hour", "slot", "why")
REVERTED_COLUMNS = ("run", "slots", "first hour", "last hour", "asked by", "at")


class NotReverted(PipelineError):
    """The run is not one that can be taken back."""


@dataclass(frozen=True)
class Reverted:
    """What a revert wrote.

    Attributes:
        run_id: The run whose events these are.
        events: The events, which leave with the next delivery.
        refused: Slots that were left alone, as rows of ``REFUSED_COLUMNS``.
        known: Slots that the run changed, whatever became of them. 0: the ledger knows no such run.
    """

    run_id: str
    events: Sequence[Proposal]
    refused: Sequence[Sequence[Any]]
    known: int


def revert(connection: Connection, pair_id: int, run_id: str, *, by: str) -> Reverted:
    """Plans the exact opposite of what a run delivered, and closes its slots until ``release``.

    A sum gets one correction of minus what the run added. A maximum goes back to the value before the run: what is
    above it is deleted. A slot that another run has corrected since, or that has an event under way, is refused by
    name. What was reverted before is left alone, so that repeating it does nothing.

    Raises:
        NotReverted: The events stand there as a rebuild's, which sent nothing.
    """
    if run_id.startswith("rebuild "):
        raise NotReverted(f"{run_id!r} is no run that delivered anything: a rebuild writes down what Solvimon holds.")
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, pair_id])
    own_id = f"revert of {run_id}"
    parameters = {"pair_id": pair_id, "run_id": run_id, "own_id": own_id, "by": by}
    for statement in (_CHANGED, _DUE, _COMMITTED, _BEFORE):
        connection.execute(statement, parameters)
    connection.execute("ANALYZE changed, due, committed, observed")
    known = connection.execute("SELECT count(*) FROM changed").fetchone()
    refused = connection.execute(_REFUSED, parameters).fetchall()
    events: list[Proposal] = []
    if proposals.propose(connection, pair_id, maxima=True):
        events = proposals.listed(connection)
        proposals.write(connection, pair_id, Lateness(), run_id=own_id)
        for statement in (_NOTE_REVERTS, _CLOSE):
            connection.execute(statement, parameters)
    proposals.clear(connection, ("changed", "due", "committed", "observed"))
    return Reverted(own_id, events, refused, known[0] if known else 0)


def release(connection: Connection, pair_id: int, run_id: str, *, by: str) -> int:
    """Opens the slots that the revert of a run closed, and returns how many. The next run plans their difference."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, pair_id])
    row = connection.execute(_RELEASE, {"pair_id": pair_id, "run_id": run_id, "by": by}).fetchone()
    return int(row[0]) if row else 0


def reverted(connection: Connection, pair_id: int) -> Sequence[Sequence[Any]]:
    """Runs whose slots are still closed, newest first, as rows of ``REVERTED_COLUMNS``."""
    return connection.execute(_REVERTED, [pair_id]).fetchall()


# Every slot that the run has an event in. `since`: another run's event there that came after.
_CHANGED = """
CREATE TEMP TABLE changed ON COMMIT DROP AS
SELECT r.*, since.run_id AS since, o.state AS open
FROM (
    SELECT e.metric_id, e.customer_id, e.start_at, e.end_at, e.slice, min(e.event_id) AS first,
           bool_and(v.event_id IS NOT NULL) AS done
    FROM ledger.events e LEFT JOIN ledger.reverts v USING (event_id)
    WHERE e.pair_id = %(pair_id)s AND e.run_id = %(run_id)s
    GROUP BY e.metric_id, e.customer_id, e.start_at, e.end_at, e.slice
) AS r
LEFT JOIN LATERAL (
    SELECT e.run_id FROM ledger.events e
    WHERE (e.pair_id, e.metric_id, e.customer_id, e.start_at, e.end_at, e.slice)
        = (%(pair_id)s, r.metric_id, r.customer_id, r.start_at, r.end_at, r.slice)
      AND e.event_id > r.first AND e.run_id <> %(run_id)s
    ORDER BY e.event_id DESC LIMIT 1
) AS since ON true
LEFT JOIN LATERAL (
    SELECT o.state FROM ledger.events e JOIN ledger.open_events o USING (event_id)
    WHERE (e.pair_id, e.metric_id, e.customer_id, e.start_at, e.end_at, e.slice)
        = (%(pair_id)s, r.metric_id, r.customer_id, r.start_at, r.end_at, r.slice)
    LIMIT 1
) AS o ON true
"""

_DUE = """
CREATE TEMP TABLE due ON COMMIT DROP AS
SELECT metric_id, CASE m.calculation_type WHEN 'MAX' THEN 'MAX' ELSE 'SUM' END AS calculation
FROM (SELECT DISTINCT metric_id FROM changed) AS c
LEFT JOIN solvimon.meters m ON m.pair_id = %(pair_id)s AND m.reference = c.metric_id::text
"""

# `counted`: what counts of an event now. `then`: what counted of it before the run, which may have deleted it.
_COMMITTED = """
CREATE TEMP TABLE committed ON COMMIT DROP AS
SELECT c.customer_id, c.metric_id, c.start_at, c.end_at, c.slice, min(e.properties) AS properties,
       sum(e.counted) AS total, max(e.counted) AS highest, max(e.revision) AS revision, false AS open,
       sum(e.counted) FILTER (WHERE e.run_id = %(run_id)s AND e.outcome IN ('delivered', 'restated')) AS added,
       max(e.before) FILTER (WHERE e.event_id < c.first) AS before
FROM changed c
JOIN LATERAL (
    SELECT e.event_id, e.run_id, e.revision, e.properties,
           CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END AS counted,
           CASE WHEN s.event_id IS NULL OR s.number IS NULL AND EXISTS (
                    SELECT FROM ledger.events d WHERE d.pair_id = e.pair_id AND d.run_id = %(run_id)s
                    AND d.deletes = e.event_id) THEN e.number ELSE s.number END AS before,
           (SELECT r.outcome FROM ledger.receipts r WHERE r.event_id = e.event_id ORDER BY r.receipt_id DESC LIMIT 1)
               AS outcome
    FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
    WHERE (e.pair_id, e.metric_id, e.customer_id, e.start_at, e.end_at, e.slice)
        = (%(pair_id)s, c.metric_id, c.customer_id, c.start_at, c.end_at, c.slice)
) AS e ON true
WHERE NOT c.done AND c.since IS NULL AND c.open IS NULL
GROUP BY c.customer_id, c.metric_id, c.start_at, c.end_at, c.slice
"""

_BEFORE = """
CREATE TEMP TABLE observed ON COMMIT DROP AS
SELECT customer_id, metric_id, start_at, end_at, slice, properties,
       CASE d.calculation WHEN 'MAX' THEN before ELSE coalesce(total, 0) - coalesce(added, 0) END AS value
FROM committed JOIN due d USING (metric_id)
"""

_REFUSED = """
SELECT coalesce(c.name, h.customer_id::text), coalesce(m.name, h.metric_id::text), h.start_at, h.slice,
       CASE WHEN h.open IS NOT NULL THEN 'An event of the slot is ' || h.open || ': bring it to its end first.'
            ELSE 'Run ' || h.since || ' has corrected it since.' END
FROM changed h
LEFT JOIN metronome.customers c ON c.pair_id = %(pair_id)s AND c.customer_id = h.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = %(pair_id)s AND m.metric_id = h.metric_id
WHERE NOT h.done AND (h.open IS NOT NULL OR h.since IS NOT NULL)
ORDER BY 3, 1, 2, 4
"""

_NOTE_REVERTS = """
INSERT INTO ledger.reverts (event_id, reverted_by)
SELECT e.event_id, max(n.event_id)
FROM ledger.events e JOIN ledger.events n
    USING (pair_id, metric_id, customer_id, start_at, end_at, slice)
WHERE e.pair_id = %(pair_id)s AND e.run_id = %(run_id)s AND n.run_id = %(own_id)s
GROUP BY e.event_id
ON CONFLICT DO NOTHING
"""

_CLOSE = """
INSERT INTO ledger.reverted_slots (pair_id, metric_id, customer_id, start_at, end_at, slice, run_id, asked_by)
SELECT DISTINCT %(pair_id)s, metric_id, customer_id, start_at, end_at, slice, %(run_id)s, %(by)s FROM proposed
ON CONFLICT (pair_id, metric_id, customer_id, start_at, end_at, slice) DO UPDATE
    SET run_id = excluded.run_id, asked_by = excluded.asked_by, at = ledger.moment(), released_at = NULL,
        released_by = NULL
"""

_RELEASE = """
WITH opened AS (
    UPDATE ledger.reverted_slots SET released_at = ledger.moment(), released_by = %(by)s
    WHERE pair_id = %(pair_id)s AND run_id = %(run_id)s AND released_at IS NULL
    RETURNING metric_id, customer_id, start_at
), noted AS (
    INSERT INTO ledger.unsettled_hours (pair_id, metric_id, customer_id, start_at)
    SELECT DISTINCT %(pair_id)s, metric_id, customer_id, start_at FROM opened ON CONFLICT DO NOTHING
)
SELECT count(*) FROM opened
"""

_REVERTED = """
SELECT run_id, count(*), min(start_at), max(start_at), min(asked_by), min(at) FROM ledger.reverted_slots
WHERE pair_id = %s AND released_at IS NULL GROUP BY run_id ORDER BY min(at) DESC
"""
