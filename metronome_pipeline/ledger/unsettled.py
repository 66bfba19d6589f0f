"""Hours that were seen to differ from what is committed, and could not be planned then: every run plans them first.

A slot with an open event, a held decrease, an original that differs, a release from quarantine: each leaves a
difference that the hours of the next run need not cover. Without this list it would be nobody's to plan.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg

from metronome_pipeline.ledger.read import Window

Connection = psycopg.Connection[Any]
UNSETTLED_COLUMNS = ("customer", "metric", "hour")
_HOUR = timedelta(hours=1)
_LONGEST = timedelta(days=7)


def note_hours_of(connection: Connection, event_ids: Collection[int]) -> None:
    """Notes the hours of events: what is counted for them has changed, or may."""
    connection.execute(_NOTE_EVENTS, [list(event_ids)])


def unsettled_windows(connection: Connection, pair_id: int, metric_ids: Collection[str]) -> list[Window]:
    """What every run plans first: the very windows of released plans, then noted hours, a week at most, oldest first.

    The digest that a person released names the events of its own window; in another one they would be held anew.
    """
    parameters = [pair_id, list(metric_ids)]
    released = [Window(*row) for row in connection.execute(_RELEASED, parameters)]
    rows = connection.execute(
        "SELECT DISTINCT start_at FROM ledger.unsettled_hours "
        "WHERE pair_id = %s AND metric_id = ANY (%s::uuid[]) ORDER BY start_at",
        parameters,
    )
    return [*released, *_windows([start for (start,) in rows])]


def unsettled_hours(connection: Connection, pair_id: int) -> Sequence[Sequence[Any]]:
    """Every noted hour, as rows of ``UNSETTLED_COLUMNS``."""
    return connection.execute(
        "SELECT customer_id, metric_id, start_at FROM ledger.unsettled_hours WHERE pair_id = %s ORDER BY start_at",
        [pair_id],
    ).fetchall()


def _windows(hours: Sequence[datetime]) -> list[Window]:
    windows: list[Window] = []
    for hour in hours:
        if windows and hour + _HOUR - windows[-1].start <= _LONGEST:
            windows[-1] = Window(windows[-1].start, hour + _HOUR)
        else:
            windows.append(Window(hour, hour + _HOUR))
    return windows


_RELEASED = """
SELECT DISTINCT from_at, to_at FROM ledger.brakes
WHERE pair_id = %s AND metric_id = ANY (%s::uuid[]) AND released_at IS NOT NULL AND spent_at IS NULL
ORDER BY from_at, to_at
"""

_NOTE_EVENTS = """
INSERT INTO ledger.unsettled_hours (pair_id, metric_id, customer_id, start_at)
SELECT DISTINCT pair_id, metric_id, customer_id, start_at FROM ledger.events WHERE event_id = ANY (%s)
ON CONFLICT DO NOTHING
"""
