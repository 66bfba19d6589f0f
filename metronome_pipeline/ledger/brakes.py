"""Held decreases, and the person who lets one through. Not here: when the brake holds (``plan.py``)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]
HELD_COLUMNS = ("digest", "customer", "metric", "from (UTC)", "to (UTC)", "billed", "observed", "change", "since (UTC)")


def held(connection: Connection, pair_id: int) -> Sequence[Sequence[Any]]:
    """What the brake holds, newest first, as rows of ``HELD_COLUMNS``."""
    return connection.execute(_HELD, [pair_id]).fetchall()


def release(connection: Connection, pair_id: int, digest: str, *, by: str) -> tuple[datetime, datetime] | None:
    """Lets the plan of a digest through and returns its hours; None when the brake holds no such plan."""
    row = connection.execute(_RELEASE, [by, pair_id, digest]).fetchone()
    return None if row is None else (row[0], row[1])


_HELD = """
SELECT b.digest, CASE WHEN b.customer_id IS NULL THEN 'all' ELSE coalesce(c.name, b.customer_id::text) END,
       coalesce(m.name, b.metric_id::text), b.from_at, b.to_at, b.billed, b.observed, b.observed - b.billed, b.at
FROM ledger.brakes b
LEFT JOIN metronome.customers c ON c.pair_id = b.pair_id AND c.customer_id = b.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = b.pair_id AND m.metric_id = b.metric_id
WHERE b.pair_id = %s AND b.released_at IS NULL ORDER BY b.at DESC, b.digest
"""

_RELEASE = """
UPDATE ledger.brakes SET released_at = ledger.moment(), released_by = %s
WHERE pair_id = %s AND digest = %s AND released_at IS NULL
RETURNING from_at, to_at
"""
