"""Claims and receipts: which events are being sent, and what became of each.

Here: the statements around a delivery. A claim is committed before a request leaves and goes once the answers are
written down, so that whatever still stands claimed while nobody holds the delivery lock may have arrived. Not here:
sending (``deliver.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import psycopg
from msgspec import Struct

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.ledger import unsettled

Connection = psycopg.Connection[Any]
DELIVERY_LOCK = 0x6D70_0002
_RECEIPT_TYPES = ("int8", "text", "text", "text", "text", "text", "text")


class LedgerEvent(Struct, frozen=True):
    """One row of ``ledger.events`` as it is sent.

    ``number`` is None for a deletion, which names the event it deletes.
    """

    event_id: int
    kind: Literal["usage", "correction", "deletion"]
    reference: str
    customer_id: str
    metric_id: str
    start: datetime
    number: Decimal | None
    properties: str | None
    deletes: int | None


@dataclass(frozen=True)
class Claim:
    """Events that one run is sending.

    ``attempted_ago`` is set on a claim that a dead run left: these may have arrived.
    """

    claim_id: int
    events: tuple[LedgerEvent, ...]
    attempted_ago: timedelta | None = None


class Receipt(Struct, frozen=True):
    """What became of one event.

    ``restated`` says that plan must count ``counted`` for the event from now on (None: nothing), not its own number.
    ``deleted_there``: Solvimon has deleted the event that stands under our reference.
    """

    event_id: int
    outcome: Literal["delivered", "restated", "deleted", "quarantined"]
    solvimon_id: str | None = None
    code: str | None = None
    field: str | None = None
    message: str | None = None
    restated: bool = False
    counted: Decimal | None = None
    deleted_there: bool = False


@dataclass(frozen=True)
class Parking:
    """A refusal that names a customer, meter or property: every waiting event of it goes to quarantine at once."""

    subject: Literal["customer", "meter", "property"]
    like: LedgerEvent
    code: str | None
    field: str | None
    message: str | None

    def concerns(self, event: LedgerEvent) -> bool:
        """Whether an event shares what was refused."""
        match self.subject:
            case "customer":
                return event.customer_id == self.like.customer_id
            case "meter":
                return event.metric_id == self.like.metric_id
            case "property":
                return event.metric_id == self.like.metric_id and (event.properties is None) == (
                    self.like.properties is None
                )


def anything_waits(connection: Connection, pair_id: int) -> bool:
    """Whether some event is planned or claimed, by whomever. What has to wait for another event counts too."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM ledger.open_events WHERE pair_id = %(pair_id)s AND state = 'planned') "
        "OR EXISTS (SELECT FROM ledger.claims WHERE pair_id = %(pair_id)s)",
        {"pair_id": pair_id},
    ).fetchone()
    return row == (True,)


def claim_left_behind(connection: Connection, pair_id: int, run_id: str) -> Claim | None:
    """Takes over a claim whose run is gone: the caller holds the pair's delivery lock, so nobody else is sending."""
    row = connection.execute(
        "SELECT claim_id, event_ids, ledger.moment() - claimed_at FROM ledger.claims WHERE pair_id = %s "
        "ORDER BY claim_id LIMIT 1",
        [pair_id],
    ).fetchone()
    if row is None:
        return None
    claim_id, event_ids, ago = row
    connection.execute("UPDATE ledger.claims SET run_id = %s WHERE claim_id = %s", [run_id, claim_id])
    rows = connection.execute(
        f"{_EVENTS} WHERE e.event_id = ANY (%s) AND o.state = 'planned' ORDER BY e.event_id", [event_ids]
    )
    return Claim(claim_id, tuple(LedgerEvent(*row) for row in rows), ago)


def claim_next(connection: Connection, pair_id: int, run_id: str, limit: int) -> Claim | None:
    """Claims up to ``limit`` events that may leave now: a successor waits until its deletion has been read back."""
    rows = connection.execute(
        f"{_EVENTS} WHERE o.pair_id = %(pair_id)s AND o.state = 'planned' "
        "AND NOT EXISTS (SELECT FROM ledger.claims k WHERE k.pair_id = %(pair_id)s AND e.event_id = ANY (k.event_ids)) "
        f"AND (e.kind <> 'correction' OR NOT EXISTS ({_OPEN_DELETION})) ORDER BY e.event_id LIMIT %(limit)s",
        {"pair_id": pair_id, "limit": limit},
    ).fetchall()
    if not rows:
        return None
    events = tuple(LedgerEvent(*row) for row in rows)
    row = connection.execute(
        "INSERT INTO ledger.claims (pair_id, event_ids, run_id) VALUES (%s, %s, %s) RETURNING claim_id",
        [pair_id, [event.event_id for event in events], run_id],
    ).fetchone()
    assert row is not None
    return Claim(row[0], events)


class ClaimLost(PipelineError):
    """Another run took a claim over: the lock that kept it was lost with its connection."""


def settle(
    connection: Connection,
    claim: Claim,
    receipts: Sequence[Receipt],
    parkings: Sequence[Parking],
    in_doubt: Sequence[LedgerEvent],
    *,
    pair_id: int,
    run_id: str,
) -> int:
    """Writes down what became of a claim's events and returns how many went to quarantine.

    Events neither in ``receipts`` nor ``in_doubt`` had no effect at the destination: they wait as planned. The claim
    keeps only those in doubt.
    """
    owned = "SELECT FROM ledger.claims WHERE claim_id = %s AND run_id = %s FOR UPDATE"
    if connection.execute(owned, [claim.claim_id, run_id]).fetchone() is None:
        raise ClaimLost(
            "The database's lock on this delivery was lost, and another run has taken its events over: it looks them "
            "up and brings them to their end."
        )
    _append(connection, receipts, run_id)
    unsettled.note_hours_of(connection, [receipt.event_id for receipt in receipts if receipt.outcome == "restated"])
    ended = [receipt.event_id for receipt in receipts if receipt.outcome in ("delivered", "restated")]
    connection.execute("DELETE FROM ledger.open_events WHERE event_id = ANY (%s)", [ended])
    quarantined = [receipt.event_id for receipt in receipts if receipt.outcome == "quarantined"]
    connection.execute("UPDATE ledger.open_events SET state = 'quarantined' WHERE event_id = ANY (%s)", [quarantined])
    if restated := {receipt.event_id: receipt.counted for receipt in receipts if receipt.restated}:
        connection.execute(
            "INSERT INTO ledger.restatements (event_id, number) SELECT * FROM unnest(%s::bigint[], %s::numeric[]) "
            "ON CONFLICT (event_id) DO UPDATE SET number = excluded.number",
            [list(restated), list(restated.values())],
        )
    if gone := [receipt.event_id for receipt in receipts if receipt.deleted_there]:
        connection.execute(_CLOSE_DELETED, {"event_ids": gone, "closed_by": f"deletion in Solvimon, met by {run_id}"})
    remaining = [event.event_id for event in in_doubt]
    parked = sum(_park(connection, parking, remaining, pair_id, run_id) for parking in parkings)
    if remaining:
        connection.execute("UPDATE ledger.claims SET event_ids = %s WHERE claim_id = %s", [remaining, claim.claim_id])
    else:
        connection.execute("DELETE FROM ledger.claims WHERE claim_id = %s", [claim.claim_id])
    return len(quarantined) + parked


def _append(connection: Connection, receipts: Sequence[Receipt], run_id: str) -> None:
    columns = "event_id, outcome, solvimon_id, code, field, message, run_id"
    with connection.cursor().copy(f"COPY ledger.receipts ({columns}) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(_RECEIPT_TYPES)
        for receipt in receipts:
            identified = (receipt.event_id, receipt.outcome, receipt.solvimon_id)
            copy.write_row((*identified, receipt.code, receipt.field, receipt.message, run_id))


def _park(connection: Connection, parking: Parking, in_doubt: list[int], pair_id: int, run_id: str) -> int:
    shared = {
        "customer": "e.customer_id = %(customer_id)s",
        "meter": "e.metric_id = %(metric_id)s",
        "property": "e.metric_id = %(metric_id)s AND (e.properties IS NULL) = (%(properties)s::text IS NULL)",
    }[parking.subject]
    row = connection.execute(
        f"""
        WITH parked AS (
            UPDATE ledger.open_events o SET state = 'quarantined' FROM ledger.events e
            WHERE e.event_id = o.event_id AND o.pair_id = %(pair_id)s AND o.state = 'planned'
              AND e.kind <> 'deletion' AND {shared} AND o.event_id <> ALL (%(in_doubt)s)
            RETURNING o.event_id
        ), written AS (
            INSERT INTO ledger.receipts (event_id, outcome, code, field, message, run_id)
            SELECT event_id, 'quarantined', %(code)s, %(field)s, %(message)s, %(run_id)s FROM parked
        )
        SELECT count(*) FROM parked
        """,  # noqa: S608 - `shared` is one of the three constants above
        {
            "pair_id": pair_id,
            "customer_id": parking.like.customer_id,
            "metric_id": parking.like.metric_id,
            "properties": parking.like.properties,
            "in_doubt": in_doubt,
            "code": parking.code,
            "field": parking.field,
            "message": parking.message,
            "run_id": run_id,
        },
    ).fetchone()
    assert row is not None
    return int(row[0])


_EVENTS = """
SELECT e.event_id, e.kind, e.reference, e.customer_id::text, e.metric_id::text, e.start_at, e.number, e.properties,
    e.deletes
FROM ledger.open_events o JOIN ledger.events e USING (event_id)
"""

# Of a sum, only a person deletes an event: its slot is not billed again unasked. (A maximum's may have been ours.)
_CLOSE_DELETED = """
INSERT INTO ledger.reverted_slots (pair_id, metric_id, customer_id, start_at, end_at, slice, run_id, asked_by)
SELECT DISTINCT e.pair_id, e.metric_id, e.customer_id, e.start_at, e.end_at, e.slice, %(closed_by)s,
       'whoever deleted it in Solvimon'
FROM ledger.events e
LEFT JOIN solvimon.meters m ON m.pair_id = e.pair_id AND m.reference = e.metric_id::text
WHERE e.event_id = ANY (%(event_ids)s) AND m.calculation_type IS DISTINCT FROM 'MAX'
ON CONFLICT (pair_id, metric_id, customer_id, start_at, end_at, slice) DO UPDATE
    SET run_id = excluded.run_id, asked_by = excluded.asked_by, at = ledger.moment(), released_at = NULL,
        released_by = NULL
    WHERE reverted_slots.released_at IS NOT NULL
"""

_OPEN_DELETION = """
SELECT FROM ledger.events d JOIN ledger.open_events od USING (event_id)
WHERE d.kind = 'deletion' AND d.pair_id = e.pair_id AND d.metric_id = e.metric_id AND d.customer_id = e.customer_id
  AND d.start_at = e.start_at AND d.end_at = e.end_at AND d.slice = e.slice
"""
