"""Reprocessing: matching events anew after a subscription was mended. Values never change.

Here: its endpoints. Not here: events themselves (events.py, event_reads.py).
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from metronome_pipeline.sandbox.solvimon.errors import invalid, missing, not_found
from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.paging import ordered, paged
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import JsonObject, instant_text, parse_instant

_SCOPES = {"NOT_MATCHED": "not_matched", "CUSTOMER": "customer", "INVOICE": "invoice"}

Concerned = Callable[[], Iterable[Event]]
"""The events that a reprocess is about, found when it is done."""


def _create(call: Call) -> JsonObject:
    """``POST /v1/reprocess``: done at once, or with the knob ``reprocessing`` when the sandbox is told to process."""
    body = call.fields()
    kind = body.get("type")
    if kind is None:
        raise missing("type")
    if kind not in _SCOPES:
        raise invalid("type", f"must be one of {', '.join(_SCOPES)}")
    scope = body.get(_SCOPES[kind])
    if not isinstance(scope, dict):
        raise missing(_SCOPES[kind])
    store = call.store
    concerned = _on_invoice(store, scope) if kind == "INVOICE" else _of_customer(store, scope, kind)
    # The values of the status are not published.
    row = store.collection("reprocess").add(
        {
            "type": kind,
            _SCOPES[kind]: scope,
            "status": "CREATED",
            "percentage": 0,
            "created_at": instant_text(call.now),
        }
    )

    def work() -> int:
        return _settle(store, row, list(concerned()))

    store.reprocesses.append(work)
    if store.settings.reprocessing == "sync":
        store.reprocess()
    return store.collection("reprocess").by_id(row["id"]) or row


def _of_customer(store: Store, scope: JsonObject, kind: str) -> Concerned:
    where = _SCOPES[kind]
    customer = scope.get("customer_id") or scope.get("id")
    if not isinstance(customer, str) or store.collection("customers").by_id(customer) is None:
        raise not_found("CUSTOMER", status=400, code="CUSTOMER_NOT_FOUND", field=f"{where}.customer_id")
    start, end = (_bound(scope, name, where) for name in ("start_at", "end_at"))
    outcomes = {"NOT_MATCHED"} if kind == "NOT_MATCHED" else {"NOT_MATCHED", "DEFAULT"}

    def inside(event: Event) -> bool:
        return (start is None or event.instant >= start) and (end is None or event.instant < end)

    return lambda: [
        event
        for event in store.events.by_customer.get(customer, ())
        if event.outcome in outcomes and not event.deleted and inside(event)
    ]


def _on_invoice(store: Store, scope: JsonObject) -> Concerned:
    """Events whose trace names the invoice. An invoice without any does not exist here."""
    invoice = scope.get("invoice_id") or scope.get("id")

    def on_it(event: Event) -> bool:
        subscription = store.subscription_for(event) if event.outcome == "DEFAULT" and not event.deleted else None
        return subscription is not None and subscription.invoice_at(event.instant) == invoice

    if not any(on_it(event) for event in store.events.all):
        raise not_found("INVOICE", status=400, field="invoice.invoice_id")
    return lambda: [event for event in store.events.all if on_it(event)]


def _settle(store: Store, row: JsonObject, concerned: list[Event]) -> int:
    for event in concerned:
        store.events.settle(event, store.matches, at=store.now())
    store.events.touch()
    store.collection("reprocess").put({**row, "status": "DONE", "percentage": 100})
    return len(concerned)


def _bound(scope: JsonObject, name: str, where: str) -> datetime | None:
    text = scope.get(name)
    if text is None:
        return None
    instant = parse_instant(text, fractions=False) if isinstance(text, str) else None
    if instant is None:
        raise invalid(f"{where}.{name}", "must be like 2026-11-01T00:00:00Z")
    return instant


def _get(call: Call) -> JsonObject:
    reprocess = call.store.collection("reprocess").by_id(call.key)
    if reprocess is None:
        raise not_found("REPROCESS", status=call.store.settings.not_found_status)
    return reprocess


def _list(call: Call) -> JsonObject:
    rows = list(call.store.collection("reprocess"))
    for name in ("type", "status"):
        wanted = call.query.getlist(name)
        rows = [row for row in rows if row[name] in wanted] if wanted else rows
    return paged(call, ordered(call, rows, by=None, direction="desc"), lambda row: row)


ENDPOINTS: list[Endpoint] = [
    Endpoint("POST", "/v1/reprocess", ("REPROCESSING.REPROCESS.CREATE",), _create, 201, takes_key=True),
    Endpoint("GET", "/v1/reprocess", ("REPROCESSING.REPROCESS.VIEW",), _list),
    Endpoint("GET", "/v1/reprocess/{id}", ("REPROCESSING.REPROCESS.VIEW",), _get),
]
