"""The Solvimon half of the sandbox as one ASGI app. Here: how its layers are put together. Not here: any of them."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from metronome_pipeline.sandbox.faults import FaultMiddleware, Sleep
from metronome_pipeline.sandbox.solvimon import (
    catalogue,
    customers,
    event_reads,
    events,
    meters,
    persist_data,
    reprocessing,
)
from metronome_pipeline.sandbox.solvimon.control import routes
from metronome_pipeline.sandbox.solvimon.errors import by_status
from metronome_pipeline.sandbox.solvimon.front import Front, Stores, injector_of
from metronome_pipeline.sandbox.solvimon.gateway import Gateway, problem_response
from metronome_pipeline.sandbox.solvimon.routing import Router


def utc_now() -> datetime:
    """The real time."""
    return datetime.now(UTC)


class _App(Starlette):
    """Starlette with front and faults outside of its own error handling, whose ``send`` hides the socket from them."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(routes=[*routes(stores), Route("/{path:path}", Gateway(stores))])
        self._stores = stores

    def build_middleware_stack(self) -> ASGIApp:
        """Front, then faults, then Starlette's own layers."""
        modules = (events, event_reads, reprocessing, persist_data, customers, meters, catalogue)
        faulty = FaultMiddleware(
            super().build_middleware_stack(),
            injector_of=injector_of(self._stores),
            error=lambda status: problem_response(by_status(status)),
        )
        router = Router(endpoint for module in modules for endpoint in module.ENDPOINTS)
        return Front(faulty, stores=self._stores, router=router)


def create_app(
    *,
    clock: Callable[[], datetime] = utc_now,
    keys: Iterable[str] = ("sandbox-key",),
    sleep: Sleep = asyncio.sleep,
) -> Starlette:
    """The emulator of Solvimon's configuration and event APIs, in memory.

    Args:
        clock: The time, aware.
        keys: API keys that are known from the start. ``PUT /_sandbox/store`` makes any other key known.
        sleep: How slow answers wait.
    """
    return _App(Stores(keys, clock=clock, sleep=sleep))
