"""Events after ingestion: reading back, tracing, deleting, reprocessing. Not here: taking them in (events.py)."""

from datetime import datetime

from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, invalid, missing, not_found
from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.paging import ordered, paged
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.wire import JsonObject, instant_text, parse_instant


def _list(call: Call) -> JsonObject:
    """``GET /v1/events``: by reference, customer, meter, deletion and outcome; newest first, deleted events included.

    There is no filter by time, and parameters that the API does not have are ignored, as an API does that does not
    know them.
    """
    deleted = call.flag("deleted")
    references, customers = call.query.getlist("reference"), call.query.getlist("customer_id")
    meters, outcomes = call.query.getlist("meter_id"), call.query.getlist("processed_details_type")
    for outcome in outcomes:
        if outcome not in {"DEFAULT", "NOT_MATCHED", "DUPLICATE"}:
            raise invalid("processed_details_type", "must be DEFAULT, NOT_MATCHED or DUPLICATE")
    events = call.store.events
    candidates = events.all
    if references:
        candidates = [
            event for reference in dict.fromkeys(references) for event in events.by_reference.get(reference, [])
        ]
    elif customers:
        candidates = [event for customer in dict.fromkeys(customers) for event in events.by_customer.get(customer, [])]

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
    return {
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
            # One invoice per subscription and month: enough to show that usage lies on one.
            "invoice_id": f"invo_{subscription.id.partition('_')[2]}{event.instant:%Y%m}",
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


_SCOPES = {"NOT_MATCHED": "not_matched", "CUSTOMER": "customer", "INVOICE": "invoice"}


def _reprocess(call: Call) -> JsonObject:
    """Match a customer's events anew, as after its subscription was mended.

    Values never change. Invoices are not modelled.
    """
    body = call.fields()
    kind = body.get("type")
    if kind is None:
        raise missing("type")
    if kind not in _SCOPES:
        raise invalid("type", f"must be one of {', '.join(_SCOPES)}")
    scope = body.get(_SCOPES[kind])
    if not isinstance(scope, dict):
        raise missing(_SCOPES[kind])
    if kind == "INVOICE":
        raise not_found("INVOICE", status=400, field="invoice.invoice_id")
    customer = scope.get("customer_id") or scope.get("id")
    if not isinstance(customer, str) or call.store.collection("customers").by_id(customer) is None:
        raise not_found("CUSTOMER", status=400, code="CUSTOMER_NOT_FOUND", field=f"{_SCOPES[kind]}.customer_id")
    start, end = (_bound(scope, name, _SCOPES[kind]) for name in ("start_at", "end_at"))
    for event in call.store.events.by_customer.get(customer, ()):
        inside = (start is None or event.instant >= start) and (end is None or event.instant < end)
        settled = event.outcome == "NOT_MATCHED" or (kind == "CUSTOMER" and event.outcome == "DEFAULT")
        if inside and settled and not event.deleted:
            call.store.events.settle(event, call.store.matches, at=call.now)
    call.store.events.touch()
    # The values of the status are not published.
    done = {"status": "DONE", "percentage": 100, "created_at": instant_text(call.now)}
    return call.store.collection("reprocess").add({"type": kind, _SCOPES[kind]: scope, **done})


def _bound(scope: JsonObject, name: str, where: str) -> datetime | None:
    text = scope.get(name)
    if text is None:
        return None
    instant = parse_instant(text, fractions=False) if isinstance(text, str) else None
    if instant is None:
        raise invalid(f"{where}.{name}", "must be like 2026-11-01T00:00:00Z")
    return instant


def _reprocess_get(call: Call) -> JsonObject:
    reprocess = call.store.collection("reprocess").by_id(call.key)
    if reprocess is None:
        raise not_found("REPROCESS", status=call.store.settings.not_found_status)
    return reprocess


def _reprocess_list(call: Call) -> JsonObject:
    rows = list(call.store.collection("reprocess"))
    for name in ("type", "status"):
        wanted = call.query.getlist(name)
        rows = [row for row in rows if row[name] in wanted] if wanted else rows
    return paged(call, ordered(call, rows, by=None, direction="desc"), lambda row: row)


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
    Endpoint("POST", "/v1/reprocess", ("REPROCESSING.REPROCESS.CREATE",), _reprocess, 201, takes_key=True),
    Endpoint("GET", "/v1/reprocess", ("REPROCESSING.REPROCESS.VIEW",), _reprocess_list),
    Endpoint("GET", "/v1/reprocess/{id}", ("REPROCESSING.REPROCESS.VIEW",), _reprocess_get),
]
