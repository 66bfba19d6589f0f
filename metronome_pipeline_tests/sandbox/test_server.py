"""Serving apps on loopback: a thread for tests, a process for the command line."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from starlette.responses import PlainTextResponse

from metronome_pipeline.sandbox.server import listen, serve, url_of

HELLO = PlainTextResponse("hello")


def test_serve_takes_a_free_port_and_gives_it_back() -> None:
    with serve(HELLO) as url:
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(url).text == "hello"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, timeout=2)


def test_two_servers_run_at_once() -> None:
    with serve(HELLO) as one, serve(PlainTextResponse("other")) as two:
        assert one != two
        assert (httpx.get(one).text, httpx.get(two).text) == ("hello", "other")


def test_a_taken_port_is_named() -> None:
    with listen() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=str(port)), serve(HELLO, port=port):
            pass


def test_listening_is_on_loopback_only() -> None:
    with listen() as listener:
        assert listener.family == socket.AF_INET
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


SCRIPT = """
from starlette.responses import PlainTextResponse
from metronome_pipeline.sandbox.server import listen, serve_forever, url_of
one, two = listen(), listen()
print(url_of(one), url_of(two), flush=True)
serve_forever({one: PlainTextResponse("one"), two: PlainTextResponse("two")})
print("stopped", flush=True)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_serve_forever_stops_cleanly_on_a_signal(stop: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        urls = process.stdout.readline().split()
        assert [httpx.get(url, timeout=10).text for url in urls] == ["one", "two"]
        os.kill(process.pid, stop)
        assert process.stdout.read() == "stopped\n"
    assert process.returncode == 0
