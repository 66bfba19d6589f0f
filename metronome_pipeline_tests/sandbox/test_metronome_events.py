"""Ingest, event search and the control totals of the Metronome half."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronome_pipeline.sandbox.metronome import create_app
from metronome_pipeline.sandbox.server import serve
from metronome_pipeline_tests.sandbox.metronome_account import Account, Json


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(url: str) -> Account:
    return Account(url)


def event(transaction_id: str = "t", **fields: Any) -> Json:
    usual = {"customer_id": "acme", "event_type": "use", "timestamp": "2025-03-10T07:00:00Z", "properties": {"n": "1"}}
    return {"transaction_id": transaction_id, **usual, **fields}


def test_ingest_takes_1_to_100_events_and_answers_nothing(account: Account) -> None:
    account.customer("acme")
    account.metric()
    assert account.post("/v1/ingest", [event(f"t{number}") for number in range(100)]) is None
    assert account.value() == 100
    for batch in ([], [event(f"u{number}") for number in range(101)], event(), None):
        account.refused(400, "/v1/ingest", batch)
    assert account.value() == 100


@pytest.mark.parametrize(
    "fields",
    [
        {"transaction_id": ""},
        {"transaction_id": "t" * 129},
        {"transaction_id": 5},
        {"customer_id": ""},
        {"event_type": None},
        {"timestamp": "2025-03-10"},
        {"timestamp": "2025-03-10T07:00:00"},
        {"timestamp": 1741590000},
        {"timestamp": "2025-02-04T12:29:59Z"},
        {"timestamp": "2025-03-11T12:30:01Z"},
        {"properties": []},
        {"properties": {"n": "x" * 257}},
        {"properties": {"n": "é" * 129}},
        {"properties": {f"p{number}": "" for number in range(2001)}},
    ],
)
def test_one_bad_event_refuses_the_whole_batch(account: Account, fields: Json) -> None:
    account.customer("acme")
    account.metric()
    account.refused(400, "/v1/ingest", [event("good"), {**event("bad"), **fields}])
    assert account.value() is None


def test_the_limits_of_an_event_are_inclusive_and_knobs(account: Account) -> None:
    edges = [
        event("old", timestamp="2025-02-04T12:30:00Z"),
        event("ahead", timestamp="2025-03-11T12:30:00Z"),
        event("long", properties={"n": "x" * 256}),
        event("many", properties={f"p{number}": "" for number in range(2000)}),
    ]
    for one in edges:
        account.post("/v1/ingest", [one])
    account.set(max_property_bytes=255, max_properties=1999, max_event_age_days=33, max_event_ahead_hours=23)
    for one in edges:
        account.refused(400, "/v1/ingest", [{**one, "transaction_id": one["transaction_id"] + "2"}])


def test_a_repeated_transaction_id_is_ignored_with_200_for_34_days(account: Account) -> None:
    account.customer("acme")
    account.metric()
    account.post("/v1/ingest", [event(), event(), event("other")])
    account.post("/v1/ingest", [event(properties={"n": "1000"}, customer_id="somebody")])
    assert account.value() == 2
    account.set(now="2025-04-13T12:30:01Z")
    account.post("/v1/ingest", [event(timestamp="2025-04-13T00:00:00Z")])
    april = {"starting_on": "2025-04-13T00:00:00Z", "ending_before": "2025-04-14T00:00:00Z"}
    assert account.value(**april) == 1


def test_the_control_route_takes_any_age_and_any_number(account: Account) -> None:
    account.customer("acme")
    account.metric()
    many = [event(f"t{number}", timestamp="2019-01-01T00:00:00Z") for number in range(500)]
    assert account.post("/_sandbox/events", many) == {"added": 500}
    assert account.post("/_sandbox/events", many) == {"added": 0}
    rows = account.usage("NONE", starting_on="2019-01-01T00:00:00Z", ending_before="2020-01-01T00:00:00Z")
    assert [row["value"] for row in rows] == [500]


def test_a_customer_id_is_matched_without_regard_to_case(account: Account) -> None:
    customer = account.customer()
    account.metric()
    account.post("/v1/ingest", [event(customer_id=customer.upper())])
    assert account.value() == 1


def test_search_answers_a_bare_list_of_the_last_34_days(account: Account) -> None:
    customer, metric = account.customer("acme", name="Acme"), account.metric(name="Metric")
    account.post("/v1/ingest", [event()])
    account.post("/v1/ingest", [event(customer_id="other")])
    account.post("/_sandbox/events", [event("old", timestamp="2024-01-01T00:00:00Z")])
    found = account.post("/v1/events/search", {"transactionIds": ["t", "old", "none"]})
    assert [(one["transaction_id"], one["is_duplicate"], one["customer_id"]) for one in found] == [
        ("t", False, "acme"),
        ("t", True, "other"),
    ]
    assert found[0]["matched_customer"] == {"id": customer, "name": "Acme"}
    assert found[0]["matched_billable_metrics"] == [{"id": metric, "name": "Metric"}]
    account.refused(400, "/v1/events/search", {"transaction_ids": ["t"]})


@pytest.mark.parametrize("aggregation", ["COUNT", "SUM", "MAX", "LATEST", "UNIQUE"])
def test_the_truth_agrees_with_usage_by_hour_and_group(account: Account, aggregation: str) -> None:
    customer, other = account.customer("a", "b"), account.customer("c")
    metric = account.metric(aggregation)
    for number in range(60):
        place = {"region": f"r{number % 3}"} if number % 7 else {}
        at = f"2025-03-10T{number % 5:02d}:{number % 60:02d}:00Z"
        account.event(
            "abc"[number % 3], at, n=f"{(number * 37) % 101 - 50}.{number % 10}", team=f"t{number % 2}", **place
        )
    usage = {
        (row["customer_id"], row["start_timestamp"]): row["value"]
        for row in account.usage("HOUR")
        if row["value"] is not None
    }
    truth = {(row["customer_id"], row["start"]): row["value"] for row in account.truth()}
    assert {key: Decimal(value) for key, value in truth.items()} == usage
    rows = account.groups(customer, metric, "HOUR", group_key=["region", "team"])
    grouped = {(row["starting_on"][:13], str(row["group"])): row["value"] for row in rows}
    query = {"customer_id": customer, "metric_id": metric, "group_key": "region,team"}
    told = {(row["start"][:13], str(row["group"])): row["value"] for row in account.truth(**query)}
    assert {key: Decimal(value) for key, value in told.items()} == grouped
    totals = account.get("/_sandbox/totals")["rows"]
    whole = {row["customer_id"]: row["value"] for row in account.usage("NONE")}
    assert {row["customer_id"]: Decimal(row["value"]) for row in totals} == whole
    assert whole.keys() == {customer, other}


def test_the_truth_is_told_for_a_range(account: Account) -> None:
    account.customer("acme")
    account.metric()
    for hour in range(3):
        account.event("acme", f"2025-03-10T0{hour}:59:59Z", n="0.10")
    query = {"from": "2025-03-10T01:00:00Z", "to": "2025-03-10T02:00:00Z"}
    (row,) = account.truth(**query)
    assert (row["start"], row["group"], row["value"]) == ("2025-03-10T01:00:00Z", None, "0.1")
    assert [row["value"] for row in account.get("/_sandbox/totals", **query)["rows"]] == ["0.1"]
    assert account.truth(**{"from": "2025-03-11"}) == []
    assert len(account.truth(to="2025-03-11")) == 3
    assert account.http.get("/_sandbox/truth", params={"from": "soon"}).status_code == 400


def test_the_truth_knows_archived_customers_and_metrics_whatever_is_hidden(account: Account) -> None:
    account.customer("acme", archived_at="2025-03-10T08:00:00Z")
    metric = account.metric()
    account.event("acme", n="3")
    account.post("/v1/billable-metrics/archive", {"id": metric})
    account.set(archived_usage="never")
    assert account.usage() == []
    assert [row["value"] for row in account.truth()] == ["3"]


def apply(account: Account, customers: list[str], step: tuple[str, int, int, int]) -> None:
    kind, who, hour, n = step
    if kind == "event":
        region = {"region": f"r{n % 2}"} if n % 3 else {}
        account.event(("a", "b", customers[0])[who], f"2025-03-10T{hour:02d}:30:00Z", n=str(n), **region)
    elif kind == "move":
        owner = customers[who % 2]
        for customer in customers:
            account.post(f"/v1/customers/{customer}/setIngestAliases", {"ingest_aliases": []})
        account.post(f"/v1/customers/{owner}/setIngestAliases", {"ingest_aliases": ["a", "b"][: 1 + hour % 2]})
    elif kind == "lag":
        account.set(ingestion_lag_s=60 * (who % 2))
    else:
        account.set(now=f"2025-03-10T12:{30 + hour}:00Z")


@settings(max_examples=15, deadline=None)
@given(
    aggregation=st.sampled_from(["COUNT", "SUM", "MAX", "LATEST", "UNIQUE"]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["event", "event", "event", "move", "lag", "now"]),
            st.integers(0, 2),
            st.integers(0, 3),
            st.integers(-9, 9),
        ),
        max_size=12,
    ),
)
def test_after_any_history_usage_and_truth_agree(
    url: str, aggregation: str, steps: list[tuple[str, int, int, int]]
) -> None:
    account = Account(url)
    customers = [account.customer("a"), account.customer("b")]
    metric = account.metric(aggregation)
    for step in steps:
        apply(account, customers, step)
        told = {(row["customer_id"], row["start"]): Decimal(row["value"]) for row in account.truth()}
        usage = {(row["customer_id"], row["start_timestamp"]): row["value"] for row in account.usage("HOUR")}
        assert {key: value for key, value in usage.items() if value is not None} == told
        rows = account.groups(customers[0], metric, "HOUR", group_key=["region"])
        grouped = {(row["starting_on"][:13], row["group_value"]): row["value"] for row in rows}
        query = {"customer_id": customers[0], "group_key": "region"}
        assert grouped == {
            (row["start"][:13], row["group"]["region"]): Decimal(row["value"]) for row in account.truth(**query)
        }


def test_the_app_serves_in_memory_too() -> None:
    async def read() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app())
        headers = {"Authorization": "Bearer sandbox-token"}
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox", headers=headers) as client:
            return await client.get("/v1/customers")

    assert asyncio.run(read()).json() == {"data": [], "next_page": None}
