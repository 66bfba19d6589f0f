"""The books of a sweep: its pinned window, which pairs are done, and which days are to be read by hour.

Here: the statements. A pair is written down as done in the transaction that has compared it, so that a sweep which is
cut short asks only the rest. Not here: the requests and their order (``sweeper.py``), how days are compared
(``proofs.py``), what is found in their hours (``findings.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import psycopg

from metronome_pipeline.ledger.read import Window, midnight
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.mapping.usage import BilledMetric
from metronome_pipeline.sweeps.days import days_of

Connection = psycopg.Connection[Any]
STRETCH_DAYS = 8
"""UTC days whose hours fill one page of a pair: 192 of about 200."""
_DAY = timedelta(days=1)
_STRETCH = STRETCH_DAYS * _DAY
_LONGEST_UNFINISHED = timedelta(hours=24)


class SweepKind(Enum):
    """How a sweep looks back: by day, by hour, or by day over everything that is older."""

    usage = "usage"
    usage_by_hour = "usage_by_hour"
    closed_periods = "closed_periods"


@dataclass(frozen=True)
class SweptMetric:
    """A metric that is billed by hour. ``additive``: its days can be told from its hours (COUNT, SUM and MAX)."""

    billed: BilledMetric
    additive: bool


@dataclass(frozen=True)
class Swept:
    """Whose usage is swept: customers, archived or not, metrics by id, and from when on each is billed."""

    pair_id: int
    customers: Sequence[str]
    metrics: Mapping[str, SweptMetric]
    cut_over: datetime
    starts: Mapping[str, datetime] = field(default_factory=dict)

    def start_of(self, customer_id: str) -> datetime:
        """The first hour that is billed for a customer."""
        return max(self.cut_over, self.starts.get(customer_id, self.cut_over))


@dataclass(frozen=True)
class Sweep:
    """A sweep under way. ``window`` lies between UTC midnights and stays what it was when the sweep began."""

    sweep_id: int
    kind: SweepKind
    window: Window
    pairs: int
    resumed: bool = False


@dataclass(frozen=True)
class GivenUp:
    """A sweep that was cut short and not resumed within a day, with how many of its pairs were not done."""

    sweep_id: int
    window: Window
    pairs: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Hours of one (customer, metric) that are read together: at most ``STRETCH_DAYS`` UTC days of one window."""

    customer_id: str
    metric_id: str
    window: Window


def window_of(
    kind: SweepKind, closed_until: datetime, cut_over: datetime, *, days: int, swept_until: datetime | None
) -> Window | None:
    """The whole UTC days that a sweep looks at; None when there are none yet.

    Args:
        kind: How it looks back.
        closed_until: All hours before are closed.
        cut_over: Nothing earlier is billed.
        days: How far back usage is expected to change, 35 by default.
        swept_until: Where the last complete sweep of this kind ended. By hour, days that it saw too young are seen
            again, however long ago it was: each day is read by hour once it is older than ``days``.
    """
    first, last = midnight(cut_over), midnight(closed_until)
    if kind is SweepKind.closed_periods:
        last -= days * _DAY
    elif kind is SweepKind.usage:
        first = max(first, last - days * _DAY)
    else:
        first = max(first, min(last - (days + 7) * _DAY, (swept_until or last) - days * _DAY))
    return Window(first, last) if first < last else None


def last_complete(connection: Connection, pair_id: int, kind: SweepKind) -> Sequence[datetime] | None:
    """When the last complete sweep of a kind began, and the end of its window."""
    return connection.execute(
        "SELECT began_at, end_at FROM ledger.sweeps WHERE pair_id = %s AND kind = %s AND outcome = 'complete' "
        "ORDER BY sweep_id DESC LIMIT 1",
        [pair_id, kind.value],
    ).fetchone()


def sweeping_run(connection: Connection, pair_id: int) -> str | None:
    """The run that was last at a sweep which has not ended."""
    row = connection.execute(
        "SELECT run_id FROM ledger.sweeps WHERE pair_id = %s AND ended_at IS NULL ORDER BY taken_up_at DESC LIMIT 1",
        [pair_id],
    ).fetchone()
    return None if row is None else str(row[0])


def give_up_old(connection: Connection, pair_id: int, kind: SweepKind) -> GivenUp | None:
    """Closes an unfinished sweep of a kind that began over a day ago. Its pairs that are not done stay listed."""
    row = connection.execute(
        "UPDATE ledger.sweeps SET ended_at = ledger.moment(), outcome = 'incomplete' WHERE pair_id = %s AND kind = %s "
        "AND ended_at IS NULL AND began_at < ledger.moment() - %s RETURNING sweep_id, start_at, end_at",
        [pair_id, kind.value, _LONGEST_UNFINISHED],
    ).fetchone()
    if row is None:
        return None
    sweep_id, start, end = row
    _forget_done(connection, sweep_id)
    left = connection.execute("SELECT count(*) FROM ledger.sweep_pairs WHERE sweep_id = %s", [sweep_id]).fetchone()
    assert left is not None
    return GivenUp(sweep_id, Window(start, end), left[0])


def resume(connection: Connection, swept: Swept, kind: SweepKind, *, run_id: str) -> Sweep | None:
    """The unfinished sweep of a kind, as it was; None where there is none.

    Pairs that could not be read before are asked again. Those that are no longer billed by hour are left out.
    """
    row = connection.execute(
        "UPDATE ledger.sweeps SET run_id = %s, taken_up_at = ledger.moment() "
        "WHERE pair_id = %s AND kind = %s AND ended_at IS NULL "
        "RETURNING sweep_id, start_at, end_at, pairs",
        [run_id, swept.pair_id, kind.value],
    ).fetchone()
    if row is None:
        return None
    sweep_id, start, end, pairs = row
    still = [sweep_id, list(swept.metrics), list(swept.customers)]
    for table, is_open in (("sweep_pairs", "done_at IS NULL"), ("sweep_days", "read_at IS NULL")):
        connection.execute(
            f"DELETE FROM ledger.{table} WHERE sweep_id = %s AND {is_open} "  # noqa: S608 - two constants
            "AND NOT (metric_id = ANY (%s::uuid[]) AND customer_id = ANY (%s::uuid[]))",
            still,
        )
    connection.execute("UPDATE ledger.sweep_pairs SET unread = NULL WHERE sweep_id = %s", [sweep_id])
    return Sweep(sweep_id, kind, Window(start, end), pairs, resumed=True)


def begin(connection: Connection, swept: Swept, kind: SweepKind, window: Window, *, run_id: str) -> Sweep:
    """A new sweep over every pair that was ever billed or read in the window, archived or not."""
    row = connection.execute(
        "INSERT INTO ledger.sweeps (pair_id, kind, start_at, end_at, run_id) VALUES (%s, %s, %s, %s, %s) "
        "RETURNING sweep_id",
        [swept.pair_id, kind.value, window.start, window.end, run_id],
    ).fetchone()
    assert row is not None
    sweep_id = row[0]
    customers = [customer for customer in swept.customers if swept.start_of(customer) < window.end]
    parameters = {
        "sweep_id": sweep_id,
        "pair_id": swept.pair_id,
        "customers": customers,
        "metrics": list(swept.metrics),
        "slicings": [metric.billed.slicing for metric in swept.metrics.values()],
        "start": window.start,
        "end": window.end,
    }
    pairs = connection.execute(_PAIRS, parameters).rowcount
    connection.execute("UPDATE ledger.sweeps SET pairs = %s WHERE sweep_id = %s", [pairs, sweep_id])
    return Sweep(sweep_id, kind, window, pairs)


def end(connection: Connection, sweep: Sweep) -> None:
    """Every pair was asked for: the sweep is complete. Pairs that could not be read stay listed."""
    connection.execute(
        "UPDATE ledger.sweeps SET ended_at = ledger.moment(), outcome = 'complete' WHERE sweep_id = %s",
        [sweep.sweep_id],
    )
    _forget_done(connection, sweep.sweep_id)


def _forget_done(connection: Connection, sweep_id: int) -> None:
    connection.execute(
        "DELETE FROM ledger.sweep_pairs WHERE sweep_id = %s AND done_at IS NOT NULL AND unread IS NULL", [sweep_id]
    )


def pairs_to_ask(connection: Connection, sweep: Sweep) -> list[tuple[str, list[str]]]:
    """The pairs that are not done, as (customer, metrics)."""
    rows = connection.execute(
        "SELECT customer_id::text, array_agg(metric_id::text ORDER BY metric_id) FROM ledger.sweep_pairs "
        "WHERE sweep_id = %s AND done_at IS NULL GROUP BY customer_id ORDER BY customer_id",
        [sweep.sweep_id],
    )
    return [(customer_id, metric_ids) for customer_id, metric_ids in rows]


def note_done(connection: Connection, sweep: Sweep, pairs: Sequence[tuple[str, str]]) -> None:
    """Notes pairs (customer, metric) as done."""
    connection.execute(
        "UPDATE ledger.sweep_pairs p SET done_at = ledger.moment() "
        "FROM unnest(%s::uuid[], %s::uuid[]) AS d (customer_id, metric_id) "
        "WHERE p.sweep_id = %s AND (p.customer_id, p.metric_id) = (d.customer_id, d.metric_id)",
        [[customer for customer, _ in pairs], [metric for _, metric in pairs], sweep.sweep_id],
    )


def note_unread(connection: Connection, sweep: Sweep, unread: Sequence[Unread]) -> None:
    """Notes pairs that could not be read."""
    for each in unread:
        connection.execute(
            "UPDATE ledger.sweep_pairs SET unread = %s "
            "WHERE sweep_id = %s AND customer_id = %s AND metric_id = ANY (%s::uuid[])",
            [each.reason, sweep.sweep_id, each.customer_id, list(each.metric_ids)],
        )


def stretches_to_read(connection: Connection, swept: Swept, sweep: Sweep) -> list[Stretch]:
    """What is to be read by hour: stretches with days that differ; by hour, all stretches of all pairs not done."""
    if sweep.kind is SweepKind.usage_by_hour:
        windows = _stretches(swept, sweep, days_of(sweep.window.start, sweep.window.end))
        return [
            Stretch(customer_id, metric_id, window)
            for customer_id, metric_ids in pairs_to_ask(connection, sweep)
            for metric_id in metric_ids
            for window in windows
            if window.end > swept.start_of(customer_id)
        ]
    rows = connection.execute(
        "SELECT customer_id::text, metric_id::text, array_agg(day ORDER BY day) FROM ledger.sweep_days "
        "WHERE sweep_id = %s AND read_at IS NULL GROUP BY customer_id, metric_id ORDER BY customer_id, metric_id",
        [sweep.sweep_id],
    )
    return [
        Stretch(customer_id, metric_id, window)
        for customer_id, metric_id, days in rows
        for window in _stretches(swept, sweep, days)
    ]


def stretch_of(swept: Swept, sweep: Sweep, day: datetime) -> Window:
    """The stretch of a sweep's window in which a day lies; no hour of it is from before the cut-over."""
    start = sweep.window.start + (day - sweep.window.start) // _STRETCH * _STRETCH
    return Window(max(start, swept.cut_over), min(start + _STRETCH, sweep.window.end))


def _stretches(swept: Swept, sweep: Sweep, days: Sequence[datetime]) -> list[Window]:
    return list(dict.fromkeys(stretch_of(swept, sweep, day) for day in days))


def note_read(connection: Connection, sweep: Sweep, stretches: Sequence[Stretch]) -> None:
    """Notes stretches whose hours were read and stored."""
    connection.execute(
        _NOTE_READ,
        {
            "sweep_id": sweep.sweep_id,
            "customers": [stretch.customer_id for stretch in stretches],
            "metrics": [stretch.metric_id for stretch in stretches],
            "starts": [midnight(stretch.window.start) for stretch in stretches],
            "ends": [stretch.window.end for stretch in stretches],
        },
    )


_PAIRS = """
INSERT INTO ledger.sweep_pairs (sweep_id, pair_id, customer_id, metric_id)
SELECT %(sweep_id)s, %(pair_id)s, c.customer_id, m.metric_id
FROM unnest(%(customers)s::uuid[]) AS c (customer_id)
CROSS JOIN unnest(%(metrics)s::uuid[], %(slicings)s::text[]) AS m (metric_id, slicing)
WHERE EXISTS (
    SELECT FROM metronome.coverage v WHERE v.pair_id = %(pair_id)s AND v.slicing = m.slicing
        AND (v.metric_id, v.customer_id) = (m.metric_id, c.customer_id) AND v.covered && tstzrange(%(start)s, %(end)s)
) OR EXISTS (
    SELECT FROM ledger.events e WHERE e.pair_id = %(pair_id)s
        AND (e.metric_id, e.customer_id) = (m.metric_id, c.customer_id)
        AND e.start_at >= %(start)s AND e.start_at < %(end)s
)
"""

_NOTE_READ = """
UPDATE ledger.sweep_days d SET read_at = ledger.moment()
FROM unnest(%(customers)s::uuid[], %(metrics)s::uuid[], %(starts)s::timestamptz[], %(ends)s::timestamptz[])
    AS a (customer_id, metric_id, start_at, end_at)
WHERE d.sweep_id = %(sweep_id)s AND (d.customer_id, d.metric_id) = (a.customer_id, a.metric_id)
  AND d.day >= a.start_at AND d.day < a.end_at
"""
