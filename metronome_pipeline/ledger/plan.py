"""Plan: compare what was observed with what is committed, and write down the events that make them equal.

Here: the statements that do it, as sets, in one transaction under the pair's planning lock. Not here: reading usage
(``read.py``) and sending events (``deliver.py``). Nothing is planned for a slot that still has an open event, and
nothing for hours that no complete reading covers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg

from metronome_pipeline.ledger import brakes, closures, late, proposals
from metronome_pipeline.ledger.brakes import Brake, BrakeLimits
from metronome_pipeline.ledger.late import Lateness
from metronome_pipeline.ledger.proposals import Proposal
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE, UNGROUPED, BilledMetric

Connection = psycopg.Connection[Any]
PLANNING_LOCK = 0x6D70_0001


@dataclass(frozen=True)
class Scope:
    """What a plan is about: hours ``[start, end)`` of ``metrics``, for ``customers`` (None: all that were read).

    ``starts`` gives customers a later cut-over of their own. ``brake`` None lets every decrease pass.
    """

    pair_id: int
    start: datetime
    end: datetime
    metrics: Sequence[BilledMetric]
    customers: Sequence[str] | None = None
    starts: Mapping[str, datetime] = field(default_factory=dict)
    brake: BrakeLimits | None = field(default_factory=BrakeLimits)
    lateness: Lateness = field(default_factory=Lateness)


@dataclass(frozen=True)
class Planned:
    """What a plan wrote: events by kind (usage, correction, deletion), the hours they fall in, and what was held.

    ``late`` of the events came when the invoice of their period was final.
    """

    by_kind: Mapping[str, int] = field(default_factory=dict)
    changed_hours: frozenset[datetime] = frozenset()
    brakes: Sequence[Brake] = ()
    late: int = 0

    def __add__(self, other: "Planned") -> "Planned":
        """Both together; the later one says what is held."""
        kinds = self.by_kind.keys() | other.by_kind.keys()
        return Planned(
            {kind: self.by_kind.get(kind, 0) + other.by_kind.get(kind, 0) for kind in kinds},
            self.changed_hours | other.changed_hours,
            other.brakes,
            self.late + other.late,
        )

    @property
    def events(self) -> int:
        """How many events were planned."""
        return sum(self.by_kind.values())


def plan(
    connection: Connection, scope: Scope, *, run_id: str, witness: Callable[[list[Proposal]], None] | None = None
) -> Planned:
    """Plans every difference of ``scope`` inside the caller's transaction and returns what was planned.

    Takes the pair's planning lock until the transaction ends, so that two plans never see the same difference.
    ``witness`` is told every event that is written: for a rehearsal, whose caller rolls the transaction back.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, scope.pair_id])
    _gather(connection, scope, run_id)
    for statement in (_SETTLE_HOURS, _LEAVE_OPEN_SLOTS):
        connection.execute(statement, {"pair_id": scope.pair_id, "start": scope.start, "end": scope.end})
    planned = Planned()
    maxima = any(metric.calculation == "MAX" for metric in scope.metrics)
    if proposals.propose(connection, scope.pair_id, maxima=maxima):
        planned = _write(connection, scope, run_id, witness)
    if scope.brake:
        brakes.void(connection, scope.pair_id, scope.start, scope.end, scope.customers, keep=planned.brakes)
    late.note_planned(connection, scope.pair_id)
    proposals.clear(connection, ("due", "covered", "committed", "observed", "grouped", "closed", "nets"))
    return planned


def _write(
    connection: Connection, scope: Scope, run_id: str, witness: Callable[[list[Proposal]], None] | None
) -> Planned:
    held: list[Brake] = []
    if scope.brake and proposals.lower_anything(connection):
        held = brakes.hold(connection, scope.pair_id, scope.start, scope.end, scope.brake, run_id=run_id)
    late.mark(connection, scope.lateness)
    if witness:
        witness(proposals.listed(connection))
    written = proposals.write(connection, scope.pair_id, scope.lateness, run_id=run_id)
    return Planned(
        by_kind={each.kind: each.events for each in written},
        changed_hours=frozenset(hour for each in written for hour in each.hours),
        brakes=held,
        late=sum(each.late for each in written),
    )


def _gather(connection: Connection, scope: Scope, run_id: str) -> None:
    parameters: dict[str, Any] = {
        "pair_id": scope.pair_id,
        "start": scope.start,
        "end": scope.end,
        "customers": None if scope.customers is None else list(scope.customers),
        "starts_of": list(scope.starts),
        "starts": list(scope.starts.values()),
        "metrics": [metric.metric_id for metric in scope.metrics],
        "slicings": [metric.slicing for metric in scope.metrics],
        "calculations": [metric.calculation for metric in scope.metrics],
        "whole": [UNGROUPED, PERIOD_TO_DATE],
    }
    for statement in (_DUE, _COVERED, _COMMITTED, _OBSERVED, _GROUPED):
        connection.execute(statement, parameters)
    # Postgres knows nothing of a temporary table before this, and would join them row by row.
    connection.execute("ANALYZE due, covered, committed, grouped")
    for statement in (_LEAVE_CONTRADICTIONS, _OBSERVED_GROUPS, _OBSERVED_SHORT_GROUPS):
        connection.execute(statement, parameters)
    connection.execute("ANALYZE observed")
    if "MAX" in parameters["calculations"]:
        closures.forget_dropped(connection, parameters, run_id)
    closures.close(connection, parameters)


_DUE = """
CREATE TEMP TABLE due ON COMMIT DROP AS
SELECT * FROM unnest(%(metrics)s::uuid[], %(slicings)s::text[], %(calculations)s::text[])
    AS due (metric_id, slicing, calculation)
"""

# The hours of each pair that a complete reading covers, from the cut-over on.
_COVERED = """
CREATE TEMP TABLE covered ON COMMIT DROP AS
SELECT c.customer_id, c.metric_id, d.slicing, d.calculation,
       c.covered * tstzmultirange(tstzrange(greatest(%(start)s, s.start_at), greatest(%(end)s, s.start_at))) AS hours,
       coalesce(p.hours, '{}') AS planned
FROM metronome.coverage c
JOIN due d USING (metric_id, slicing)
LEFT JOIN ledger.planned_hours p USING (pair_id, metric_id, customer_id, slicing)
LEFT JOIN unnest(%(starts_of)s::uuid[], %(starts)s::timestamptz[]) AS s (customer_id, start_at) USING (customer_id)
WHERE c.pair_id = %(pair_id)s
  AND (%(customers)s::uuid[] IS NULL OR c.customer_id = ANY (%(customers)s::uuid[]))
  AND c.covered && tstzrange(%(start)s, %(end)s)
"""

# OFFSET 0 makes Postgres look each pair up by its index. Without statistics, as after a first backfill, it would choose
# to read the whole table for each.
#
# Committed: every event of the slot that is planned, sending, quarantined, held or taken. `ended`: what it counts of
# those that do not wait; null: nothing.
_COMMITTED = """
CREATE TEMP TABLE committed ON COMMIT DROP AS
SELECT e.customer_id, e.metric_id, e.start_at, e.end_at, e.slice, min(e.properties) AS properties,
       sum(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END) AS total,
       max(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END) AS highest,
       max(e.revision) AS revision,
       bool_or(o.event_id IS NOT NULL) AS open,
       CASE min(c.calculation)
           WHEN 'MAX' THEN max(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END)
                           FILTER (WHERE o.event_id IS NULL)
           ELSE nullif(sum(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END)
                       FILTER (WHERE o.event_id IS NULL), 0) END AS ended
FROM covered c
CROSS JOIN LATERAL (
    SELECT * FROM ledger.events e
    WHERE e.pair_id = %(pair_id)s AND e.metric_id = c.metric_id AND e.customer_id = c.customer_id
      AND e.start_at >= %(start)s AND e.start_at < %(end)s AND c.hours @> e.start_at OFFSET 0
) AS e
LEFT JOIN ledger.restatements s USING (event_id)
LEFT JOIN ledger.open_events o USING (event_id)
GROUP BY e.customer_id, e.metric_id, e.start_at, e.end_at, e.slice
"""

_OBSERVED = """
CREATE TEMP TABLE observed ON COMMIT DROP AS
SELECT u.customer_id, u.metric_id, u.start_at, u.end_at, 'total'::text AS slice, NULL::text AS properties, u.value
FROM covered c
CROSS JOIN LATERAL (
    SELECT * FROM metronome.usage u
    WHERE u.pair_id = %(pair_id)s AND u.metric_id = c.metric_id AND u.customer_id = c.customer_id
      AND u.start_at >= %(start)s AND u.start_at < %(end)s AND c.hours @> u.start_at OFFSET 0
) AS u
WHERE c.slicing = ANY (%(whole)s)
"""

# With properties, the groups of an hour are its slots, as long as they are whole: they add up to the hour's total, or
# the highest is the total. A maximum that exceeds its own total contradicts itself: that hour is left alone.
_GROUPED = """
CREATE TEMP TABLE grouped ON COMMIT DROP AS
SELECT *, CASE calculation WHEN 'MAX' THEN highest IS NOT DISTINCT FROM total
                           ELSE coalesce(added, 0) = coalesce(total, 0) END AS whole,
       calculation = 'MAX' AND highest IS NOT NULL AND (total IS NULL OR highest > total) AS contradicted
FROM (
    SELECT c.calculation, g.customer_id, g.metric_id, g.start_at, g.end_at, g.slice, g.properties, g.value,
           max(g.value) FILTER (WHERE g.slice = 'total') OVER hour AS total,
           sum(g.value) FILTER (WHERE g.slice <> 'total') OVER hour AS added,
           max(g.value) FILTER (WHERE g.slice <> 'total') OVER hour AS highest
    FROM covered c
    CROSS JOIN LATERAL (
        SELECT * FROM metronome.grouped_usage g
        WHERE g.pair_id = %(pair_id)s AND g.metric_id = c.metric_id AND g.customer_id = c.customer_id
          AND g.start_at >= %(start)s AND g.start_at < %(end)s AND c.hours @> g.start_at OFFSET 0
    ) AS g
    WHERE c.slicing <> ALL (%(whole)s)
    WINDOW hour AS (PARTITION BY g.metric_id, g.customer_id, g.start_at)
) AS hours
"""

_LEAVE_CONTRADICTIONS = """
DELETE FROM committed c USING (SELECT DISTINCT customer_id, metric_id, start_at FROM grouped WHERE contradicted) AS g
WHERE (c.customer_id, c.metric_id, c.start_at) = (g.customer_id, g.metric_id, g.start_at)
"""

_OBSERVED_GROUPS = """
INSERT INTO observed
SELECT customer_id, metric_id, start_at, end_at, slice, properties, value FROM grouped
WHERE whole AND slice <> 'total'
"""

# Where groups fall short of the hour's total, no group is lowered, and what the total has beyond them is the rest, a
# slot of its own. Only a maximum that was billed above the total cannot be right: that group is what was read of it.
_OBSERVED_SHORT_GROUPS = """
WITH hours AS (
    SELECT DISTINCT customer_id, metric_id, start_at, end_at, calculation, total FROM grouped
    WHERE NOT whole AND NOT contradicted
), groups AS (
    SELECT h.*, coalesce(g.slice, c.slice) AS slice, coalesce(g.properties, c.properties) AS properties,
           CASE WHEN h.calculation = 'SUM' THEN greatest(g.value, c.total)
                WHEN c.highest > h.total THEN g.value ELSE greatest(g.value, c.highest) END AS value
    FROM (SELECT * FROM grouped WHERE NOT whole AND NOT contradicted AND slice <> 'total') AS g
    FULL JOIN (
        SELECT c.* FROM committed c JOIN hours USING (customer_id, metric_id, start_at, end_at) WHERE c.slice LIKE 'g%%'
    ) AS c USING (customer_id, metric_id, start_at, end_at, slice)
    JOIN hours h USING (customer_id, metric_id, start_at, end_at)
), rests AS (
    SELECT h.customer_id, h.metric_id, h.start_at, h.end_at,
           CASE WHEN h.calculation = 'SUM' THEN coalesce(h.total, 0) - coalesce(sum(g.value), 0)
                WHEN max(g.value) = h.total THEN NULL ELSE h.total END AS value
    FROM hours h LEFT JOIN groups g USING (customer_id, metric_id, start_at, end_at)
    GROUP BY h.customer_id, h.metric_id, h.start_at, h.end_at, h.calculation, h.total
)
INSERT INTO observed
SELECT customer_id, metric_id, start_at, end_at, slice, properties, value FROM groups WHERE value IS NOT NULL
UNION ALL
SELECT customer_id, metric_id, start_at, end_at, 'rest', NULL, value FROM rests WHERE value IS NOT NULL
"""

# These hours are planned now. What cannot be, for the slot has an open event, is noted for the next run, whatever its
# hours.
_SETTLE_HOURS = """
DELETE FROM ledger.unsettled_hours u USING covered c
WHERE u.pair_id = %(pair_id)s AND u.metric_id = c.metric_id AND u.customer_id = c.customer_id
  AND u.start_at >= %(start)s AND u.start_at < %(end)s AND c.hours @> u.start_at
"""

_LEAVE_OPEN_SLOTS = """
INSERT INTO ledger.unsettled_hours (pair_id, metric_id, customer_id, start_at)
SELECT DISTINCT %(pair_id)s, metric_id, customer_id, start_at
FROM committed c LEFT JOIN observed o USING (customer_id, metric_id, start_at, end_at, slice)
    JOIN due d USING (metric_id)
WHERE c.open AND CASE d.calculation WHEN 'MAX' THEN o.value IS DISTINCT FROM c.highest
                                    ELSE coalesce(o.value, 0) <> coalesce(c.total, 0) END
ON CONFLICT DO NOTHING
"""
