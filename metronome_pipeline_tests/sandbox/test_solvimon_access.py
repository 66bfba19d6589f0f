"""Who may ask what, how wrong requests are answered, and what the control routes do."""

import asyncio
import re

import httpx
import pytest

from metronome_pipeline.sandbox.faults import ConnectionResetBySandbox, Sleep
from metronome_pipeline.sandbox.solvimon import create_app
from metronome_pipeline_tests.sandbox.solvimon_account import Account, event, refusal

VALUE = {"reference": "calls", "name": "Calls", "type": "NUMBER"}


@pytest.mark.parametrize("headers", [{}, {"X-API-KEY": "unknown"}, {"Authorization": "Bearer sandbox-key"}])
def test_a_missing_or_unknown_key_is_unauthorised(solvimon_url: str, headers: dict[str, str]) -> None:
    refusal(httpx.get(f"{solvimon_url}/v1/customers", headers=headers), 401, "UNAUTHORISED")
    assert httpx.get(f"{solvimon_url}/_sandbox/settings", headers=headers).status_code == 401


def test_the_key_given_to_the_app_is_known_from_the_start(solvimon_url: str) -> None:
    assert httpx.get(f"{solvimon_url}/v1/customers", headers={"X-API-KEY": "sandbox-key"}).status_code == 200


def test_a_key_without_the_permission_is_refused_and_with_it_let_in(account: Account) -> None:
    account.http.put("/_sandbox/permissions", json=["METER_VALUE.VIEW"])
    assert account.get("/v1/meter-values") == {"data": []}
    refusal(account.http.post("/v1/meter-values", json=VALUE), 403, "USER_NOT_ALLOWED")
    account.http.put("/_sandbox/permissions", json=["METER_VALUE.CREATE"])
    account.make("meter-values", VALUE)
    refusal(account.http.get("/v1/meter-values"), 403, "USER_NOT_ALLOWED")
    account.http.put("/_sandbox/permissions", json=None)
    assert len(account.get("/v1/meter-values")["data"]) == 1


def test_a_draft_permission_lets_customers_be_changed(account: Account) -> None:
    account.customer(status=None)
    account.http.put("/_sandbox/permissions", json=["CUSTOMER.STATUS.DRAFT.UPDATE"])
    assert account.act("customers/customer-1/activate")["status"] == "ACTIVE"
    refusal(account.http.get("/v1/customers/customer-1"), 403, "USER_NOT_ALLOWED")


def test_every_answer_has_a_request_id_of_its_own(account: Account) -> None:
    answers = [
        account.http.get("/v1/meters"),
        account.http.get("/v1/nowhere"),
        account.http.post("/v1/meters", json={}),
    ]
    ids = [answer.headers["X-REQUEST-ID"] for answer in answers]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("reqr_[0-9a-zA-Z]{20}", one) for one in ids)


def test_another_content_type_is_unsupported(account: Account) -> None:
    send = {"content": b'{"reference":"calls"}', "headers": {"Content-Type": "text/plain"}}
    refusal(account.http.post("/v1/meter-values", **send), 400, "UNSUPPORTED_MEDIA_TYPE")  # type: ignore[arg-type]
    account.set(media_type_status=415)
    refusal(account.http.post("/v1/meter-values", **send), 415, "UNSUPPORTED_MEDIA_TYPE")  # type: ignore[arg-type]
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert account.http.post("/v1/meter-values", json=VALUE, headers=headers).status_code == 201


@pytest.mark.parametrize("body", [b"{", b"{}}", b'{"a":NaN}', b'{"name":"\\ud800"}', b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_a_bad_request(account: Account, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refusal(account.http.post("/v1/meter-values", content=body, headers=headers), 400, "BAD_REQUEST")


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b""])
def test_a_body_that_is_no_object_is_an_invalid_request(account: Account, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refusal(account.http.post("/v1/meter-values", content=body, headers=headers), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/nowhere"),
        ("GET", "/v1/meters/"),
        ("PUT", "/v1/meters"),
        ("DELETE", "/v1/events/x"),
        ("GET", "/v3/meters"),
    ],
)
def test_a_wrong_route_answers_404_without_a_code(account: Account, method: str, path: str) -> None:
    answer = account.http.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["message"] == "Page does not exist"
    assert "code" not in answer.json()


def test_a_reference_with_a_slash_is_found_when_it_is_encoded(account: Account) -> None:
    made = account.make("meter-values", {**VALUE, "reference": "a/b%c?d"})
    assert account.get("/v1/meter-values/a%2Fb%25c%3Fd") == made
    assert account.http.get("/v1/meter-values/a/b%25c%3Fd").json()["message"] == "Page does not exist"


def test_unknown_fields_are_refused_or_ignored(account: Account) -> None:
    refusal(account.http.post("/v1/meter-values", json={**VALUE, "nmae": "x"}), 400, "INVALID_FIELD", "nmae")
    account.set(unknown_fields="ignored")
    assert "nmae" not in account.make("meter-values", {**VALUE, "nmae": "x"})


def test_another_platform_is_not_found(account: Account) -> None:
    headers = {"x-platform-id": "plat_other"}
    assert account.http.get("/v1/meters", headers=headers).status_code == 200
    account.set(platform_id="plat_mine")
    refusal(account.http.get("/v1/meters", headers=headers), 400, "PLATFORM_NOT_FOUND")
    assert account.http.get("/v1/meters", headers={"x-platform-id": "plat_mine"}).status_code == 200
    assert account.http.get("/v1/meters").status_code == 200


def test_the_rate_limit_answers_429_with_or_without_retry_after(account: Account) -> None:
    account.set(rate_limit=1)
    limited = [answer for answer in (account.http.get("/v1/meters") for _ in range(8)) if answer.status_code == 429]
    assert limited
    assert {answer.headers["Retry-After"] for answer in limited} == {"1"}
    account.set(rate_limit_retry_after=None)
    limited = [answer for answer in (account.http.get("/v1/meters") for _ in range(8)) if answer.status_code == 429]
    assert limited
    assert not any("Retry-After" in answer.headers for answer in limited)
    account.set(rate_limit=None)
    assert account.http.get("/v1/meters").status_code == 200


def test_stores_of_two_keys_do_not_see_each_other(account: Account, solvimon_url: str) -> None:
    other = Account(solvimon_url)
    mine = account.customer()
    assert other.get("/v1/customers")["data"] == []
    assert other.customer()["id"] != mine["id"]
    account.set(batch_max=1)
    assert other.get("/_sandbox/settings")["batch_max"] == 50


def test_a_misspelt_store_is_refused(account: Account) -> None:
    answer = account.http.put("/_sandbox/store", json={"setings": {}})
    assert (answer.status_code, "setings" in answer.json()["message"]) == (400, True)


def test_creating_a_store_again_empties_it(account: Account) -> None:
    account.ready()
    account.taken(event())
    assert account.http.put("/_sandbox/store").status_code == 201
    assert account.get("/v1/customers")["data"] == []
    assert account.get("/_sandbox/truth") == {"rows": []}
    assert account.get("/_sandbox/requests")["total"] == 1


@pytest.mark.parametrize(
    "knobs", [{"batch_maximum": 1}, {"batch_max": "1"}, {"batch_max": 0}, {"duplicate_mode": "500"}]
)
def test_a_wrong_knob_is_refused_by_name_and_changes_nothing(account: Account, knobs: dict[str, object]) -> None:
    before = account.get("/_sandbox/settings")
    for method, path, body in (("PATCH", "settings", knobs), ("PUT", "store", {"settings": knobs})):
        answer = account.http.request(method, f"/_sandbox/{path}", json=body)
        assert answer.status_code == 400
        assert next(iter(knobs)) in answer.json()["message"]
    assert account.get("/_sandbox/settings") == before


def test_the_log_counts_by_template_and_hides_the_key(account: Account) -> None:
    account.ready()
    account.http.delete("/_sandbox/requests")
    account.http.get("/v1/customers/customer-1")
    account.http.get("/v1/customers/nobody", params={"limit": "5"})
    account.ingest(event(number="1.50"))
    assert account.get("/_sandbox/requests") == {
        "total": 3,
        "by_endpoint": {"GET /v1/customers/{id}": {"200": 1, "404": 1}, "POST /v1/events/ingest-batch": {"201": 1}},
    }
    log = account.get("/_sandbox/requests/log")["requests"]
    assert [entry["status"] for entry in log] == [200, 404, 201]
    assert log[1]["query"] == "limit=5"
    assert log[2]["body"]["meter_datas"][0]["meter_values"][0]["number"] == "1.50"
    assert account.key not in str(log)


def test_a_fault_of_a_status_answers_as_the_api_does(account: Account) -> None:
    account.faults({"path": "/v1/meters", "kind": "status_500", "times": 1})
    refusal(account.http.get("/v1/meters"), 500, "INTERNAL_ERROR")
    account.faults({"path": "/v1/meters", "kind": "status_429_retry_after", "times": 1})
    assert account.http.get("/v1/meters").headers["Retry-After"] == "1"
    assert account.http.get("/v1/meters").status_code == 200
    assert account.get("/_sandbox/requests")["by_endpoint"]["GET /v1/meters"] == {"500": 1, "429": 1, "200": 1}


def test_a_short_201_leaves_out_the_last_event_that_it_stored(account: Account) -> None:
    account.ready().faults({"path": "/v1/events/ingest-batch", "kind": "short_201", "times": 1})
    assert [one["reference"] for one in account.taken(event("event-00001"), event("event-00002"))] == ["event-00001"]
    assert account.counted() == "2"


def test_a_reset_after_the_work_leaves_the_events_stored_and_one_before_does_not(account: Account) -> None:
    account.ready().faults({"path": "/v1/events/*", "kind": "reset_before", "times": 1})
    with pytest.raises(httpx.TransportError):
        account.ingest(event("event-00001"))
    assert account.truth() == []
    account.faults({"path": "/v1/events/*", "kind": "reset_after", "times": 1})
    with pytest.raises(httpx.TransportError):
        account.ingest(event("event-00001"))
    assert account.counted() == "1"
    outcomes = account.get("/_sandbox/requests")["by_endpoint"]["POST /v1/events/ingest-batch"]
    assert outcomes == {"reset_before": 1, "reset_after": 1}


def test_a_canned_answer_stands_in_for_the_next_one(account: Account) -> None:
    answers = [
        {"path": "/v1/meters*", "method": "GET", "body": {"data": [{"id": 5}]}},
        {
            "path": "/v1/meter-values",
            "status": 503,
            "body": "<html>",
            "headers": {"Content-Type": "text/html"},
            "times": 2,
        },
    ]
    assert account.http.put("/_sandbox/answers", json=answers).json() == {"answers": 2}
    assert account.get("/v1/meters") == {"data": [{"id": 5}]}
    assert account.get("/v1/meters") == {"data": []}
    statuses = [account.http.post("/v1/meter-values", json=VALUE).status_code for _ in range(3)]
    assert statuses == [503, 503, 201]
    assert account.http.put("/_sandbox/answers", json=[{"status": 200}]).status_code == 400


def test_control_routes_know_neither_faults_nor_limits(account: Account) -> None:
    account.faults({"path": "*", "kind": "status_503"})
    account.set(rate_limit=1)
    assert all(account.http.get("/_sandbox/settings").status_code == 200 for _ in range(5))
    assert account.get("/_sandbox/requests")["total"] == 0


def test_a_wrong_fault_is_refused_by_name(account: Account) -> None:
    answer = account.http.put("/_sandbox/faults", json=[{"kind": "status_404"}])
    assert answer.status_code == 400
    assert "kind" in answer.json()["message"]


def in_memory(sleep: Sleep = asyncio.sleep) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(sleep=sleep))
    return httpx.AsyncClient(transport=transport, base_url="http://memory", headers={"X-API-KEY": "sandbox-key"})


def test_the_app_also_works_in_memory() -> None:
    async def reset() -> None:
        async with in_memory() as http:
            await http.put("/_sandbox/faults", json=[{"kind": "reset_before"}])
            await http.get("/v1/meters")

    with pytest.raises(ConnectionResetBySandbox):
        asyncio.run(reset())


def test_a_key_in_flight_is_answered_422_and_then_replayed() -> None:
    async def meet() -> list[httpx.Response]:
        working, go_on = asyncio.Event(), asyncio.Event()

        async def sleep(seconds: float) -> None:
            del seconds
            working.set()
            await go_on.wait()

        async with in_memory(sleep) as http:
            await http.put("/_sandbox/faults", json=[{"kind": "slow", "times": 1}])

            async def create() -> httpx.Response:
                return await http.post("/v1/meter-values", json=VALUE, headers={"Idempotency-Key": "one"})

            first = asyncio.create_task(create())
            await working.wait()
            during = await create()
            go_on.set()
            return [await first, during, await create()]

    first, during, after = asyncio.run(meet())
    refusal(during, 422, "IDEMPOTENCY_CHECK_FAILED")
    assert (first.status_code, after.status_code) == (201, 201)
    assert first.json() == after.json()
    assert after.headers["Idempotent-Replayed"] == "true"
