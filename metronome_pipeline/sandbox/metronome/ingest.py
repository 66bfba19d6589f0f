"""``POST /v1/ingest`` and ``POST /v1/events/search``.

Here: what an event must be like, all of a batch or none of it. Not here: keeping events.
"""

import sys
from datetime import datetime, timedelta
from typing import Any

from metronome_pipeline.sandbox.metronome import checks
from metronome_pipeline.sandbox.metronome.aggregate import text_of
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused, read_instant
from metronome_pipeline.sandbox.metronome.events import Event
from metronome_pipeline.sandbox.metronome.metering import counts
from metronome_pipeline.sandbox.metronome.store import Call, Fields, Store

MOST_EVENTS = 100
"""Events in one request."""


def ingest(store: Store, call: Call) -> Answer:
    """``POST /v1/ingest``: one bad event refuses the whole batch; a repeated transaction id is ignored with 200."""
    if not isinstance(call.body, list) or not 1 <= len(call.body) <= MOST_EVENTS:
        raise Refused(f"The body must be a list of 1 to {MOST_EVENTS} events.")
    now = store.now()
    settings = store.settings
    events = [read_event(store, one, now) for one in call.body]
    for event in events:
        if event.timestamp < now - timedelta(days=settings.max_event_age_days):
            raise Refused(f"Event {event.transaction_id} is more than {settings.max_event_age_days} days old.")
        if event.timestamp > now + timedelta(hours=settings.max_event_ahead_hours):
            raise Refused(f"Event {event.transaction_id} is too far in the future.")
        _require_properties(store, event)
    keep(store, events)
    return Answer(has_body=False)


def _require_properties(store: Store, event: Event) -> None:
    if len(event.properties) > store.settings.max_properties:
        raise Refused(f"Event {event.transaction_id} has too many properties.")
    for name, value in event.properties.items():
        if len((text_of(value) or "").encode("utf-8", "surrogatepass")) > store.settings.max_property_bytes:
            raise Refused(f"Property {name} of event {event.transaction_id} is too long.")


def keep(store: Store, events: list[Event]) -> int:
    """Add events in order, numbering them; the count of those that were new."""
    added = 0
    for event in events:
        numbered = Event(
            store.events.next_number(),
            event.transaction_id,
            event.sent_for,
            event.event_type,
            event.timestamp,
            event.properties,
            event.received_at,
        )
        added += store.events.add(numbered)
    return added


def read_event(store: Store, given: Any, received_at: datetime) -> Event:
    """One event of a request; nothing is checked against the time.

    Raises:
        Refused: 400 naming the field.
    """
    if not isinstance(given, dict):
        raise Refused("An event must be an object.")
    properties = given.get("properties", {})
    if not isinstance(properties, dict):
        raise Refused("properties must be an object.")
    sent_for = checks.text(given, "customer_id")
    # A Metronome id is compared without regard to case; an alias is not.
    sent_for = sent_for.lower() if sent_for.lower() in store.customers else sent_for
    return Event(
        0,
        checks.text(given, "transaction_id", most=128),
        sys.intern(sent_for),
        sys.intern(checks.text(given, "event_type")),
        read_instant(given.get("timestamp"), "timestamp"),
        properties,
        received_at,
    )


def search_events(store: Store, call: Call) -> Answer:
    """``POST /v1/events/search``: a bare list of the events of the last 34 days with these transaction ids."""
    ids = checks.texts(checks.body_of(call).get("transactionIds"), "transactionIds", least=1, most=MOST_EVENTS)
    since = store.now() - timedelta(days=34)
    found: list[Fields] = []
    for transaction_id in ids:
        event = store.events.find(transaction_id)
        if event is not None and event.timestamp >= since:
            found.append(_found(store, event, is_duplicate=False))
            found += [_found(store, one, is_duplicate=True) for one in store.events.duplicates.get(transaction_id, ())]
    return Answer(found)


def _found(store: Store, event: Event, *, is_duplicate: bool) -> Fields:
    fields: Fields = {
        "id": f"event-{event.transaction_id}",
        "transaction_id": event.transaction_id,
        "customer_id": event.sent_for,
        "event_type": event.event_type,
        "timestamp": event.timestamp,
        "properties": dict(event.properties),
        "processed_at": event.received_at,
        "is_duplicate": is_duplicate,
    }
    customer = store.customers.get(store.aliases.get(event.sent_for, event.sent_for))
    if customer is not None:
        fields["matched_customer"] = {"id": customer.id, "name": customer.fields.get("name")}
    fields["matched_billable_metrics"] = [
        {"id": metric.id, "name": metric.fields.get("name")}
        for metric in store.metrics.values()
        if metric.definition.matches(event) and counts(store, metric, event) and not is_duplicate
    ]
    return fields
