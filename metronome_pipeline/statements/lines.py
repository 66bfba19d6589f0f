"""What the ledger says of a customer's billing period: each slot, then each of its events, as lines of a statement.

Here: the columns, the query that streams them, and what Solvimon returned set beside them. Not here: totals
(``statement_totals.py``), files (``statement_files.py``), and how a statement is made (``statement.py``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import psycopg

from metronome_pipeline.statements.files import Columns
from metronome_pipeline.statements.metered import Span, StatedMetric
from metronome_pipeline.statements.returned import Returned

Connection = psycopg.Connection[Any]

SLOT, EVENT, FOREIGN = "slot", "event", "beside the ledger"
MISSING = "missing"
"""The state in Solvimon of an event that it has accepted and does not have."""
ACCEPTED = frozenset({"delivered", "restated", "deleted"})
"""States of events that Solvimon has taken."""

LINE_COLUMNS: Columns = MappingProxyType(
    {
        "record": "text",
        "customer_id": "text",
        "metric_id": "text",
        "metric": "text",
        "start": "instant",
        "end": "instant",
        "slice": "text",
        "properties": "text",
        "quantity": "number",
        "kind": "text",
        "revision": "whole",
        "number": "number",
        "counted": "number",
        "state": "text",
        "late": "switch",
        "planned_at": "instant",
        "run_id": "text",
        "reference": "text",
        "solvimon_event_id": "text",
        "solvimon_number": "number",
        "solvimon_state": "text",
        "invoice_ids": "text",
    }
)
"""A line is a *slot* with its ``quantity``, or one *event* of the slot above it, or an event that Solvimon has *beside
the ledger*. So the quantities of a file may be added up, and so may its ``counted`` numbers (of a maximum: compared).
"""


class Line(NamedTuple):
    """One line of a customer's statement: a cell for each of ``LINE_COLUMNS``."""

    record: str
    customer_id: str
    metric_id: str
    metric: str | None
    start: datetime | None
    end: datetime | None = None
    slice: str | None = None
    properties: str | None = None
    quantity: Decimal | None = None
    kind: str | None = None
    revision: int | None = None
    number: Decimal | None = None
    counted: Decimal | None = None
    state: str | None = None
    late: bool | None = None
    planned_at: datetime | None = None
    run_id: str | None = None
    reference: str | None = None
    solvimon_event_id: str | None = None
    solvimon_number: Decimal | None = None
    solvimon_state: str | None = None
    invoice_ids: str | None = None


@dataclass(frozen=True)
class Stated:
    """Whose lines are asked for."""

    pair_id: int
    customer_id: str
    span: Span
    metrics: Sequence[StatedMetric]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the statements in SQL are told."""
        return {
            "pair_id": self.pair_id,
            "customer_id": self.customer_id,
            "metrics": [metric.metric_id for metric in self.metrics],
            "maxima": [metric.metric_id for metric in self.metrics if metric.calculation == "MAX"],
            "start": self.span.start,
            "end": self.span.end,
        }


def state_of_ledger(connection: Connection, stated: Stated) -> tuple[Any, ...]:
    """A mark of these slots in the ledger, which changes with everything that happens to them."""
    row = connection.execute(_MARK, stated.parameters).fetchone()
    assert row is not None
    return tuple(row)


def expected_references(connection: Connection, stated: Stated) -> Iterator[tuple[str]]:
    """References of events that Solvimon has accepted."""
    with connection.cursor(name="expected") as cursor:
        cursor.execute(_EXPECTED, stated.parameters)
        yield from cursor


def ledger_lines(connection: Connection, stated: Stated, returned: Returned) -> Iterator[Line]:
    """Every slot and its events, streamed, each event with what Solvimon has under its reference; then the rest.

    In the caller's transaction. ``returned`` gives each of its events away once.
    """
    names = {metric.metric_id: metric.name for metric in stated.metrics}
    slot: tuple[Any, ...] | None = None
    with connection.cursor(name="statement") as cursor:
        cursor.itersize = 5_000
        cursor.execute(_LINES, stated.parameters)
        for metric_id, start, end, slice_, properties, quantity, *event in cursor:
            own = (stated.customer_id, metric_id, names[metric_id], start, end, slice_, properties)
            if own != slot:
                slot = own
                yield Line(SLOT, *own, quantity)
            yield _event_line(Line(EVENT, *own, None, *event), returned)
    for each in returned.rest():
        yield Line(
            FOREIGN,
            stated.customer_id,
            each.metric_id,
            names[each.metric_id],
            datetime.fromisoformat(each.at),
            properties=each.properties,
            reference=each.reference,
            solvimon_event_id=each.id,
            solvimon_number=None if each.number is None else Decimal(each.number),
            solvimon_state=each.state,
            invoice_ids=each.invoices,
        )


def _event_line(line: Line, returned: Returned) -> Line:
    """The line with Solvimon's side. A deletion is told by the event that it deletes."""
    assert line.reference is not None
    if line.kind == "deletion":
        return line._replace(solvimon_event_id=None)
    found = returned.take(line.reference)
    if found is None:
        return line._replace(solvimon_state=MISSING if line.state in ACCEPTED else None)
    return line._replace(
        solvimon_event_id=found.id,
        solvimon_number=None if found.number is None else Decimal(found.number),
        solvimon_state=found.state,
        invoice_ids=found.invoices,
    )


_MARK = """
SELECT count(DISTINCT e.event_id), max(e.event_id), max(r.receipt_id), count(DISTINCT o.event_id)
FROM ledger.events e LEFT JOIN ledger.open_events o USING (event_id) LEFT JOIN ledger.receipts r USING (event_id)
WHERE e.pair_id = %(pair_id)s AND e.metric_id = ANY (%(metrics)s::uuid[]) AND e.customer_id = %(customer_id)s
  AND e.start_at >= %(start)s AND e.start_at < %(end)s
"""

_EXPECTED = """
SELECT v.reference FROM ledger.events_v1 v
WHERE v.pair_id = %(pair_id)s AND v.metric_id = ANY (%(metrics)s::uuid[]) AND v.customer_id = %(customer_id)s
  AND v.start_at >= %(start)s AND v.start_at < %(end)s
  AND v.kind <> 'deletion' AND v.state IN ('delivered', 'restated', 'deleted')
"""

# The quantity of a slot is what plan counts for it: the sum of its events, or of a maximum its one live event.
_LINES = """
SELECT v.metric_id::text, v.start_at, v.end_at, v.slice, e.properties,
       CASE WHEN v.metric_id = ANY (%(maxima)s::uuid[]) THEN max(v.counted) OVER slot ELSE sum(v.counted) OVER slot END,
       v.kind, v.revision, v.number, v.counted, v.state, e.late, v.planned_at, v.run_id, v.reference,
       (SELECT r.solvimon_id FROM ledger.receipts r WHERE r.event_id = v.event_id AND r.solvimon_id IS NOT NULL
        ORDER BY r.receipt_id DESC LIMIT 1)
FROM ledger.events_v1 v JOIN ledger.events e USING (event_id)
WHERE v.pair_id = %(pair_id)s AND v.metric_id = ANY (%(metrics)s::uuid[]) AND v.customer_id = %(customer_id)s
  AND v.start_at >= %(start)s AND v.start_at < %(end)s
WINDOW slot AS (PARTITION BY v.metric_id, v.start_at, v.end_at, v.slice)
ORDER BY v.metric_id, v.start_at, v.end_at, v.slice, v.event_id
"""
