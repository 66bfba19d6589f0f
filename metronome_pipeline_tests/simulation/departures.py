"""Rules about a request that leaves: nothing is sent that does not stand in the ledger, committed, as it is sent."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg

from metronome_pipeline.sandbox.solvimon.store import Store as SolvimonStore
from metronome_pipeline_tests.simulation.history import Exchange

Connection = psycopg.Connection[Any]

_SENT = """
SELECT e.reference, e.number, e.customer_id::text, e.metric_id::text, e.start_at, e.properties, o.state,
       EXISTS (SELECT FROM ledger.claims k WHERE e.event_id = ANY (k.event_ids)) AS claimed,
       e.kind = 'correction' AND EXISTS (
           SELECT FROM ledger.events d JOIN ledger.open_events USING (event_id)
           WHERE d.kind = 'deletion' AND (d.customer_id, d.metric_id, d.start_at, d.slice)
               = (e.customer_id, e.metric_id, e.start_at, e.slice)) AS too_early
FROM ledger.events e LEFT JOIN ledger.open_events o USING (event_id)
WHERE e.kind <> 'deletion' AND e.reference = ANY (%s)
"""
_DELETED = """
SELECT 1 FROM ledger.events JOIN ledger.open_events USING (event_id) WHERE kind = 'deletion' AND reference = %s
"""


def violations(exchange: Exchange, observer: Connection, solvimon: SolvimonStore) -> list[str]:
    """What is wrong with a request about events, at the moment at which it leaves."""
    if exchange.path == "/v1/events/delete":
        reference = json.loads(exchange.body)["reference"]
        if observer.execute(_DELETED, [reference]).fetchone() is None:
            return [f"Deletes {reference}, which no committed deletion in the ledger asks for."]
        return []
    if exchange.path.endswith("/delete"):
        return list(_of_copy(exchange.path.split("/")[3], solvimon))
    return list(_of_batch(json.loads(exchange.body)["meter_datas"], observer))


def _of_copy(event_id: str, solvimon: SolvimonStore) -> Iterator[str]:
    """A copy may go only while another one counts."""
    event = solvimon.events.by_id.get(event_id)
    if event is None or not event.counts:
        return
    others = [copy for copy in solvimon.events.by_reference[event.reference] if copy.counts and copy is not event]
    if not others:
        yield f"Deletes the only copy of {event.reference} that counts."


def _of_batch(events: list[dict[str, Any]], observer: Connection) -> Iterator[str]:
    references = [event["reference"] for event in events]
    if len(set(references)) < len(references):
        yield "Sends one reference twice in a batch."
    rows = {row[0]: row[1:] for row in observer.execute(_SENT, [references])}
    for event in events:
        reference = event["reference"]
        row = rows.get(reference)
        if row is None:
            yield f"Sends {reference}, which does not stand in the ledger."
            continue
        number, customer, metric, start, properties, state, claimed, too_early = row
        sent = (
            Decimal(event["meter_values"][0]["number"]),
            event["customer_reference"],
            event["meter_reference"],
            datetime.fromisoformat(event["timestamp"]),
            {each["reference"]: each["value"] for each in event.get("meter_properties") or ()},
        )
        if sent != (number, customer, metric, start, _known(properties)):
            yield f"Sends {reference} otherwise than it stands in the ledger."
        if state != "planned" or not claimed:
            yield f"Sends {reference}, whose state is {state}, {'' if claimed else 'not '}claimed."
        if too_early:
            yield f"Sends {reference} before the deletion that it follows has come to its end."


def _known(properties: str | None) -> Mapping[str, str]:
    group = json.loads(properties) if properties else {}
    return {key: value for key, value in group.items() if value is not None}
