"""Closures: slots for which a plan may write nothing, although usage differs from what is committed.

Here: the statements on the temporary tables ``committed`` and ``observed`` of the plan that calls them (``plan.py``). A
slot with an open event of its own is closed already. Not here: how slots come to be reverted (``revert.py``), and what
a plan would hold back (``brakes.py``).
"""

from collections.abc import Mapping
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]


def forget_dropped(connection: Connection, parameters: Mapping[str, Any], run_id: str) -> None:
    """Maxima that were dropped count nothing from now on where usage has fallen below them."""
    if connection.execute(_FORGET_DROPPED, {**parameters, "run_id": run_id}).rowcount:
        connection.execute(_COUNT_AGAIN, parameters)


def close(connection: Connection, parameters: Mapping[str, Any]) -> None:
    """Closes every slot, new ones too, in hours where nothing may be planned. What differs there is noted by the plan.

    Fills ``closed``: what a revert took back, and what cannot be taken back yet.
    """
    connection.execute(_CLOSED, parameters)
    if connection.execute("SELECT FROM closed LIMIT 1").fetchone() is not None:
        for statement in ("ANALYZE closed", *_CLOSE):
            connection.execute(statement)


# A maximum that was dropped never reached Solvimon. Once usage is below it, there is nothing to delete, and it counts
# nothing from then on.
_FORGET_DROPPED = """
WITH overtaken AS (
    SELECT e.event_id
    FROM committed c
    JOIN due d USING (metric_id)
    LEFT JOIN observed o USING (customer_id, metric_id, start_at, end_at, slice)
    JOIN ledger.events e USING (customer_id, metric_id, start_at, end_at, slice)
    LEFT JOIN ledger.restatements s USING (event_id)
    CROSS JOIN LATERAL (
        SELECT outcome FROM ledger.receipts r WHERE r.event_id = e.event_id ORDER BY receipt_id DESC LIMIT 1
    ) AS r
    WHERE d.calculation = 'MAX' AND NOT c.open AND (o.value IS NULL OR o.value < c.highest)
      AND e.pair_id = %(pair_id)s AND e.kind <> 'deletion' AND s.event_id IS NULL
      AND (o.value IS NULL OR o.value < e.number) AND r.outcome = 'dropped'
), written AS (
    INSERT INTO ledger.receipts (event_id, outcome, message, run_id)
    SELECT event_id, 'superseded', 'It was dropped, and usage has fallen below it since.', %(run_id)s FROM overtaken
)
INSERT INTO ledger.restatements (event_id, number) SELECT event_id, NULL FROM overtaken
"""

_COUNT_AGAIN = """
UPDATE committed c SET highest = (
    SELECT max(CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END)
    FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
    WHERE (e.pair_id, e.metric_id, e.customer_id, e.start_at, e.end_at, e.slice)
        = (%(pair_id)s, c.metric_id, c.customer_id, c.start_at, c.end_at, c.slice))
FROM due d WHERE d.metric_id = c.metric_id AND d.calculation = 'MAX'
"""

# Where nothing may be planned, whichever slot it is for: what a revert took back, and not to be billed through another
# slot either (another group, or another slicing), until a person releases it; and what was billed through a slot that
# has no usage any more and cannot be taken back yet, for it has an open event: its usage would be billed twice. Days of
# a period are planned whole.
_CLOSED = """
CREATE TEMP TABLE closed ON COMMIT DROP AS
SELECT metric_id, customer_id,
       CASE d.slicing WHEN 'period_to_date' THEN date_trunc('day', start_at, 'UTC') ELSE start_at END AS start_at,
       CASE d.slicing WHEN 'period_to_date' THEN date_trunc('day', end_at - interval '1 second', 'UTC')
           + interval '1 day' ELSE end_at END AS end_at
FROM (
    SELECT metric_id, customer_id, start_at, end_at FROM ledger.reverted_slots
    WHERE pair_id = %(pair_id)s AND released_at IS NULL
    UNION
    SELECT metric_id, customer_id, start_at, end_at FROM committed c
    LEFT JOIN observed o USING (customer_id, metric_id, start_at, end_at, slice)
    WHERE c.open AND c.ended IS NOT NULL AND o.slice IS NULL
) AS slots JOIN due d USING (metric_id)
WHERE start_at < %(end)s AND end_at > %(start)s
"""

_CLOSE = (
    """
UPDATE committed c SET open = true FROM closed x
WHERE (x.metric_id, x.customer_id) = (c.metric_id, c.customer_id)
  AND x.start_at < c.end_at AND x.end_at > c.start_at
""",
    """
INSERT INTO committed (customer_id, metric_id, start_at, end_at, slice, properties, open)
SELECT customer_id, metric_id, start_at, end_at, slice, properties, true FROM observed o
WHERE EXISTS (SELECT FROM closed x WHERE (x.metric_id, x.customer_id) = (o.metric_id, o.customer_id)
              AND x.start_at < o.end_at AND x.end_at > o.start_at)
  AND NOT EXISTS (SELECT FROM committed c WHERE (c.customer_id, c.metric_id, c.start_at, c.end_at, c.slice)
                  = (o.customer_id, o.metric_id, o.start_at, o.end_at, o.slice))
""",
)
