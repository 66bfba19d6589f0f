"""Exchanges with a server that lies below JSON: lengths, chunks, headers, redirects, compression, what never ends.

Each ends as one of our errors or as the true answer, within bounded requests, time and memory.
"""

import asyncio
import gzip
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from metronome_pipeline.errors import ApiError, Malformed, RateLimited, Redirected, Unavailable
from metronome_pipeline_tests.hostile.adversary import (
    GOOD,
    MEGABYTE,
    Act,
    Adversary,
    Word,
    adversary,
    answer,
    ask,
    open_http,
    peak_memory,
)
from metronome_pipeline_tests.loopback import SECRET

MOST_MEMORY = 40 * MEGABYTE
FORGED = b'{"word": "forged"}'


def outcome_of(act: Act, *, times: int = 1, **options: Any) -> tuple[list[Word | ApiError], Adversary]:
    """What requests on one session give: results or errors of ours. Any other error passes through."""

    async def main() -> tuple[list[Word | ApiError], Adversary]:
        found: list[Word | ApiError] = []
        async with asyncio.timeout(30), adversary(act) as seen, open_http(seen.url, **options) as http:
            for _ in range(times):
                try:
                    found.append(await ask(http))
                except ApiError as error:
                    found.append(error)
            return found, seen

    return asyncio.run(main())


def error_of(act: Act, **options: Any) -> tuple[ApiError, Adversary]:
    [error], seen = outcome_of(act, **options)
    assert isinstance(error, ApiError), f"{error} was taken for an answer"
    assert str(error).startswith("Solvimon")
    assert "POST /v1/words" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 1_500
    return error, seen


def says(*parts: bytes, close: bool = True) -> Act:
    """An act that writes the same each time."""

    async def act(writer: asyncio.StreamWriter, _: int) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()

    return act


def pours(head: bytes, part: bytes) -> Act:
    """An act that never ends of itself."""

    async def act(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(part)
            await writer.drain()

    return act


# Answers that are not what they say -----------------------------------------------------------------------------------

BROKEN = {
    "a length that is too long": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + GOOD,
    "a length that is too short": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + GOOD,
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + GOOD,
    "a length of 40 digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n" + GOOD,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 17\r\n\r\n" + GOOD,
    "chunks of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n" + GOOD,
    "chunks of a negative size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-11\r\n" + GOOD,
    "chunks of an endless size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"f" * 5_000
    + b"\r\n"
    + GOOD,
    "a chunk that is longer than its size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + GOOD,
    "chunks without their end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n" + GOOD + b"\r\n",
    "a body without a head": GOOD,
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a status of words": b"HTTP/1.1 fine OK\r\n\r\n" + GOOD,
    "a status of 30 digits": b"HTTP/1.1 " + b"2" * 30 + b" OK\r\n\r\n" + GOOD,
    "a version of its own": b"HTTP/7.7 200 OK\r\nContent-Length: 17\r\n\r\n" + GOOD,
    "NUL in a head": b"HTTP/1.1 200 OK\r\nX-Request-Id: a\0b\r\nContent-Length: 17\r\n\r\n" + GOOD,
    "a head that is folded": b"HTTP/1.1 200 OK\r\nX-Request-Id: a\r\n b\r\nTransfer-Encoding\r\n : chunked\r\n\r\n"
    + GOOD,
    "nothing": b"",
    "a truncated gzip": answer(gzip.compress(GOOD)[:-6], b"Content-Encoding: gzip"),
    "no gzip at all": answer(GOOD, b"Content-Encoding: gzip"),
    "the start of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + GOOD,
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_is_broken_is_asked_again_and_is_unavailable_in_the_end(name: str) -> None:
    error, seen = error_of(says(BROKEN[name]), timeout_seconds=0.3)
    assert isinstance(error, Unavailable)
    assert error.may_have_arrived
    assert len(seen.requests) == 3


@pytest.mark.parametrize(
    ("head", "field"),
    [
        (b"Content-Encoding: br", "Content-Encoding"),
        (b"Content-Encoding: gzip, gzip", "Content-Encoding"),
        (b"Content-Encoding: \x1b[2J", "Content-Encoding"),
    ],
)
def test_a_compression_that_nobody_asked_for_is_named(head: bytes, field: str) -> None:
    error, seen = error_of(says(answer(gzip.compress(GOOD), head)))
    assert isinstance(error, Malformed | Unavailable)
    if isinstance(error, Malformed):
        assert error.field == field
        assert len(seen.requests) == 1


@pytest.mark.parametrize("extra", [answer(FORGED), b"x" * 5_000, b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n"])
def test_what_follows_an_answer_is_never_the_answer_to_the_next_request(extra: bytes) -> None:
    """A second answer in the same bytes, or a length that ends too soon: the next request has its own connection."""

    async def act(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(answer(b'{"word": "%d"}' % number) + extra)

    found, seen = outcome_of(act, times=3)
    assert seen.connections == len(seen.requests), "a connection with more on it is not used again"
    assert all(isinstance(one, Unavailable) or (isinstance(one, Word) and one.word in "123") for one in found)


def test_an_answer_that_comes_before_its_request_is_not_read() -> None:
    """A server that talks on after its answer, while the connection is idle."""

    async def main() -> list[str]:
        said = asyncio.Event()

        async def act(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(answer(b'{"word": "%d"}' % number))
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(answer(FORGED))
            await writer.drain()
            said.set()

        async with adversary(act) as seen, open_http(seen.url) as http:
            first = await ask(http)
            await said.wait()
            await asyncio.sleep(0.05)
            return [first.word, (await ask(http)).word]

    assert asyncio.run(main()) == ["1", "2"]


# Redirects ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [b"301 x", b"302 x", b"303 x", b"307 x", b"308 x", b"300 x", b"399 x"])
def test_no_redirect_is_followed_and_the_other_host_sees_nothing(status: bytes) -> None:
    async def main() -> None:
        async with adversary(says(answer(GOOD))) as other:
            port = other.url.rpartition(":")[2].encode()
            locations = [
                b"Location: http://127.0.0.1:" + port + b"/v1/words",
                b"Refresh: 0; url=http://127.0.0.1:" + port,
            ]
            async with adversary(says(answer(GOOD, *locations, status=status))) as seen, open_http(seen.url) as http:
                with pytest.raises(Redirected, match="base URL"):
                    await ask(http)
            assert len(seen.requests) == 1
            assert SECRET.encode() in seen.requests[0]
            assert (other.connections, other.requests) == (0, [])

    asyncio.run(main())


def test_no_header_of_an_answer_leads_elsewhere() -> None:
    """Neither another name of the service nor a cookie changes where the next request goes, or what it carries."""

    async def main() -> None:
        async with adversary(says(answer(GOOD))) as other:
            port = other.url.rpartition(":")[2].encode()
            heads = [
                b'Alt-Svc: http/1.1="127.0.0.1:' + port + b'"; ma=86400',
                b"Content-Location: http://127.0.0.1:" + port + b"/",
                b"Link: <http://127.0.0.1:" + port + b"/>; rel=next",
            ]
            async with (
                adversary(says(answer(GOOD, *heads), close=False)) as seen,
                open_http(seen.url) as http,
            ):
                for _ in range(3):
                    assert (await ask(http)).word == "hello"
            assert len(seen.requests) == 3
            assert other.connections == 0

    asyncio.run(main())


def test_cookies_are_not_kept() -> None:
    """They would grow with every answer until no request is taken any more, and belong to nobody here."""

    async def act(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(answer(GOOD, b"Set-Cookie: c%d=%s; Path=/" % (number, b"x" * 1_000)))

    found, seen = outcome_of(act, times=4)
    assert all(isinstance(one, Word) for one in found)
    assert not any(b"cookie" in request.lower() for request in seen.requests)


# Retry-After ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "requests"),
    [
        (b"31536000", 1),
        (b"9" * 39, 1),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 1),
        (b"-31536000", 3),
        (b"NaN", 3),
        (b"inf", 3),
        (b"1e9", 3),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 3),
        (b"Mon, 01 Jan 0001 00:00:00 +1400", 3),
        (b"0x7fffffff", 3),
        (b"tomorrow\x1b[2J", 3),
        (b"9" * 8_000, 3),
    ],
)
def test_no_retry_after_makes_a_request_wait_longer_than_is_granted(hint: bytes, requests: int) -> None:
    error, seen = error_of(says(answer(b"{}", b"Retry-After: " + hint, status=b"429 x")))
    assert isinstance(error, RateLimited)
    assert len(seen.requests) == requests
    assert ("asks to wait" in str(error)) == (requests == 1)


# Without end ----------------------------------------------------------------------------------------------------------

ENDLESS = {
    "a body": (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65_536),
    "a body in chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + b" " * 65_536 + b"\r\n",
    ),
    "a body in tiny chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 5_000),
    "a body of zeros": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"0")[:10],
        b"\0" * 65_536,
    ),
    "a refusal": (b"HTTP/1.1 400 x\r\n\r\n", b"x" * 65_536),
    "a redirect": (b"HTTP/1.1 302 x\r\nLocation: /\r\n\r\n", b"x" * 65_536),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 5_000),
    "headers of 8,000 letters": (b"HTTP/1.1 200 OK\r\n", (b"X-A: " + b"b" * 8_000 + b"\r\n") * 8),
    "one header": (b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 65_536),
    "a status line": (b"HTTP/1.1 200 ", b"O" * 65_536),
    "no line at all": (b"", b"\0" * 65_536),
    "empty lines": (b"", b"\r\n" * 30_000),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000),
    "103 Early Hints": (b"", (b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n") * 1_000),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n" + GOOD + b"\r\n0\r\n",
        b"X-A: b\r\n" * 5_000,
    ),
    "a chunk's extension": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11;", b"a" * 65_536),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_given_up_within_bounded_memory(name: str) -> None:
    with peak_memory() as peak:
        error, seen = error_of(pours(*ENDLESS[name]), timeout_seconds=0.1, most_bytes=4 * MEGABYTE)
    assert len(seen.requests) <= 3
    assert peak.bytes < MOST_MEMORY, f"{peak.bytes:,} bytes for {name} without end"
    assert error.status in {None, 400, 302}


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b" "] * 400],
        [b"H", b"T", b"T", b"P", *[b"/"] * 400],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 400],
    ],
)
def test_a_byte_at_a_time_does_not_outlive_the_deadline(parts: Iterable[bytes]) -> None:
    async def trickle(writer: asyncio.StreamWriter, _: int) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)

    error, seen = error_of(trickle, timeout_seconds=0.15)
    assert isinstance(error, Unavailable)
    assert len(seen.requests) == 3


def test_a_server_that_reads_and_says_nothing_is_given_up() -> None:
    async def silent(_: asyncio.StreamWriter, __: int) -> None:
        await asyncio.Event().wait()

    error, seen = error_of(silent, timeout_seconds=0.1)
    assert isinstance(error, Unavailable)
    assert "within 0.1 s" in str(error)
    assert len(seen.requests) == 3


# Compression ----------------------------------------------------------------------------------------------------------


def zeros(megabytes: int, bits: int = 31) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, bits)
    return b"".join(engine.compress(bytes(MEGABYTE)) for _ in range(megabytes)) + engine.flush()


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (lambda: zeros(200), b"gzip"),
        (lambda: zeros(200, 15), b"deflate"),
        (lambda: gzip.compress(zeros(200)), b"gzip"),
        (lambda: gzip.compress(b"[" * 2 * MEGABYTE), b"gzip"),
    ],
    ids=["gzip", "deflate", "gzip in gzip", "brackets"],
)
def test_a_bomb_does_not_go_off(content: Callable[[], bytes], encoding: bytes) -> None:
    bomb = answer(content(), b"Content-Encoding: " + encoding)
    with peak_memory() as peak:
        error, seen = error_of(says(bomb), most_bytes=4 * MEGABYTE)
    assert isinstance(error, Malformed | Unavailable)
    assert peak.bytes < MOST_MEMORY
    assert len(seen.requests) <= 3


def test_a_bomb_in_an_error_does_not_go_off_either() -> None:
    with peak_memory() as peak:
        error, _ = error_of(says(answer(zeros(200), b"Content-Encoding: gzip", status=b"400 x")))
    assert error.status == 400
    assert peak.bytes < MOST_MEMORY


# Headers --------------------------------------------------------------------------------------------------------------


def test_a_header_of_a_megabyte_is_no_answer() -> None:
    error, seen = error_of(says(answer(GOOD, b"X-Request-Id: " + b"x" * MEGABYTE)))
    assert isinstance(error, Unavailable)
    assert len(seen.requests) == 3


def test_what_a_request_id_says_is_quoted_and_cut() -> None:
    nasty = "\x1b[2J\u202e".encode() + b"<script>" + b"x" * 4_000
    error, _ = error_of(says(answer(b"{}", b"X-Request-Id: " + nasty.replace(b"\x1b", b""), status=b"400 x")))
    assert "\u202e" not in str(error)
    assert len(str(error)) < 700
