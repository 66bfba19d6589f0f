"""Complete walks, written down: what an hour's usage is, and up to when each pair has been read.

Here: the statements that replace the hours of a walk by what it read, so that usage which vanished vanishes here too. Not
here: the walks (``read.py``). Rows of a walk wait in ``metronome.staged_usage`` until the walk is complete, so that a
partial read changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]
TOTAL = "total"


@dataclass(frozen=True)
class UsageRow:
    """The value of one hour: its total (``slice`` is ``total``) or one group of it."""

    customer_id: str
    metric_id: str
    start: datetime
    end: datetime
    value: Decimal
    slice: str = TOTAL
    properties: str | None = None


@dataclass(frozen=True)
class ShortHour:
    """An hour whose groups did not add up to its total after a second read of both."""

    start: datetime
    total: Decimal | None
    grouped: Decimal | None


@dataclass(frozen=True)
class Walk:
    """A walk under way. ``began_at`` is the database's time before its first request."""

    walk_id: int
    began_at: datetime


@dataclass(frozen=True)
class Reading:
    """A complete walk of one (customer, metric) over the hours ``[start, end)`` in one slicing."""

    walk: Walk
    customer_id: str
    metric_id: str
    slicing: str
    start: datetime
    end: datetime
    short_hours: Sequence[ShortHour] = ()


def begin_walk(connection: Connection) -> Walk:
    """A new walk, with the database's time at which it begins."""
    row = connection.execute("INSERT INTO metronome.walks DEFAULT VALUES RETURNING walk_id, began_at").fetchone()
    assert row is not None
    return Walk(*row)


def stage(connection: Connection, walk: Walk, rows: Iterable[UsageRow]) -> None:
    """Puts rows of a walk aside. They are not usage before the walk is complete."""
    columns = "walk_id, customer_id, metric_id, start_at, end_at, slice, properties, value"
    with connection.cursor().copy(f"COPY metronome.staged_usage ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(
                (walk.walk_id, row.customer_id, row.metric_id, row.start, row.end, row.slice, row.properties, row.value)
            )


def discard(connection: Connection, walk: Walk) -> None:
    """Forgets a walk that did not complete, and its rows."""
    connection.execute("DELETE FROM metronome.staged_usage WHERE walk_id = %s", [walk.walk_id])
    connection.execute("DELETE FROM metronome.walks WHERE walk_id = %s", [walk.walk_id])


def forget_old_walks(connection: Connection) -> None:
    """Clears what walks of dead runs left, and readings older than any run can be."""
    connection.execute("DELETE FROM metronome.readings WHERE completed_at < ledger.moment() - interval '2 days'")
    connection.execute(
        "WITH dead AS (DELETE FROM metronome.walks WHERE began_at < ledger.moment() - interval '2 days' RETURNING walk_id) "
        "DELETE FROM metronome.staged_usage WHERE walk_id IN (SELECT walk_id FROM dead)"
    )


def store(connection: Connection, pair_id: int, readings: Sequence[Reading], *, grouped: bool, run_id: str) -> None:
    """Replaces the hours of each reading by the rows staged for it. Hours that a later reading covers are left alone."""
    parameters: dict[str, Any] = {
        "pair_id": pair_id,
        "run_id": run_id,
        "walks": [reading.walk.walk_id for reading in readings],
        "began": [reading.walk.began_at for reading in readings],
        "customers": [reading.customer_id for reading in readings],
        "metrics": [reading.metric_id for reading in readings],
        "slicings": [reading.slicing for reading in readings],
        "starts": [reading.start for reading in readings],
        "ends": [reading.end for reading in readings],
    }
    connection.execute(_READ, parameters)
    connection.execute(_COVER, parameters)
    # Only now, with the pairs' coverage rows locked, is it settled which readings of them came before.
    connection.execute(_REMEMBER, parameters)
    for statement in _GROUPED if grouped else _UNGROUPED:
        connection.execute(statement, parameters)
    if grouped:
        _store_short_hours(connection, pair_id, readings)
    connection.execute("DELETE FROM metronome.staged_usage WHERE walk_id = ANY (%(walks)s)", parameters)
    connection.execute("DELETE FROM metronome.walks WHERE walk_id = ANY (%(walks)s)", parameters)
    connection.execute("DROP TABLE reading")


def _store_short_hours(connection: Connection, pair_id: int, readings: Sequence[Reading]) -> None:
    connection.execute(
        "DELETE FROM metronome.short_groups s USING reading r "
        "WHERE s.pair_id = %s AND (s.customer_id, s.metric_id) = (r.customer_id, r.metric_id) AND r.hours @> s.start_at",
        [pair_id],
    )
    rows = [
        (pair_id, reading.customer_id, reading.metric_id, hour.start, hour.total, hour.grouped)
        for reading in readings
        for hour in reading.short_hours
    ]
    if rows:
        connection.cursor().executemany(
            "INSERT INTO metronome.short_groups (pair_id, customer_id, metric_id, start_at, total, grouped) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (pair_id, metric_id, customer_id, start_at) DO UPDATE "
            "SET total = excluded.total, grouped = excluded.grouped, seen_at = excluded.seen_at",
            rows,
        )


_READ = """
CREATE TEMP TABLE reading ON COMMIT DROP AS
SELECT walk_id, began_at, customer_id, metric_id, slicing, tstzrange(start_at, end_at) AS hours, NULL::tstzmultirange AS newer
FROM unnest(%(walks)s::bigint[], %(began)s::timestamptz[], %(customers)s::uuid[], %(metrics)s::uuid[], %(slicings)s::text[],
            %(starts)s::timestamptz[], %(ends)s::timestamptz[])
    AS r (walk_id, began_at, customer_id, metric_id, slicing, start_at, end_at)
"""

# Also the lock: two readings of one pair are stored one after the other. Ordered, so that two stores cannot deadlock.
_COVER = """
INSERT INTO metronome.coverage AS c (pair_id, customer_id, metric_id, slicing, covered)
SELECT %(pair_id)s, customer_id, metric_id, slicing, range_agg(hours) FROM reading
GROUP BY customer_id, metric_id, slicing ORDER BY metric_id, customer_id, slicing
ON CONFLICT (pair_id, metric_id, customer_id, slicing) DO UPDATE SET covered = c.covered + excluded.covered
"""

_REMEMBER = """
WITH newer AS (
    SELECT r.walk_id, r.metric_id, range_agg(n.hours) AS hours
    FROM reading r JOIN metronome.readings n
        ON n.pair_id = %(pair_id)s AND (n.metric_id, n.customer_id, n.slicing) = (r.metric_id, r.customer_id, r.slicing)
        AND n.began_at > r.began_at AND n.hours && r.hours
    GROUP BY r.walk_id, r.metric_id
), judged AS (
    UPDATE reading r SET newer = n.hours FROM newer n WHERE (n.walk_id, n.metric_id) = (r.walk_id, r.metric_id)
)
INSERT INTO metronome.readings (pair_id, customer_id, metric_id, slicing, hours, began_at, run_id)
SELECT %(pair_id)s, customer_id, metric_id, slicing, hours, began_at, %(run_id)s FROM reading
"""

_UNGROUPED = (
    """
DELETE FROM metronome.usage u USING reading r
WHERE u.pair_id = %(pair_id)s AND u.metric_id = r.metric_id AND u.customer_id = r.customer_id
  AND u.start_at >= lower(r.hours) AND u.start_at < upper(r.hours) AND (r.newer IS NULL OR NOT r.newer @> u.start_at)
  AND NOT EXISTS (SELECT FROM metronome.staged_usage s
                  WHERE s.walk_id = r.walk_id AND s.metric_id = u.metric_id AND s.start_at = u.start_at)
""",
    """
INSERT INTO metronome.usage AS u (pair_id, customer_id, metric_id, start_at, end_at, value)
SELECT %(pair_id)s, s.customer_id, s.metric_id, s.start_at, s.end_at, s.value
FROM reading r JOIN metronome.staged_usage s USING (walk_id, customer_id, metric_id)
WHERE r.hours @> s.start_at AND (r.newer IS NULL OR NOT r.newer @> s.start_at)
ON CONFLICT (pair_id, metric_id, customer_id, start_at) DO UPDATE SET value = excluded.value, end_at = excluded.end_at
    WHERE (u.value, u.end_at) IS DISTINCT FROM (excluded.value, excluded.end_at)
""",
)

_GROUPED = (
    """
DELETE FROM metronome.grouped_usage u USING reading r
WHERE u.pair_id = %(pair_id)s AND u.metric_id = r.metric_id AND u.customer_id = r.customer_id
  AND u.start_at >= lower(r.hours) AND u.start_at < upper(r.hours) AND (r.newer IS NULL OR NOT r.newer @> u.start_at)
  AND NOT EXISTS (SELECT FROM metronome.staged_usage s
                  WHERE s.walk_id = r.walk_id AND s.metric_id = u.metric_id AND s.start_at = u.start_at AND s.slice = u.slice)
""",
    """
INSERT INTO metronome.grouped_usage AS u (pair_id, customer_id, metric_id, start_at, end_at, slice, properties, value)
SELECT %(pair_id)s, s.customer_id, s.metric_id, s.start_at, s.end_at, s.slice, s.properties, s.value
FROM reading r JOIN metronome.staged_usage s USING (walk_id, customer_id, metric_id)
WHERE r.hours @> s.start_at AND (r.newer IS NULL OR NOT r.newer @> s.start_at)
ON CONFLICT (pair_id, metric_id, customer_id, start_at, slice) DO UPDATE SET value = excluded.value, end_at = excluded.end_at
    WHERE (u.value, u.end_at) IS DISTINCT FROM (excluded.value, excluded.end_at)
""",
)
