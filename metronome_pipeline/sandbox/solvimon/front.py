"""What lies around every request of the API: its store and route, its request id, the log, keys in flight.

Here: the outermost layer, which sees faults as a client does. Not here: the control routes (control.py), the work
(gateway.py).
"""

import functools
from collections.abc import Callable, Iterable
from datetime import datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metronome_pipeline.sandbox.faults import FaultInjector, Sleep
from metronome_pipeline.sandbox.solvimon.idempotency import still_in_progress
from metronome_pipeline.sandbox.solvimon.routing import Endpoint, Router
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import IdSource, encode, instant_text

CONTROL = "/_sandbox/"
"""Paths below this steer the sandbox and are no part of the API."""

Route = tuple[Endpoint, tuple[str, ...]] | None
"""An endpoint and the ids in the path; ``None`` for a wrong route."""


class Stores:
    """All stores of an app, by API key."""

    def __init__(self, keys: Iterable[str], *, clock: Callable[[], datetime], sleep: Sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._made = 0
        self._by_key: dict[str, Store] = {}
        for key in keys:
            self.create(key)

    def create(self, key: str) -> Store:
        """An empty store for a key, in the place of the one that it had."""
        self._made += 1
        # The salt makes ids differ from store to store, also from those of a store under the same key before.
        store = Store(f"{key}:{self._made}", self._clock, faults=FaultInjector(sleep=self._sleep))
        self._by_key[key] = store
        return store

    def of(self, scope: Scope) -> Store | None:
        """The store of a request, or of nobody: the header is missing or the key unknown."""
        return self._by_key.get(Headers(scope=scope).get("x-api-key", ""))


def injector_of(stores: Stores) -> Callable[[Scope], FaultInjector | None]:
    """Finds the faults that a request is subject to: those of its store, and none for control routes."""

    def find(scope: Scope) -> FaultInjector | None:
        store = None if scope["path"].startswith(CONTROL) else stores.of(scope)
        return None if store is None else store.faults

    return find


class Front:
    """The outermost app. Control routes pass untouched."""

    def __init__(self, app: ASGIApp, *, stores: Stores, router: Router) -> None:
        self._app = app
        self._stores = stores
        self._router = router
        self._request_ids = IdSource("requests")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and write it down."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            await self._app(scope, receive, send)
            return
        raw_path = scope.get("raw_path") or scope["path"].encode()
        route = self._router.find(scope["method"], raw_path)
        scope["sandbox.route"] = route
        store = self._stores.of(scope)
        exchange = _Exchange(receive, send, self._request_ids.make("reqr"), _headers_of_a_500(scope, store, route))
        try:
            await self._guarded(scope, exchange, store, route)
        finally:
            if store is not None:
                _record(store, scope, route, exchange)

    async def _guarded(self, scope: Scope, exchange: "_Exchange", store: Store | None, route: Route) -> None:
        """Let one request per idempotency key in at a time; the key is free again once the answer has left."""
        key = Headers(scope=scope).get("idempotency-key")
        if store is None or route is None or not route[0].takes_key or key is None:
            await self._app(scope, exchange.receive, exchange.send)
            return
        if key in store.keys.in_flight:
            problem = still_in_progress()
            answer = Response(encode(problem.body()), problem.status, media_type="application/json")
            await answer(scope, exchange.receive, exchange.send)
            return
        store.keys.in_flight.add(key)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            store.keys.in_flight.discard(key)


def _headers_of_a_500(scope: Scope, store: Store | None, route: Route) -> dict[str, str]:
    """``Idempotency-Retryable``, where a 500 would carry it: on requests with a key."""
    retryable = None if store is None else store.settings.idempotency_retryable
    keyed = route is not None and route[0].takes_key and "idempotency-key" in Headers(scope=scope)
    return {} if retryable is None or not keyed else {"Idempotency-Retryable": str(retryable).lower()}


class _Exchange:
    """``receive`` and ``send`` of one request, which remember what went through them."""

    def __init__(self, receive: Receive, send: Send, request_id: str, headers_of_a_500: dict[str, str]) -> None:
        self.chunks: list[bytes] = []
        self.status: int | None = None

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self.chunks.append(message.get("body", b""))
            return message

        # functools.wraps keeps the way to the socket, which faults need.
        @functools.wraps(send)
        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                headers = MutableHeaders(raw=list(message["headers"]))
                headers["X-REQUEST-ID"] = request_id
                headers.update(headers_of_a_500 if self.status == 500 else {})
                message = {**message, "headers": headers.raw}
            await send(message)

        self.receive: Receive = heard
        self.send: Send = said


def _record(store: Store, scope: Scope, route: Route, exchange: _Exchange) -> None:
    store.log.record(
        method=scope["method"],
        path=scope["path"],
        template=scope["path"] if route is None else route[0].template,
        query=scope["query_string"].decode("latin-1"),
        body=b"".join(exchange.chunks),
        headers=list(scope["headers"]),
        outcome=scope.get("sandbox.outcome") or str(exchange.status),
        at=instant_text(store.now()),
    )
