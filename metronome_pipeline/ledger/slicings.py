"""The one slicing that each metric is billed through: noted when it is first billed, changed only when asked for."""

from collections.abc import Mapping
from typing import Any

import psycopg

from metronome_pipeline.ledger.plan import PLANNING_LOCK

Connection = psycopg.Connection[Any]


def slicings(connection: Connection, pair_id: int) -> dict[str, str]:
    """Metric id → the slicing that it is billed through."""
    rows = connection.execute("SELECT metric_id::text, slicing FROM ledger.slicings WHERE pair_id = %s", [pair_id])
    return dict(rows.fetchall())


def note_slicings(connection: Connection, pair_id: int, wanted: Mapping[str, str]) -> dict[str, str]:
    """Notes the slicing of metrics that have none yet, and returns those of all metrics."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, pair_id])
    connection.execute(
        "INSERT INTO ledger.slicings (pair_id, metric_id, slicing) "
        "SELECT %s, * FROM unnest(%s::uuid[], %s::text[]) ON CONFLICT DO NOTHING",
        [pair_id, list(wanted), list(wanted.values())],
    )
    return slicings(connection, pair_id)


def switch_slicing(connection: Connection, pair_id: int, metric_id: str, slicing: str, *, by: str) -> None:
    """Bills a metric through another slicing from now on.

    What was once read of it is forgotten, so that nothing is planned from it: each hour is read again before its events
    are corrected. Readings under way in the old slicing are not stored, and plans leave them alone.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, pair_id])
    # First of all: this waits for readings that are being stored, so that what they wrote is forgotten as well.
    connection.execute(
        "INSERT INTO ledger.slicings (pair_id, metric_id, slicing, asked_by) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (pair_id, metric_id) DO UPDATE SET slicing = excluded.slicing, since = excluded.since, "
        "asked_by = excluded.asked_by",
        [pair_id, metric_id, slicing, by],
    )
    for forget in _FORGET:
        connection.execute(forget, [pair_id, metric_id])


_FORGET = (
    "DELETE FROM metronome.coverage WHERE pair_id = %s AND metric_id = %s",
    "DELETE FROM ledger.planned_hours WHERE pair_id = %s AND metric_id = %s",
    "DELETE FROM metronome.readings WHERE pair_id = %s AND metric_id = %s",
    "DELETE FROM metronome.usage WHERE pair_id = %s AND metric_id = %s",
    "DELETE FROM metronome.grouped_usage WHERE pair_id = %s AND metric_id = %s",
    "DELETE FROM metronome.short_groups WHERE pair_id = %s AND metric_id = %s",
)
