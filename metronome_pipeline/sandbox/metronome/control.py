"""The routes under ``/_sandbox/``: what a test or a demonstration does that the real API has no request for.

Here: stores, knobs, faults, the request log, events of any age, objects with given ids, data sets, control totals.
Not here: anything that a client of the real API could see.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from metronome_pipeline.sandbox.faults import FaultRules
from metronome_pipeline.sandbox.metronome import checks, datasets, ingest, truth
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused, from_json, read_instant, to_json
from metronome_pipeline.sandbox.metronome.gate import CONTROL, respond
from metronome_pipeline.sandbox.metronome.settings import Settings
from metronome_pipeline.sandbox.metronome.store import CannedAnswer, Fields, RequestLog, Store, Stores

_EARLY = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANTS = ("created_at", "updated_at", "archived_at")
_Control = Callable[[Store, Request, Any], Answer | Response]


def control_routes(stores: Stores) -> list[BaseRoute]:
    """The control routes; they answer for the store of the token in the request."""

    def put_store(store: Store, request: Request, body: Any) -> Answer:
        settings = checks.body_of_tree(body if body is not None else {}).get("settings", {})
        # Read before the store is emptied: a refused request changes nothing.
        Settings().changed(settings)
        created = stores.create(request.scope["sandbox.token"])
        created.change_settings(settings)
        return Answer({"settings": created.settings.as_tree()}, status=201)

    table: list[tuple[str, str, _Control]] = [
        ("PUT", "store", put_store),
        ("GET", "settings", lambda store, request, body: Answer(store.settings.as_tree(), style="Z")),
        ("PATCH", "settings", _patch_settings),
        ("PUT", "faults", _put_faults),
        ("GET", "requests", _get_requests),
        ("DELETE", "requests", _delete_requests),
        ("GET", "requests/log", lambda store, request, body: Answer({"requests": list(store.log.last)}, style="Z")),
        ("PUT", "answers", _put_answers),
        ("POST", "events", _post_events),
        ("POST", "events/remove", _remove_events),
        ("PUT", "dataset", _put_dataset),
        ("POST", "customers", _post_customers),
        ("POST", "billable-metrics", _post_metrics),
        ("POST", "products", _post_products),
        ("GET", "truth", lambda store, request, body: _stream(store, _question(request, by_hour=True))),
        ("GET", "totals", lambda store, request, body: _stream(store, _question(request, by_hour=False))),
    ]
    return [Route(CONTROL + path, _endpoint(control), methods=[method]) for method, path, control in table]


def _endpoint(control: _Control) -> Callable[[Request], Any]:
    async def run(request: Request) -> Response:
        store: Store = request.scope["sandbox.store"]
        raw: bytes = request.scope["sandbox.body"]
        try:
            answer = control(store, request, from_json(raw) if raw else None)
        except Refused as refused:
            answer = refused.answer
        except ValueError as wrong:
            answer = Answer({"message": str(wrong)}, status=400)
        return answer if isinstance(answer, Response) else respond(answer, store)

    return run


def _patch_settings(store: Store, request: Request, body: Any) -> Answer:
    store.change_settings(body)
    return Answer(store.settings.as_tree(), style="Z")


def _put_faults(store: Store, request: Request, body: Any) -> Answer:
    store.faults.set(FaultRules.parse(body))
    return Answer({"rules": len(store.faults.rules.rules)})


def _get_requests(store: Store, request: Request, body: Any) -> Answer:
    return Answer(
        {"total": store.log.total, "by_endpoint": {name: dict(c) for name, c in store.log.by_endpoint.items()}}
    )


def _delete_requests(store: Store, request: Request, body: Any) -> Answer:
    store.log = RequestLog()
    return Answer({})


def _put_answers(store: Store, request: Request, body: Any) -> Answer:
    """Answers to give in place of the next ones: ``[{"method", "path", "status", "body", "headers", "times"}]``.

    ``body`` is text that is sent as it is, or a JSON tree. ``times`` 1 by default; null means from now on.
    """
    if not isinstance(body, list) or not all(isinstance(one, dict) for one in body):
        raise Refused("The body must be a list of answers.")
    store.canned = [
        CannedAnswer(
            method=str(one.get("method", "*")).upper(),
            path=checks.text(one, "path"),
            status=int(one.get("status", 200)),
            body=(one["body"] if isinstance(one.get("body"), str) else to_json(one.get("body"))).encode(
                "utf-8", "surrogatepass"
            ),
            headers={"content-type": "application/json", **one.get("headers", {})},
            times=one.get("times", 1),
        )
        for one in body
    ]
    return Answer({"answers": len(store.canned)})


def _post_events(store: Store, request: Request, body: Any) -> Answer:
    """Events of any age and any number; ``received_at`` of one says when it came, now by default."""
    events = []
    for one in body if isinstance(body, list) else [body]:
        received = one.get("received_at") if isinstance(one, dict) else None
        at = store.now() if received is None else read_instant(received, "received_at")
        events.append(ingest.read_event(store, one, at))
    return Answer({"added": ingest.keep(store, events)})


def _remove_events(store: Store, request: Request, body: Any) -> Answer:
    ids = checks.texts(checks.body_of_tree(body).get("transaction_ids"), "transaction_ids")
    return Answer({"removed": store.events.remove(set(ids))})


def _put_dataset(store: Store, request: Request, body: Any) -> Answer:
    return Answer(datasets.load(store, checks.body_of_tree(body)), status=201)


def _objects(body: Any) -> Iterator[Fields]:
    """The objects of a body, one or a list: known instants read, an id given where there is none."""
    for one in body if isinstance(body, list) else [body]:
        given = checks.body_of_tree(one)
        instants = {name: read_instant(given[name], name) for name in _INSTANTS if isinstance(given.get(name), str)}
        yield {"id": str(uuid.uuid4()), **given, **instants}


def _post_customers(store: Store, request: Request, body: Any) -> Answer:
    """Customers with any fields; an alias that another one has moves."""
    ids = []
    for fields in _objects(body):
        usual: Fields = {
            "name": "Customer",
            "ingest_aliases": [],
            "customer_config": {"salesforce_account_id": None},
            "custom_fields": {},
            "created_at": store.now(),
            "updated_at": store.now(),
            "archived_at": None,
        }
        ids.append(store.put_customer({**usual, **fields}, store.now()).id)
        store.write_audit("put", "customer", ids[-1])
    return Answer({"data": [{"id": one} for one in ids]}, status=201)


def _post_metrics(store: Store, request: Request, body: Any) -> Answer:
    """Metrics with any fields. ``created_at``, no field of the API: older events do not count; by default all do."""
    ids = []
    for fields in _objects(body):
        since = fields.pop("created_at", None) or _EARLY
        ids.append(store.put_metric({"name": "Metric", **fields}, since).id)
        store.write_audit("put", "billable_metric", ids[-1])
    return Answer({"data": [{"id": one} for one in ids]}, status=201)


def _post_products(store: Store, request: Request, body: Any) -> Answer:
    """Products with any fields; ``current`` as given, else made from ``initial`` and ``updates``."""
    ids = []
    for fields in _objects(body):
        stamp = {"created_at": store.now(), "created_by": "sandbox"}
        usual: Fields = {"type": "USAGE", "updates": [], "archived_at": None, "custom_fields": {}}
        initial = {**stamp, **fields.get("initial", {"name": "Product"})}
        ids.append(store.put_product({**usual, **fields, "initial": initial}, store.now()).id)
        store.write_audit("put", "contract_product", ids[-1])
    return Answer({"data": [{"id": one} for one in ids]}, status=201)


def _question(request: Request, *, by_hour: bool) -> truth.Question:
    query = request.query_params
    return truth.Question(
        start=datasets.moment(query.get("from"), "from"),
        end=datasets.moment(query.get("to"), "to"),
        customer_id=query.get("customer_id"),
        metric_id=query.get("metric_id"),
        group_key=tuple(key for key in query.get("group_key", "").split(",") if key) if by_hour else (),
        by_hour=by_hour,
    )


def _stream(store: Store, question: truth.Question) -> Response:
    async def chunks() -> AsyncIterator[str]:
        separator = '{"rows":['
        for row in truth.rows(store, question):
            yield separator + to_json(row)
            separator = ","
        yield "]}" if separator == "," else separator + "]}"

    return StreamingResponse(chunks(), media_type="application/json")
