"""Complete walks, written down: what an hour's usage is, and up to when each pair has been read.

Here: the statements that replace the hours of a walk by what it read, so that usage which vanished vanishes here too.
Not here: the walks (``read.py``). Rows of a walk wait in ``metronome.staged_usage`` until the walk is complete, so that
a partial read changes nothing.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg
from msgspec import Struct

from metronome_pipeline.errors import PipelineError

Connection = psycopg.Connection[Any]
TOTAL = "total"
_STAGED_TYPES = ("int8", "uuid", "uuid", "timestamptz", "timestamptz", "text", "text", "numeric")


class WalkLost(PipelineError):
    """What was staged of a walk under way is gone: Postgres crashed or failed over, and unlogged tables are empty."""


class RepeatedRow(PipelineError):
    """A walk returned one (customer, metric, window, group) twice, so it may lack another."""


class UsageRow(Struct, frozen=True):
    """The value of one hour: its total (``slice`` is ``total``) or one group of it. None: nothing matched."""

    customer_id: str
    metric_id: str
    start: datetime
    end: datetime
    value: Decimal | None
    slice: str = TOTAL
    properties: str | None = None


@dataclass(frozen=True)
class ShortHour:
    """An hour whose groups did not add up to its total; of a maximum, whose highest group is not the total."""

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


def stage(connection: Connection, walk: Walk, rows: Sequence[UsageRow]) -> None:
    """Puts rows of a walk aside, null ones too. They are not usage before the walk is complete.

    Raises:
        RepeatedRow: The walk was given one of them before.
    """
    columns = "walk_id, customer_id, metric_id, start_at, end_at, slice, properties, value"
    ids = {text: uuid.UUID(text) for row in rows for text in (row.customer_id, row.metric_id)}
    try:
        # Binary takes half the time of text here, and a third of our own.
        with connection.cursor().copy(f"COPY metronome.staged_usage ({columns}) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(_STAGED_TYPES)
            for row in rows:
                customer, metric = ids[row.customer_id], ids[row.metric_id]
                copy.write_row(
                    (walk.walk_id, customer, metric, row.start, row.end, row.slice, row.properties, row.value)
                )
    except psycopg.errors.UniqueViolation as error:
        twice = error.diag.message_detail or ""
        named = [row for row in rows if row.slice in twice and f"{row.start:%Y-%m-%d %H:%M}" in twice]
        what = f"{named[0].properties or 'total'} of {named[0].start:%Y-%m-%dT%H:%MZ}" if named else twice
        raise RepeatedRow(f"Metronome returned {what} twice in one walk") from None


def short_hours(connection: Connection, walk: Walk, *, maximum: bool) -> tuple[ShortHour, ...]:
    """The hours of a walk of one metric whose groups and total disagree."""
    rows = connection.execute(_DISAGREEING, {"walk_id": walk.walk_id, "maximum": maximum})
    return tuple(ShortHour(*row) for row in rows)


def discard(connection: Connection, walks: Iterable[Walk]) -> None:
    """Forgets walks that did not complete, and their rows."""
    walk_ids = [walk.walk_id for walk in walks]
    connection.execute("DELETE FROM metronome.staged_usage WHERE walk_id = ANY (%s)", [walk_ids])
    connection.execute("DELETE FROM metronome.walks WHERE walk_id = ANY (%s)", [walk_ids])


def forget_old_walks(connection: Connection) -> None:
    """Clears what walks of dead runs left, and readings older than any run can be."""
    connection.execute("DELETE FROM metronome.readings WHERE completed_at < ledger.moment() - interval '2 days'")
    connection.execute(
        "WITH dead AS (DELETE FROM metronome.walks WHERE began_at < ledger.moment() - interval '2 days' "
        "RETURNING walk_id) DELETE FROM metronome.staged_usage WHERE walk_id IN (SELECT walk_id FROM dead)"
    )


def store(
    connection: Connection, pair_id: int, readings: Sequence[Reading], *, grouped: bool, run_id: str
) -> list[Reading]:
    """Replaces the hours of each reading by the rows staged for it. Hours that a later reading covers are left alone.

    Returns:
        The readings that were not stored: their metric was switched to another slicing while they were read.

    Raises:
        WalkLost: The rows staged for them are not all there any more. Nothing is stored.
    """
    walks = list({reading.walk.walk_id: reading.walk for reading in readings}.values())
    _require_all(connection, walks)
    slicings = _held_slicings(connection, pair_id, readings)
    left = [reading for reading in readings if slicings.get(reading.metric_id, reading.slicing) != reading.slicing]
    kept = [reading for reading in readings if reading not in left] if left else readings
    parameters: dict[str, Any] = {
        "pair_id": pair_id,
        "run_id": run_id,
        "walks": [reading.walk.walk_id for reading in kept],
        "began": [reading.walk.began_at for reading in kept],
        "customers": [reading.customer_id for reading in kept],
        "metrics": [reading.metric_id for reading in kept],
        "slicings": [reading.slicing for reading in kept],
        "starts": [reading.start for reading in kept],
        "ends": [reading.end for reading in kept],
    }
    connection.execute(_READ, parameters)
    connection.execute(_COVER, parameters)
    # Only now, with the pairs' coverage rows locked, is it settled which readings of them came before.
    connection.execute(_REMEMBER, parameters)
    for statement in _GROUPED if grouped else _UNGROUPED:
        connection.execute(statement, parameters)
    if grouped:
        _store_short_hours(connection, pair_id, kept)
    discard(connection, walks)
    connection.execute("DROP TABLE reading")
    return left


def _require_all(connection: Connection, walks: Sequence[Walk]) -> None:
    """Every walk must still be known, by its beginning too: after a crash the numbers of walks start anew."""
    there = connection.execute(
        "SELECT count(*) FROM unnest(%s::bigint[], %s::timestamptz[]) AS w (walk_id, began_at) "
        "JOIN metronome.walks USING (walk_id, began_at)",
        [[walk.walk_id for walk in walks], [walk.began_at for walk in walks]],
    ).fetchone()
    if there != (len(walks),):
        raise WalkLost(
            "Postgres has restarted while usage was read, and what was read so far is gone with its unlogged tables. "
            "Nothing was stored or planned from it: run again."
        )


def _held_slicings(connection: Connection, pair_id: int, readings: Sequence[Reading]) -> dict[str, str]:
    """The noted slicings of the readings' metrics. Nobody switches them before this transaction has ended."""
    rows = connection.execute(
        "SELECT metric_id::text, slicing FROM ledger.slicings WHERE pair_id = %s AND metric_id = ANY (%s::uuid[]) "
        "ORDER BY metric_id FOR SHARE",
        [pair_id, list({reading.metric_id for reading in readings})],
    )
    return dict(rows.fetchall())


def _store_short_hours(connection: Connection, pair_id: int, readings: Sequence[Reading]) -> None:
    hours = [(reading, hour) for reading in readings for hour in reading.short_hours]
    parameters = {
        "pair_id": pair_id,
        "customers": [reading.customer_id for reading, _ in hours],
        "metrics": [reading.metric_id for reading, _ in hours],
        "starts": [hour.start for _, hour in hours],
        "totals": [hour.total for _, hour in hours],
        "grouped": [hour.grouped for _, hour in hours],
    }
    for statement in _SHORT:
        connection.execute(statement, parameters)


# An absent total is nothing: 0 for what adds up, no maximum for a maximum.
_DISAGREEING = """
SELECT start_at, total, grouped FROM (
    SELECT start_at, max(value) FILTER (WHERE slice = 'total') AS total,
           CASE WHEN %(maximum)s THEN max(value) FILTER (WHERE slice <> 'total')
                ELSE coalesce(sum(value) FILTER (WHERE slice <> 'total'), 0) END AS grouped
    FROM metronome.staged_usage WHERE walk_id = %(walk_id)s GROUP BY start_at
) AS hours
WHERE CASE WHEN %(maximum)s THEN grouped IS DISTINCT FROM total ELSE grouped <> coalesce(total, 0) END
ORDER BY start_at
"""

_READ = """
CREATE TEMP TABLE reading ON COMMIT DROP AS
SELECT walk_id, began_at, customer_id, metric_id, slicing, tstzrange(start_at, end_at) AS hours,
       NULL::tstzmultirange AS newer
FROM unnest(%(walks)s::bigint[], %(began)s::timestamptz[], %(customers)s::uuid[], %(metrics)s::uuid[],
            %(slicings)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[])
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

# OFFSET 0 makes Postgres look each reading's hours up by the index of what is staged, and of what is stored. The former
# table is nearly always empty and the latter just filled, so it would choose to go through all of both for each step:
# 19 s of a run of 17,000 pairs, and 0.8 s of a month's first reading of 144,000 rows. For the same reason rows that
# vanished are deleted by their place.
_UNGROUPED = (
    """
DELETE FROM metronome.usage WHERE ctid = ANY (ARRAY(
    SELECT stored.row_id FROM reading r CROSS JOIN LATERAL (
        SELECT v.ctid AS row_id, v.start_at FROM metronome.usage v
        WHERE v.pair_id = %(pair_id)s AND v.metric_id = r.metric_id AND v.customer_id = r.customer_id
          AND v.start_at >= lower(r.hours) AND v.start_at < upper(r.hours) OFFSET 0
    ) AS stored
    WHERE (r.newer IS NULL OR NOT r.newer @> stored.start_at)
      AND NOT EXISTS (SELECT FROM metronome.staged_usage s
                      WHERE s.walk_id = r.walk_id AND s.metric_id = r.metric_id AND s.start_at = stored.start_at
                      OFFSET 0)
))
""",
    """
INSERT INTO metronome.usage AS u (pair_id, customer_id, metric_id, start_at, end_at, value)
SELECT %(pair_id)s, r.customer_id, r.metric_id, s.start_at, s.end_at, s.value
FROM reading r CROSS JOIN LATERAL (
    SELECT * FROM metronome.staged_usage s WHERE s.walk_id = r.walk_id AND s.metric_id = r.metric_id OFFSET 0
) AS s
WHERE s.customer_id = r.customer_id AND r.hours @> s.start_at AND (r.newer IS NULL OR NOT r.newer @> s.start_at)
ON CONFLICT (pair_id, metric_id, customer_id, start_at) DO UPDATE SET value = excluded.value, end_at = excluded.end_at
    WHERE (u.value, u.end_at) IS DISTINCT FROM (excluded.value, excluded.end_at)
""",
)

_GROUPED = (
    """
DELETE FROM metronome.grouped_usage WHERE ctid = ANY (ARRAY(
    SELECT stored.row_id FROM reading r CROSS JOIN LATERAL (
        SELECT v.ctid AS row_id, v.start_at, v.slice FROM metronome.grouped_usage v
        WHERE v.pair_id = %(pair_id)s AND v.metric_id = r.metric_id AND v.customer_id = r.customer_id
          AND v.start_at >= lower(r.hours) AND v.start_at < upper(r.hours) OFFSET 0
    ) AS stored
    WHERE (r.newer IS NULL OR NOT r.newer @> stored.start_at)
      AND NOT EXISTS (SELECT FROM metronome.staged_usage s
                      WHERE s.walk_id = r.walk_id AND s.metric_id = r.metric_id AND s.start_at = stored.start_at
                        AND s.slice = stored.slice AND s.value IS NOT NULL OFFSET 0)
))
""",
    """
INSERT INTO metronome.grouped_usage AS u (pair_id, customer_id, metric_id, start_at, end_at, slice, properties, value)
SELECT %(pair_id)s, r.customer_id, r.metric_id, s.start_at, s.end_at, s.slice, s.properties, s.value
FROM reading r CROSS JOIN LATERAL (
    SELECT * FROM metronome.staged_usage s WHERE s.walk_id = r.walk_id AND s.metric_id = r.metric_id OFFSET 0
) AS s
WHERE s.customer_id = r.customer_id AND s.value IS NOT NULL
  AND r.hours @> s.start_at AND (r.newer IS NULL OR NOT r.newer @> s.start_at)
ON CONFLICT (pair_id, metric_id, customer_id, start_at, slice)
    DO UPDATE SET value = excluded.value, end_at = excluded.end_at
    WHERE (u.value, u.end_at) IS DISTINCT FROM (excluded.value, excluded.end_at)
""",
)

_SHORT = (
    """
DELETE FROM metronome.short_groups s USING reading r
WHERE s.pair_id = %(pair_id)s AND s.metric_id = r.metric_id AND s.customer_id = r.customer_id
  AND r.hours @> s.start_at AND (r.newer IS NULL OR NOT r.newer @> s.start_at)
""",
    """
INSERT INTO metronome.short_groups (pair_id, customer_id, metric_id, start_at, total, grouped)
SELECT %(pair_id)s, r.customer_id, r.metric_id, s.start_at, s.total, s.grouped
FROM unnest(%(customers)s::uuid[], %(metrics)s::uuid[], %(starts)s::timestamptz[], %(totals)s::numeric[],
            %(grouped)s::numeric[]) AS s (customer_id, metric_id, start_at, total, grouped)
JOIN reading r USING (customer_id, metric_id)
WHERE r.newer IS NULL OR NOT r.newer @> s.start_at
""",
)
