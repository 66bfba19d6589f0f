"""Usage in the Metronome half: bounds, windows, pages, the five aggregations, and how the past changes."""

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest

from metronome_pipeline.sandbox.metronome import create_app
from metronome_pipeline.sandbox.server import serve
from metronome_pipeline_tests.sandbox.metronome_account import DAY, Account


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(url: str) -> Account:
    return Account(url)


def test_any_limit_is_refused(account: Account) -> None:
    assert "limit" in account.refused(400, "/v1/usage", {**DAY, "window_size": "DAY"}, limit=100)


@pytest.mark.parametrize("size", ["HOUR", "DAY", "NONE"])
@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2025-03-10T01:00:00Z", "2025-03-12T00:00:00Z"),
        ("2025-03-10T00:00:00Z", "2025-03-11T12:00:00Z"),
        ("2025-03-10T00:00:01Z", "2025-03-12T00:00:00Z"),
        ("2025-03-10T00:00:00.001Z", "2025-03-12T00:00:00Z"),
        ("2025-03-10T00:00:00+01:00", "2025-03-12T00:00:00Z"),
        ("2025-03-10T00:00:00Z", "2025-03-10T00:00:00Z"),
        ("2025-03-11T00:00:00Z", "2025-03-10T00:00:00Z"),
        ("2025-03-10", "2025-03-11"),
        ("2025-03-10T00:00:00", "2025-03-11T00:00:00"),
        (None, "2025-03-11T00:00:00Z"),
    ],
)
def test_bounds_are_utc_midnights_a_day_apart_for_every_window_size(
    account: Account, size: str, start: str, end: str
) -> None:
    account.refused(400, "/v1/usage", {"starting_on": start, "ending_before": end, "window_size": size})


def test_a_midnight_may_be_spelled_with_an_offset_or_a_fraction(account: Account) -> None:
    account.customer()
    account.metric()
    for start in ("2025-03-10T02:00:00+02:00", "2025-03-10T00:00:00.000Z"):
        assert len(account.usage(starting_on=start)) == 1


@pytest.mark.parametrize("size", ["HOUR", "hour", "Hour", "DAY", "day", "Day", "NONE", "none", "None"])
def test_a_window_size_has_nine_spellings(account: Account, size: str) -> None:
    assert account.usage(size) == []


@pytest.mark.parametrize("size", ["MONTH", "hOUR", "", None, 1])
def test_no_other_window_size_is_taken(account: Account, size: object) -> None:
    account.refused(400, "/v1/usage", {**DAY, "window_size": size})


def test_windows_are_dense_and_empty_ones_are_null_zero_or_left_out(account: Account) -> None:
    customer, metric = account.customer(), account.metric()
    account.event(customer, n="5")
    rows = account.usage("HOUR")
    assert len(rows) == 24
    assert {row["value"] for row in rows} == {5, None}
    assert rows[7] == {
        "customer_id": customer,
        "billable_metric_id": metric,
        "billable_metric_name": "Metric",
        "start_timestamp": "2025-03-10T07:00:00Z",
        "end_timestamp": "2025-03-10T08:00:00Z",
        "value": 5,
    }
    account.set(empty_windows="zero")
    assert [row["value"] for row in account.usage("HOUR")] == [5 if hour == 7 else 0 for hour in range(24)]
    account.set(empty_windows="omit")
    assert [row["start_timestamp"] for row in account.usage("HOUR")] == ["2025-03-10T07:00:00Z"]


def test_none_is_one_window_and_day_is_one_a_day(account: Account) -> None:
    customer = account.customer()
    account.metric()
    account.event(customer, "2025-03-08T23:59:59Z", n="1")
    account.event(customer, "2025-03-09T00:00:00Z", n="2")
    account.event(customer, "2025-03-10T00:00:00Z", n="4")
    start = "2025-03-08T00:00:00Z"
    assert [row["value"] for row in account.usage("DAY", starting_on=start)] == [1, 2, 4]
    assert [row["value"] for row in account.usage("NONE", starting_on=start)] == [7]
    assert [row["value"] for row in account.usage("NONE", starting_on="1970-01-01T00:00:00Z")] == [7]


def test_pages_hold_one_pair_each_of_at_most_200_windows(account: Account) -> None:
    customers = [account.customer(), account.customer()]
    metrics = [account.metric(), account.metric("COUNT")]
    body = {**DAY, "starting_on": "2025-03-01T00:00:00Z", "window_size": "HOUR"}
    pages = account.pages("/v1/usage", body)
    assert [len(page) for page in pages] == [200, 40] * 4
    assert all(len({(row["customer_id"], row["billable_metric_id"]) for row in page}) == 1 for page in pages)
    in_order = [(row["customer_id"], row["billable_metric_id"], row["start_timestamp"]) for p in pages for row in p]
    ranks = [(customers.index(c), metrics.index(m), t) for c, m, t in in_order]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 960


def test_rows_per_page_and_pages_across_pairs_are_knobs(account: Account) -> None:
    account.customer()
    account.metric()
    account.metric("COUNT")
    account.set(rows_per_page=10)
    body = {**DAY, "window_size": "HOUR"}
    assert [len(page) for page in account.pages("/v1/usage", body)] == [10, 10, 4, 10, 10, 4]
    account.set(pages_cross_pairs=True)
    pages = account.pages("/v1/usage", body)
    assert [len(page) for page in pages] == [10, 10, 10, 10, 8]
    assert len({(row["billable_metric_id"], row["start_timestamp"]) for page in pages for row in page}) == 48


def test_a_page_can_be_empty_with_more_to_come(account: Account) -> None:
    account.set(empty_windows="omit")
    account.customer()
    account.metric()
    account.event(account.customer(), n="3")
    pages = account.pages("/v1/usage", {**DAY, "window_size": "HOUR"})
    assert [len(page) for page in pages] == [0, 1]


def test_a_customer_that_appears_between_two_pages_shifts_nothing(account: Account) -> None:
    account.customer()
    account.customer()
    account.metric()
    account.set(rows_per_page=20)
    body = {**DAY, "window_size": "HOUR"}
    first = account.post("/v1/usage", body)
    account.customer()
    rest = account.post("/v1/usage", body, next_page=first["next_page"])
    starts = [row["start_timestamp"] for row in first["data"] + rest["data"]]
    assert len(set(starts)) == 24


def test_ids_choose_customers_and_metrics_and_unknown_ones_have_no_usage(account: Account) -> None:
    customer, metric = account.customer(), account.metric()
    account.customer()
    account.metric()
    unknown = "00000000-0000-4000-8000-000000000000"
    assert len(account.usage()) == 4
    assert len(account.usage(customer_ids=[customer, unknown], billable_metrics=[{"id": metric}])) == 1
    assert account.usage(customer_ids=[unknown]) == []
    account.set(unknown_filter_ids="404")
    account.refused(404, "/v1/usage", {**DAY, "window_size": "DAY", "customer_ids": [unknown]})
    account.refused(404, "/v1/usage", {**DAY, "window_size": "DAY", "billable_metrics": [{"id": unknown}]})
    account.refused(400, "/v1/usage", {**DAY, "window_size": "DAY", "customer_ids": ["somebody"]})
    account.refused(400, "/v1/usage", {**DAY, "window_size": "DAY", "billable_metrics": [{}]})


def test_archived_customers_and_metrics_are_read_by_id_always_or_never(account: Account) -> None:
    customer, metric = account.customer(archived_at="2025-03-10T11:00:00Z"), account.metric()
    account.event(customer, n="5")
    assert account.usage() == []
    assert account.value(customer_ids=[customer]) == 5
    account.set(archived_usage="always")
    assert account.value() == 5
    account.set(archived_usage="never")
    assert account.usage(customer_ids=[customer]) == []
    account.set(archived_usage="by_id")
    account.post("/v1/billable-metrics/archive", {"id": metric})
    assert account.usage(customer_ids=[customer]) == []
    assert account.value(customer_ids=[customer], billable_metrics=[{"id": metric}]) == 5


def test_an_archived_metric_meters_on_unless_told_otherwise(account: Account) -> None:
    customer, metric = account.customer(), account.metric()
    account.event(customer, n="5")
    account.post("/v1/billable-metrics/archive", {"id": metric})
    account.set(now="2025-03-10T13:00:00Z")
    account.event(customer, n="2")
    assert account.value(billable_metrics=[{"id": metric}]) == 7
    account.set(archived_metrics_meter=False)
    assert account.value(billable_metrics=[{"id": metric}]) == 5


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("COUNT", 6),
        ("count", 6),
        ("SUM", Decimal("6.5")),
        ("Sum", Decimal("6.5")),
        ("MAX", 4),
        ("LATEST", 1),
        ("UNIQUE", 5),
        ("AVG", None),
    ],
)
def test_the_aggregations(account: Account, aggregation: str, expected: object) -> None:
    customer = account.customer()
    account.metric(aggregation)
    account.event(customer, "2025-03-10T09:00:00Z", n="4")
    account.event(customer, "2025-03-10T10:00:00Z", n=2)
    account.event(customer, "2025-03-10T23:00:00Z", n="0.5")
    account.event(customer, "2025-03-10T23:00:00Z", n="-1")
    account.event(customer, "2025-03-10T23:00:00Z", n="1")
    account.event(customer, "2025-03-10T23:59:00Z", n="abc") if aggregation == "UNIQUE" else account.event(customer)
    expected = 6 if aggregation == "UNIQUE" else expected
    assert account.value() == expected


def test_latest_is_the_last_received_of_the_last_instant_and_empty_windows_may_carry_it(account: Account) -> None:
    customer = account.customer()
    account.metric("LATEST")
    for timestamp, n in (("T05:30", "7"), ("T05:40", "9"), ("T05:40", "8"), ("T05:10", "100"), ("T07:00", "-2")):
        account.event(customer, f"2025-03-10{timestamp}:00Z", n=n)
    assert [row["value"] for row in account.usage("HOUR")[4:9]] == [None, 8, None, -2, None]
    assert account.usage("NONE")[0]["value"] == -2
    account.set(latest_carries=True)
    assert [row["value"] for row in account.usage("HOUR")[4:9]] == [None, 8, 8, -2, -2]


def test_numbers_are_exact_and_plain(account: Account) -> None:
    customer = account.customer()
    account.metric()
    account.event(customer, n="0.1")
    account.event(customer, n="0.2")
    account.event(customer, n="123456789012345678901234567890.123456789012345678901234567890")
    answer = account.http.post("/v1/usage", json={**DAY, "window_size": "DAY"})
    assert '"value":123456789012345678901234567890.423456789012345678901234567890,' in answer.text.replace("}", ",")
    account.event(customer, n="1e20")
    account.event(customer, n="-123456789012345678901234567890.423456789012345678901234567890")
    answer = account.http.post("/v1/usage", json={**DAY, "window_size": "DAY"})
    assert json.loads(answer.text, parse_float=str)["data"][0]["value"] == "100000000000000000000." + "0" * 30


@pytest.mark.parametrize(
    "n", ["", " 1", "1_000", "NaN", "Infinity", "one", "1e9999", "\u0661", True, None, [1], {"a": 1}]
)
def test_what_is_no_number_is_skipped(account: Account, n: object) -> None:
    customer = account.customer()
    account.metric()
    account.event(customer, n=n)
    assert account.value() is None
    assert account.truth() == []
    account.event(customer, n=3)
    assert account.value() == 3


def test_json_numbers_count_as_texts_do(account: Account) -> None:
    customer = account.customer()
    account.metric()
    body = (
        '[{"transaction_id":"t","customer_id":"%s","event_type":"use","timestamp":"2025-03-10T07:00:00Z",'
        '"properties":{"n":0.30000000000000000000000000001}}]'
    )
    assert account.http.post("/_sandbox/events", content=body % customer).status_code == 200
    assert account.value() == Decimal("0.30000000000000000000000000001")


def test_event_type_and_property_filters_must_all_pass_comparing_texts(account: Account) -> None:
    customer = account.customer()
    account.metric(
        "COUNT",
        event_type_filter={"in_values": ["use"], "not_in_values": ["other"]},
        property_filters=[
            {"name": "region", "exists": True, "in_values": ["EU", "7"]},
            {"name": "tier", "not_in_values": ["free"]},
            {"name": "test", "exists": False},
        ],
    )
    account.event(customer, region="EU")
    account.event(customer, region=7, tier="paid")
    for refused in (
        {"region": "US"},
        {},
        {"region": "EU", "tier": "free"},
        {"region": "EU", "test": "1"},
        {"region": "EU", "event_type": "other"},
        {"region": "eu"},
    ):
        account.event(customer, **refused)
    assert account.value() == 2
    assert [row["value"] for row in account.truth()] == ["2"]


def test_late_and_negative_events_change_the_past(account: Account) -> None:
    customer = account.customer()
    account.metric()
    account.event(customer, n="10")
    assert account.value() == 10
    account.event(customer, n="2.5")
    assert account.value() == Decimal("12.5")
    account.event(customer, n="-20")
    assert account.value() == Decimal("-7.5")


def test_an_alias_that_moves_takes_its_past_along(account: Account) -> None:
    one, two = account.customer("team"), account.customer()
    account.metric()
    account.event("team", n="10")
    account.event(one, n="1")
    assert [row["value"] for row in account.usage()] == [11, None]
    account.post(f"/v1/customers/{one}/setIngestAliases", {"ingest_aliases": []})
    account.post(f"/v1/customers/{two}/setIngestAliases", {"ingest_aliases": ["team"]})
    assert [row["value"] for row in account.usage()] == [1, 10]


def test_usage_that_was_sent_for_nobody_is_held_until_an_alias_matches(account: Account) -> None:
    account.metric()
    account.event("stranger", n="10")
    customer = account.customer()
    assert account.value() is None
    account.post(f"/v1/customers/{customer}/setIngestAliases", {"ingest_aliases": ["stranger"]})
    assert account.value() == 10


def test_a_streaming_metric_counts_what_came_since_it_was_made_and_a_reflow_counts_all(account: Account) -> None:
    customer = account.customer()
    account.event(customer, n="10")
    definition = {
        "name": "Later",
        "aggregation_type": "SUM",
        "aggregation_key": "n",
        "property_filters": [{"name": "n", "exists": True}],
    }
    account.post("/v1/billable-metrics/create", definition)
    assert account.value() is None
    account.event(customer, n="1")
    account.event(customer, n="2", received_at="2025-03-10T12:00:00Z")
    assert account.value() == 1
    account.set(reflow=True)
    assert account.value() == 13


def test_a_sql_metric_sees_all_events_through_the_definition_that_stands_behind_it(account: Account) -> None:
    customer = account.customer()
    account.event(customer, n="10", region="EU")
    behind = {"aggregation_type": "SUM", "aggregation_key": "n", "group_keys": [["region"]]}
    made = account.post("/v1/billable-metrics/create", {"name": "SQL", "sql": "select 1", "sandbox": behind})
    account.post("/v1/billable-metrics/create", {"name": "Empty", "sql": "select 2"})
    assert [row["value"] for row in account.usage()] == [10, None]
    (group,) = account.groups(customer, made["data"]["id"], group_key=["region"])
    assert (group["group"], group["value"]) == ({"region": "EU"}, 10)
    fields = account.get(f"/v1/billable-metrics/{made['data']['id']}")["data"]
    assert fields == {"id": made["data"]["id"], "name": "SQL", "sql": "select 1"}


def test_ingestion_lag_hides_events_until_it_is_over(account: Account) -> None:
    account.set(ingestion_lag_s=60)
    customer = account.customer()
    account.metric()
    account.event(customer, n="10")
    assert (account.value(), account.truth()) == (None, [])
    account.set(now="2025-03-10T12:31:00Z")
    assert account.value() == 10
    assert [row["value"] for row in account.truth()] == ["10"]
    account.set(now="2025-03-10T12:30:59Z")
    assert (account.value(), account.truth()) == (None, [])


def test_events_that_are_removed_are_gone(account: Account) -> None:
    customer = account.customer()
    account.metric("MAX")
    high = account.event(customer, n="10")
    account.event(customer, n="1")
    assert account.value() == 10
    answer = account.http.post("/_sandbox/events/remove", json={"transaction_ids": [high]})
    assert answer.json() == {"removed": 1}
    assert account.value() == 1
    account.event(customer, n="12", transaction_id=high)
    assert account.value() == 12


def test_group_by_answers_at_most_200_values_and_does_not_say_so(account: Account) -> None:
    customer, metric = account.customer(), account.metric()
    events = [
        {
            "transaction_id": f"t{n}",
            "customer_id": customer,
            "event_type": "use",
            "timestamp": "2025-03-10T07:00:00Z",
            "properties": {"n": "1", "region": f"r{n}"},
        }
        for n in range(250)
    ]
    assert account.http.post("/_sandbox/events", json=events).json() == {"added": 250}
    (row,) = account.usage(billable_metrics=[{"id": metric, "group_by": {"key": "region"}}])
    assert (row["value"], len(row["groups"])) == (250, 200)
    named = {"key": "region", "values": ["r249", "nowhere"]}
    (row,) = account.usage(billable_metrics=[{"id": metric, "group_by": named}])
    assert (row["value"], row["groups"]) == (250, {"r249": 1, "nowhere": None})
    for group_by in ({"key": "team"}, {"key": "region", "values": []}, {"key": "region", "values": ["x"] * 201}, {}):
        body = {**DAY, "window_size": "DAY", "billable_metrics": [{"id": metric, "group_by": group_by}]}
        account.refused(400, "/v1/usage", body)
