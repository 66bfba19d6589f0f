"""Findings: hours that a sweep has read and stored, and that differ from what the ledger counts for them.

Here: the statements that find them, hand them to the run that plans them, and close them. A finding is closed once its
hours were planned: what could not be planned then, for an open event or the brake, is noted by the plan itself
(``unsettled.py``), and each hourly run plans that. Not here: the sweep (``sweeper.py``), planning (``plan.py``).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from metronome_pipeline.ledger.read import Window
from metronome_pipeline.mapping.usage import UNGROUPED
from metronome_pipeline.sweeps.sweeps import Stretch, Sweep, Swept

Connection = psycopg.Connection[Any]
FINDING_COLUMNS = ("customer", "metric", "first hour", "hours", "ledger", "Metronome", "state")


@dataclass(frozen=True)
class Finding:
    """Hours of one (customer, metric) in a stretch that differ, all of them read and stored."""

    finding_id: int
    customer_id: str
    metric_id: str
    slicing: str
    stretch: Window


@dataclass(frozen=True)
class Waiting:
    """A sweep with open findings for one of the two workflows.

    ``run_id`` is the run that was last at the sweep, ``first`` the start of the earliest hour that differs.
    """

    sweep_id: int
    run_id: str
    grouped: bool
    customers: int
    hours: int
    first: datetime


def note(connection: Connection, swept: Swept, sweep: Sweep, stretches: Sequence[Stretch]) -> int:
    """Compares the stored hours of some stretches with the ledger, writes down those that differ, and counts them.

    Slot by slot: usage that moved between groups is found where the hour's total is the same. An hour whose groups fall
    short of its total is compared as a whole; a maximum that contradicts its own groups is left alone, as plan does.
    Hours that are noted as unsettled, or were taken back by a revert, are known already.
    """
    metrics = [swept.metrics[stretch.metric_id].billed for stretch in stretches]
    row = connection.execute(
        _NOTE,
        {
            "sweep_id": sweep.sweep_id,
            "pair_id": swept.pair_id,
            "customers": [stretch.customer_id for stretch in stretches],
            "metrics": [stretch.metric_id for stretch in stretches],
            "slicings": [metric.slicing for metric in metrics],
            "calculations": [metric.calculation for metric in metrics],
            "froms": [stretch.window.start for stretch in stretches],
            "tos": [stretch.window.end for stretch in stretches],
            "firsts": [swept.start_of(stretch.customer_id) for stretch in stretches],
            "ungrouped": UNGROUPED,
        },
    ).fetchone()
    assert row is not None
    return int(row[0])


def waiting(connection: Connection, pair_id: int) -> list[Waiting]:
    """The sweeps with open findings, oldest first."""
    rows = connection.execute(_WAITING, {"pair_id": pair_id, "ungrouped": UNGROUPED})
    return [Waiting(*row) for row in rows]


def taken_up(connection: Connection, pair_id: int, sweep_id: int, *, grouped: bool) -> list[Finding]:
    """The open findings of a sweep for one workflow, noting that a run attempts to plan them."""
    rows = connection.execute(
        "UPDATE ledger.findings SET attempts = attempts + 1 "
        "WHERE pair_id = %s AND sweep_id = %s AND state = 'open' AND (slicing <> %s) = %s "
        "RETURNING finding_id, customer_id::text, metric_id::text, slicing, from_at, to_at",
        [pair_id, sweep_id, UNGROUPED, grouped],
    ).fetchall()
    found = [
        Finding(finding_id, customer_id, metric_id, slicing, Window(start, end))
        for finding_id, customer_id, metric_id, slicing, start, end in rows
    ]
    return sorted(found, key=lambda finding: (finding.stretch.start, finding.finding_id))


def close(connection: Connection, findings: Collection[Finding], run_id: str, *, void: bool = False) -> None:
    """Notes that a run has planned findings; ``void``: that their metric is not billed that way any more."""
    connection.execute(
        "UPDATE ledger.findings SET state = %s, planned_by = %s WHERE finding_id = ANY (%s)",
        ["void" if void else "planned", run_id, [finding.finding_id for finding in findings]],
    )


def listed(connection: Connection, pair_id: int, sweep_id: int, limit: int = 200) -> Sequence[Sequence[Any]]:
    """What a sweep found, as rows of ``FINDING_COLUMNS``."""
    return connection.execute(_LISTED, [pair_id, sweep_id, limit]).fetchall()


def counted(connection: Connection, pair_id: int, sweep_id: int) -> int:
    """How many (customer, metric, stretch) a sweep found."""
    row = connection.execute(
        "SELECT count(*) FROM ledger.findings WHERE pair_id = %s AND sweep_id = %s", [pair_id, sweep_id]
    ).fetchone()
    assert row is not None
    return int(row[0])


# Slots are compared as plan does. `odd` are hours whose groups do not make up their total.
_NOTE = """
WITH asked AS (
    SELECT * FROM unnest(%(customers)s::uuid[], %(metrics)s::uuid[], %(slicings)s::text[], %(calculations)s::text[],
                         %(froms)s::timestamptz[], %(tos)s::timestamptz[], %(firsts)s::timestamptz[])
        AS a (customer_id, metric_id, slicing, calculation, from_at, to_at, first_at)
), groups AS (
    SELECT a.customer_id, a.metric_id, a.from_at, a.calculation, g.start_at, g.end_at, g.slice, g.value,
           max(g.value) FILTER (WHERE g.slice = 'total') OVER hour AS total,
           sum(g.value) FILTER (WHERE g.slice <> 'total') OVER hour AS added,
           max(g.value) FILTER (WHERE g.slice <> 'total') OVER hour AS highest
    FROM asked a JOIN metronome.grouped_usage g ON g.pair_id = %(pair_id)s
        AND (g.metric_id, g.customer_id) = (a.metric_id, a.customer_id)
        AND g.start_at >= greatest(a.from_at, a.first_at) AND g.start_at < a.to_at
    WHERE a.slicing <> %(ungrouped)s
    WINDOW hour AS (PARTITION BY a.metric_id, a.customer_id, g.start_at)
), odd AS (
    SELECT DISTINCT customer_id, metric_id, start_at,
           calculation = 'MAX' AND highest IS NOT NULL AND (total IS NULL OR highest > total) AS contradicted
    FROM groups WHERE CASE calculation WHEN 'MAX' THEN highest IS DISTINCT FROM total
                                       ELSE coalesce(added, 0) <> coalesce(total, 0) END
), observed AS (
    SELECT a.customer_id, a.metric_id, a.from_at, u.start_at, u.end_at, 'total' AS slice, u.value
    FROM asked a JOIN metronome.usage u ON u.pair_id = %(pair_id)s
        AND (u.metric_id, u.customer_id) = (a.metric_id, a.customer_id)
        AND u.start_at >= greatest(a.from_at, a.first_at) AND u.start_at < a.to_at
    WHERE a.slicing = %(ungrouped)s
    UNION ALL
    SELECT g.customer_id, g.metric_id, g.from_at, g.start_at, g.end_at, g.slice, g.value
    FROM groups g LEFT JOIN odd o USING (customer_id, metric_id, start_at)
    WHERE CASE WHEN o.contradicted IS NULL THEN g.slice <> 'total' ELSE NOT o.contradicted AND g.slice = 'total' END
), committed AS (
    SELECT a.customer_id, a.metric_id, a.from_at, e.start_at, e.end_at,
           CASE WHEN o.contradicted IS NULL THEN e.slice ELSE 'total' END AS slice,
           sum(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END) AS total,
           max(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END) AS highest
    FROM asked a JOIN ledger.events e ON e.pair_id = %(pair_id)s
        AND (e.metric_id, e.customer_id) = (a.metric_id, a.customer_id)
        AND e.start_at >= greatest(a.from_at, a.first_at) AND e.start_at < a.to_at
    LEFT JOIN ledger.restatements s USING (event_id)
    LEFT JOIN odd o ON (o.customer_id, o.metric_id, o.start_at) = (e.customer_id, e.metric_id, e.start_at)
    WHERE NOT coalesce(o.contradicted, false)
    GROUP BY a.customer_id, a.metric_id, a.from_at, e.start_at, e.end_at, 6
), hours AS (
    SELECT customer_id, metric_id, from_at, start_at, a.calculation,
           bool_or(v.taken_back IS NULL AND CASE a.calculation WHEN 'MAX' THEN o.value IS DISTINCT FROM c.highest
                   ELSE coalesce(o.value, 0) <> coalesce(c.total, 0) END) AS differs,
           CASE a.calculation WHEN 'MAX' THEN max(c.highest) ELSE sum(c.total) END AS committed,
           CASE a.calculation WHEN 'MAX' THEN max(o.value) ELSE sum(o.value) END AS observed
    FROM observed o FULL JOIN committed c USING (customer_id, metric_id, from_at, start_at, end_at, slice)
    JOIN asked a USING (customer_id, metric_id, from_at)
    LEFT JOIN (
        SELECT customer_id, metric_id, start_at, end_at, slice, true AS taken_back FROM ledger.reverted_slots
        WHERE pair_id = %(pair_id)s AND released_at IS NULL
    ) AS v USING (customer_id, metric_id, start_at, end_at, slice)
    GROUP BY customer_id, metric_id, from_at, start_at, a.calculation
), written AS (
    INSERT INTO ledger.findings AS f
        (pair_id, sweep_id, customer_id, metric_id, slicing, from_at, to_at, hours, committed, observed)
    SELECT %(pair_id)s, %(sweep_id)s, customer_id, metric_id, a.slicing, from_at, a.to_at,
           range_agg(tstzrange(h.start_at, h.start_at + interval '1 hour')),
           CASE a.calculation WHEN 'MAX' THEN max(committed) ELSE sum(committed) END,
           CASE a.calculation WHEN 'MAX' THEN max(observed) ELSE sum(observed) END
    FROM hours h JOIN asked a USING (customer_id, metric_id, from_at)
    WHERE h.differs AND NOT EXISTS (
        SELECT FROM ledger.unsettled_hours n WHERE n.pair_id = %(pair_id)s
        AND (n.metric_id, n.customer_id, n.start_at) = (h.metric_id, h.customer_id, h.start_at))
    GROUP BY customer_id, metric_id, from_at, a.to_at, a.slicing, a.calculation
    ON CONFLICT (sweep_id, customer_id, metric_id, from_at) DO UPDATE SET hours = f.hours + excluded.hours,
        committed = excluded.committed, observed = excluded.observed, state = 'open'
    RETURNING 1
)
SELECT count(*) FROM written
"""

_WAITING = """
SELECT f.sweep_id, s.run_id, f.slicing <> %(ungrouped)s AS grouped, count(DISTINCT f.customer_id)::int,
       sum((SELECT sum(extract(epoch FROM upper(h) - lower(h)) / 3600) FROM unnest(f.hours) AS h))::int,
       min(lower(f.hours))
FROM ledger.findings f JOIN ledger.sweeps s USING (sweep_id)
WHERE f.pair_id = %(pair_id)s AND f.state = 'open' GROUP BY f.sweep_id, s.run_id, grouped ORDER BY f.sweep_id, grouped
"""

_LISTED = """
SELECT coalesce(c.name, f.customer_id::text), coalesce(m.name, f.metric_id::text), lower(f.hours),
       (SELECT sum(extract(epoch FROM upper(h) - lower(h)) / 3600)::int FROM unnest(f.hours) AS h),
       f.committed, f.observed, f.state
FROM ledger.findings f
LEFT JOIN metronome.customers c ON (c.pair_id, c.customer_id) = (f.pair_id, f.customer_id)
LEFT JOIN metronome.billable_metrics m ON (m.pair_id, m.metric_id) = (f.pair_id, f.metric_id)
WHERE f.pair_id = %s AND f.sweep_id = %s ORDER BY lower(f.hours), f.finding_id LIMIT %s
"""
