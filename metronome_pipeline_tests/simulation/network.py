"""The network between the processes and both APIs, in memory: latency, and everything that can go wrong on the way.

Here: what befalls a request. A request that has left arrives whatever becomes of its sender, at most a timeout later.
Not here: what befalls a process (``process.py``) and the accounts (``account.py``).
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx
from starlette.types import ASGIApp, Message

from metronome_pipeline.sandbox.fault_rules import Fault
from metronome_pipeline_tests.simulation import spoiling
from metronome_pipeline_tests.simulation.history import Exchange
from metronome_pipeline_tests.simulation.process import Process
from metronome_pipeline_tests.simulation.trouble import Chances
from metronome_pipeline_tests.simulation.virtual_time import VirtualLoop

TIMEOUT = 60.0
_LATEST_ARRIVAL = 55.0
_PAGE_FAULTS = ("empty_page", "duplicate_page", "repeated_cursor", "null_for_zero")
_PAGED = frozenset({"/v1/usage", "/v1/usage/groups", "/v1/customers", "/v1/billable-metrics"})
_STATUSES = {"status_503": 503, "status_429": 429, "status_429_retry_after": 429}
INGEST = "/v1/events/ingest-batch"
_NOTHING = b'{"data": [], "page": 1, "limit": 50, "total_number_of_pages": 0, "links": {}}'


@dataclass(frozen=True)
class Told:
    """An answer on its way."""

    status: int
    content: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()


@dataclass
class OneFault:
    """Stands in for a sandbox's own faults: plays what the network has decided for the request at hand."""

    fault: Fault | None = None

    def decide(self, method: str, path: str) -> Fault | None:
        """The fault, once."""
        del method, path
        fault, self.fault = self.fault, None
        return fault


@dataclass
class Network:
    """Carries requests. ``departing`` is called with each one before it leaves."""

    loop: VirtualLoop
    apps: dict[str, ASGIApp]
    faults: dict[str, OneFault]
    draw: random.Random
    departing: Callable[[Exchange], None]
    chances: dict[str, Chances] = field(default_factory=dict)
    history: list[Exchange] = field(default_factory=list)
    outage_until: float = 0.0
    under_way: set["asyncio.Task[Told]"] = field(default_factory=set)
    _swapped: dict[str, spoiling.Page] = field(default_factory=dict)
    _stale: set[str] = field(default_factory=set)

    def strikes(self, kind: str) -> bool:
        """Whether a kind of trouble strikes now."""
        chances = self.chances.get(kind)
        return chances is not None and chances.strikes()

    async def send(self, process: Process, system: str, request: httpx.Request) -> httpx.Response:
        """One request of a process, from its departure to its answer."""
        process.point("before a request leaves")
        path = request.url.raw_path.partition(b"?")[0].decode()
        exchange = Exchange(
            len(self.history),
            process.name,
            system,
            request.method,
            path,
            request.url.query.decode(),
            request.content,
            self.loop.time(),
        )
        self.history.append(exchange)
        self.departing(exchange)
        carried = self.loop.create_task(self._carry(exchange, request))
        self.under_way.add(carried)
        carried.add_done_callback(self.under_way.discard)
        if request.method == "POST" and path.startswith("/v1/events"):
            process.has_sent_events()
        try:
            told = await asyncio.shield(carried)
        finally:
            process.point("after a request")
        exchange.status, exchange.answer, exchange.answered = told.status, told.content, self.loop.time()
        return httpx.Response(told.status, headers=list(told.headers), content=told.content)

    async def _carry(self, exchange: Exchange, request: httpx.Request) -> Told:
        """What befalls it on the way there, at work, and on the way back."""
        out, back = (min(self.draw.expovariate(20), 5.0) for _ in range(2))
        if self.strikes("slow"):
            exchange.trouble.append("slow")
            out, back = self.draw.uniform(0, _LATEST_ARRIVAL), self.draw.uniform(0, TIMEOUT)
        elif exchange.path.startswith("/v1/usage") and self.strikes("slow_answers"):
            exchange.trouble.append("slow_answers")
            back = self.draw.uniform(0, _LATEST_ARRIVAL)
        await asyncio.sleep(out)
        if self.strikes("outage"):
            self.outage_until = self.loop.time() + self.draw.expovariate(1 / 120)
        if self.loop.time() < self.outage_until:
            exchange.trouble.append("outage")
            return Told(503, b"down")
        for kind, status in _STATUSES.items():
            if self.strikes(kind):
                exchange.trouble.append(kind)
                asked = [(b"retry-after", self.draw.choice((b"0", b"1", b"7")))] if kind.endswith("retry_after") else []
                return Told(status, b'{"message": "not now"}', asked)
        if self.strikes("reset_before"):
            exchange.trouble.append("reset_before")
            raise httpx.ConnectTimeout("reset")
        told = await self._work(exchange, request)
        await asyncio.sleep(back)
        return self._back(exchange, told)

    async def _work(self, exchange: Exchange, request: httpx.Request) -> Told:
        """What the API does, and says."""
        content, paged = exchange.body, exchange.path in _PAGED
        fault = next((kind for kind in _PAGE_FAULTS if paged and self.strikes(kind)), None)
        if exchange.path == INGEST and self.strikes("short_201"):
            fault = "short_201"
        lost = exchange.path == INGEST and fault is None and self.strikes("short_201_lost")
        if lost:
            content = spoiling.without_the_last(content)
        exchange.trouble += [fault] if fault else ["short_201_lost"] if lost else []
        exchange.worked = self.loop.time()
        swapped = self._swapped.get(exchange.cursor or "")
        if swapped is not None:
            return Told(200, swapped.content)
        if self._is_stale(exchange):
            return Told(200, _NOTHING)
        told = await self._call(exchange.system, request, content, fault)
        if paged and exchange.cursor is None and fault is None and self.strikes("swapped_pages"):
            told = await self._swap(exchange, request, told)
        return told

    def _is_stale(self, exchange: Exchange) -> bool:
        """A look-up by reference that does not show what was stored just now; once for each reference."""
        look_up = exchange.path == "/v1/events" and exchange.query not in self._stale
        if not look_up or not self.strikes("stale_list"):
            return False
        self._stale.add(exchange.query)
        exchange.trouble.append("stale_list")
        return True

    async def _swap(self, exchange: Exchange, request: httpx.Request, first: Told) -> Told:
        """Gives the second page first, and the first one when the second is asked for."""
        one = spoiling.page_of(first.content)
        if first.status != 200 or one is None or one.next_page is None:
            return first
        exchange.trouble.append("swapped_pages")
        following = httpx.Request(request.method, request.url.copy_merge_params({"next_page": one.next_page}))
        following.headers = request.headers
        two = spoiling.page_of((await self._call(exchange.system, following, exchange.body, None)).content)
        assert two is not None
        self._swapped[one.next_page] = spoiling.Page(one.data, two.next_page)
        return Told(200, spoiling.Page(two.data, one.next_page).content)

    def _back(self, exchange: Exchange, told: Told) -> Told:
        """What befalls the answer."""
        if self.strikes("reset_after"):
            exchange.trouble.append("reset_after")
            raise httpx.ReadError("reset")
        if self.strikes("status_502_after"):
            exchange.trouble.append("status_502_after")
            return Told(502, b"<html>Bad gateway</html>")
        if told.status >= 300:
            return told
        if self.strikes("truncated_body"):
            exchange.trouble.append("truncated_body")
            if self.draw.random() < 0.5:
                raise httpx.RemoteProtocolError("closed before the body was complete")
            return Told(told.status, told.content[: len(told.content) // 2])
        if self.strikes("html_200"):
            exchange.trouble.append("html_200")
            return Told(200, b"<!DOCTYPE html><title>Sign in</title>")
        content = told.content
        if exchange.system == "metronome" and self.strikes("reordered_rows"):
            exchange.trouble.append("reordered_rows")
            content = spoiling.reordered(content, self.draw)
        if exchange.system == "metronome" and self.strikes("other_decimals"):
            exchange.trouble.append("other_decimals")
            content = spoiling.respelled(content)
        return Told(told.status, content, told.headers)

    async def _call(self, system: str, request: httpx.Request, content: bytes, fault: str | None) -> Told:
        self.faults[system].fault = None if fault is None else Fault(fault)
        return await call(self.apps[system], request, content)


async def call(app: ASGIApp, request: httpx.Request, content: bytes) -> Told:
    """One request to an app in memory."""
    raw_path, _, query = request.url.raw_path.partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(raw_path.decode()),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": ("sandbox", 80),
        "client": ("process", 1),
    }
    body: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
    answer: list[Message] = []

    async def receive() -> Message:
        return body.pop() if body else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answer.append(message)

    await app(scope, receive, send)
    headers = [(name, value) for name, value in answer[0].get("headers", ()) if name.lower() != b"content-length"]
    return Told(answer[0]["status"], b"".join(message.get("body", b"") for message in answer[1:]), headers)


class Wire(httpx.AsyncBaseTransport):
    """One process's way to one API."""

    def __init__(self, network: Network, process: Process, system: str) -> None:
        self._network = network
        self._process = process
        self._system = system

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        await request.aread()
        return await self._network.send(self._process, self._system, request)
