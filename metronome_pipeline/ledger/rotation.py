"""Turns: whose usage an hourly run reads where an hour has too few requests for every pair (customer, metric).

Here: how many requests a look at everything takes, the choice, what is written down of it, and which pairs have waited
for too long. Not here: reading them (``read.py``), and which runs choose (``workflows/ingestion.py``).

A pair is read for all hours since it was last read, so a choice delays usage and loses none: plans and sweeps go by
what is covered, pair by pair. Why it is done this way: ``docs/decisions/0004-idle-pairs-take-turns.md``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg

from metronome_pipeline.ledger.read import CustomerMetrics, Window, midnight, steps
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.ledger.synchronise import Due, Stage
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE

Connection = psycopg.Connection[Any]
TURNS_LOCK = 0x6D70_0010
PAGE_DAYS = 8
"""UTC days of hours that one page of a pair holds: a pair that was not read for longer is taken for a new one."""
LONGEST_WAIT = timedelta(hours=24)
OVERDUE_COLUMNS = ("customer", "metric", "read until", "hours")
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_WINDOWS_ON_A_PAGE = 200
_GROUPS_ON_A_PAGE = 100
# A new pair counts as one that has waited so long: behind those with usage, before those without.
_HOURS_OF_A_NEW_PAIR = 23
_MOST_FAILURES = 3
_LISTED = 100


@dataclass(frozen=True)
class Turns:
    """What one run reads of more pairs than it has requests for. Hours of all others are read at their turn.

    Attributes:
        window: The hours that are read, of every pair that is chosen.
        parts: Pairs with usage of late, then the rest.
        pairs: All that are due.
        active: Those of them with usage of late.
        chosen: Those that are read now.
        longest: How long the pair has waited that waited longest, of those that are not.
        cycle: Within how long every pair is read at this pace.
    """

    window: Window
    parts: Sequence[Sequence[CustomerMetrics]]
    pairs: int
    active: int
    chosen: int
    longest: timedelta
    cycle: timedelta

    @property
    def waiting(self) -> int:
        """Pairs that are not read now."""
        return self.pairs - self.chosen

    def stages(self, due: Due, window: Window, days: int) -> list[Stage]:
        """How a run goes through a window: its newest hours of the pairs that are chosen, then the older ones of all.

        The newest hours are done once all parts were read.
        """
        newest = [
            Stage(replace(due, only=part), self.window, last=number == len(self.parts))
            for number, part in enumerate(self.parts, start=1)
        ]
        if window.start >= self.window.start:
            return newest
        return [*newest, *(Stage(due, step) for step in steps(Window(window.start, self.window.start), days))]


@dataclass(frozen=True)
class Overdue:
    """Pairs that were not read for over a day: how many, and the first of them as rows of ``OVERDUE_COLUMNS``."""

    pairs: int = 0
    listed: Sequence[Sequence[Any]] = ()


def requests_of(connection: Connection, pair_id: int, due: Due, window: Window) -> int:
    """How many requests a look at a window of every pair takes, by the groups that it had when it was last read."""
    customers = due.customer_ids(window)
    pages = len(customers) * len(due.metrics) * _pages(window)
    if not pages or not _grouped(due):
        return pages
    row = connection.execute(_GROUP_PAGES, _parameters(pair_id, due, customers, window)).fetchone()
    assert row is not None
    return pages + int(row[0])


def choose(connection: Connection, pair_id: int, due: Due, window: Window, requests: int, *, run_id: str) -> Turns:
    """Chooses the pairs that have waited longest against how long they may, and writes down that this run reads them.

    Pairs are chosen until ``requests`` are used up, at least one. Choices of two runs come one after the other, so that
    an idle pair which one of them is about to read is not read by the other one too.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [TURNS_LOCK, pair_id])
    customers = due.customer_ids(window)
    parameters = {**_parameters(pair_id, due, customers, window), "requests": requests, "run_id": run_id}
    connection.execute(_STANDING, parameters)
    connection.execute(_CHOICE, parameters)
    connection.execute(_NOTE_TURNS, parameters)
    figures = connection.execute(_FIGURES, parameters).fetchone()
    assert figures is not None
    pairs, active, chosen, longest, active_cost, other_cost, unread_from = figures
    metrics = {metric.metric_id: metric for metric in due.metrics}
    parts: Mapping[bool, list[CustomerMetrics]] = {True: [], False: []}
    for is_active, customer_id, metric_ids in connection.execute(_CHOSEN):
        parts[is_active].append((customer_id, [metrics[metric_id] for metric_id in metric_ids]))
    turns = Turns(
        _from_the_last_read(window, unread_from),
        [part for part in parts.values() if part],
        pairs,
        active,
        chosen,
        longest or timedelta(0),
        cycle(int(active_cost or 0), int(other_cost or 0), requests),
    )
    noted = {"pairs": pairs, "active": active, "chosen": chosen, "longest": turns.longest, "cycle": turns.cycle}
    connection.execute(_NOTE_CHOICE, {**parameters, **noted})
    connection.execute("DROP TABLE standing, choice")
    return turns


def part_of(requests: int, own: int, others: int) -> int | None:
    """How many of an hour's ``requests`` a workflow has, beside another one's; None where both need no more than that.

    Each has a part in proportion to what a look at all of its pairs takes.
    """
    return None if own + others <= requests else max(1, requests * own // (own + others))


def cycle(active: int, others: int, requests: int) -> timedelta:
    """Within how long every pair is read, where a look at the active ones and at the others takes so many requests.

    Each hour the active ones are read, and as many others as the rest allows. Where that would take others more than a
    day, both wait longer, active ones a 24th as long: hours * requests = 24 * active + others.
    """
    day = LONGEST_WAIT / _HOUR
    shared = (day * active + others) / requests
    if not others:
        hours = active / requests
    elif shared >= day:
        hours = shared
    else:
        hours = others / (requests - active)
    return max(hours, 1.0) * _HOUR


def end(connection: Connection, pair_id: int, run_id: str, unread: Sequence[Unread]) -> None:
    """Ends the turns of a run: pairs that it did not come to are first again, those that it could not read are last."""
    failed = [(each.customer_id, metric_id) for each in unread for metric_id in each.metric_ids]
    parameters = {
        "pair_id": pair_id,
        "run_id": run_id,
        "customers": [customer_id for customer_id, _ in failed],
        "metrics": [metric_id for _, metric_id in failed],
    }
    for statement in (_NOTE_FAILED, _END):
        connection.execute(statement, parameters)


def end_all(connection: Connection, pair_id: int, *, grouped: bool) -> None:
    """Notes that no pair of a workflow has to wait any more: all of them fit into an hour."""
    connection.execute("DELETE FROM metronome.rotations WHERE pair_id = %s AND grouped = %s", [pair_id, grouped])


def taking_turns(connection: Connection, pair_id: int, *, grouped: bool) -> datetime | None:
    """The end of the hours that the last choice was about; None where no pair has to wait."""
    row = connection.execute(
        "SELECT until_at FROM metronome.rotations WHERE pair_id = %s AND grouped = %s", [pair_id, grouped]
    ).fetchone()
    return None if row is None else row[0]


def waiting_from(connection: Connection, pair_id: int, due: Due) -> datetime | None:
    """From when on an hour that was not read yet may only be waiting for its pair's turn; None where none has to."""
    by_period = any(metric.slicing == PERIOD_TO_DATE for metric in due.metrics)
    until = None if by_period else taking_turns(connection, pair_id, grouped=_grouped(due))
    return None if until is None else until - LONGEST_WAIT


def overdue(connection: Connection, pair_id: int, due: Due) -> Overdue:
    """Pairs that were not read for over a day at the time of the last choice; none where no pair has to wait."""
    until = taking_turns(connection, pair_id, grouped=_grouped(due))
    if until is None or not due.metrics:
        return Overdue()
    window = Window(until - _HOUR, until)
    connection.execute(_STANDING, _parameters(pair_id, due, due.customer_ids(window), window))
    rows = connection.execute(_OVERDUE, {"pair_id": pair_id, "longest": LONGEST_WAIT, "most": _LISTED}).fetchall()
    connection.execute("DROP TABLE standing")
    return Overdue(rows[0][0], [row[1:] for row in rows]) if rows else Overdue()


def first_of_page(end: datetime) -> datetime:
    """The UTC midnight from which on one page holds all hours of a pair up to ``end``."""
    return midnight(end - _HOUR) - (PAGE_DAYS - 1) * _DAY


def _from_the_last_read(window: Window, unread_from: datetime | None) -> Window:
    """The window, from the day on at which the pair was last read that waited longest, as far as one page goes."""
    if unread_from is None or unread_from >= window.start:
        return window
    return Window(max(midnight(unread_from), min(first_of_page(window.end), window.start)), window.end)


def _pages(window: Window) -> int:
    first, last = window.days
    return max(1, -(-int((last - first) / _HOUR) // _WINDOWS_ON_A_PAGE))


def _grouped(due: Due) -> bool:
    return any(metric.group_key for metric in due.metrics)


def _parameters(pair_id: int, due: Due, customers: Sequence[str], window: Window) -> dict[str, Any]:
    return {
        "pair_id": pair_id,
        "customers": list(customers),
        "metrics": [metric.metric_id for metric in due.metrics],
        "slicings": [metric.slicing for metric in due.metrics],
        "grouped": _grouped(due),
        "start": window.start,
        "end": window.end,
        "page": first_of_page(window.end),
        "pages": _pages(window),
        "groups_on_a_page": _GROUPS_ON_A_PAGE,
        "new": _HOURS_OF_A_NEW_PAIR,
        "most_failures": _MOST_FAILURES,
    }


_GROUP_PAGES = """
SELECT coalesce(sum(ceil(g.rows / %(groups_on_a_page)s)), 0)
FROM unnest(%(customers)s::uuid[]) AS c (customer_id) CROSS JOIN unnest(%(metrics)s::uuid[]) AS m (metric_id)
CROSS JOIN LATERAL (
    SELECT count(*)::numeric AS rows FROM metronome.grouped_usage g
    WHERE g.pair_id = %(pair_id)s AND g.metric_id = m.metric_id AND g.customer_id = c.customer_id
      AND g.start_at >= %(start)s AND g.slice <> 'total' OFFSET 0
) AS g
"""

# The scalar subqueries are looked up pair by pair in an index: joined, they would be read as whole tables.
# `unread`: since it was last read; `waited`: since it was last asked for. An active pair may wait for an hour, any
# other for 24: `urgency` tells hours of 24.
_STANDING = """
CREATE TEMP TABLE standing ON COMMIT DROP AS
WITH due AS MATERIALIZED (
    SELECT c.customer_id, m.metric_id, m.slicing,
           greatest(k.first_read_at, b.first_read_at, coalesce(r.since, ledger.moment())) AS known_at
    FROM unnest(%(customers)s::uuid[]) AS c (customer_id)
    CROSS JOIN unnest(%(metrics)s::uuid[], %(slicings)s::text[]) AS m (metric_id, slicing)
    LEFT JOIN metronome.customers k ON k.pair_id = %(pair_id)s AND k.customer_id = c.customer_id
    LEFT JOIN metronome.billable_metrics b ON b.pair_id = %(pair_id)s AND b.metric_id = m.metric_id
    LEFT JOIN metronome.rotations r ON r.pair_id = %(pair_id)s AND r.grouped = %(grouped)s
), looked AS MATERIALIZED (
    SELECT d.customer_id, d.metric_id, d.known_at, t.until_at AS asked_until,
           CASE WHEN upper(c.covered) > %(page)s THEN upper(c.covered) END AS read_until,
           coalesce(t.failures, 0) < %(most_failures)s AND (
               SELECT true FROM ledger.events e
               WHERE e.pair_id = %(pair_id)s AND e.metric_id = d.metric_id AND e.customer_id = d.customer_id
                 AND e.start_at >= %(page)s LIMIT 1) IS TRUE AS active,
           %(pages)s + CASE WHEN %(grouped)s THEN (
               SELECT ceil(count(*)::numeric / %(groups_on_a_page)s) FROM metronome.grouped_usage g
               WHERE g.pair_id = %(pair_id)s AND g.metric_id = d.metric_id AND g.customer_id = d.customer_id
                 AND g.start_at >= %(start)s AND g.slice <> 'total') ELSE 0 END AS cost
    FROM due d
    LEFT JOIN metronome.coverage c ON c.pair_id = %(pair_id)s
        AND (c.customer_id, c.metric_id, c.slicing) = (d.customer_id, d.metric_id, d.slicing)
    LEFT JOIN metronome.turns t ON t.pair_id = %(pair_id)s
        AND (t.customer_id, t.metric_id) = (d.customer_id, d.metric_id)
), waiting AS (
    SELECT *, greatest(%(end)s - coalesce(read_until, known_at), interval '0') AS unread,
           extract(epoch FROM CASE WHEN read_until IS NULL AND asked_until IS NULL
                                   THEN greatest(%(end)s - known_at, interval '0')
                                   ELSE %(end)s - greatest(read_until, asked_until) END)::float8 / 3600 AS waited
    FROM looked
)
SELECT *, CASE WHEN active AND read_until IS NULL THEN 24 * greatest(waited, 1) WHEN active THEN 24 * waited
               WHEN read_until IS NULL AND asked_until IS NULL THEN greatest(waited, %(new)s) ELSE waited END AS urgency
FROM waiting
"""

_CHOICE = """
CREATE TEMP TABLE choice ON COMMIT DROP AS
SELECT *, sum(cost) OVER (ORDER BY urgency DESC, active DESC, waited DESC, customer_id, metric_id
                          ROWS UNBOUNDED PRECEDING) - cost < %(requests)s AS chosen
FROM standing
"""

_NOTE_TURNS = """
INSERT INTO metronome.turns AS t (pair_id, metric_id, customer_id, until_at, run_id)
SELECT %(pair_id)s, metric_id, customer_id, %(end)s, %(run_id)s FROM choice WHERE chosen
ON CONFLICT (pair_id, metric_id, customer_id)
    DO UPDATE SET until_at = greatest(t.until_at, excluded.until_at), run_id = excluded.run_id
"""

_FIGURES = """
SELECT count(*), count(*) FILTER (WHERE active), count(*) FILTER (WHERE chosen),
       max(unread) FILTER (WHERE NOT chosen), sum(cost) FILTER (WHERE active), sum(cost) FILTER (WHERE NOT active),
       min(read_until) FILTER (WHERE chosen)
FROM choice
"""

_CHOSEN = """
SELECT active, customer_id::text, array_agg(metric_id::text ORDER BY metric_id) FROM choice
WHERE chosen GROUP BY active, customer_id ORDER BY max(urgency) DESC, customer_id
"""

_NOTE_CHOICE = """
INSERT INTO metronome.rotations AS r
    (pair_id, grouped, until_at, pairs, active_pairs, chosen_pairs, longest, cycle, run_id)
VALUES (%(pair_id)s, %(grouped)s, %(end)s, %(pairs)s, %(active)s, %(chosen)s, %(longest)s, %(cycle)s, %(run_id)s)
ON CONFLICT (pair_id, grouped) DO UPDATE SET until_at = greatest(r.until_at, excluded.until_at),
    pairs = excluded.pairs, active_pairs = excluded.active_pairs, chosen_pairs = excluded.chosen_pairs,
    longest = excluded.longest, cycle = excluded.cycle, at = ledger.moment(), run_id = excluded.run_id
"""

_NOTE_FAILED = """
UPDATE metronome.turns t SET failures = t.failures + 1, run_id = ''
FROM (SELECT DISTINCT * FROM unnest(%(customers)s::uuid[], %(metrics)s::uuid[]) AS f (customer_id, metric_id)) AS f
WHERE t.pair_id = %(pair_id)s AND (t.customer_id, t.metric_id) = (f.customer_id, f.metric_id)
"""

_END = "DELETE FROM metronome.turns WHERE pair_id = %(pair_id)s AND run_id = %(run_id)s"

_OVERDUE = """
SELECT count(*) OVER (), coalesce(c.name, s.customer_id::text), coalesce(m.name, s.metric_id::text),
       coalesce(to_char(s.read_until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), 'not read for over 8 days'),
       round(extract(epoch FROM s.unread) / 3600)::int
FROM standing s
LEFT JOIN metronome.customers c ON c.pair_id = %(pair_id)s AND c.customer_id = s.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = %(pair_id)s AND m.metric_id = s.metric_id
WHERE s.unread > %(longest)s ORDER BY s.unread DESC, 2, 3 LIMIT %(most)s
"""
