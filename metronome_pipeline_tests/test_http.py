import asyncio
import gzip
import json
import logging
import random
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.errors import (
    AlreadyExists,
    ApiError,
    Malformed,
    PipelineError,
    RateLimited,
    Redirected,
    Refused,
    Unanswered,
    Unauthorised,
    Unavailable,
)
from metronome_pipeline.http import Http, Service, Unpaced, user_agent
from metronome_pipeline.retries import RetryPolicy, judge, retry_after
from metronome_pipeline_tests.loopback import SECRET, START, Scripted, StillTime, bad, ok, plain, raw_server, session

QUICK = RetryPolicy(attempts=3)


class Greeting(msgspec.Struct):
    word: str


GREETING = msgspec.json.Decoder(Greeting).decode
GOOD = b'{"word": "hello"}'


async def ask(http: Http, **options: Any) -> Greeting:
    return await http.send("POST /v1/words", "POST", "/v1/words", body=b"{}", decode=GREETING, **options)


def ask_scripted(script: Scripted, time: StillTime | None = None, **options: Any) -> Greeting:
    policy = options.pop("policy", QUICK)

    async def main() -> Greeting:
        async with session(script.transport(), time, policy=policy) as http:
            return await ask(http, **options)

    return asyncio.run(main())


def ask_raw(
    exchange: Callable[[bytes, asyncio.StreamWriter, int], Any], *, replay: bool = True, **options: Any
) -> tuple[Greeting | ApiError, list[bytes]]:
    options = {"policy": QUICK, **options}

    async def main() -> tuple[Greeting | ApiError, list[bytes]]:
        async with raw_server(exchange) as (url, requests), session(None, base_url=url, **options) as http:
            try:
                return await ask(http, replay=replay), requests
            except ApiError as error:
                return error, requests

    return asyncio.run(main())


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_transient_answer_is_asked_again(status: int) -> None:
    script = Scripted(bad(status), ok({"word": "hello"}))
    assert ask_scripted(script).word == "hello"
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("reset"),
        httpx.ReadError("cut"),
        httpx.RemoteProtocolError("?"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
)
def test_a_connection_error_is_asked_again(failure: Exception) -> None:
    script = Scripted(failure, ok({"word": "hello"}))
    assert ask_scripted(script).word == "hello"


@pytest.mark.parametrize(
    "content", [b"<html>Bad gateway</html>", b'{"word": "hel', b"", b'{"word": "\xff"}', b"{" * 50_000]
)
def test_a_200_whose_body_is_not_json_is_asked_again(content: bytes) -> None:
    script = Scripted(httpx.Response(200, content=content), ok({"word": "hello"}))
    assert ask_scripted(script).word == "hello"


def test_a_body_that_stays_broken_is_unavailable_and_may_have_arrived() -> None:
    script = Scripted(httpx.Response(200, content=b"<html>Sign in</html>"))
    with pytest.raises(Unavailable, match=r"is not JSON.*<html>Sign in") as raised:
        ask_scripted(script)
    assert len(script.requests) == 3
    assert raised.value.may_have_arrived


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_credential_is_never_retried(status: int) -> None:
    script = Scripted(bad(status, {"message": "no"}))
    with pytest.raises(Unauthorised, match="Check SOLVIMON_API_KEY") as raised:
        ask_scripted(script)
    assert len(script.requests) == 1
    assert (raised.value.status, raised.value.may_have_arrived) == (status, False)


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 422])
def test_a_refusal_is_final_and_had_no_effect(status: int) -> None:
    script = Scripted(bad(status, {"code": "INVALID_FIELD", "message": "no"}))
    with pytest.raises(Refused) as raised:
        ask_scripted(script)
    assert len(script.requests) == 1
    assert not raised.value.may_have_arrived


def test_an_error_says_system_endpoint_status_code_field_message_and_request() -> None:
    body = {
        "type": "INVALID_REQUEST",
        "code": "INVALID_FIELD",
        "field": "meter_datas.3.timestamp",
        "message": "milliseconds\nare not accepted",
        "resource_type": "METER_DATA",
        "resource_id": "metd_1",
    }
    with pytest.raises(Refused) as raised:
        ask_scripted(Scripted(bad(400, body, X_REQUEST_ID="reqr_7")))
    error = raised.value
    assert str(error) == (
        "Solvimon answered 400 to POST /v1/words (INVALID_FIELD, field meter_datas.3.timestamp, "
        '"milliseconds\\nare not accepted", request reqr_7).'
    )
    assert (error.system, error.endpoint, error.status) == ("Solvimon", "POST /v1/words", 400)
    assert (error.code, error.field, error.request_id) == ("INVALID_FIELD", "meter_datas.3.timestamp", "reqr_7")
    assert (error.resource_type, error.resource_id) == ("METER_DATA", "metd_1")


@pytest.mark.parametrize("status", [400, 409, 422])
def test_what_already_exists_is_told_by_its_code(status: int) -> None:
    script = Scripted(bad(status, {"code": "RESOURCE_ALREADY_EXISTS", "message": "", "resource_id": "cust_1"}))
    with pytest.raises(AlreadyExists) as raised:
        ask_scripted(script)
    assert raised.value.resource_id == "cust_1"


def test_long_messages_are_cut_and_control_characters_shown() -> None:
    with pytest.raises(Refused) as raised:
        ask_scripted(Scripted(bad(400, {"message": "\x00\x1b[31m" + "x" * 10_000})))
    assert raised.value.message is not None
    assert raised.value.message.startswith("\\x00\\x1b[31mxxx")
    assert len(str(raised.value)) < 700


def test_no_error_and_no_log_line_carries_the_credential(logged: list[logging.LogRecord]) -> None:
    echo = {"code": SECRET, "field": SECRET, "message": f"bad key {SECRET}", "resource_id": SECRET}
    answers: list[httpx.Response | Exception] = [
        bad(503, echo),
        httpx.ConnectError(f"via {SECRET}"),
        httpx.Response(200, content=SECRET.encode()),
    ]
    for answer in [*answers, bad(400, echo, X_REQUEST_ID=SECRET), bad(401, echo), bad(302, Location=f"//{SECRET}")]:
        with pytest.raises(ApiError) as raised:
            ask_scripted(Scripted(answer))
        error: BaseException | None = raised.value
        assert SECRET not in repr(vars(raised.value)) + str(raised.value)
        while error is not None:
            assert SECRET not in repr(error) + str(error)
            error = error.__cause__ or error.__context__
    assert logged
    assert SECRET not in " ".join(logging.Formatter().format(record) for record in logged)
    assert SECRET not in repr(Service("Solvimon", "https://a", {"X-API-KEY": SECRET}, (SECRET,), "KEY"))


@pytest.mark.parametrize("secret", ["", "two words", "line\nbreak", "trailing\n", "naïve", "nul\0"])
def test_a_credential_that_no_header_carries_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(PipelineError, match="SOLVIMON_API_KEY") as raised:
        Service("Solvimon", "https://a", {"X-API-KEY": secret}, (secret,), "SOLVIMON_API_KEY")
    assert not secret or secret not in str(raised.value)


@pytest.mark.parametrize("url", ["", "api.example", "ftp://api", "https://", "https://u:p@api", "https://api?x=1"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(PipelineError, match="base URL"):
        Service("Solvimon", url, {}, ("k",), "KEY")


@pytest.mark.parametrize(
    "url", ["https://pay.example", "https://pay.example/", "https://pay.example/v1", "https://pay.example/v1/"]
)
def test_a_base_url_may_end_in_its_version(url: str) -> None:
    assert Service("Solvimon", url, {}, ("k",), "KEY").base_url == "https://pay.example"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused(status: int) -> None:
    script = Scripted(bad(status, Location="https://elsewhere.example/"))
    with pytest.raises(Redirected, match="base URL"):
        ask_scripted(script)
    assert len(script.requests) == 1


# What is wrong with a readable body


def test_a_missing_field_fails_by_name() -> None:
    with pytest.raises(Malformed, match="field word") as raised:
        ask_scripted(Scripted(ok({"wort": "hallo"})))
    assert (raised.value.field, raised.value.message) == ("word", "is missing")


def test_a_field_of_the_wrong_type_fails_by_name_and_may_have_arrived() -> None:
    script = Scripted(ok({"word": 5}))
    with pytest.raises(Malformed) as raised:
        ask_scripted(script)
    assert raised.value.field == "word"
    assert raised.value.may_have_arrived
    assert len(script.requests) == 1


# Waiting


def test_delays_have_full_jitter_and_a_ceiling() -> None:
    policy = RetryPolicy(first_delay=1, longest_delay=8)
    delays = [
        [policy.delay(attempt, random.Random(seed)) for seed in range(200)] for attempt in (1, 2, 3, 4, 5, 99, 5000)
    ]
    assert [max(group) <= limit for group, limit in zip(delays, [1, 2, 4, 8, 8, 8, 8], strict=True)] == [True] * 7
    assert min(delays[3]) < 1
    assert max(delays[3]) > 7


def test_retry_after_is_waited_for() -> None:
    time = StillTime()
    ask_scripted(Scripted(bad(503, Retry_After="17"), ok({"word": "hello"})), time)
    assert time.elapsed == 17


def test_retry_after_in_milliseconds_wins() -> None:
    time = StillTime()
    ask_scripted(Scripted(bad(429, Retry_After="17", retry_after_ms="9500"), ok({"word": "hello"})), time)
    assert time.elapsed == 9.5


def test_a_retry_after_of_a_year_is_not_waited_for() -> None:
    time = StillTime()
    script = Scripted(bad(429, Retry_After="31536000"))
    with pytest.raises(RateLimited, match="asks to wait 31536000 s, more than the 300 s"):
        ask_scripted(script, time)
    assert time.elapsed == 0


def test_attempts_end() -> None:
    script = Scripted(bad(503))
    with pytest.raises(Unavailable, match="12 attempts were made"):
        ask_scripted(script, policy=RetryPolicy())
    assert len(script.requests) == 12


def test_the_budget_of_one_request_ends() -> None:
    time = StillTime()
    script = Scripted(bad(503, Retry_After="100"))
    with pytest.raises(Unavailable, match="600 s for one request are used up"):
        ask_scripted(script, time, policy=RetryPolicy(attempts=1000))
    assert time.elapsed <= 600


def test_a_429_makes_the_other_requests_of_the_session_wait() -> None:
    time = StillTime()
    clock = time.clock()

    async def main() -> None:
        pacer = Unpaced(clock)
        await pacer.back_off(5)
        await pacer.back_off(2)
        assert await pacer.wait() == 5
        assert await pacer.wait() == 0

    asyncio.run(main())


def test_the_pacer_is_asked_before_every_attempt_and_told_of_a_429() -> None:
    calls: list[str] = []

    class Recorder:
        async def wait(self) -> float:
            calls.append("wait")
            return 0.25

        async def back_off(self, seconds: float) -> None:
            calls.append(f"back off {seconds:g}")

    async def main() -> None:
        script = Scripted(bad(429, Retry_After="3"), bad(503), ok({"word": "hello"}))
        async with session(script.transport(), pacer=Recorder()) as http:
            await ask(http)
            counts = http.counts()
        assert counts.requests == 3
        assert counts.retries == 2
        assert counts.waited_seconds >= 3.75
        assert counts.by_endpoint == {
            ("POST /v1/words", 429): 1,
            ("POST /v1/words", 503): 1,
            ("POST /v1/words", 200): 1,
        }

    asyncio.run(main())
    assert calls == ["wait", "back off 3", "wait", "wait"]


def test_at_most_so_many_requests_are_in_flight() -> None:
    now, most = 0, 0

    async def answer(_: httpx.Request) -> httpx.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _i in range(5):
            await asyncio.sleep(0)
        now -= 1
        return ok({"word": "hello"})

    async def main() -> None:
        async with session(httpx.MockTransport(answer), in_flight=3) as http:
            await asyncio.gather(*(ask(http) for _ in range(20)))

    asyncio.run(main())
    assert most == 3


def test_retries_are_logged_at_info_and_the_final_failure_is_not(logged: list[logging.LogRecord]) -> None:
    with pytest.raises(Unavailable):
        ask_scripted(Scripted(bad(503)))
    ours = [record for record in logged if record.name == "metronome_pipeline.http"]
    assert [record.levelname for record in ours] == ["INFO", "INFO"]
    assert "Solvimon answered 503 to POST /v1/words: attempt 2 of at most 3 follows" in ours[0].getMessage()


def test_of_a_thousand_retries_of_a_kind_ten_are_told_at_info(logged: list[logging.LogRecord]) -> None:
    script = Scripted(*[answer for _ in range(1_000) for answer in (bad(503), ok({"word": "hello"}))])

    async def main() -> None:
        async with session(script.transport(), policy=QUICK) as http:
            for _ in range(1_000):
                await ask(http)

    asyncio.run(main())
    ours = [record for record in logged if record.name == "metronome_pipeline.http"]
    assert len(ours) == 1_000
    told = [record.getMessage() for record in ours if record.levelno >= logging.INFO]
    assert len(told) == 10
    assert told[-1].endswith(" 512 like this so far.")
    assert "like this" not in told[0]


def test_the_user_agent_names_package_and_run() -> None:
    script = Scripted(ok({"word": "hello"}))
    ask_scripted(script)
    assert script.requests[0].headers["User-Agent"] == user_agent("run-1")
    assert user_agent("a\r\nb").endswith("(run a??b)")


# Requests that must not be repeated


@pytest.mark.parametrize(
    "answer",
    [
        bad(500),
        bad(502),
        bad(503, Retry_After="1"),
        bad(408),
        httpx.ConnectError("refused"),
        httpx.Response(200, content=b"<html>"),
    ],
)
def test_a_request_not_to_be_repeated_is_unanswered_at_once(answer: httpx.Response | Exception) -> None:
    script = Scripted(answer)
    with pytest.raises(Unanswered, match="look it up by its reference") as raised:
        ask_scripted(script, replay=False)
    assert len(script.requests) == 1
    assert raised.value.may_have_arrived


@pytest.mark.parametrize("status", [425, 429])
def test_a_request_not_to_be_repeated_is_repeated_after_an_answer_that_says_nothing_was_done(status: int) -> None:
    script = Scripted(bad(status), bad(status), ok({"word": "hello"}))
    assert ask_scripted(script, replay=False).word == "hello"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (403, Unauthorised), (429, RateLimited), (302, Redirected)]
)
def test_a_refusal_of_a_request_not_to_be_repeated_says_that_nothing_was_done(
    status: int, kind: type[ApiError]
) -> None:
    with pytest.raises(kind) as raised:
        ask_scripted(Scripted(bad(status)), replay=False)
    assert not raised.value.may_have_arrived


@pytest.mark.parametrize("last", [bad(400), bad(401), bad(429)])
def test_a_refusal_after_an_attempt_in_doubt_stays_in_doubt(last: httpx.Response) -> None:
    with pytest.raises(ApiError) as raised:
        ask_scripted(Scripted(httpx.ReadError("cut"), last))
    assert raised.value.status == last.status_code
    assert raised.value.may_have_arrived


# Idempotency keys

KEYED = {"Idempotency-Key": "5d2c"}


def test_a_500_to_a_create_is_final_unless_it_is_marked_retryable() -> None:
    script = Scripted(bad(500), ok({"word": "hello"}))
    with pytest.raises(Unavailable) as raised:
        ask_scripted(script, headers=KEYED)
    assert len(script.requests) == 1
    assert raised.value.may_have_arrived
    script = Scripted(bad(500, Idempotency_Retryable="true"), ok({"word": "hello"}))
    assert ask_scripted(script, headers=KEYED).word == "hello"
    assert {request.headers["Idempotency-Key"] for request in script.requests} == {"5d2c"}


@pytest.mark.parametrize("status", [502, 503, 504])
def test_other_5xx_to_a_create_are_asked_again(status: int) -> None:
    assert ask_scripted(Scripted(bad(status), ok({"word": "hello"})), headers=KEYED).word == "hello"


def test_a_create_that_is_still_at_work_is_waited_for() -> None:
    script = Scripted(bad(422, {"code": "IDEMPOTENCY_CHECK_FAILED", "message": ""}), ok({"word": "hello"}))
    assert ask_scripted(script, headers=KEYED).word == "hello"


def test_a_key_that_was_used_for_another_body_is_refused() -> None:
    script = Scripted(bad(409, {"code": "IDEMPOTENCY_CHECK_FAILED", "message": ""}))
    with pytest.raises(Refused) as raised:
        ask_scripted(script, headers=KEYED)
    assert not isinstance(raised.value, AlreadyExists)


# Retry-After

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)


@given(st.integers(min_value=0, max_value=10**9))
def test_retry_after_reads_seconds(seconds: int) -> None:
    assert retry_after({"retry-after": str(seconds)}, NOW) == seconds


@given(st.integers(min_value=-(10**7), max_value=10**8))
def test_retry_after_reads_a_date_and_never_goes_back(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after({"retry-after": date}, NOW) == max(0, seconds)


@given(st.text(max_size=40))
def test_an_unreadable_retry_after_is_none_and_never_an_error(hint: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        found = retry_after({name: hint}, NOW)
        assert found is None or found >= 0


@pytest.mark.parametrize(
    "hint", ["-5", "soon", "nan", "inf", "1e9", "٣", "", "Thu, 99 Foo 2026 00:00:00 GMT", "9" * 400]
)
def test_a_retry_after_that_is_none_is_ignored(hint: str) -> None:
    assert retry_after({"retry-after": hint}, NOW) is None


@given(st.integers(min_value=300, max_value=999), st.binary(max_size=200), st.booleans())
def test_any_answer_has_a_meaning(status: int, content: bytes, keyed: bool) -> None:
    setback = judge(status, {}, content, keyed=keyed, now=NOW)
    assert issubclass(setback.kind, ApiError)
    assert not (setback.kind in (Refused, Unauthorised, RateLimited) and setback.in_doubt)


# Real sockets


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER of 0 s: close() sends RST
    writer.transport.abort()


async def resets_then_answers(_: bytes, writer: asyncio.StreamWriter, number: int) -> None:
    if number == 1:
        reset(writer)
    else:
        writer.write(plain(GOOD))
        await writer.drain()


def test_a_reset_connection_is_asked_again() -> None:
    outcome, requests = ask_raw(resets_then_answers)
    assert isinstance(outcome, Greeting)
    assert len(requests) == 2
    assert requests[0] == requests[1]


def test_a_reset_after_the_request_was_sent_may_have_arrived() -> None:
    outcome, requests = ask_raw(resets_then_answers, replay=False)
    assert isinstance(outcome, Unanswered)
    assert len(requests) == 1
    assert "gave no answer" in str(outcome)
    assert "ConnectTimeout" not in str(outcome)


async def truncates_then_answers(_: bytes, writer: asyncio.StreamWriter, number: int) -> None:
    writer.write(plain(GOOD)[: -8 if number == 1 else None])
    await writer.drain()


def test_a_truncated_body_is_asked_again() -> None:
    outcome, requests = ask_raw(truncates_then_answers)
    assert isinstance(outcome, Greeting)
    assert len(requests) == 2


def test_a_truncated_body_may_have_arrived() -> None:
    outcome, _ = ask_raw(truncates_then_answers, replay=False)
    assert isinstance(outcome, Unanswered)


@pytest.mark.parametrize(
    "start",
    [
        b"GARBAGE\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"\x16\x03\x01\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_garbage_answer_is_one_of_our_errors(start: bytes) -> None:
    async def garbage(_: bytes, writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(start)
        await writer.drain()

    outcome, requests = ask_raw(garbage)
    assert isinstance(outcome, Unavailable)
    assert outcome.may_have_arrived
    assert len(requests) == 3


def test_a_trickling_body_ends_at_the_total_deadline() -> None:
    async def trickle(_: bytes, writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    began = time.monotonic()
    outcome, requests = ask_raw(trickle, timeout_seconds=0.1)
    assert time.monotonic() - began < 5, "each of three attempts is to end after 0.1 s"
    assert isinstance(outcome, Unavailable)
    assert "within 0.1 s" in str(outcome)
    assert len(requests) == 3


def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 30_000_000)

    async def explode(_: bytes, writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(plain(bomb, b"Content-Encoding: gzip"))
        await writer.drain()

    outcome, requests = ask_raw(explode, most_bytes=1_000_000)
    assert isinstance(outcome, Malformed)
    assert "over 1,000,000 bytes" in str(outcome)
    assert len(requests) == 1


def test_a_body_without_end_is_not_read_on() -> None:
    async def pour(_: bytes, writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" " * 65536)
            await writer.drain()

    outcome, _ = ask_raw(pour, most_bytes=1_000_000)
    assert isinstance(outcome, Malformed)


def test_a_compressed_body_is_read() -> None:
    async def answer(_: bytes, writer: asyncio.StreamWriter, number: int) -> None:
        packed = gzip.compress(GOOD)
        writer.write(plain(packed[:-4] if number == 1 else packed, b"Content-Encoding: gzip"))
        await writer.drain()

    outcome, requests = ask_raw(answer)
    assert isinstance(outcome, Greeting)
    assert len(requests) == 2


def test_a_redirect_is_not_followed_over_a_socket() -> None:
    async def redirect(_: bytes, writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(plain(b"", b"Location: http://127.0.0.1:1/", status=b"307 Temporary Redirect"))
        await writer.drain()

    outcome, requests = ask_raw(redirect)
    assert isinstance(outcome, Redirected)
    assert len(requests) == 1


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    async def main() -> ApiError:
        async with raw_server(resets_then_answers) as (url, _):
            pass
        async with session(None, base_url=url, policy=QUICK) as http:
            with pytest.raises(Unavailable, match="Check the network") as raised:
                await ask(http)
        assert http.counts().by_endpoint == {("POST /v1/words", 0): 3}
        return raised.value

    assert asyncio.run(main()).may_have_arrived


def test_paths_and_queries_arrive_as_they_were_meant() -> None:
    cursor = "a+b/c==&d=%20 é\"'#?;,"

    async def answer(_: bytes, writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(plain(GOOD))
        await writer.drain()

    async def main() -> bytes:
        async with raw_server(answer) as (url, requests):
            async with session(None, base_url=url) as http:
                await http.send(
                    "GET /x", "GET", "/v1/x%2Fy%3F%23%25é%20", params={"next_page": cursor}, decode=GREETING
                )
            return requests[0]

    target = asyncio.run(main()).split(b" ")[1].decode()
    parsed = httpx.URL(f"http://h{target}")
    assert dict(parsed.params) == {"next_page": cursor}
    assert target.split("?")[0] == "/v1/x%2Fy%3F%23%25%C3%A9%20"


def test_cancelling_a_request_is_not_swallowed() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        async with session(httpx.MockTransport(never)) as http:
            task = asyncio.create_task(ask(http))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_the_session_keeps_no_clock_of_its_own() -> None:
    assert StillTime().clock().now() == START
    assert json.loads(GOOD) == {"word": "hello"}
