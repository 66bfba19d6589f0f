"""What the clients' tests stand on: time that does not pass, scripted answers, and a raw server on loopback."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from metronome_pipeline.clock import Clock
from metronome_pipeline.http import Http, Pacer, Service, Unpaced

SECRET = "s3cret-credential-0123456789"
START = datetime(2026, 11, 22, 6, tzinfo=UTC)


@dataclass
class StillTime:
    """A clock that only sleeping moves."""

    elapsed: float = 0.0
    sleeps: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.elapsed += seconds
        await asyncio.sleep(0)

    def clock(self) -> Clock:
        return Clock(
            now=lambda: START + timedelta(seconds=self.elapsed), monotonic=lambda: self.elapsed, sleep=self.sleep
        )


Script = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]


class Scripted:
    """A transport that gives one answer after the other, the last for ever, and keeps the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)


def ok(body: Any, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=_dashed(headers), content=json.dumps(body).encode())


def bad(status: int, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=_dashed(headers), content=json.dumps(body).encode() if body else b"")


def _dashed(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def service(base_url: str = "https://api.example.test", system: str = "Solvimon") -> Service:
    return Service(system, base_url, {"X-API-KEY": SECRET}, (SECRET,), "SOLVIMON_API_KEY")


def session(
    transport: httpx.AsyncBaseTransport | None,
    time: StillTime | None = None,
    *,
    base_url: str = "https://api.example.test",
    system: str = "Solvimon",
    pacer: Pacer | None = None,
    **options: Any,
) -> Http:
    clock = (time or StillTime()).clock()
    return Http(
        service(base_url, system),
        transport=transport,
        clock=clock,
        source=random.Random(7),
        pacer=pacer or Unpaced(clock),
        run_id="run-1",
        **options,
    )


Exchange = Callable[[bytes, asyncio.StreamWriter, int], Awaitable[None]]


@asynccontextmanager
async def raw_server(exchange: Exchange) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server on loopback that reads a request and then does to the connection whatever ``exchange`` does.

    Gives its URL and the requests that it read. ``exchange`` takes the request, the writer and the request's number.
    """
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            requests.append(head + await reader.readexactly(length))
            await exchange(requests[-1], writer, len(requests))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    finally:
        server.close()


def plain(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), b"Connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def collected(pages: AsyncIterator[Any]) -> list[Any]:
    return [page async for page in pages]


def queries(requests: Sequence[httpx.Request]) -> list[dict[str, str]]:
    return [dict(request.url.params) for request in requests]
