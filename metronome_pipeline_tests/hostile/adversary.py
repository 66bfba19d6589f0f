"""A server on loopback that does to a connection what no honest one would, and a measure of the memory that it costs.

Here: connections that stay open for more than one request, endless senders, peak memory. Not here: any test.
"""

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from metronome_pipeline.clock import SYSTEM_CLOCK
from metronome_pipeline.http import Http, Service, Unpaced
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline_tests.loopback import SECRET

MEGABYTE = 1_000_000
QUICK = RetryPolicy(attempts=3, first_delay=0.001, longest_delay=0.002, budget_seconds=20)


@dataclass
class Adversary:
    """What a server saw: whole requests, in their order, and how many connections there were."""

    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


Act = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
"""What is done to a connection after request number n (from 1). A return leaves it open for another one."""


@asynccontextmanager
async def adversary(act: Act) -> AsyncIterator[Adversary]:
    """An adversary while the block runs. What it still sends afterwards is cut off."""
    seen = Adversary()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                seen.requests.append(head + body)
                await act(writer, len(seen.requests))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield seen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An honest answer, after which the connection stays open."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Word(msgspec.Struct):
    """What the requests of these tests ask for."""

    word: str


GOOD = b'{"word": "hello"}'
decode_word = msgspec.json.Decoder(Word).decode


def open_http(url: str, **options: Any) -> Http:
    """A session over real sockets, in real time, with little patience."""
    options = {"policy": QUICK, "timeout_seconds": 5.0, **options}
    service = Service("Solvimon", url, {"X-API-KEY": SECRET}, (SECRET,), "SOLVIMON_API_KEY")
    pacer = Unpaced(SYSTEM_CLOCK)
    return Http(
        service, transport=None, clock=SYSTEM_CLOCK, source=random.Random(7), pacer=pacer, run_id="run-1", **options
    )


async def ask(http: Http) -> Word:
    """One request, such as any."""
    return await http.send("POST /v1/words", "POST", "/v1/words", body=b"{}", decode=decode_word)


@dataclass
class Peak:
    """The most memory that Python held at once within a block, beyond what it held before, in bytes."""

    bytes: int = 0


@contextmanager
def peak_resident() -> Iterator[Peak]:
    """The same for what the process holds of the machine's memory, which costs no time. 0 where Linux is not there."""
    peak, process = Peak(), Path("/proc/self")
    try:
        (process / "clear_refs").write_text("5")
    except OSError:
        yield peak
        return
    before = _resident(process)
    yield peak
    peak.bytes = _resident(process) - before


def _resident(process: Path) -> int:
    """The most that it held since ``clear_refs``."""
    [line] = [line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measures a block. It runs two to four times slower meanwhile."""
    peak = Peak()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        yield peak
        _, most = tracemalloc.get_traced_memory()
        peak.bytes = most - before
    finally:
        tracemalloc.stop()
