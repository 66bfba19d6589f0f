"""The way of a request to its handler: key, rate, route, permission, media type, idempotency key, work, answer.

Here: one request at a time, without faults. Not here: request ids, log and faults, which lie around this (front.py).
"""

import time
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from metronome_pipeline.sandbox.faults import fault_of
from metronome_pipeline.sandbox.solvimon.canned import take
from metronome_pipeline.sandbox.solvimon.errors import (
    PAGE_NOT_FOUND,
    ApiProblem,
    PageNotFoundError,
    by_status,
)
from metronome_pipeline.sandbox.solvimon.front import Route, Stores
from metronome_pipeline.sandbox.solvimon.idempotency import Answered, digest_of
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import decode, encode


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(encode(body), status, headers=headers, media_type="application/json")


def problem_response(problem: ApiProblem, headers: dict[str, str] | None = None) -> Response:
    """The answer for an error."""
    return json_response(problem.body(), problem.status, headers)


class Gateway:
    """The innermost app: does the work and answers."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await _body(receive)
        try:
            response = self._answer(scope, Headers(scope=scope), body)
        except ApiProblem as problem:
            response = problem_response(problem)
        except PageNotFoundError:
            response = json_response(PAGE_NOT_FOUND, 404)
        await response(scope, receive, send)

    def _answer(self, scope: Scope, headers: Headers, body: bytes) -> Response:
        store = self._stores.of(scope)
        if store is None:
            raise by_status(401)
        # Real time, also where the store's clock stands still: a frozen second would never end.
        limit = store.settings.rate_limit
        if limit is not None and not store.rate.take(int(time.monotonic()), limit):
            retry_after = store.settings.rate_limit_retry_after
            return problem_response(by_status(429), None if retry_after is None else {"Retry-After": retry_after})
        _check_platform(store, headers)
        canned = take(store.canned, scope["method"], scope["path"])
        if canned is not None:
            return canned
        route: Route = scope["sandbox.route"]
        if route is None:
            raise PageNotFoundError
        endpoint, ids = route
        if store.permissions is not None and not store.permissions.intersection(endpoint.permissions):
            raise by_status(403)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media_type != "application/json":
            status = store.settings.media_type_status
            raise ApiProblem(status, "UNSUPPORTED_MEDIA_TYPE", "The Content-Type must be application/json")
        query = QueryParams(scope["query_string"])
        call = Call(store, scope["path"], ids, query, decode(body), store.now())
        key = headers.get("idempotency-key") if endpoint.takes_key else None
        if key is None:
            return _response(scope, endpoint, endpoint.handler(call))
        return _once(endpoint, call, key, digest_of(endpoint.method, scope["path"], body))


def _response(scope: Scope, endpoint: Endpoint, answer: dict[str, Any] | str) -> Response:
    if isinstance(answer, str):
        return Response(answer, endpoint.status, media_type="application/octet-stream")
    return json_response(_shortened(scope, answer), endpoint.status)


def _check_platform(store: Store, headers: Headers) -> None:
    wanted, given = store.settings.platform_id, headers.get("x-platform-id")
    if wanted is not None and given is not None and given != wanted:
        raise ApiProblem(400, "PLATFORM_NOT_FOUND", "The requested PLATFORM could not be found")


def _once(endpoint: Endpoint, call: Call, key: str, digest: bytes) -> Response:
    """Do the work once per key; a success is kept, a refusal is not."""
    replayed = call.store.keys.replay(key, digest, now=call.now)
    if replayed is not None:
        headers = {"Idempotent-Replayed": "true"}
        return Response(replayed.body, replayed.status, headers=headers, media_type="application/json")
    answer = encode(endpoint.handler(call))
    call.store.keys.keep(key, Answered(digest, endpoint.status, answer, call.now))
    return Response(answer, endpoint.status, media_type="application/json")


def _shortened(scope: Scope, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without its last event, where the fault ``short_201`` is to be played; all of them are stored."""
    fault = fault_of(scope)
    if fault is None or fault.kind != "short_201":
        return answer
    return {name: rows[:-1] if name in {"meter_datas", "events"} else rows for name, rows in answer.items()}


async def _body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return b"".join(chunks)
