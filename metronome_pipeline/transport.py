"""One HTTP exchange: connections, deadline, body cap, decompression, and what a silence means.

Here: the only file that knows the HTTP library, so that its successor is one import away. Not here: retries and pacing
(``http.py``), what an answer means (``retries.py``). The library is imported where a session opens, for loading the
definitions must stay quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import ssl
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, cast

from metronome_pipeline.errors import Malformed, Unavailable, quoted
from metronome_pipeline.retries import ErrorBody, Setback
from metronome_pipeline.wire import NotAsPromised

if TYPE_CHECKING:
    import aiohttp
    import httpx

MOST_BYTES = 32 * 1024 * 1024
"""A body beyond this is not read on: a page of either API is under one megabyte."""
_ERROR_BYTES = 64 * 1024
_CONNECT_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 4.0  # under the 5 s after which many servers drop an idle connection: no reset of our own making
_GZIP_OR_ZLIB = 47  # zlib's window bits for "either header"


@dataclass(frozen=True)
class Request:
    """One request as it is sent on every attempt. ``endpoint`` is its name in errors and counts."""

    endpoint: str
    method: str
    url: str
    params: Mapping[str, str] | None
    body: bytes | None
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """A whole answer, decompressed. Of a body that is not 2xx only the beginning is kept."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Oversized(Exception):
    """The body is larger than the cap."""


def open_client(
    transport: httpx.AsyncBaseTransport | None, headers: Mapping[str, str], timeout_seconds: float, connections: int
) -> httpx.AsyncClient:
    """A client over ``transport``, which it closes; None opens connections of its own, over aiohttp.

    Redirects are not followed, and the environment's ``.netrc`` is not read: it would replace our Authorization. No
    cookie is kept: they would grow with every answer, until a request is too large to be taken.
    """
    import httpx  # noqa: PLC0415 - 0.1 s that loading the definitions need not take

    # It logs every URL whole, and that of a webhook is a secret. What became of requests, our own sentences say.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    timeout = httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds), pool=None)
    carrier = transport or _aiohttp_transport(connections)
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx.AsyncClient(
        transport=carrier, headers=dict(headers), timeout=timeout, cookies=cookies, trust_env=False
    )


def _aiohttp_transport(connections: int) -> httpx.AsyncBaseTransport:
    """Connections over aiohttp: measured at three to five times the requests a second of httpx's own transport."""
    from httpx_aiohttp import AiohttpTransport  # noqa: PLC0415

    trusted = _trusted(os.getenv("SSL_CERT_FILE"), os.getenv("SSL_CERT_DIR"))
    transport: httpx.AsyncBaseTransport = AiohttpTransport(
        verify=trusted, client=functools.partial(_aiohttp_session, connections, trusted)
    )
    return transport


def _aiohttp_session(connections: int, trusted: ssl.SSLContext) -> aiohttp.ClientSession:
    """What the transport opens with its first request, in the loop that it is used in."""
    import aiohttp  # noqa: PLC0415

    connector = _connector()(limit=connections, keepalive_timeout=_KEEP_ALIVE_SECONDS, ssl=trusted)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


@functools.cache
def _connector() -> type[aiohttp.TCPConnector]:
    """Connections that are used again only when nothing came on them meanwhile.

    What a server or a proxy says on an idle connection (a late answer, a 408 before it hangs up) is otherwise taken for
    the answer to the next request.
    """
    import aiohttp  # noqa: PLC0415

    class QuietConnector(aiohttp.TCPConnector):
        async def _get(self, key: Any, traces: Any) -> Any:
            idle = self._conns.get(key, ())
            for waiting in [each for each in idle if each[0].should_close]:
                self._conns[key].remove(waiting)
                waiting[0].close()
            return await super()._get(key, traces)

    return QuietConnector


@functools.cache
def _trusted(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Whom a server's certificate must come from: what the environment names, else the usual authorities.

    Read once for a process: it takes 25 ms, more than most requests.
    """
    import httpx  # noqa: PLC0415

    return httpx.create_ssl_context()


async def exchange(
    client: httpx.AsyncClient, request: Request, *, timeout_seconds: float, most_bytes: int
) -> Answer | Setback:
    """One request and its whole answer, or why there is none: it may have arrived then, whatever the error says.

    Args:
        client: From ``open_client``.
        request: What is sent.
        timeout_seconds: From the connection to the last byte: a trickling body outlives every read timeout.
        most_bytes: Cap on the body, before and after decompression.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _received(client, request, most_bytes)
    except Oversized:
        body = ErrorBody(message=f"the body is over {most_bytes:,} bytes and was not read to its end")
        return Setback(Malformed, "answered", transient=False, in_doubt=True, body=body)
    except zlib.error:
        body = ErrorBody(message="the compressed body is broken or cut short")
        return Setback(Unavailable, "answered", transient=True, in_doubt=True, body=body)
    except NotAsPromised as error:
        body = ErrorBody(field=error.field, message=error.reason)
        return Setback(Malformed, "answered", transient=False, in_doubt=True, body=body)
    except _silences() as error:
        return silence(error, timeout_seconds)


async def _received(client: httpx.AsyncClient, request: Request, most_bytes: int) -> Answer:
    call = client.stream(
        request.method, request.url, params=request.params, content=request.body, headers=request.headers
    )
    async with call as response:
        good = 200 <= response.status_code < 300
        content = bytearray()
        stream = cast("httpx.AsyncByteStream", response.stream)
        async for chunk in stream:  # as it comes: httpx would unpack a compressed chunk of 16 KB into 17 MB
            content += chunk
            if good and len(content) > most_bytes:
                raise Oversized
            if not good and len(content) > _ERROR_BYTES:
                break
        encoding = response.headers.get("content-encoding", "identity")
        if good:
            return Answer(response.status_code, response.headers, inflated(bytes(content), encoding, most_bytes))
        words = b""
        with contextlib.suppress(zlib.error, NotAsPromised, Oversized):
            words = inflated(bytes(content), encoding, _ERROR_BYTES)
        return Answer(response.status_code, response.headers, words)


def inflated(content: bytes, encoding: str, most_bytes: int) -> bytes:
    """A body without its compression, never more than ``most_bytes`` of it in memory.

    Raises:
        Oversized: It is larger.
        zlib.error: It is broken or cut short.
        NotAsPromised: It is compressed in a way that was not asked for.
    """
    kind = encoding.strip().lower()
    if kind in ("", "identity"):
        return content
    if kind not in ("gzip", "x-gzip", "deflate"):
        raise NotAsPromised("Content-Encoding", f"is {quoted(kind, 40)}, which was not asked for")
    engine = zlib.decompressobj(_GZIP_OR_ZLIB)
    plain = engine.decompress(content, most_bytes + 1)
    if len(plain) > most_bytes:
        raise Oversized
    if not engine.eof:
        raise zlib.error("cut short")
    return plain


def silence(error: BaseException, timeout_seconds: float) -> Setback:
    """What an error of the transport means. None of them proves that the request did not arrive.

    Over aiohttp a reset after the request was sent arrives as ``httpx.ConnectTimeout``: its name says nothing, so the
    innermost cause is told instead. A certificate that is not trusted is the only one that no patience heals.
    """
    causes = list(_causes(error))
    told = causes[-1]
    trusted = not any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes)
    slow = isinstance(told, TimeoutError) and not str(told)
    reason = f"within {timeout_seconds:g} s" if slow else f"({type(told).__name__}: {quoted(str(told), 200)})"
    to_do = "Check the network and the base URL."
    return Setback(Unavailable, f"gave no answer {reason}", transient=trusted, in_doubt=True, what_to_do=to_do)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from, innermost last. A deadline's own cancellation tells nothing."""
    current: BaseException | None = error
    while current is not None and not isinstance(current, asyncio.CancelledError):
        yield current
        current = current.__cause__


@functools.cache
def _silences() -> tuple[type[BaseException], ...]:
    """What a transport raises when there is no answer. aiohttp leaks some of its own (a garbage status line)."""
    import httpx  # noqa: PLC0415
    from aiohttp import ClientError  # noqa: PLC0415
    from aiohttp.http_exceptions import HttpProcessingError  # noqa: PLC0415

    return (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, ClientError, HttpProcessingError, OSError, EOFError)
