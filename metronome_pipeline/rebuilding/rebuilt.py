"""Rebuilt: what a rebuild did, as a person reads it: totals on both sides, and what stays different, by name.

Here: the statements on the temporary tables of a rebuild (``stocktake.py``, ``recovery.py``), inside its transaction.
Not here: the rebuild itself (``rebuild.py``).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg

from metronome_pipeline.solvimon.requests import plain_number

Connection = psycopg.Connection[Any]

MATTER_COLUMNS = ("what", "customer", "metric", "time (UTC)", "number", "reference", "Solvimon's id")
FOREIGN_COLUMNS = ("customer", "metric", "events", "number", "from (UTC)", "to (UTC)")
LEFT_COLUMNS = ("why", "customer", "meter", "events", "from (UTC)", "to (UTC)")
MOST_LINES = 500


@dataclass(frozen=True)
class Total:
    """One metric: what Solvimon counts for its events, and the ledger. A MAX counts its highest; None: nothing."""

    metric: str
    metric_id: str
    calculation: str
    events: int
    solvimon: Decimal | None
    ledger: Decimal | None


@dataclass(frozen=True)
class Listing:
    """Rows of the columns that go with it, at most ``MOST_LINES``, and how many there are."""

    rows: Sequence[Sequence[Any]]
    count: int


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did.

    Attributes:
        events: How many events Solvimon stores, deleted ones and duplicates too.
        walks: How many walks it took until two agreed.
        done: Events by what was done with them; empty when nothing was missing.
        slicings: Metric and what was found out about how it was billed.
        totals: One a metric, in the order of their ids.
        foreign: Events of other origin that were adopted, as rows of ``FOREIGN_COLUMNS``.
        matters: Differences that a person must decide about, as rows of ``MATTER_COLUMNS``.
        notes: What counts nothing, was recovered in part or still waits, as rows of ``MATTER_COLUMNS``.
        left_alone: Events of customers and meters that are unknown here, as rows of ``LEFT_COLUMNS``.
    """

    events: int
    walks: int
    done: Mapping[str, int]
    slicings: Sequence[tuple[str, str]]
    totals: Sequence[Total]
    foreign: Listing
    matters: Listing
    notes: Listing
    left_alone: Listing

    @property
    def solvimon_digest(self) -> str:
        """Of what Solvimon counts, metric by metric."""
        return digest((total.metric_id, total.solvimon) for total in self.totals)

    @property
    def ledger_digest(self) -> str:
        """Of what the ledger counts: Solvimon's where nothing is listed that waits or stays different."""
        return digest((total.metric_id, total.ledger) for total in self.totals)


def digest(totals: Iterable[tuple[str, Decimal | None]]) -> str:
    """Sixteen hexadecimal digits over one line a metric that has a total: its id and the plain number."""
    lines = (f"{metric_id} {plain_number(number)}\n" for metric_id, number in totals if number)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def report(
    connection: Connection, pair_id: int, *, walks: int, done: Mapping[str, int], slicings: Sequence[tuple[str, str]]
) -> Rebuilt:
    """What the rebuild of this transaction did."""
    row = connection.execute("SELECT count(*) FROM stored").fetchone()
    assert row is not None
    return Rebuilt(
        events=row[0],
        walks=walks,
        done=done,
        slicings=slicings,
        totals=[Total(*total) for total in connection.execute(_TOTALS, {"pair_id": pair_id})],
        foreign=_listing(connection, _FOREIGN, pair_id),
        matters=_listing(connection, _MATTERS, pair_id),
        notes=_listing(connection, _NOTES, pair_id),
        left_alone=_listing(connection, _LEFT_ALONE, pair_id),
    )


def _listing(connection: Connection, statement: str, pair_id: int) -> Listing:
    parameters = {"pair_id": pair_id, "most": MOST_LINES}
    # `statement` is one of the constants of this module.
    query = f"SELECT *, count(*) OVER () FROM ({statement}) AS lines LIMIT %(most)s"  # noqa: S608
    rows = connection.execute(query, parameters).fetchall()
    return Listing([row[:-1] for row in rows], rows[0][-1] if rows else 0)


_TOTALS = """
WITH both_sides AS (
    SELECT by_metric AS metric_id, number AS solvimon, NULL::numeric AS ledger, 1 AS event FROM stored
    WHERE live AND by_customer IS NOT NULL AND by_metric IS NOT NULL
    UNION ALL
    SELECT e.metric_id, NULL, CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END, NULL
    FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
    WHERE e.pair_id = %(pair_id)s AND e.kind <> 'deletion'
)
SELECT coalesce(k.name, b.metric_id::text), b.metric_id::text, coalesce(m.calculation_type, 'SUM'), count(b.event),
       CASE m.calculation_type WHEN 'MAX' THEN max(solvimon) ELSE sum(solvimon) END,
       CASE m.calculation_type WHEN 'MAX' THEN max(ledger) ELSE sum(ledger) END
FROM both_sides b
LEFT JOIN metronome.billable_metrics k ON k.pair_id = %(pair_id)s AND k.metric_id = b.metric_id
LEFT JOIN solvimon.meters m ON m.pair_id = %(pair_id)s AND m.reference = b.metric_id::text
GROUP BY b.metric_id, k.name, m.calculation_type ORDER BY b.metric_id
"""

_FOREIGN = """
SELECT coalesce(c.name, l.customer_id::text), coalesce(m.name, l.metric_id::text), count(*) AS events,
       CASE min(r.calculation_type) WHEN 'MAX' THEN max(l.counts) ELSE sum(l.counts) END, min(l.start_at), max(l.end_at)
FROM chosen l
LEFT JOIN metronome.customers c ON c.pair_id = %(pair_id)s AND c.customer_id = l.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = %(pair_id)s AND m.metric_id = l.metric_id
LEFT JOIN solvimon.meters r ON r.pair_id = %(pair_id)s AND r.reference = l.metric_id::text
WHERE l.added_id IS NOT NULL AND NOT l.ours GROUP BY 1, 2 ORDER BY 1, 2
"""

_MATTERS = """
SELECT l.what, coalesce(c.name, l.customer_id::text), coalesce(m.name, l.metric_id::text), l.start_at, l.number,
       l.reference, l.id
FROM (
    SELECT 'another copy counts under its reference' AS what, by_customer AS customer_id, by_metric AS metric_id,
           stamp AS start_at, number, reference, id
    FROM stored s WHERE live AND why IS NULL AND NOT EXISTS (
        SELECT FROM chosen x WHERE x.reference = s.reference AND x.id = s.id)
    UNION ALL
    SELECT 'not adopted: ' || why, by_customer, by_metric, stamp, number, reference, id
    FROM stored WHERE live AND why IS NOT NULL AND by_customer IS NOT NULL AND by_metric IS NOT NULL
    UNION ALL
    SELECT CASE WHEN k.deleted THEN 'deleted in Solvimon; the ledger keeps counting it'
                ELSE 'counts nothing that can be read in Solvimon; the ledger keeps counting it' END,
           e.customer_id, e.metric_id, e.start_at, k.counted, e.reference, k.id
    FROM compared k JOIN ledger.events e USING (event_id) WHERE k.verdict = 'kept'
    UNION ALL
    SELECT 'deleted in Solvimon: nothing is sent for it until it is released, see `revert list`',
           customer_id, metric_id, start_at, number, reference, id
    FROM chosen WHERE added_id IS NOT NULL AND deleted AND NOT live AND NOT maximum
    UNION ALL
    SELECT 'deleted in Solvimon: nothing is sent for it until it is released, see `revert list`',
           e.customer_id, e.metric_id, e.start_at, e.number, e.reference, k.id
    FROM compared k JOIN ledger.events e USING (event_id) WHERE k.waits AND k.deleted AND NOT k.live AND NOT k.maximum
    UNION ALL
    SELECT 'Solvimon does not show it; the ledger keeps counting it', e.customer_id, e.metric_id, e.start_at,
           CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END, e.reference, NULL
    FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
    WHERE e.pair_id = %(pair_id)s AND e.kind <> 'deletion' AND (s.event_id IS NULL OR s.number IS NOT NULL)
      AND NOT EXISTS (SELECT FROM ledger.open_events o WHERE o.event_id = e.event_id)
      AND NOT EXISTS (SELECT FROM chosen x WHERE x.reference = e.reference)
      AND (SELECT r.outcome FROM ledger.receipts r WHERE r.event_id = e.event_id ORDER BY receipt_id DESC LIMIT 1)
          IS DISTINCT FROM 'dropped'
) AS l
LEFT JOIN metronome.customers c ON c.pair_id = %(pair_id)s AND c.customer_id = l.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = %(pair_id)s AND m.metric_id = l.metric_id
ORDER BY l.what, l.start_at, l.reference, l.id
"""

_NOTES = """
SELECT l.what, coalesce(c.name, l.customer_id::text), coalesce(m.name, l.metric_id::text), l.start_at, l.number,
       l.reference, l.id
FROM (
    SELECT 'restated, the ledger had ' || coalesce(k.counted::text, 'nothing') AS what, e.customer_id, e.metric_id,
           e.start_at, k.counts AS number, e.reference, k.id
    FROM compared k JOIN ledger.events e USING (event_id) WHERE k.verdict = 'restated'
    UNION ALL
    SELECT CASE WHEN deleted THEN 'deleted in Solvimon: counts nothing'
                ELSE 'duplicate without an original: counts nothing' END,
           customer_id, metric_id, start_at, number, reference, id
    FROM chosen x WHERE added_id IS NOT NULL AND NOT live AND (maximum OR NOT deleted) AND NOT (maximum AND EXISTS (
        SELECT FROM chosen y WHERE y.counts IS NOT NULL AND (y.metric_id, y.customer_id, y.start_at, y.slice)
            = (x.metric_id, x.customer_id, x.start_at, x.slice)))
    UNION ALL
    SELECT 'group not recovered: ' || properties, customer_id, metric_id, start_at, number, reference, id
    FROM chosen WHERE added_id IS NOT NULL AND NOT exact
    UNION ALL
    SELECT 'waits: ' || o.state, e.customer_id, e.metric_id, e.start_at, e.number, e.reference, NULL
    FROM ledger.open_events o JOIN ledger.events e USING (event_id) WHERE o.pair_id = %(pair_id)s
) AS l
LEFT JOIN metronome.customers c ON c.pair_id = %(pair_id)s AND c.customer_id = l.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = %(pair_id)s AND m.metric_id = l.metric_id
ORDER BY l.what, l.start_at, l.reference, l.id
"""

_LEFT_ALONE = """
SELECT why, customer, meter, count(*), min(stamp), max(stamp) FROM stored
WHERE live AND why IS NOT NULL AND (by_customer IS NULL OR by_metric IS NULL)
GROUP BY why, customer, meter ORDER BY why, customer, meter
"""
