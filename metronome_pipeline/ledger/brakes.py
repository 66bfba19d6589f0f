"""The brake: decreases that are too large to take back unasked are held, and a person lets them through.

Here: when a plan is held, the list of what is, and the release. The statements of ``hold`` read the temporary tables of
the plan that calls it (``plan.py``), inside its transaction and before anything is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]
PLAN_COLUMNS = ("customer", "metric", "hour", "kind", "number", "properties")
HELD_COLUMNS = ("digest", "customer", "metric", "from (UTC)", "to (UTC)", "billed", "observed", "change", "since (UTC)")


@dataclass(frozen=True)
class BrakeLimits:
    """A net decrease is held when it exceeds ``share`` of what was billed, and ``floor`` in the metric's own unit."""

    share: Decimal = Decimal("0.20")
    floor: Decimal = Decimal(100)


@dataclass(frozen=True)
class Brake:
    """A decrease that was not planned. ``customer_id`` None: the whole window of the metric is held."""

    digest: str
    customer_id: str | None
    metric_id: str
    billed: Decimal
    observed: Decimal

    def __str__(self) -> str:
        """One sentence for the person who decides."""
        change = "fall" if self.observed < self.billed else "rise where another customer's falls,"
        who = f"customer {self.customer_id}" if self.customer_id else "all customers"
        return (
            f"Held: usage of metric {self.metric_id} for {who} would {change} from {self.billed} to {self.observed}. "
            f"See what it would do with `metronome-pipeline brake show {self.digest}`, and if that is right, let it "
            f"through with `metronome-pipeline brake release {self.digest}`."
        )


def hold(
    connection: Connection, pair_id: int, start: datetime, end: datetime, limits: BrakeLimits, *, run_id: str
) -> list[Brake]:
    """Takes out of ``proposed`` what must not be taken back unasked, writes it down, and returns it."""
    parameters = {
        "pair_id": pair_id,
        "share": limits.share,
        "floor": limits.floor,
        "start": start,
        "end": end,
        "run_id": run_id,
    }
    connection.execute(_NETS)
    connection.execute("ANALYZE nets, proposed")
    brakes = [Brake(*row) for row in connection.execute(_HOLD, parameters).fetchall()]
    customers = [brake.customer_id for brake in brakes if brake.customer_id is not None]
    metrics = [brake.metric_id for brake in brakes if brake.customer_id is None]
    connection.execute(_NOTE_HELD, {"pair_id": pair_id, "customers": customers, "metrics": metrics})
    connection.execute(
        "DELETE FROM proposed WHERE customer_id = ANY (%s::uuid[]) OR metric_id = ANY (%s::uuid[])",
        [customers, metrics],
    )
    return brakes


def void(
    connection: Connection,
    pair_id: int,
    start: datetime,
    end: datetime,
    customers: Sequence[str] | None,
    *,
    keep: Sequence[Brake],
) -> None:
    """Forgets what was held, once all of its hours and customers were planned anew, but for what that plan holds."""
    parameters = {
        "pair_id": pair_id,
        "start": start,
        "end": end,
        "customers": None if customers is None else list(customers),
        "digests": [brake.digest for brake in keep],
    }
    for statement in (_VOID, _SPEND):
        connection.execute(statement, parameters)


def held(connection: Connection, pair_id: int) -> Sequence[Sequence[Any]]:
    """What the brake holds, newest first, as rows of ``HELD_COLUMNS``."""
    return connection.execute(_HELD, [pair_id]).fetchall()


def plan_of(connection: Connection, pair_id: int, digest: str) -> Sequence[Sequence[Any]] | None:
    """What a held plan would do, as rows of ``PLAN_COLUMNS``; None when the brake holds no such plan."""
    there = connection.execute(
        "SELECT FROM ledger.brakes WHERE pair_id = %s AND digest = %s AND released_at IS NULL", [pair_id, digest]
    ).fetchone()
    return None if there is None else connection.execute(_PLAN, [pair_id, digest]).fetchall()


def release(connection: Connection, pair_id: int, digest: str, *, by: str) -> tuple[datetime, datetime] | None:
    """Lets the plan of a digest through and returns its hours; None when the brake holds no such plan."""
    row = connection.execute(_RELEASE, [by, pair_id, digest]).fetchone()
    return None if row is None else (row[0], row[1])


def holding_too(connection: Connection, pair_id: int, digest: str) -> list[str]:
    """The digests that still hold events of this plan as well, whether it was released or not."""
    rows = connection.execute(_HOLDING_TOO, {"pair_id": pair_id, "digest": digest})
    return [other for (other,) in rows]


_HELD = """
SELECT b.digest, CASE WHEN b.customer_id IS NULL THEN 'all' ELSE coalesce(c.name, b.customer_id::text) END,
       coalesce(m.name, b.metric_id::text), b.from_at, b.to_at, b.billed, b.observed, b.observed - b.billed, b.at
FROM ledger.brakes b
LEFT JOIN metronome.customers c ON c.pair_id = b.pair_id AND c.customer_id = b.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = b.pair_id AND m.metric_id = b.metric_id
WHERE b.pair_id = %s AND b.released_at IS NULL ORDER BY b.at DESC, b.digest
"""

_PLAN = """
SELECT coalesce(c.name, e.customer_id::text), coalesce(m.name, e.metric_id::text), e.start_at, e.kind, e.number,
       e.properties
FROM ledger.brakes b
CROSS JOIN jsonb_to_recordset(b.plan)
    AS e (customer_id uuid, metric_id uuid, start_at timestamptz, kind text, number numeric, properties text)
LEFT JOIN metronome.customers c ON c.pair_id = b.pair_id AND c.customer_id = e.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = b.pair_id AND m.metric_id = e.metric_id
WHERE b.pair_id = %s AND b.digest = %s
ORDER BY 1, 2, 3, e.kind = 'deletion' DESC
"""

_RELEASE = """
UPDATE ledger.brakes SET released_at = ledger.moment(), released_by = %s
WHERE pair_id = %s AND digest = %s AND released_at IS NULL
RETURNING from_at, to_at
"""

# A fall of one customer may be a fall of the whole metric: the same events are then held under two digests.
_HOLDING_TOO = """
SELECT o.digest FROM ledger.brakes b JOIN ledger.brakes o USING (pair_id)
WHERE b.pair_id = %(pair_id)s AND b.digest = %(digest)s AND o.digest <> b.digest AND o.released_at IS NULL
  AND o.from_at < b.to_at AND b.from_at < o.to_at
  AND EXISTS (SELECT jsonb_array_elements(b.plan) INTERSECT SELECT jsonb_array_elements(o.plan))
ORDER BY o.digest
"""

# What each hour would change from and to. An hour of a MAX meter counts its highest slice. A slot with an open event is
# not planned now, whatever it differs by. Hours that became days, or days hours, are a switch that was asked for.
_NETS = """
CREATE TEMP TABLE nets ON COMMIT DROP AS
SELECT customer_id, metric_id, start_at, CASE calculation WHEN 'MAX' THEN max(billed) ELSE sum(billed) END AS billed,
       CASE calculation WHEN 'MAX' THEN max(observed) ELSE sum(observed) END AS observed
FROM (
    SELECT customer_id, metric_id, start_at, calculation, billed, CASE WHEN open THEN billed ELSE value END AS observed
    FROM (
        SELECT customer_id, metric_id, start_at, d.calculation, o.value, c.open,
               CASE d.calculation WHEN 'MAX' THEN c.highest ELSE c.total END AS billed
        FROM observed o FULL JOIN committed c USING (customer_id, metric_id, start_at, end_at, slice)
            JOIN due d USING (metric_id)
        WHERE (end_at - start_at = interval '1 day') = (d.slicing = 'period_to_date')
    ) AS compared
) AS slots
GROUP BY customer_id, metric_id, start_at, calculation
"""

# Net decreases by (customer, metric), then by metric. Where usage moved from one customer to another, the other one's
# rise in the very hours of the fall is held as well: sent alone, it would bill that usage twice. The digest names every
# correction and deletion that was held, and first events where they are such a rise; a released digest lets exactly
# these through.
_HOLD = """
WITH falls AS (
    SELECT customer_id, metric_id, coalesce(sum(billed), 0) AS billed, coalesce(sum(observed), 0) AS observed
    FROM nets GROUP BY GROUPING SETS ((customer_id, metric_id), (metric_id))
    HAVING coalesce(sum(billed), 0) - coalesce(sum(observed), 0)
        > greatest(%(floor)s, %(share)s * abs(coalesce(sum(billed), 0)))
), fallen_hours AS (
    SELECT DISTINCT n.metric_id, n.start_at FROM falls f JOIN nets n USING (customer_id, metric_id)
    WHERE coalesce(n.observed, 0) < n.billed
), rises AS (
    SELECT n.customer_id, n.metric_id, coalesce(sum(n.billed), 0) AS billed, coalesce(sum(n.observed), 0) AS observed
    FROM nets n JOIN fallen_hours h USING (metric_id, start_at)
    GROUP BY n.customer_id, n.metric_id
    HAVING coalesce(sum(n.observed), 0) - coalesce(sum(n.billed), 0)
        > greatest(%(floor)s, %(share)s * abs(coalesce(sum(n.billed), 0)))
), held AS (
    SELECT *, false AS rise FROM falls UNION ALL SELECT *, true FROM rises
), lines AS (
    SELECT customer_id, metric_id, kind,
        concat_ws('|', customer_id, metric_id, start_at AT TIME ZONE 'UTC', slice, kind, revision, number, deletes)
            AS line,
        jsonb_build_object('customer_id', customer_id, 'metric_id', metric_id, 'start_at', start_at, 'kind', kind,
            'properties', properties, 'number', number) AS event,
        row_number() OVER (ORDER BY customer_id, metric_id, start_at, slice, kind, deletes) AS place
    FROM proposed
), of_customers AS (
    SELECT customer_id, string_agg(line, E'\\n' ORDER BY place) AS everything, jsonb_agg(event ORDER BY place) AS plan,
        string_agg(line, E'\\n' ORDER BY place) FILTER (WHERE kind <> 'usage') AS changes
    FROM lines WHERE customer_id IN (SELECT customer_id FROM held) GROUP BY customer_id
), of_metrics AS (
    SELECT metric_id, string_agg(line, E'\\n' ORDER BY place) FILTER (WHERE kind <> 'usage') AS changes,
        jsonb_agg(event ORDER BY place) AS plan
    FROM lines WHERE metric_id IN (SELECT metric_id FROM held WHERE customer_id IS NULL) GROUP BY metric_id
), braked AS (
    SELECT n.customer_id, n.metric_id, n.billed, n.observed, encode(sha256(convert_to(
        concat(n.customer_id, '|', n.metric_id, E'\\n')
            || CASE WHEN n.customer_id IS NULL THEN m.changes WHEN n.rise THEN c.everything ELSE c.changes END,
        'UTF8')), 'hex') AS full_digest, coalesce(c.plan, m.plan) AS plan
    FROM held n LEFT JOIN of_customers c USING (customer_id) LEFT JOIN of_metrics m ON m.metric_id = n.metric_id
), written AS (
    INSERT INTO ledger.brakes (pair_id, digest, customer_id, metric_id, from_at, to_at, billed, observed, plan,
        run_id)
    SELECT %(pair_id)s, left(full_digest, 16), customer_id, metric_id, held_hours.first, held_hours.last, billed,
        observed, plan, %(run_id)s
    FROM braked b, LATERAL (
        SELECT coalesce(min(p.start_at), %(start)s) AS first, coalesce(max(p.end_at), %(end)s) AS last FROM proposed p
        WHERE CASE WHEN b.customer_id IS NULL THEN p.metric_id = b.metric_id ELSE p.customer_id = b.customer_id END
    ) AS held_hours
    WHERE full_digest IS NOT NULL
    ON CONFLICT (pair_id, digest) DO UPDATE SET run_id = excluded.run_id
    RETURNING digest, customer_id::text, metric_id::text, billed, observed, released_at
)
SELECT digest, customer_id, metric_id, billed, observed FROM written WHERE released_at IS NULL
"""

# A plan that was held is void once its hours are planned anew: what still has to be held was just written down. One
# whose hours or customers were not all planned stays, unless nothing of it waits any more: a longer window than any
# that is planned again may have been settled part by part.
_VOID = """
DELETE FROM ledger.brakes b USING due d
WHERE b.pair_id = %(pair_id)s AND b.metric_id = d.metric_id AND b.released_at IS NULL
  AND b.digest <> ALL (%(digests)s)
  AND (b.from_at >= %(start)s AND b.to_at <= %(end)s
       AND (%(customers)s::uuid[] IS NULL OR b.customer_id = ANY (%(customers)s::uuid[])
            OR b.customer_id IS NULL AND NOT EXISTS (
                SELECT FROM metronome.coverage c WHERE c.pair_id = b.pair_id AND c.metric_id = b.metric_id
                AND c.customer_id <> ALL (%(customers)s::uuid[])))
       OR NOT EXISTS (
            SELECT FROM ledger.unsettled_hours u WHERE u.pair_id = b.pair_id
            AND CASE WHEN b.customer_id IS NULL THEN u.metric_id = b.metric_id ELSE u.customer_id = b.customer_id END
            AND u.start_at >= b.from_at AND u.start_at < b.to_at))
"""

# A released plan is let through by planning its own hours once more, no fewer and no others: another window would be
# another plan. Days of a period are always planned together.
_SPEND = """
UPDATE ledger.brakes b SET spent_at = ledger.moment() FROM due d
WHERE b.pair_id = %(pair_id)s AND b.metric_id = d.metric_id AND b.released_at IS NOT NULL AND b.spent_at IS NULL
  AND b.from_at >= %(start)s AND b.to_at <= %(end)s
  AND ((b.from_at = %(start)s AND b.to_at = %(end)s) OR d.slicing = 'period_to_date')
"""

_NOTE_HELD = """
INSERT INTO ledger.unsettled_hours (pair_id, metric_id, customer_id, start_at)
SELECT DISTINCT %(pair_id)s, metric_id, customer_id, start_at FROM proposed
WHERE customer_id = ANY (%(customers)s::uuid[]) OR metric_id = ANY (%(metrics)s::uuid[])
ON CONFLICT DO NOTHING
"""
