"""Serving sandbox apps on loopback, under uvicorn: in a thread for tests, or for ever for the command line.

Here: sockets, threads, start and stop. Not here: what is served.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping

import uvicorn
from starlette.types import ASGIApp

HOST = "127.0.0.1"
"""The sandbox listens on loopback only."""


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        ws="none",
        server_header=False,
    )


def listen(port: int = 0) -> socket.socket:
    """A listening socket on loopback; port 0 takes a free one.

    Raises:
        OSError: When the port is taken; the message names it.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Without it an answer's body waits 40 ms for the other side to acknowledge its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise OSError(f"Port {port} on {HOST} is taken; choose another one, or 0 for a free one.") from error
    listener.listen(512)
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL of a listening socket."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


class _ThreadServer(uvicorn.Server):
    """A uvicorn server that says when it is up; signals stay with the main thread."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def serve(app: ASGIApp, *, port: int = 0, start_timeout: float = 30.0) -> Iterator[str]:
    """Serve an app from a thread for the length of a ``with`` block; yields its base URL.

    Raises:
        OSError: When the port is taken.
        RuntimeError: When the server did not come up in time.
    """
    listener = listen(port)
    server = _ThreadServer(_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True)
    thread.start()
    try:
        if not server.is_up.wait(start_timeout):
            raise RuntimeError(f"The sandbox server did not come up within {start_timeout:g} seconds.")
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join(start_timeout)
        listener.close()


def serve_forever(apps: Mapping[socket.socket, ASGIApp]) -> None:
    """Serve each app on its listening socket (see :func:`listen`) until SIGINT or SIGTERM."""
    servers = [(_ThreadServer(_config(app)), listener) for listener, app in apps.items()]

    async def run() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for name in _STOP_SIGNALS:
            loop.add_signal_handler(name, stop.set)
        running = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers]
        await stop.wait()
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*running)

    asyncio.run(run())


_STOP_SIGNALS = (2, 15)
