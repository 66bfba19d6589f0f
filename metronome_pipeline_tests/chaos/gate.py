"""A way to a server that can be shut: connections are then cut off, and new ones refused, as if the server were gone.

The sandboxes keep what they hold in memory only, so they cannot themselves be ended and come back.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit


class Gate:
    """Carries TCP connections to one server, until it is shut, and from when it is opened again."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self._target = urlsplit(url).port
        self._loop = loop
        self._socket = _bound(0)
        self._port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._carried: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Let connections through."""
        self._do(self._open())

    def shut(self) -> None:
        """Cut off what is connected, and refuse what comes."""
        self._do(self._shut())

    def close(self) -> None:
        """End every connection, for good."""
        self.shut()
        self._socket.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._carry, sock=self._socket)

    async def _shut(self) -> None:
        assert self._server is not None
        self._server.close()
        # Bound and not listening: the system refuses connections, and gives the port to nobody else.
        self._socket = _bound(self._port)
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._carried, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        both = {writer, back}
        self._writers |= both
        try:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()


@contextlib.contextmanager
def gates(*urls: str) -> Iterator[tuple[Gate, ...]]:
    """A gate before each server, open."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gates", daemon=True)
    thread.start()
    made = tuple(Gate(url, loop) for url in urls)
    try:
        for gate in made:
            gate.open()
        yield made
    finally:
        for gate in made:
            gate.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while some := await reader.read(65_536):
            writer.write(some)
            await writer.drain()
        writer.close()


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made
