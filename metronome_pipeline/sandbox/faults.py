"""Faults that a sandbox plays on request: error statuses, broken connections, broken bodies, slow answers.

Here: what happens at the level of ASGI and of the socket. Not here: which request is hit (:mod:`.fault_rules`), and
faults that need the meaning of an answer (an empty page, a short 201): the app finds those with :func:`fault_of`.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metronome_pipeline.sandbox.fault_rules import (
    APP_KINDS,
    KINDS,
    Fault,
    FaultInjector,
    FaultRule,
    FaultRules,
    Sleep,
)

__all__ = [
    "APP_KINDS",
    "KINDS",
    "ConnectionResetBySandbox",
    "Fault",
    "FaultInjector",
    "FaultMiddleware",
    "FaultRule",
    "FaultRules",
    "Sleep",
    "break_connection",
    "fault_of",
    "transport_of",
]

_HTML = (
    b"<!DOCTYPE html>\n<html><head><title>Service page</title></head>"
    b"<body><h1>We will be right back</h1></body></html>\n"
)


class ConnectionResetBySandbox(ConnectionResetError):
    """The connection broke on purpose, in an app that is called in memory and so has no socket to break.

    Attributes:
        work_done: Whether the request had its effect before the connection broke.
    """

    def __init__(self, *, work_done: bool) -> None:
        super().__init__(f"The sandbox broke the connection {'after' if work_done else 'before'} the work was done.")
        self.work_done = work_done


class InjectorOf(Protocol):
    """Finds the injector of a request's store; ``None`` when the request is not subject to faults."""

    def __call__(self, scope: Scope, /) -> FaultInjector | None:
        """The injector for this request."""


class FaultMiddleware:
    """Plays the faults of a request's store around an app.

    Args:
        app: The app that does the work.
        injector_of: Finds the store's injector from the scope (headers, path); ``None`` means no faults.
        error: Builds the half's own error answer for a status (a Starlette ``Response`` will do). 502 and 503 are an
            HTML page instead, as proxies answer them.

    A wrapper around ``send`` outside of this class must carry ``__wrapped__`` (``functools.wraps(send)``): the socket
    is found through it. For a request log, ``scope["sandbox.outcome"]`` holds the kind of one that leaves no status.
    """

    def __init__(self, app: ASGIApp, *, injector_of: InjectorOf, error: Callable[[int], ASGIApp]) -> None:
        self._app = app
        self._injector_of = injector_of
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, with the fault decided for it, if any."""
        injector = self._injector_of(scope) if scope["type"] == "http" else None
        fault = injector.decide(scope["method"], scope["path"]) if injector is not None else None
        if fault is None or injector is None or fault.kind in APP_KINDS:
            scope["sandbox.fault"] = fault
            await self._app(scope, receive, send)
        elif fault.status is not None:
            await self._answer_status(fault, fault.status, scope, receive, send)
        elif fault.kind == "reset_before":
            await _read_body(receive)
            await break_connection(scope, receive, send, fault.kind, work_done=False)
        else:
            await self._work_then_spoil(fault, injector.sleep, scope, receive, send)

    async def _answer_status(self, fault: Fault, status: int, scope: Scope, receive: Receive, send: Send) -> None:
        await _read_body(receive)
        if status in {502, 503}:
            await _send_whole(send, status, _HTML, [(b"content-type", b"text/html")])
            return
        start, body = await _capture(self._error(status), scope, receive)
        headers = list(start["headers"])
        if fault.kind == "status_429_retry_after":
            headers.append((b"retry-after", fault.retry_after.encode()))
        await send({**start, "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _work_then_spoil(self, fault: Fault, sleep: Sleep, scope: Scope, receive: Receive, send: Send) -> None:
        start, body = await _capture(self._app, scope, receive)
        if fault.kind == "slow":
            await sleep(fault.seconds)
            await send(start)
            await send({"type": "http.response.body", "body": body})
        elif fault.kind == "html_200":
            await _send_whole(send, 200, _HTML, [(b"content-type", b"text/html; charset=utf-8")])
        elif fault.kind == "not_json_200":
            broken = (body[: len(body) // 2] or b'{"data": [') + b"\x00"
            await _send_whole(send, 200, broken, [(b"content-type", b"application/json")])
        elif fault.kind == "truncated_body" and transport_of(send) is not None and body:
            await send(start)
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await break_connection(scope, receive, send, fault.kind, work_done=True)
        else:
            await break_connection(scope, receive, send, fault.kind, work_done=True)


def fault_of(scope: Scope) -> Fault | None:
    """The fault of :data:`APP_KINDS` that was decided for this request and that the app is to play, if any."""
    fault: Fault | None = scope.get("sandbox.fault")
    return fault


def transport_of(send: Send) -> asyncio.Transport | None:
    """The socket's transport behind ``send`` under uvicorn; ``None`` when the app is called in memory."""
    inner: object = send
    while hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    transport: asyncio.Transport | None = getattr(getattr(inner, "__self__", None), "transport", None)
    return transport


async def break_connection(scope: Scope, receive: Receive, send: Send, outcome: str, *, work_done: bool) -> None:
    """Close the connection without completing the answer.

    A truncated body is flushed and closed in order, so that the client has its half; otherwise the peer gets a reset.

    Raises:
        ConnectionResetBySandbox: When there is no socket.
    """
    scope["sandbox.outcome"] = outcome
    transport = transport_of(send)
    if transport is None:
        raise ConnectionResetBySandbox(work_done=work_done)
    if outcome == "truncated_body":
        transport.close()
    else:
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    # uvicorn answers 500 for an app that returns early, unless it knows by then that the connection is gone.
    while (await receive())["type"] != "http.disconnect":
        pass


async def _capture(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """Run the app to its end and keep its answer: the start message, with a Content-Length, and the whole body."""
    start: Message = {"type": "http.response.start", "status": 500, "headers": []}
    chunks: list[bytes] = []

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    await app(scope, receive, keep)
    body = b"".join(chunks)
    others = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    return {**start, "headers": [*others, (b"content-length", str(len(body)).encode())]}, body


async def _send_whole(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _read_body(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
