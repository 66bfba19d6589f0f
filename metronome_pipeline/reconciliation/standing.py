"""What the ledger says of a customer's usage: totals by day, and slot by slot which events make them up.

Here: the statements that a comparison needs, and their rows. They change nothing. Not here: what differs, and why
(``differences.py``), and reading the two APIs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg

from metronome_pipeline.storage.accounts import KnownMetric

Connection = psycopg.Connection[Any]

ACCEPTED = frozenset({"delivered", "restated", "deleted", "superseded"})
"""Receipts after which nothing waits any more. A dropped event has come to an end too, but was not taken."""


@dataclass(frozen=True)
class Standing:
    """One UTC day of a (customer, metric): what plan counts, and how much of it has an accepted receipt.

    ``read`` says whether any hour of it was ever read in the slicing that the metric is billed through.
    """

    metric_id: str
    day: datetime
    total: Decimal | None
    highest: Decimal | None
    events: int
    accepted: int
    read: bool


@dataclass(frozen=True)
class StandingEvent:
    """An event of the ledger.

    Attributes:
        number: What was or will be sent; None for a deletion.
        counted: What plan counts for it; None: nothing (deleted, superseded, restated as nothing).
        state: ``planned``, ``quarantined`` or ``held`` while it is open, else the outcome of its last receipt; None
            where there is neither.
        deletion: The state of the event that deletes this one, None without.
        said: Code, field and message of the last receipt, or why it is held.
    """

    event_id: int
    customer_id: str
    metric_id: str
    start: datetime
    end: datetime
    slice: str
    properties: str | None
    kind: str
    number: Decimal | None
    counted: Decimal | None
    reference: str
    state: str | None
    solvimon_id: str | None
    deletion: str | None
    said: str

    @property
    def accepted(self) -> bool:
        """Whether Solvimon has taken it, as far as receipts tell."""
        return self.state in ACCEPTED


@dataclass(frozen=True)
class Slot:
    """One hour (or day slot) as it was last read, and what is known of it.

    Attributes:
        read: Whether it was read in the slicing that the metric is billed through.
        planned: Whether it was planned since.
        value: What was read: the ungrouped value of the slot. None: no usage.
        short: Its groups did not add up to its total.
        unsettled: It is noted for the next run.
        reverted: The run whose events were taken back there.
        brakes: The digests of held plans that concern it.
    """

    start: datetime
    read: bool
    planned: bool
    value: Decimal | None
    short: bool
    unsettled: bool
    reverted: str | None
    brakes: str | None


def days_standing(
    connection: Connection, pair_id: int, customer_id: str, slicings: Mapping[str, str], start: datetime, end: datetime
) -> list[Standing]:
    """A row for every metric of ``slicings`` and every UTC day of ``[start, end)``, both midnights."""
    rows = connection.execute(
        _DAYS,
        {
            "pair_id": pair_id,
            "customer_id": customer_id,
            "metrics": list(slicings),
            "slicings": list(slicings.values()),
            "accepted": list(ACCEPTED),
            "start": start,
            "end": end,
        },
    )
    return [Standing(*row) for row in rows]


def events_standing(
    connection: Connection, pair_id: int, customer_id: str, metric_ids: Collection[str], start: datetime, end: datetime
) -> list[StandingEvent]:
    """Every event of the customer's slots in ``[start, end)``, in the order of planning."""
    where = "e.metric_id = ANY (%(metrics)s::uuid[]) AND e.customer_id = %(customer_id)s::uuid "
    where += "AND e.start_at >= %(start)s AND e.start_at < %(end)s"
    parameters = {
        "pair_id": pair_id,
        "customer_id": customer_id,
        "metrics": list(metric_ids),
        "start": start,
        "end": end,
    }
    return _events(connection, where, parameters)


def events_by_reference(connection: Connection, pair_id: int, references: Collection[str]) -> list[StandingEvent]:
    """The events with some references, wherever they are. Deletions are left out: they share their event's."""
    where = "e.reference = ANY (%(references)s) AND e.kind <> 'deletion'"
    return _events(connection, where, {"pair_id": pair_id, "references": list(references)})


def slots(
    connection: Connection, pair_id: int, customer_id: str, metric_id: str, slicing: str, starts: Sequence[datetime]
) -> dict[datetime, Slot]:
    """What is known of the slots that begin at ``starts``."""
    parameters = {
        "pair_id": pair_id,
        "customer_id": customer_id,
        "metric_id": metric_id,
        "slicing": slicing,
        "starts": list(starts),
    }
    return {row[0]: Slot(*row) for row in connection.execute(_SLOTS, parameters)}


def moment(connection: Connection) -> datetime:
    """The database's time."""
    row = connection.execute("SELECT ledger.moment()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def moved(connection: Connection, pair_id: int, customer_id: str, metric_id: str, since: datetime) -> bool:
    """Whether usage of the pair was read, or events of it planned, since a moment: a look from before may be old."""
    parameters = {"pair_id": pair_id, "customer_id": customer_id, "metric_id": metric_id, "since": since}
    row = connection.execute(_MOVED, parameters).fetchone()
    return row is not None and bool(row[0])


def customers_within(
    connection: Connection, pair_id: int, metric_ids: Collection[str], start: datetime, end: datetime
) -> list[str]:
    """Customers that may have usage or events in ``[start, end)``: archived ones and those that are gone as well."""
    parameters = {"pair_id": pair_id, "metrics": list(metric_ids), "start": start, "end": end}
    return [customer_id for (customer_id,) in connection.execute(_CUSTOMERS, parameters)]


def customers_with_events(
    connection: Connection, pair_id: int, metric_ids: Collection[str], start: datetime, end: datetime
) -> set[str]:
    """Customers with events in ``[start, end)``, whatever the settings allow now."""
    parameters = {"pair_id": pair_id, "metrics": list(metric_ids), "start": start, "end": end}
    return {customer_id for (customer_id,) in connection.execute(_WITH_EVENTS, parameters)}


def customers_named(connection: Connection, pair_id: int, name: str) -> list[str]:
    """Customers with an id, or else a name, as a person spells it."""
    rows = connection.execute(_NAMED, {"pair_id": pair_id, "name": name.strip().lower()}).fetchall()
    by_id = [customer_id for customer_id, is_id in rows if is_id]
    return by_id or [customer_id for customer_id, _ in rows]


def metrics_ever_known(connection: Connection, pair_id: int) -> list[KnownMetric]:
    """Every billable metric that Metronome lists or that was ever billed, archived or gone."""
    rows = connection.execute(_METRICS, {"pair_id": pair_id})
    return [
        KnownMetric(metric_id, name, aggregation, tuple(tuple(key) for key in keys), is_sql, archived_at)
        for metric_id, name, aggregation, keys, is_sql, archived_at in rows
    ]


def solvimon_ids(connection: Connection, pair_id: int) -> dict[str, str]:
    """Solvimon's ids of customers, by Metronome's."""
    rows = connection.execute(
        "SELECT reference, solvimon_id FROM solvimon.customers WHERE pair_id = %s AND solvimon_id IS NOT NULL",
        [pair_id],
    )
    return dict(rows.fetchall())


def names(connection: Connection, pair_id: int) -> tuple[dict[str, str], dict[str, str]]:
    """The names of customers and of metrics, by their ids."""
    customers = connection.execute(
        "SELECT customer_id::text, name FROM metronome.customers WHERE pair_id = %s", [pair_id]
    ).fetchall()
    metrics = connection.execute(
        "SELECT metric_id::text, name FROM metronome.billable_metrics WHERE pair_id = %s", [pair_id]
    ).fetchall()
    return dict(customers), dict(metrics)


def _events(connection: Connection, where: str, parameters: Mapping[str, Any]) -> list[StandingEvent]:
    statement = f"{_EVENTS} WHERE e.pair_id = %(pair_id)s AND {where} ORDER BY e.event_id"
    return [StandingEvent(*row) for row in connection.execute(statement, parameters)]


_COUNTED = "CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END"

_LAST_RECEIPT = """
LEFT JOIN ledger.restatements s USING (event_id)
LEFT JOIN ledger.open_events o USING (event_id)
LEFT JOIN LATERAL (
    SELECT * FROM ledger.receipts r WHERE r.event_id = e.event_id ORDER BY r.receipt_id DESC LIMIT 1
) AS r ON true
"""

_EVENTS = f"""
SELECT e.event_id, e.customer_id::text, e.metric_id::text, e.start_at, e.end_at, e.slice, e.properties, e.kind,
       e.number, {_COUNTED}, e.reference, coalesce(o.state, r.outcome), r.solvimon_id, d.state,
       concat_ws(', ', r.code, r.field, r.message)
FROM ledger.events e {_LAST_RECEIPT}
LEFT JOIN LATERAL (
    SELECT coalesce(od.state, (SELECT outcome FROM ledger.receipts rd WHERE rd.event_id = del.event_id
                               ORDER BY receipt_id DESC LIMIT 1), 'planned') AS state
    FROM ledger.events del LEFT JOIN ledger.open_events od USING (event_id)
    WHERE del.pair_id = e.pair_id AND del.metric_id = e.metric_id AND del.customer_id = e.customer_id
      AND del.start_at = e.start_at AND del.kind = 'deletion' AND del.deletes = e.event_id
    ORDER BY del.event_id DESC LIMIT 1
) AS d ON e.kind <> 'deletion'
"""  # noqa: S608 - made of the constants above

_DAYS = f"""
SELECT m.metric_id::text, d.day, e.total, e.highest, coalesce(e.events, 0), coalesce(e.accepted, 0),
       coalesce(c.covered && tstzrange(d.day, d.day + interval '1 day'), false)
FROM unnest(%(metrics)s::uuid[], %(slicings)s::text[]) AS m (metric_id, slicing)
CROSS JOIN generate_series(%(start)s, %(end)s - interval '1 day', interval '1 day') AS d (day)
LEFT JOIN (
    SELECT e.metric_id, date_trunc('day', e.start_at) AS day, sum({_COUNTED}) AS total, max({_COUNTED}) AS highest,
           count(*) AS events,
           count(*) FILTER (WHERE o.event_id IS NULL AND r.outcome = ANY (%(accepted)s)) AS accepted
    FROM ledger.events e {_LAST_RECEIPT}
    WHERE e.pair_id = %(pair_id)s AND e.metric_id = ANY (%(metrics)s::uuid[]) AND e.customer_id = %(customer_id)s::uuid
      AND e.start_at >= %(start)s AND e.start_at < %(end)s
    GROUP BY 1, 2
) AS e USING (metric_id, day)
LEFT JOIN metronome.coverage c
    ON c.pair_id = %(pair_id)s AND c.customer_id = %(customer_id)s::uuid
    AND (c.metric_id, c.slicing) = (m.metric_id, m.slicing)
ORDER BY 1, 2
"""  # noqa: S608 - made of the constants above

# A brake holds a customer's whole usage of the window, whichever metric fell (see ``brakes.py``).
_SLOTS = """
SELECT h.start_at, coalesce(c.covered @> h.start_at, false), coalesce(p.hours @> h.start_at, false),
       coalesce(u.value, g.value), f.start_at IS NOT NULL, n.start_at IS NOT NULL, r.run_id, b.digests
FROM unnest(%(starts)s::timestamptz[]) AS h (start_at)
LEFT JOIN metronome.coverage c ON c.pair_id = %(pair_id)s AND c.metric_id = %(metric_id)s::uuid
    AND c.customer_id = %(customer_id)s::uuid AND c.slicing = %(slicing)s
LEFT JOIN ledger.planned_hours p ON p.pair_id = %(pair_id)s AND p.metric_id = %(metric_id)s::uuid
    AND p.customer_id = %(customer_id)s::uuid AND p.slicing = %(slicing)s
LEFT JOIN metronome.usage u ON %(slicing)s IN ('ungrouped', 'period_to_date') AND u.pair_id = %(pair_id)s
    AND u.metric_id = %(metric_id)s::uuid AND u.customer_id = %(customer_id)s::uuid AND u.start_at = h.start_at
LEFT JOIN metronome.grouped_usage g ON %(slicing)s NOT IN ('ungrouped', 'period_to_date') AND g.pair_id = %(pair_id)s
    AND g.metric_id = %(metric_id)s::uuid AND g.customer_id = %(customer_id)s::uuid AND g.start_at = h.start_at
    AND g.slice = 'total'
LEFT JOIN metronome.short_groups f ON f.pair_id = %(pair_id)s AND f.metric_id = %(metric_id)s::uuid
    AND f.customer_id = %(customer_id)s::uuid AND f.start_at = h.start_at
LEFT JOIN ledger.unsettled_hours n ON n.pair_id = %(pair_id)s AND n.metric_id = %(metric_id)s::uuid
    AND n.customer_id = %(customer_id)s::uuid AND n.start_at = h.start_at
LEFT JOIN LATERAL (
    SELECT run_id FROM ledger.reverted_slots t WHERE t.pair_id = %(pair_id)s AND t.metric_id = %(metric_id)s::uuid
      AND t.customer_id = %(customer_id)s::uuid AND t.start_at = h.start_at AND t.released_at IS NULL LIMIT 1
) AS r ON true
LEFT JOIN LATERAL (
    SELECT string_agg(digest, ', ' ORDER BY digest) AS digests FROM ledger.brakes k
    WHERE k.pair_id = %(pair_id)s AND k.released_at IS NULL
      AND (k.customer_id = %(customer_id)s::uuid OR k.customer_id IS NULL AND k.metric_id = %(metric_id)s::uuid)
      AND h.start_at >= k.from_at AND h.start_at < k.to_at
) AS b ON true
"""

_MOVED = """
SELECT EXISTS (SELECT FROM metronome.readings r WHERE r.pair_id = %(pair_id)s AND r.metric_id = %(metric_id)s::uuid
                 AND r.customer_id = %(customer_id)s::uuid AND r.completed_at >= %(since)s)
    OR EXISTS (SELECT FROM ledger.events e WHERE e.pair_id = %(pair_id)s AND e.metric_id = %(metric_id)s::uuid
                 AND e.customer_id = %(customer_id)s::uuid AND e.planned_at >= %(since)s)
"""

_WITH_EVENTS = """
SELECT c.customer_id::text FROM metronome.customers c
WHERE c.pair_id = %(pair_id)s AND EXISTS (
    SELECT FROM ledger.events e WHERE e.pair_id = c.pair_id AND e.customer_id = c.customer_id
      AND e.metric_id = ANY (%(metrics)s::uuid[]) AND e.start_at >= %(start)s AND e.start_at < %(end)s)
"""

_NAMED = """
SELECT customer_id::text, customer_id::text = %(name)s FROM metronome.customers
WHERE pair_id = %(pair_id)s AND (customer_id::text = %(name)s OR lower(name) = %(name)s) ORDER BY customer_id
"""

_METRICS = """
SELECT m.metric_id::text, m.name, m.aggregation_type, m.group_keys, m.sql IS NOT NULL, m.archived_at
FROM metronome.billable_metrics m
WHERE m.pair_id = %(pair_id)s AND (m.gone_at IS NULL OR EXISTS (
    SELECT FROM ledger.slicings s WHERE s.pair_id = m.pair_id AND s.metric_id = m.metric_id))
ORDER BY m.metric_id
"""

# Usage may still change for 34 days after an hour, so one that was archived longer before has none, unless it was read.
_CUSTOMERS = """
SELECT c.customer_id::text FROM metronome.customers c
WHERE c.pair_id = %(pair_id)s AND (
    c.gone_at IS NULL AND (c.archived_at IS NULL OR c.archived_at > %(start)s - interval '35 days')
    OR EXISTS (SELECT FROM metronome.coverage v WHERE v.pair_id = c.pair_id AND v.customer_id = c.customer_id
                 AND v.metric_id = ANY (%(metrics)s::uuid[]) AND v.covered && tstzrange(%(start)s, %(end)s))
    OR EXISTS (SELECT FROM ledger.events e WHERE e.pair_id = c.pair_id AND e.customer_id = c.customer_id
                 AND e.metric_id = ANY (%(metrics)s::uuid[]) AND e.start_at >= %(start)s AND e.start_at < %(end)s))
ORDER BY c.customer_id
"""
