"""Around the endpoints of the Metronome half: tokens, errors, rates, cursors, idempotency keys, faults, log, knobs."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from metronome_pipeline.sandbox.faults import FaultRules
from metronome_pipeline.sandbox.metronome import create_app
from metronome_pipeline.sandbox.metronome.app import ENDPOINTS
from metronome_pipeline.sandbox.metronome.settings import Settings
from metronome_pipeline.sandbox.server import serve
from metronome_pipeline_tests.sandbox.metronome_account import DAY, Account


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(url: str) -> Account:
    return Account(url)


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer nobody", "Basic abc", "sandbox-token"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/customers"), ("POST", "/v1/usage"), ("GET", "/v1/nothing")])
def test_a_missing_or_unknown_token_is_401(url: str, header: str | None, method: str, path: str) -> None:
    answer = httpx.request(method, url + path, headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert set(answer.json()) == {"message"}


def test_a_token_can_lack_an_endpoint(account: Account) -> None:
    account.set(denied_endpoints=["POST /v1/usage", "GET /v1/customers/{id}"])
    account.refused(403, "/v1/usage", {**DAY, "window_size": "DAY"})
    assert account.http.get(f"/v1/customers/{account.customer()}").status_code == 403
    assert account.get("/v1/customers")["data"] != []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"NaN", b"\xff", b'"text"', b"[" * 100_000])
def test_a_body_that_is_no_object_is_400_with_a_message(account: Account, content: bytes) -> None:
    answer = account.http.post("/v1/usage", content=content)
    assert (answer.status_code, set(answer.json())) == (400, {"message"})


def test_unknown_paths_and_methods_have_a_message_too(account: Account) -> None:
    assert account.http.get("/v1/nothing").status_code == 404
    answer = account.http.delete("/v1/customers")
    assert (answer.status_code, set(answer.json())) == (405, {"message"})


def test_two_tokens_are_two_worlds(url: str) -> None:
    one, two = Account(url), Account(url)
    one.customer(name="Only here")
    one.faults({"kind": "status_500"})
    assert one.http.get("/v1/customers").status_code == 500
    assert two.get("/v1/customers")["data"] == []
    assert two.get("/_sandbox/requests")["total"] == 1
    assert one.http.put("/_sandbox/store").status_code == 201
    assert one.get("/v1/customers")["data"] == []


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = datetime(2025, 3, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@contextmanager
def timed(**settings: object) -> Iterator[tuple[Account, Hand]]:
    clock = Hand()
    with serve(create_app(clock=clock)) as url:
        yield Account(url, **{"now": None, **settings}), clock


def statuses(account: Account, count: int, path: str = "/v1/customers") -> list[int]:
    return [account.http.get(path).status_code for _ in range(count)]


def test_eight_requests_a_second_are_the_default_and_a_429_names_no_delay() -> None:
    with timed(rate_limit=str(Settings.rate_limit)) as (account, clock):
        assert statuses(account, 10) == [200] * 8 + [429] * 2
        answer = account.http.get("/v1/customers")
        assert answer.headers["x-metronome-rate-limit-type"] == "client"
        assert "retry-after" not in answer.headers
        assert set(answer.json()) == {"message"}
        clock.move(0.25)
        assert statuses(account, 3) == [200, 200, 429]
        clock.move(100)
        assert statuses(account, 9) == [200] * 8 + [429]


def test_rate_burst_scope_and_retry_after_are_knobs() -> None:
    with timed(rate_limit="0.5", burst=2, retry_after=3) as (account, clock):
        assert statuses(account, 3) == [200, 200, 429]
        assert account.http.get("/v1/customers").headers["retry-after"] == "3"
        clock.move(2)
        assert statuses(account, 2) == [200, 429]
        account.set(rate_limit_scope="endpoint")
        assert statuses(account, 3) == [200, 200, 429]
        assert statuses(account, 3, "/v1/billable-metrics") == [200, 200, 429]
        account.set(rate_limit=None)
        assert statuses(account, 20) == [200] * 20


def test_control_routes_and_ingest_are_outside_of_the_rate() -> None:
    with timed(rate_limit=0, burst=1) as (account, _):
        event = {"transaction_id": "t", "customer_id": "c", "event_type": "e", "timestamp": "2025-03-10T00:00:00Z"}
        for _ in range(3):
            account.post("/v1/ingest", [event])
            account.get("/_sandbox/settings")
        assert statuses(account, 2) == [200, 429]


USAGE = {**DAY, "window_size": "HOUR"}


def cursor_of(account: Account, body: dict[str, Any]) -> str:
    account.set(rows_per_page=10)
    account.customer()
    account.metric()
    return str(account.post("/v1/usage", body)["next_page"])


def test_a_cursor_is_good_for_its_own_request_only(account: Account) -> None:
    cursor = cursor_of(account, USAGE)
    assert len(account.post("/v1/usage", dict(reversed(USAGE.items())), next_page=cursor)["data"]) == 10
    account.refused(400, "/v1/usage", {**USAGE, "window_size": "DAY"}, next_page=cursor)
    account.refused(400, "/v1/contract-pricing/products/list", USAGE, next_page=cursor)
    for broken in ("x", "!!!", cursor[:-8], "e30", "W10"):
        account.refused(400, "/v1/usage", USAGE, next_page=broken)
    account.set(bind_cursors=False)
    account.post("/v1/usage", {**USAGE, "customer_ids": [account.customer()]}, next_page=cursor)


def test_a_cursor_of_a_list_is_bound_to_its_limit(account: Account) -> None:
    account.customer()
    account.customer()
    cursor = account.get("/v1/customers", limit=1)["next_page"]
    assert len(account.get("/v1/customers", limit=1, next_page=cursor)["data"]) == 1
    assert account.http.get("/v1/customers", params={"limit": 2, "next_page": cursor}).status_code == 400


def test_a_cursor_can_expire(account: Account) -> None:
    account.set(cursor_expiry_s=60)
    cursor = cursor_of(account, USAGE)
    account.set(now="2025-03-10T12:31:00Z")
    account.post("/v1/usage", USAGE, next_page=cursor)
    account.set(now="2025-03-10T12:31:01Z")
    assert "expired" in account.refused(400, "/v1/usage", USAGE, next_page=cursor)


def page_faults(account: Account, kind: str, **rule: object) -> None:
    account.set(rows_per_page=10)
    account.customer()
    account.metric()
    account.faults({"kind": kind, "path": "/v1/usage", **rule})


def test_an_empty_page_can_be_injected_with_the_rest_to_come(account: Account) -> None:
    page_faults(account, "empty_page", after=1, times=1)
    assert [len(page) for page in account.pages("/v1/usage", USAGE)] == [10, 0, 10, 4]


def test_a_page_can_be_delivered_twice(account: Account) -> None:
    page_faults(account, "duplicate_page", after=1, times=1)
    pages = account.pages("/v1/usage", USAGE)
    assert [len(page) for page in pages] == [10, 10, 10, 4]
    assert pages[1] == pages[2]


def test_a_cursor_can_repeat_for_ever(account: Account) -> None:
    page_faults(account, "repeated_cursor")
    first = account.post("/v1/usage", USAGE)["next_page"]
    assert [account.post("/v1/usage", USAGE, next_page=first)["next_page"] for _ in range(3)] == [first] * 3


def test_a_zero_can_be_told_as_null(account: Account) -> None:
    page_faults(account, "null_for_zero", times=1)
    customer = account.customer()
    account.event(customer, n="0")
    body = {**DAY, "window_size": "DAY", "customer_ids": [customer]}
    assert account.post("/v1/usage", body)["data"][0]["value"] is None
    assert account.post("/v1/usage", body)["data"][0]["value"] == 0


def test_faults_of_a_group_page_are_its_own(account: Account) -> None:
    customer, metric = account.customer(), account.metric()
    account.event(customer, n="0", region="EU")
    account.faults({"kind": "null_for_zero", "path": "/v1/usage/groups"})
    assert [row["value"] for row in account.groups(customer, metric, group_key=["region"])] == [None]
    assert account.value() == 0


@pytest.mark.parametrize("kind", ["status_401", "status_403", "status_429", "status_500"])
def test_injected_errors_look_like_the_apis_own(account: Account, kind: str) -> None:
    account.faults({"kind": kind})
    answer = account.http.get("/v1/customers")
    assert set(answer.json()) == {"message"}
    assert ("x-metronome-rate-limit-type" in answer.headers) == (kind == "status_429")


def test_faults_spare_the_control_routes_and_other_paths(account: Account) -> None:
    account.faults({"kind": "reset_before", "path": "/v1/billable-metrics"})
    with pytest.raises(httpx.TransportError):
        account.http.get("/v1/billable-metrics")
    assert account.http.get("/v1/customers").status_code == 200
    account.faults()
    assert account.http.get("/v1/billable-metrics").status_code == 200


def test_a_wrong_rule_is_refused_by_name(account: Account) -> None:
    answer = account.http.put("/_sandbox/faults", json=[{"kind": "nonsense"}])
    assert answer.status_code == 400
    assert "kind" in answer.json()["message"]


def test_an_app_can_begin_with_faults() -> None:
    with serve(create_app(faults=FaultRules.parse([{"kind": "status_503"}]))) as url:
        headers = {"Authorization": "Bearer sandbox-token"}
        assert httpx.get(f"{url}/v1/customers", headers=headers).status_code == 503


def create(account: Account, key: str, name: str = "Acme") -> httpx.Response:
    return account.http.post("/v1/customers", json={"name": name}, headers={"Idempotency-Key": key})


def test_an_idempotency_key_plays_the_first_answer_again(account: Account) -> None:
    first, second = create(account, "k"), create(account, "k")
    assert (first.status_code, first.content) == (200, second.content)
    assert len(account.get("/v1/customers")["data"]) == 1
    assert create(account, "k", "Other").status_code == 409
    assert create(account, "other").json() != first.json()


def test_an_idempotency_key_is_forgotten_after_a_day(account: Account) -> None:
    first = create(account, "k")
    account.set(now="2025-03-11T12:29:59Z")
    assert create(account, "k").content == first.content
    account.set(now="2025-03-11T12:30:00Z")
    assert create(account, "k").content != first.content


def test_an_idempotency_key_keeps_a_500_and_makes_a_read_stale(account: Account) -> None:
    account.faults({"kind": "status_500", "times": 1})
    assert create(account, "k").status_code == 500
    assert create(account, "k").status_code == 500
    customer = account.customer()
    account.metric()
    headers = {"Idempotency-Key": "usage"}
    before = account.http.post("/v1/usage", json=USAGE, headers=headers).content
    account.event(customer, n="5")
    assert account.http.post("/v1/usage", json=USAGE, headers=headers).content == before
    assert account.http.post("/v1/usage", json=USAGE).content != before


def test_a_lost_answer_is_kept_under_its_idempotency_key(account: Account) -> None:
    account.faults({"kind": "reset_after", "times": 1})
    with pytest.raises(httpx.TransportError):
        create(account, "k")
    known = account.get("/v1/customers")["data"][0]["id"]
    assert create(account, "k").json()["data"]["id"] == known


def test_the_log_counts_by_template_and_tells_faults_by_kind(account: Account) -> None:
    customer = account.customer()
    account.get(f"/v1/customers/{customer}")
    account.refused(400, "/v1/usage", {"starting_on": 1}, limit=3)
    account.faults({"kind": "reset_after", "path": "/v1/usage", "times": 1})
    with pytest.raises(httpx.TransportError):
        account.post("/v1/usage", USAGE)
    account.http.get("/v1/nothing")
    assert account.get("/_sandbox/requests") == {
        "total": 4,
        "by_endpoint": {
            "GET /v1/customers/{id}": {"200": 1},
            "POST /v1/usage": {"400": 1, "reset_after": 1},
            "GET /v1/nothing": {"404": 1},
        },
    }
    entry = account.get("/_sandbox/requests/log")["requests"][1]
    assert {name: entry[name] for name in ("method", "path", "query", "body", "status", "at")} == {
        "method": "POST",
        "path": "/v1/usage",
        "query": "limit=3",
        "body": {"starting_on": 1},
        "status": "400",
        "at": "2025-03-10T12:30:00Z",
    }
    assert account.token not in account.http.get("/_sandbox/requests/log").text
    assert account.http.delete("/_sandbox/requests").status_code == 200
    assert account.get("/_sandbox/requests") == {"total": 0, "by_endpoint": {}}


def test_answers_can_be_put_in_place_of_the_next_ones(account: Account) -> None:
    raw = '{"data":[{"name":"\\ud800"}],"next_page":null}'
    answers = [
        {"method": "GET", "path": "/v1/customers", "body": raw},
        {"path": "/v1/usage", "status": 418, "body": {"x": 1}, "headers": {"x-test": "y"}, "times": None},
    ]
    assert account.http.put("/_sandbox/answers", json=answers).status_code == 200
    assert account.http.get("/v1/customers").text == raw
    assert account.get("/v1/customers")["data"] == []
    for _ in range(2):
        answer = account.http.post("/v1/usage", json={})
        assert (answer.status_code, answer.json(), answer.headers["x-test"]) == (418, {"x": 1}, "y")


def test_every_knob_is_listed_and_takes_its_own_value_back(account: Account) -> None:
    knobs = account.get("/_sandbox/settings")
    assert set(knobs) == set(Settings.__dataclass_fields__)
    for name, value in knobs.items():
        account.set(**{name: float(value) if name == "ingestion_lag_s" else value})
    assert account.get("/_sandbox/settings") == knobs


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("nonsense", 1),
        ("now", "yesterday"),
        ("rows_per_page", 0),
        ("rows_per_page", True),
        ("empty_windows", "none"),
        ("rate_limit", "-1"),
        ("rate_limit", "fast"),
        ("burst", 0),
        ("retry_after", True),
        ("timestamp_style", "local"),
        ("archived_usage", None),
        ("reflow", "yes"),
        ("reflow", 1),
        ("ingestion_lag_s", None),
        ("cursor_expiry_s", "NaN"),
        ("max_compound_groups", -1),
        ("bad_uuid_status", 500),
        ("denied_endpoints", "POST /v1/usage"),
    ],
)
def test_an_unknown_knob_or_a_wrong_value_is_refused_by_name(account: Account, knob: str, value: object) -> None:
    before = account.get("/_sandbox/settings")
    answer = account.http.patch("/_sandbox/settings", json={"burst": 3, knob: value})
    assert answer.status_code == 400
    assert knob in answer.json()["message"]
    assert account.get("/_sandbox/settings") == before
    assert account.http.put("/_sandbox/store", json={"settings": {knob: value}}).status_code == 400


def test_instants_are_spelled_in_several_styles(account: Account) -> None:
    customer, metric = account.customer(), account.metric()

    def seen() -> tuple[str, str, str]:
        return (
            account.get(f"/v1/customers/{customer}")["data"]["created_at"],
            account.usage()[0]["start_timestamp"],
            account.groups(customer, metric)[0]["starting_on"],
        )

    assert seen() == ("2025-03-10T12:30:00.000Z", "2025-03-10T00:00:00Z", "2025-03-10T00:00:00+00:00")
    account.set(timestamp_style="offset")
    assert seen() == ("2025-03-10T12:30:00+00:00", "2025-03-10T00:00:00+00:00", "2025-03-10T00:00:00+00:00")
    account.set(timestamp_style="millis")
    assert seen()[1:] == ("2025-03-10T00:00:00.000Z", "2025-03-10T00:00:00.000Z")
    account.set(timestamp_style="Z")
    assert seen()[0] == "2025-03-10T12:30:00Z"


def test_no_endpoint_answers_500_to_an_odd_body(account: Account) -> None:
    odd: list[object] = [None, [], [None], {}, "x", 1, {"id": 1}, {"customer_ids": [1]}, {"name": {}}, {"data": [{}]}]
    for method, path, _ in ENDPOINTS:
        for body in odd:
            answer = account.http.request(method, path.replace("{id}", "x"), json=body)
            assert answer.status_code < 500, (method, path, body, answer.text)
