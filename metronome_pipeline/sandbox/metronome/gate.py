"""What every request to the API passes before and after its endpoint: token, log, rate, scope, faults, idempotency.

Here: ASGI. Not here: endpoints; the control routes pass the token only.
"""

import functools
import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metronome_pipeline.sandbox.faults import FaultMiddleware
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused, from_json, to_json
from metronome_pipeline.sandbox.metronome.store import Bucket, CannedAnswer, Store, StoredAnswer, Stores

CONTROL = "/_sandbox/"
"""Where the control routes live."""

_KEEP_IDEMPOTENT = timedelta(hours=24)
_CREDENTIALS = frozenset({"authorization", "cookie"})
_UNLIMITED = "POST /v1/ingest"


def respond(answer: Answer, store: Store | None = None) -> Response:
    """The HTTP response of an answer, instants spelled as the store's knob says."""
    if not answer.has_body:
        return Response(status_code=answer.status, headers=dict(answer.headers))
    style = store.settings.timestamp_style if store is not None else "mixed"
    text = to_json(answer.tree, answer.style if style == "mixed" else style)
    return Response(text, answer.status, dict(answer.headers), media_type="application/json")


def error(status: int) -> Response:
    """The API's error answer for a status, as a fault gives it."""
    headers = {"X-Metronome-Rate-Limit-Type": "client"} if status == 429 else {}
    return respond(Answer({"message": f"The sandbox was asked to answer {status}."}, status=status, headers=headers))


def headers_of(scope: Scope) -> Mapping[str, str]:
    """The request's headers, names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def token_of(scope: Scope) -> str | None:
    """The bearer token of a request, if it has one."""
    scheme, _, token = headers_of(scope).get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


class Gate:
    """The API's entrance around its endpoints.

    Leaves in the scope: ``sandbox.store``, ``sandbox.body`` (bytes), ``sandbox.endpoint`` (method and path template).
    """

    def __init__(self, app: ASGIApp, stores: Stores, routes: list[BaseRoute]) -> None:
        self._app = app
        self._stores = stores
        self._routes = routes
        self._inner = FaultMiddleware(
            self._canned_or_work,
            injector_of=lambda scope: scope["sandbox.store"].faults,
            # A 500 counts as the endpoint's own: an idempotency key keeps it. Proxies' 502 and 503 are not kept.
            error=lambda status: functools.partial(_idempotent, error(status)) if status == 500 else error(status),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        token = token_of(scope)
        store = self._stores.find(token)
        if store is None and token is not None and (scope["method"], scope["path"]) == ("PUT", f"{CONTROL}store"):
            store = self._stores.create(token)
        if store is None:
            await respond(Answer({"message": "Unauthorized: the token is missing or unknown."}, status=401))(
                scope, receive, send
            )
            return
        body = await _read(receive)
        scope.update({"sandbox.store": store, "sandbox.body": body, "sandbox.token": token})
        replayed = _replay(body, receive)
        if scope["path"].startswith(CONTROL):
            await self._app(scope, replayed, send)
        else:
            await self._logged(store, scope, replayed, send)

    async def _logged(self, store: Store, scope: Scope, receive: Receive, send: Send) -> None:
        scope["sandbox.endpoint"] = endpoint = self._endpoint(scope)
        statuses: list[str] = []

        @functools.wraps(send)
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(str(message["status"]))
            await send(message)

        try:
            refusal = _refusal(store, endpoint)
            if refusal is not None:
                await respond(refusal, store)(scope, receive, noting)
            else:
                await self._inner(scope, receive, noting)
        finally:
            outcome = scope.get("sandbox.outcome") or (statuses[-1] if statuses else "no answer")
            store.log.note(endpoint, outcome, _entry(store, scope, outcome))

    def _endpoint(self, scope: Scope) -> str:
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] is Match.FULL:
                return f"{scope['method']} {route.path}"
        return f"{scope['method']} {scope['path']}"

    async def _canned_or_work(self, scope: Scope, receive: Receive, send: Send) -> None:
        store: Store = scope["sandbox.store"]
        canned = _take_canned(store, scope["method"], scope["path"])
        if canned is not None:
            await Response(canned.body, canned.status, canned.headers)(scope, receive, send)
        else:
            await _idempotent(self._app, scope, receive, send)


def _entry(store: Store, scope: Scope, outcome: str) -> dict[str, Any]:
    body: bytes = scope["sandbox.body"]
    try:
        parsed = from_json(body) if body else None
    except ValueError:
        parsed = body.decode("utf-8", "replace")
    return {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "body": parsed,
        "headers": {name: value for name, value in headers_of(scope).items() if name not in _CREDENTIALS},
        "status": outcome,
        "at": store.now(),
    }


def _refusal(store: Store, endpoint: str) -> Answer | None:
    """The answer to a request that is over the rate, or outside of the token's scope."""
    settings = store.settings
    if endpoint in settings.denied_endpoints:
        return Refused("Forbidden: the token may not use this endpoint.", 403).answer
    if settings.rate_limit is None or endpoint == _UNLIMITED:
        return None
    now, scope = store.wall(), endpoint if settings.rate_limit_scope == "endpoint" else ""
    bucket = store.buckets.setdefault(scope, Bucket(float(settings.burst), now))
    refilled = max(0.0, (now - bucket.at).total_seconds()) * float(settings.rate_limit)
    bucket.tokens, bucket.at = min(float(settings.burst), bucket.tokens + refilled), now
    if bucket.tokens >= 1:
        bucket.tokens -= 1
        return None
    headers = {"X-Metronome-Rate-Limit-Type": "client"}
    if settings.retry_after is not None:
        headers["Retry-After"] = format(settings.retry_after, "f")
    return Refused("Too many requests.", 429, headers).answer


def _take_canned(store: Store, method: str, path: str) -> CannedAnswer | None:
    for canned in store.canned:
        if canned.method in {"*", method} and canned.path == path and canned.times != 0:
            if canned.times is not None:
                canned.times -= 1
            return canned
    return None


async def _idempotent(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Do the work once for an ``Idempotency-Key`` on a POST, and play its answer again for 24 hours."""
    key = headers_of(scope).get("idempotency-key")
    if key is None or scope["method"] != "POST":
        await app(scope, receive, send)
        return
    store: Store = scope["sandbox.store"]
    told = scope["path"].encode() + b"?" + scope["query_string"] + b"\n" + scope["sandbox.body"]
    request = hashlib.sha256(told).hexdigest()
    known = store.idempotency.get(key)
    if known is not None and store.now() - known.at < _KEEP_IDEMPOTENT:
        if known.request != request:
            conflict = Refused("The Idempotency-Key was used with other parameters.", 409)
            await respond(conflict.answer)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": known.status, "headers": known.headers})
        await send({"type": "http.response.body", "body": known.body})
        return
    start, body = await _work_and_tell(app, scope, receive, send)
    store.idempotency[key] = StoredAnswer(request, store.now(), start["status"], list(start["headers"]), body)


async def _work_and_tell(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> tuple[Message, bytes]:
    start: Message = {}
    chunks: list[bytes] = []

    @functools.wraps(send)
    async def keeping(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            chunks.append(message.get("body", b""))
        await send(message)

    await app(scope, receive, keeping)
    return start, b"".join(chunks)


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return parts.pop() if parts else await receive()

    return replayed
