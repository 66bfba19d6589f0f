"""Proofs: days held against the ledger, and for each day when it was last right, by day and by hour.

Here: the statements. Not here: which days a sweep asks for (``sweeps.py``), and what is found in the hours of a day
that differs (``findings.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from metronome_pipeline.ledger.read import midnight
from metronome_pipeline.mapping.usage import UNGROUPED
from metronome_pipeline.sweeps.days import DayTotal
from metronome_pipeline.sweeps.sweeps import Connection, Stretch, Sweep, Swept

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Compared:
    """Days of one walk: how many were compared, how many differ, and those whose difference is no news.

    ``waiting``: their hours are read already and make up the day's total, so no request would tell more.
    """

    days: int
    differing: int
    waiting: tuple[tuple[str, datetime], ...] = ()


def compare_days(
    connection: Connection, swept: Swept, sweep: Sweep, customer_id: str, totals: Sequence[DayTotal]
) -> Compared:
    """Compares the days of a complete walk with what the ledger counts for them.

    Days that agree are proved by day; those that differ are written down to be read by hour. Days from before the
    customer's cut-over are nobody's.
    """
    start = swept.start_of(customer_id)
    due = [total for total in totals if total.day + _DAY > start]
    metrics = {total.metric_id: swept.metrics[total.metric_id] for total in due}
    rows = connection.execute(
        _COMPARE,
        {
            "sweep_id": sweep.sweep_id,
            "pair_id": swept.pair_id,
            "customer_id": customer_id,
            "start": sweep.window.start,
            "end": sweep.window.end,
            "first_at": start,
            "metrics": [total.metric_id for total in due],
            "days": [total.day for total in due],
            "values": [total.value for total in due],
            "ids": list(metrics),
            "slicings": [metric.billed.slicing for metric in metrics.values()],
            "calculations": [metric.billed.calculation for metric in metrics.values()],
            "additive": [metric.additive for metric in metrics.values()],
            "ungrouped": UNGROUPED,
        },
    ).fetchall()
    waiting = tuple((metric_id, day) for metric_id, day, verdict in rows if verdict == "waits")
    return Compared(len(due), len(rows), waiting)


def prove_by_hour(connection: Connection, swept: Swept, sweep: Sweep, stretches: Sequence[Stretch]) -> int:
    """Notes the days of stretches whose hours were read and stored as proved by hour, and returns how many."""
    metrics = [swept.metrics[stretch.metric_id] for stretch in stretches]
    return connection.execute(
        _PROVE_BY_HOUR,
        {
            "sweep_id": sweep.sweep_id,
            "pair_id": swept.pair_id,
            "customers": [stretch.customer_id for stretch in stretches],
            "metrics": [stretch.metric_id for stretch in stretches],
            "starts": [midnight(stretch.window.start) for stretch in stretches],
            "ends": [stretch.window.end for stretch in stretches],
            "firsts": [swept.start_of(stretch.customer_id) for stretch in stretches],
            "slicings": [metric.billed.slicing for metric in metrics],
            "calculations": [metric.billed.calculation for metric in metrics],
            "additive": [metric.additive for metric in metrics],
            "ungrouped": UNGROUPED,
        },
    ).rowcount


# Days of a metric that adds up are held against the ledger, from the first whole day on; other days against the total
# that they had when their hours were last read. A day that differs from the ledger and not from its stored hours tells
# nothing new: what is to be done about it is known without a request.
_COMPARE = """
WITH told AS (
    SELECT * FROM unnest(%(metrics)s::uuid[], %(days)s::timestamptz[], %(values)s::numeric[])
        AS t (metric_id, day, value)
), asked AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(slicings)s::text[], %(calculations)s::text[], %(additive)s::bool[])
        AS m (metric_id, slicing, calculation, additive)
), counted AS (
    SELECT e.metric_id, date_trunc('day', e.start_at, 'UTC') AS day,
           sum(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END) AS total,
           max(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END) AS highest
    FROM asked a JOIN ledger.events e USING (metric_id) LEFT JOIN ledger.restatements s USING (event_id)
    WHERE e.pair_id = %(pair_id)s AND e.customer_id = %(customer_id)s::uuid
      AND e.start_at >= %(start)s AND e.start_at < %(end)s
    GROUP BY e.metric_id, day
), stored AS (
    SELECT u.metric_id, date_trunc('day', u.start_at, 'UTC') AS day, sum(u.value) AS total, max(u.value) AS highest
    FROM asked a JOIN metronome.hourly_totals u
        ON u.metric_id = a.metric_id AND u.grouped = (a.slicing <> %(ungrouped)s)
    WHERE u.pair_id = %(pair_id)s AND u.customer_id = %(customer_id)s::uuid
      AND u.start_at >= %(start)s AND u.start_at < %(end)s
    GROUP BY u.metric_id, day
), judged AS (
    SELECT t.*, CASE
        WHEN NOT (a.additive AND t.day >= %(first_at)s) THEN
            CASE WHEN p.by_day_at IS NOT NULL AND p.by_hour_at IS NOT NULL AND t.value IS NOT DISTINCT FROM p.value
                 THEN 'agrees' ELSE 'differs' END
        WHEN CASE a.calculation WHEN 'MAX' THEN t.value IS NOT DISTINCT FROM c.highest
                                ELSE coalesce(t.value, 0) = coalesce(c.total, 0) END THEN 'agrees'
        WHEN v.covered @> tstzrange(t.day, t.day + interval '1 day')
             AND CASE a.calculation WHEN 'MAX' THEN t.value IS NOT DISTINCT FROM h.highest
                                    ELSE coalesce(t.value, 0) = coalesce(h.total, 0) END THEN 'waits'
        ELSE 'differs' END AS verdict
    FROM told t JOIN asked a USING (metric_id)
    LEFT JOIN counted c USING (metric_id, day)
    LEFT JOIN stored h USING (metric_id, day)
    LEFT JOIN metronome.day_totals p ON p.pair_id = %(pair_id)s AND p.customer_id = %(customer_id)s::uuid
        AND (p.metric_id, p.day) = (t.metric_id, t.day)
    LEFT JOIN metronome.coverage v ON v.pair_id = %(pair_id)s AND v.customer_id = %(customer_id)s::uuid
        AND (v.metric_id, v.slicing) = (t.metric_id, a.slicing)
), proved AS (
    INSERT INTO metronome.day_totals AS d (pair_id, customer_id, metric_id, day, value, by_day_at)
    SELECT %(pair_id)s, %(customer_id)s::uuid, metric_id, day, value, ledger.moment() FROM judged
    WHERE verdict = 'agrees' ORDER BY metric_id, day
    ON CONFLICT (pair_id, metric_id, customer_id, day)
        DO UPDATE SET value = excluded.value, by_day_at = excluded.by_day_at
), differing AS (
    INSERT INTO ledger.sweep_days AS d (sweep_id, pair_id, customer_id, metric_id, day, value)
    SELECT %(sweep_id)s, %(pair_id)s, %(customer_id)s::uuid, metric_id, day, value FROM judged
    WHERE verdict = 'differs' ON CONFLICT DO NOTHING
)
SELECT metric_id::text, day, verdict FROM judged WHERE verdict <> 'agrees' ORDER BY metric_id, day
"""

# The total of a day that was read by day before its hours stays; of a metric that adds up it is that of its hours.
_PROVE_BY_HOUR = """
WITH asked AS (
    SELECT * FROM unnest(
        %(customers)s::uuid[], %(metrics)s::uuid[], %(starts)s::timestamptz[], %(ends)s::timestamptz[],
        %(firsts)s::timestamptz[], %(slicings)s::text[], %(calculations)s::text[], %(additive)s::bool[]
    ) AS a (customer_id, metric_id, start_at, end_at, first_at, slicing, calculation, additive)
), hours AS (
    SELECT u.customer_id, u.metric_id, date_trunc('day', u.start_at, 'UTC') AS day, sum(u.value) AS total,
           max(u.value) AS highest
    FROM asked a JOIN metronome.hourly_totals u
        ON (u.customer_id, u.metric_id) = (a.customer_id, a.metric_id) AND u.grouped = (a.slicing <> %(ungrouped)s)
    WHERE u.pair_id = %(pair_id)s AND u.start_at >= a.start_at AND u.start_at < a.end_at
    GROUP BY u.customer_id, u.metric_id, day
), days AS (
    SELECT a.customer_id, a.metric_id, g.day, coalesce(d.at, p.by_day_at) AS by_day_at,
           CASE WHEN NOT (a.additive AND g.day >= a.first_at) THEN CASE WHEN d.at IS NULL THEN p.value ELSE d.value END
                WHEN a.calculation = 'MAX' THEN h.highest ELSE h.total END AS value
    FROM asked a CROSS JOIN generate_series(a.start_at, a.end_at - interval '1 day', interval '1 day') AS g (day)
    LEFT JOIN ledger.sweep_days d ON d.sweep_id = %(sweep_id)s
        AND (d.customer_id, d.metric_id, d.day) = (a.customer_id, a.metric_id, g.day)
    LEFT JOIN metronome.day_totals p ON p.pair_id = %(pair_id)s
        AND (p.customer_id, p.metric_id, p.day) = (a.customer_id, a.metric_id, g.day)
    LEFT JOIN hours h ON (h.customer_id, h.metric_id, h.day) = (a.customer_id, a.metric_id, g.day)
    WHERE g.day + interval '1 day' > a.first_at
)
INSERT INTO metronome.day_totals AS t (pair_id, customer_id, metric_id, day, value, by_day_at, by_hour_at)
SELECT %(pair_id)s, customer_id, metric_id, day, value, by_day_at, ledger.moment()
FROM days ORDER BY metric_id, customer_id, day
ON CONFLICT (pair_id, metric_id, customer_id, day)
    DO UPDATE SET value = excluded.value, by_day_at = excluded.by_day_at, by_hour_at = excluded.by_hour_at
"""
