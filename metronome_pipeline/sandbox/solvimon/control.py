"""The control routes: stores, knobs, faults, log, permissions, subscriptions, processing, and what Solvimon counts.

Here: what a test or the command line does to the sandbox from outside of the API. Not here: anything that Solvimon
serves.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metronome_pipeline.sandbox.faults import FaultRules
from metronome_pipeline.sandbox.solvimon.canned import CannedAnswer
from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, by_status
from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.front import Stores
from metronome_pipeline.sandbox.solvimon.gateway import json_response, problem_response
from metronome_pipeline.sandbox.solvimon.settings import Settings, as_json, changed
from metronome_pipeline.sandbox.solvimon.store import Store, Subscription
from metronome_pipeline.sandbox.solvimon.truth import counted, totals, truth
from metronome_pipeline.sandbox.solvimon.wire import JsonObject, decode

Control = Callable[[Store, Request, object], object]
"""Does one thing to a store, with the decoded body; gives what to answer.

Raises ``ValueError`` with a sentence for a bad request.
"""


def routes(stores: Stores) -> list[Route]:
    """Every control route."""

    async def put_store(request: Request) -> Response:
        key = request.headers.get("x-api-key")
        if not key:
            return problem_response(by_status(401))
        try:
            wanted = msgspec.convert(decode(await request.body()) or {}, _NewStore)
            fresh = changed(Settings(), wanted.settings)
        except (ApiProblem, ValueError, msgspec.ValidationError) as error:
            return json_response({"message": str(error)}, 400)
        stores.create(key).settings = fresh
        return json_response({"settings": as_json(fresh)}, 201)

    def route(path: str, method: str, control: Control, status: int = 200) -> Route:
        async def endpoint(request: Request) -> Response:
            store = stores.of(request.scope)
            if store is None:
                return problem_response(by_status(401))
            try:
                return json_response(control(store, request, decode(await request.body())), status)
            except (ApiProblem, ValueError, msgspec.ValidationError) as error:
                return json_response({"message": str(error)}, 400)

        return Route(f"/_sandbox/{path}", endpoint, methods=[method])

    return [
        Route("/_sandbox/store", put_store, methods=["PUT"]),
        route("settings", "GET", lambda store, _request, _body: as_json(store.settings)),
        route("settings", "PATCH", _patch_settings),
        route("faults", "PUT", _put_faults),
        route("requests", "GET", lambda store, _request, _body: store.log.counts()),
        route("requests", "DELETE", _reset_log),
        route(
            "requests/log",
            "GET",
            lambda store, _request, _body: {"requests": [entry.as_json() for entry in store.log.entries]},
        ),
        route("answers", "PUT", _put_answers),
        route("permissions", "PUT", _put_permissions),
        route("subscriptions", "POST", _post_subscription, 201),
        route("subscriptions", "GET", lambda store, _request, _body: [one.as_json() for one in store.subscriptions]),
        route("process", "POST", lambda store, _request, _body: {"processed": store.process() + store.reprocess()}),
        route("truth", "GET", lambda store, request, _body: {"rows": truth(_asked(store, request))}),
        route("totals", "GET", lambda store, request, _body: {"rows": totals(store, _asked(store, request))}),
        route("events", "GET", _get_events),
        route("events/delete-by-hand", "POST", _delete_by_hand),
    ]


def _patch_settings(store: Store, request: Request, body: object) -> JsonObject:
    del request
    store.settings = changed(store.settings, body)
    return as_json(store.settings)


def _put_faults(store: Store, request: Request, body: object) -> JsonObject:
    del request
    rules = FaultRules.parse(body)
    store.faults.set(rules)
    return {"rules": len(rules.rules)}


def _reset_log(store: Store, request: Request, body: object) -> JsonObject:
    del request, body
    store.log.reset()
    return store.log.counts()


def _put_answers(store: Store, request: Request, body: object) -> JsonObject:
    """Replace the canned answers."""
    del request
    store.canned = msgspec.convert(body, list[CannedAnswer])
    return {"answers": len(store.canned)}


def _put_permissions(store: Store, request: Request, body: object) -> JsonObject:
    del request
    names = msgspec.convert(body, list[str] | None)
    store.permissions = None if names is None else frozenset(names)
    return {"permissions": None if store.permissions is None else sorted(store.permissions)}


class _NewStore(msgspec.Struct, forbid_unknown_fields=True):
    settings: dict[str, Any] = {}


class _Price(msgspec.Struct, forbid_unknown_fields=True):
    quantity: Decimal
    currency: str


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    customer_reference: str
    meter_references: list[str] | None = None
    reference: str | None = None
    price: _Price | None = None


def _post_subscription(store: Store, request: Request, body: object) -> JsonObject:
    """The customer and meters need not exist yet.

    Events that were processed before stay as they are until they are reprocessed.
    """
    del request
    wanted = msgspec.convert(body, _Wanted)
    subscription = Subscription(
        id=store.ids.make("ppsu"),
        reference=wanted.reference,
        customer_reference=wanted.customer_reference,
        meter_references=None if wanted.meter_references is None else frozenset(wanted.meter_references),
        price=None if wanted.price is None else (wanted.price.quantity, wanted.price.currency),
    )
    store.add_subscription(subscription)
    return subscription.as_json()


def _get_events(store: Store, request: Request, body: object) -> JsonObject:
    """All stored events, with the state that the API shows late or not at all."""
    del body
    wanted = request.query_params.getlist("reference")
    events = [event for reference in wanted for event in store.events.by_reference.get(reference, ())]
    return {"events": [_with_flags(event) for event in (events if wanted else store.events.all)]}


def _with_flags(event: Event) -> JsonObject:
    flags = {"duplicate_of": event.duplicate_of, "counts": event.counts, "processed": event.processed_at is not None}
    return {**event.as_json(), **flags}


def _delete_by_hand(store: Store, request: Request, body: object) -> JsonObject:
    """Delete as a person at the console would: by id or reference, unseen by log, permissions and knobs."""
    del request
    key = body.get("id") or body.get("reference") if isinstance(body, dict) else None
    event = store.events.by_id.get(str(key)) or store.events.original(str(key))
    if event is None:
        raise ValueError("There is no such event: send its id, or the reference of one that counts.")
    store.events.delete(event)
    return event.as_json()


def _asked(store: Store, request: Request) -> list[Event]:
    query = request.query_params
    return list(
        counted(
            store.events.all,
            start=_instant(query.get("from"), "from"),
            end=_instant(query.get("to"), "to"),
            customer_reference=query.get("customer_reference"),
            meter_reference=query.get("meter_reference"),
        )
    )


def _instant(text: str | None, name: str) -> datetime | None:
    """A day or an instant; without an offset it is UTC."""
    if text is None:
        return None
    try:
        # A plus sign that nobody encoded arrives as a space.
        instant = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise ValueError(
            f"Parameter {name} must be a day or an instant, such as 2013-01-01 or 2013-01-01T05:00:00Z."
        ) from None
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
