"""Events after ingestion: reading back, tracing, deleting.

Not here: taking them in (events.py), matching them anew (reprocessing.py).
"""

from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, invalid, missing, not_found
from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.paging import paged
from metronome_pipeline.sandbox.solvimon.prices import cost_of
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.wire import JsonObject, instant_text


def _list(call: Call) -> JsonObject:
    """``GET /v1/events``: by reference, customer, meter, deletion and outcome; newest first, deleted events included.

    There is no filter by time, and parameters that the API does not have are ignored, as an API does that does not
    know them.
    """
    deleted = call.flag("deleted")
    if deleted is None and call.store.settings.hide_deleted_events:
        deleted = False
    references, customers = call.query.getlist("reference"), call.query.getlist("customer_id")
    meters, outcomes = call.query.getlist("meter_id"), call.query.getlist("processed_details_type")
    for outcome in outcomes:
        if outcome not in {"DEFAULT", "NOT_MATCHED", "DUPLICATE"}:
            raise invalid("processed_details_type", "must be DEFAULT, NOT_MATCHED or DUPLICATE")
    events = call.store.events

    def candidates() -> list[Event]:
        if references:
            return [event for one in dict.fromkeys(references) for event in events.by_reference.get(one, ())]
        if customers:
            return [event for one in dict.fromkeys(customers) for event in events.by_customer.get(one, ())]
        return events.all

    def keep(event: Event) -> bool:
        return (
            (deleted is None or event.deleted == deleted)
            and (not customers or event.customer_id in customers)
            and (not meters or event.meter_id in meters)
            and (not outcomes or event.outcome in outcomes)
        )

    key = (deleted, tuple(references), tuple(customers), tuple(meters), tuple(outcomes))
    expand = call.query.getlist("expand[]")
    return paged(call, events.select(key, candidates, keep), lambda event: _rendered(call, event, expand))


def _rendered(call: Call, event: Event, expand: list[str]) -> JsonObject:
    if {"customer", "customer_id"} & set(expand):
        return {**event.as_json(), "customer": call.store.collection("customers").by_id(event.customer_id)}
    return event.as_json()


def _by_id(call: Call) -> Event:
    event = call.store.events.by_id.get(call.key)
    if event is None:
        raise not_found("METER_DATA", status=call.store.settings.not_found_status)
    return event


def _get(call: Call) -> JsonObject:
    return _by_id(call).as_json()


def _trace(call: Call) -> JsonObject:
    """When an event was taken and processed, and through what it is billed; no links while it is not matched."""
    event = _by_id(call)
    received = instant_text(event.created_at or call.now)
    priced = call.flag("cost_prediction")
    expand = set(call.query.getlist("expand[]"))
    expanded: JsonObject = {}
    if {"customer", "customer_id"} & expand:
        expanded["customer"] = call.store.collection("customers").by_id(event.customer_id)
    if {"meter_data", "meter_data_id"} & expand:
        cost = {"cost_prediction": cost_of(call.store, event)} if priced else {}
        expanded["meter_data"] = {**event.as_json(), **cost}
    return {
        **expanded,
        "object_type": "EVENT_TRACE",
        "meter_data_id": event.id,
        "customer_id": event.customer_id,
        "ingest_time": received,
        "received_time": received,
        "processed_time": None if event.processed_at is None else instant_text(event.processed_at),
        "links": _links(call, event),
    }


def _links(call: Call, event: Event) -> list[JsonObject]:
    subscription = call.store.subscription_for(event)
    if event.outcome != "DEFAULT" or event.deleted or subscription is None:
        return []
    calculations = [
        one["id"] for one in call.store.collection("meter-value-calculations") if one["meter_id"] == event.meter_id
    ]
    items = [
        item["id"]
        for item in call.store.collection("product-items")
        if {item.get("meter_value_calculation_id"), (item.get("usage_based") or {}).get("meter_value_calculation_id")}
        & set(calculations)
    ]
    return [
        {
            "meter_value_calculation_ids": calculations,
            "product_item_ids": items,
            "pricing_plan_subscription_id": subscription.id,
            "invoice_id": subscription.invoice_at(event.instant),
        }
    ]


def _delete_by_reference(call: Call) -> JsonObject:
    reference = call.fields().get("reference")
    if reference is None:
        raise missing("reference")
    event = call.store.events.original_of_any_state(reference) if isinstance(reference, str) else None
    if event is None:
        raise not_found("METER_DATA", status=call.store.settings.not_found_status)
    return _delete(call, event)


def _delete_by_id(call: Call) -> JsonObject:
    return _delete(call, _by_id(call))


def _delete(call: Call, event: Event) -> JsonObject:
    status = call.store.settings.delete_twice_status
    if event.deleted and status != 200:
        code = "RESOURCE_NOT_FOUND" if status == 404 else "INVALID_OPERATION"
        raise ApiProblem(
            status, code, "The METER_DATA is deleted already", resource_type="METER_DATA", resource_id=event.id
        )
    call.store.events.delete(event)
    return event.as_json()


_VIEW, _DELETE = ("METER_DATA.VIEW",), ("METER_DATA.DELETE",)

ENDPOINTS: list[Endpoint] = [
    *(Endpoint("GET", path, _VIEW, _list) for path in ("/v1/events", "/v1/ingest/meter-data")),
    *(
        endpoint
        for root in ("/v1/events", "/v1/ingest/meter-data")
        for endpoint in (
            Endpoint("GET", f"{root}/{{id}}", _VIEW, _get),
            Endpoint("GET", f"{root}/{{id}}/event_trace", ("METER_DATA.EVENT_TRACE.VIEW",), _trace),
            Endpoint("POST", f"{root}/delete", _DELETE, _delete_by_reference),
            Endpoint("POST", f"{root}/{{id}}/delete", _DELETE, _delete_by_id),
        )
    ),
]
