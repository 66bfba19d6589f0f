"""The emulated API as one ASGI app: which path is answered by what.

Here: the table of endpoints, and putting the parts together. Not here: what they do.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from metronome_pipeline.sandbox.faults import FaultRules, Sleep, fault_of
from metronome_pipeline.sandbox.metronome import audit, customers, groups, ingest, metrics, products, usage
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused, from_json
from metronome_pipeline.sandbox.metronome.control import control_routes
from metronome_pipeline.sandbox.metronome.gate import Gate, respond
from metronome_pipeline.sandbox.metronome.store import Call, Handler, Store, Stores, utc_now

ENDPOINTS: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/v1/customers", customers.list_customers),
    ("POST", "/v1/customers", customers.create_customer),
    ("POST", "/v1/customers/archive", customers.archive_customer),
    ("GET", "/v1/customers/{id}", customers.get_customer),
    ("POST", "/v1/customers/{id}/setIngestAliases", customers.set_ingest_aliases),
    ("POST", "/v1/customers/{id}/setName", customers.set_name),
    ("POST", "/v1/customFields/setValues", customers.set_custom_fields),
    ("GET", "/v1/billable-metrics", metrics.list_metrics),
    ("POST", "/v1/billable-metrics", metrics.create_legacy_metric),
    ("POST", "/v1/billable-metrics/create", metrics.create_metric),
    ("POST", "/v1/billable-metrics/archive", metrics.archive_metric),
    ("GET", "/v1/billable-metrics/{id}", metrics.get_metric),
    ("PUT", "/v1/billable-metrics/{id}", metrics.rename_metric),
    ("POST", "/v1/contract-pricing/products/list", products.list_products),
    ("POST", "/v1/contract-pricing/products/get", products.get_product),
    ("POST", "/v1/contract-pricing/products/create", products.create_product),
    ("POST", "/v1/contract-pricing/products/update", products.update_product),
    ("POST", "/v1/contract-pricing/products/archive", products.archive_product),
    ("POST", "/v1/usage", usage.list_usage),
    ("POST", "/v1/usage/groups", groups.list_grouped_usage),
    ("POST", "/v1/ingest", ingest.ingest),
    ("POST", "/v1/events/search", ingest.search_events),
    ("GET", "/v1/auditLogs", audit.list_audit_logs),
)
"""The emulated endpoints."""


class MetronomeSandbox(Starlette):
    """The app. Its stores are reachable from the process that serves it, as ``stores``."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self._api: list[BaseRoute] = [
            Route(path, _endpoint(path, handler), methods=[method]) for method, path, handler in ENDPOINTS
        ]
        super().__init__(routes=[*control_routes(stores), *self._api], exception_handlers={HTTPException: _as_message})

    def build_middleware_stack(self) -> ASGIApp:
        """The gate stands outside of Starlette's own middleware: there it can reach the socket."""
        return Gate(super().build_middleware_stack(), self.stores, self._api)


def create_app(
    *,
    clock: Callable[[], datetime] = utc_now,
    tokens: Iterable[str] = ("sandbox-token",),
    faults: FaultRules | None = None,
    sleep: Sleep = asyncio.sleep,
) -> Starlette:
    """A sandbox of Metronome's API.

    Args:
        clock: Gives the time, as an aware instant in UTC; rates go by it, and all else but for the knob ``now``.
        tokens: Each gets an empty store of its own. ``PUT /_sandbox/store`` makes more.
        faults: Rules that these stores begin with.
        sleep: What slow answers wait with.
    """
    stores = Stores(clock, sleep)
    for token in tokens:
        store = stores.create(token)
        if faults is not None:
            store.faults.set(faults)
    return MetronomeSandbox(stores)


def _endpoint(path: str, handler: Handler) -> Callable[[Request], Any]:
    async def run(request: Request) -> Response:
        store: Store = request.scope["sandbox.store"]
        try:
            answer = handler(store, _call(request, path))
        except Refused as refused:
            answer = refused.answer
        return respond(answer, store)

    return run


def _call(request: Request, path: str) -> Call:
    raw: bytes = request.scope["sandbox.body"]
    try:
        body = from_json(raw) if raw else None
    except (ValueError, RecursionError) as error:
        raise Refused("The body is not JSON.") from error
    fault = fault_of(request.scope)
    return Call(
        endpoint=f"{request.method} {path}",
        ids=request.path_params,
        query=parse_qs(request.url.query, keep_blank_values=True),
        body=body,
        fault=fault.kind if fault is not None else None,
    )


async def _as_message(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return respond(Answer({"message": "There is no such endpoint."}, status=status))
