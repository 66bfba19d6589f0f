"""Every kind of fault, as a real httpx client on a real socket sees it; and the rules that decide."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from metronome_pipeline.sandbox.faults import (
    KINDS,
    ConnectionResetBySandbox,
    FaultInjector,
    FaultMiddleware,
    FaultRules,
    fault_of,
)
from metronome_pipeline.sandbox.server import serve


class CountingApp:
    """Answers 201 with what was posted, and counts the work."""

    def __init__(self) -> None:
        self.done = 0
        self.seen_faults: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        fault = fault_of(scope)
        self.seen_faults.append(fault.kind if fault else None)
        self.done += 1
        await JSONResponse({"echo": body.decode(), "padding": "x" * 500}, status_code=201)(scope, receive, send)


class Bench:
    """A served app with faults, its counter and the sleeps that it asked for."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.injector = FaultInjector(sleep=self._sleep)
        self.work = CountingApp()
        self.app: ASGIApp = FaultMiddleware(
            self.work,
            injector_of=lambda scope: self.injector,
            error=lambda status: JSONResponse({"message": f"fault {status}"}, status_code=status),
        )
        self.url = ""

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def play(self, *rules: dict[str, Any], seed: int = 1) -> None:
        self.injector.set(FaultRules.parse({"seed": seed, "rules": list(rules)}))

    def post(self) -> httpx.Response:
        with httpx.Client(base_url=self.url, timeout=5) as client:
            return client.post("/v1/work", content=b"payload" * 5000)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    with serve(bench.app) as url:
        bench.url = url
        yield bench


@pytest.mark.parametrize("status", [401, 403, 429, 500, 502, 503])
def test_a_status_fault_answers_in_place_of_the_work(bench: Bench, status: int) -> None:
    bench.play({"kind": f"status_{status}"})
    answer = bench.post()
    assert answer.status_code == status
    assert "retry-after" not in answer.headers
    assert bench.work.done == 0


def test_502_and_503_are_pages_of_a_proxy_and_the_others_are_errors_of_the_api(bench: Bench) -> None:
    bench.play({"kind": "status_503", "times": 1}, {"kind": "status_500"})
    assert bench.post().headers["content-type"].startswith("text/html")
    assert bench.post().json() == {"message": "fault 500"}


def test_429_can_carry_retry_after(bench: Bench) -> None:
    bench.play({"kind": "status_429_retry_after", "times": 1}, {"kind": "status_429_retry_after", "retry_after": 7})
    assert bench.post().headers["retry-after"] == "1"
    assert bench.post().headers["retry-after"] == "7"


def test_a_reset_before_the_work_leaves_it_undone(bench: Bench) -> None:
    bench.play({"kind": "reset_before"})
    with pytest.raises((httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
        bench.post()
    assert bench.work.done == 0


def test_a_reset_after_the_work_leaves_it_done_and_unanswered(bench: Bench) -> None:
    bench.play({"kind": "reset_after"})
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        bench.post()
    assert bench.work.done == 1


def test_a_truncated_body_declares_more_than_it_sends(bench: Bench) -> None:
    bench.play({"kind": "truncated_body"})
    with (
        httpx.Client(base_url=bench.url, timeout=5) as client,
        client.stream("POST", "/v1/work", content=b"x") as answer,
    ):
        assert answer.status_code == 201
        received: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            received.extend(answer.iter_raw())
    assert 0 < len(b"".join(received)) < int(answer.headers["content-length"])
    assert bench.work.done == 1


def test_an_html_page_and_broken_json_come_with_200_though_the_work_is_done(bench: Bench) -> None:
    bench.play({"kind": "html_200", "times": 1}, {"kind": "not_json_200"})
    page = bench.post()
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    broken = bench.post()
    assert (broken.status_code, broken.headers["content-type"]) == (200, "application/json")
    with pytest.raises(ValueError, match=r".+"):
        broken.json()
    assert bench.work.done == 2


def test_a_slow_answer_waits_through_the_injected_sleep_after_the_work(bench: Bench) -> None:
    bench.play({"kind": "slow", "seconds": "12.5"})
    assert bench.post().status_code == 201
    assert bench.slept == [12.5]
    assert bench.work.done == 1


def test_a_fault_that_needs_the_answers_meaning_is_left_to_the_app(bench: Bench) -> None:
    bench.play({"kind": "short_201", "times": 1})
    bench.post()
    bench.post()
    assert bench.work.seen_faults == ["short_201", None]


def test_the_server_serves_on_after_breaking_connections(bench: Bench) -> None:
    bench.play({"kind": "reset_before", "times": 2}, {"kind": "reset_after", "times": 2})
    for _ in range(4):
        with pytest.raises(httpx.TransportError):
            bench.post()
    assert bench.post().status_code == 201


@pytest.mark.parametrize(
    ("kind", "work_done"), [("reset_before", False), ("reset_after", True), ("truncated_body", True)]
)
def test_in_memory_a_broken_connection_is_an_exception_of_its_own(kind: str, *, work_done: bool) -> None:
    bench = Bench()
    bench.play({"kind": kind})

    async def post() -> None:
        transport = httpx.ASGITransport(app=bench.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
            await client.post("/v1/work", content=b"x")

    with pytest.raises(ConnectionResetBySandbox) as caught:
        asyncio.run(post())
    assert caught.value.work_done is work_done
    assert bench.work.done == int(work_done)


def decisions(
    rules: dict[str, Any] | list[Any], count: int, method: str = "POST", path: str = "/v1/usage"
) -> list[bool]:
    injector = FaultInjector()
    injector.set(FaultRules.parse(rules))
    return [injector.decide(method, path) is not None for _ in range(count)]


def test_the_seed_decides_and_the_rate_is_kept() -> None:
    rules = {"seed": 7, "rules": [{"kind": "status_503", "rate": "0.2"}]}
    assert decisions(rules, 2000) == decisions(rules, 2000)
    assert decisions({**rules, "seed": 8}, 2000) != decisions(rules, 2000)
    assert Counter(decisions(rules, 2000))[True] == pytest.approx(400, abs=60)


def test_times_and_after_bound_a_rule() -> None:
    assert decisions([{"kind": "status_500", "times": 2, "after": 1}], 5) == [False, True, True, False, False]
    assert decisions([{"kind": "status_500", "rate": 0}], 3) == [False] * 3
    assert decisions([], 3) == [False] * 3


def test_a_rule_matches_a_method_and_an_exact_path_or_a_prefix() -> None:
    exact = [{"kind": "status_500", "path": "/v1/usage", "method": "post"}]
    assert decisions(exact, 1) == [True]
    assert decisions(exact, 1, method="GET") == [False]
    assert decisions(exact, 1, path="/v1/usage/groups") == [False]
    assert decisions([{"kind": "status_500", "path": "/v1/usage*"}], 1, path="/v1/usage/groups") == [True]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("x", "body"),
        ({"rule": []}, "'rule'"),
        ({"rules": {}}, "rules"),
        ({"seed": "7"}, "seed"),
        ([3], r"rules\[0\]"),
        ([{"kind": "nonsense"}], r"rules\[0\]\.kind"),
        ([{"kind": "slow", "pth": "/"}], "'pth'"),
        ([{"kind": "slow", "path": "usage"}], r"rules\[0\]\.path"),
        ([{"kind": "slow", "method": 3}], r"rules\[0\]\.method"),
        ([{"kind": "slow", "rate": "1.1"}], r"rules\[0\]\.rate"),
        ([{"kind": "slow", "rate": "NaN"}], r"rules\[0\]\.rate"),
        ([{"kind": "slow", "times": -1}], r"rules\[0\]\.times"),
        ([{"kind": "slow", "after": True}], r"rules\[0\]\.after"),
        ([{"kind": "slow", "seconds": "soon"}], r"rules\[0\]\.seconds"),
    ],
)
def test_a_wrong_rule_is_refused_by_the_name_of_its_field(body: object, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        FaultRules.parse(body)


def test_every_kind_can_be_asked_for() -> None:
    rules = FaultRules.parse([{"kind": kind} for kind in sorted(KINDS)])
    assert {rule.kind for rule in rules.rules} == KINDS
