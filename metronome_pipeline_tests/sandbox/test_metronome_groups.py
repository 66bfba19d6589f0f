"""Grouped usage in the Metronome half: keys, filters, pages, null groups, and the ways in which it falls short."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import pytest

from metronome_pipeline.sandbox.metronome import create_app
from metronome_pipeline.sandbox.server import serve
from metronome_pipeline_tests.sandbox.metronome_account import DAY, Account, Json

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(url: str) -> Account:
    return Account(url)


@pytest.fixture
def pair(account: Account) -> tuple[str, str]:
    """A customer and a metric with usage in two regions and two teams."""
    customer, metric = account.customer(), account.metric()
    account.event(customer, "2025-03-10T07:00:00Z", n="1", region="EU", team="ui")
    account.event(customer, "2025-03-10T07:30:00Z", n="2", region="EU", team="api")
    account.event(customer, "2025-03-10T08:00:00Z", n="4", region="US", team="ui")
    return customer, metric


def by_group(rows: list[Json]) -> dict[tuple[tuple[str, str | None], ...], Decimal]:
    return {tuple(sorted(row["group"].items())): row["value"] for row in rows}


def test_a_simple_key_answers_key_value_and_group(account: Account, pair: tuple[str, str]) -> None:
    rows = account.groups(*pair, group_key=["region"])
    assert sorted(rows, key=lambda row: str(row["group_value"])) == [
        {
            "starting_on": "2025-03-10T00:00:00+00:00",
            "ending_before": "2025-03-11T00:00:00+00:00",
            "group_key": "region",
            "group_value": region,
            "group": {"region": region},
            "value": value,
        }
        for region, value in (("EU", 3), ("US", 4))
    ]


def test_a_compound_key_answers_the_group_only(account: Account, pair: tuple[str, str]) -> None:
    rows = account.groups(*pair, group_key=["region", "team"])
    assert {(row["group_key"], row["group_value"]) for row in rows} == {(None, None)}
    assert by_group(rows) == {
        (("region", "EU"), ("team", "ui")): 1,
        (("region", "EU"), ("team", "api")): 2,
        (("region", "US"), ("team", "ui")): 4,
    }


def test_without_a_key_the_rows_are_ungrouped_and_dense(account: Account, pair: tuple[str, str]) -> None:
    rows = account.groups(*pair, size="HOUR")
    assert [row["value"] for row in rows] == [{7: 3, 8: 4}.get(hour) for hour in range(24)]
    assert {(row["group_key"], row["group_value"], "group" in row) for row in rows} == {(None, None, False)}
    account.set(empty_windows="omit")
    assert [row["value"] for row in account.groups(*pair, size="HOUR")] == [3, 4]


def test_the_deprecated_group_by_still_works(account: Account, pair: tuple[str, str]) -> None:
    (row,) = account.groups(*pair, group_by={"key": "region", "values": ["US"]})
    assert (row["group_key"], row["group_value"], row["value"]) == ("region", "US", 4)
    assert len(account.groups(*pair, group_by={"key": "region"})) == 2


def test_filters_choose_values_and_an_empty_list_means_all(account: Account, pair: tuple[str, str]) -> None:
    filters = {"region": ["EU", "nowhere"], "team": []}
    rows = account.groups(*pair, group_key=["region", "team"], group_filters=filters)
    assert sorted(row["value"] for row in rows) == [1, 2]


@pytest.mark.parametrize(
    "body",
    [
        {"group_key": ["region"], "group_by": {"key": "region"}},
        {"group_key": ["team"]},
        {"group_key": ["region", "team", "n"]},
        {"group_key": ["region", "region"]},
        {"group_key": []},
        {"group_key": "region"},
        {"group_by": {"key": "team"}},
        {"group_by": {"key": "region", "values": ["x"] * 201}},
        {"group_by": "region"},
        {"group_key": ["region"], "group_filters": {"team": ["ui"]}},
        {"group_filters": {"region": ["EU"]}},
        {"group_key": ["region"], "group_filters": {"region": "EU"}},
        {"group_key": ["region", "team"], "group_filters": {"region": ["x"] * 100, "team": ["y"] * 101}},
        {"current_period": True},
        {"starting_on": "2025-03-10T01:00:00Z"},
        {"ending_before": None},
        {"window_size": "WEEK"},
        {"customer_id": "somebody"},
    ],
)
def test_what_the_real_thing_refuses_is_refused(account: Account, pair: tuple[str, str], body: Json) -> None:
    whom = {"customer_id": pair[0], "billable_metric_id": pair[1], "window_size": "DAY"}
    account.refused(400, "/v1/usage/groups", {**DAY, **whom, **body})


def test_200_filter_values_are_taken(account: Account, pair: tuple[str, str]) -> None:
    filters = {"region": ["EU"] * 100, "team": ["ui"] * 100}
    (row,) = account.groups(*pair, group_key=["region", "team"], group_filters=filters)
    assert row["value"] == 1


def test_an_unknown_customer_or_metric_is_404(account: Account, pair: tuple[str, str]) -> None:
    body = {**DAY, "window_size": "DAY"}
    account.refused(404, "/v1/usage/groups", {**body, "customer_id": UNKNOWN, "billable_metric_id": pair[1]})
    account.refused(404, "/v1/usage/groups", {**body, "customer_id": pair[0], "billable_metric_id": UNKNOWN})


@pytest.mark.parametrize("limit", [0, 101, -1, "ten"])
def test_a_limit_is_from_1_to_100(account: Account, pair: tuple[str, str], limit: object) -> None:
    body = {**DAY, "window_size": "DAY", "customer_id": pair[0], "billable_metric_id": pair[1]}
    account.refused(400, "/v1/usage/groups", body, limit=limit)


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_pages_hold_every_group_of_every_window_once(account: Account, limit: int) -> None:
    customer, metric = account.customer(), account.metric("COUNT")
    for hour in range(4):
        for region in range(hour * 6):
            account.event(customer, f"2025-03-10T0{hour}:00:00Z", region=f"r{region}", team="t")
    rows = account.groups(customer, metric, size="HOUR", limit=limit, group_key=["region"])
    found = Counter((row["starting_on"], row["group_value"]) for row in rows)
    assert set(found.values()) == {1}
    assert len(found) == 36


def test_null_groups_are_usage_and_come_in_three_shapes(account: Account) -> None:
    customer, metric = account.customer(), account.metric()
    account.event(customer, n="5", team="ui")
    (row,) = account.groups(customer, metric, group_key=["region"])
    assert (row["group_value"], row["group"], row["value"]) == (None, {"region": None}, 5)
    (row,) = account.groups(customer, metric, group_key=["region", "team"])
    assert row["group"] == {"region": None, "team": "ui"}
    assert account.groups(customer, metric, group_key=["region"], group_filters={"region": ["EU"]}) == []
    account.set(null_groups="missing_key")
    (row,) = account.groups(customer, metric, group_key=["region", "team"])
    assert row["group"] == {"team": "ui"}
    account.set(null_groups="missing_group")
    (row,) = account.groups(customer, metric, group_key=["region", "team"])
    assert "group" not in row
    assert row["value"] == 5


def test_groups_without_usage_in_a_window_are_left_out_null_or_zero(account: Account, pair: tuple[str, str]) -> None:
    assert len(account.groups(*pair, size="HOUR", group_key=["region"])) == 2
    account.set(empty_groups="null")
    rows = account.groups(*pair, size="HOUR", group_key=["region"])
    assert len(rows) == 48
    assert Counter(row["value"] for row in rows) == {None: 46, 3: 1, 4: 1}
    account.set(empty_groups="zero")
    assert Counter(row["value"] for row in account.groups(*pair, size="HOUR", group_key=["region"]))[0] == 46


def test_a_compound_query_without_filters_can_be_cut_short(account: Account, pair: tuple[str, str]) -> None:
    account.set(max_compound_groups=2)
    assert len(account.groups(*pair, group_key=["region", "team"])) == 2
    assert len(account.groups(*pair, group_key=["region"])) == 2
    filters = {"region": ["EU", "US"]}
    assert len(account.groups(*pair, group_key=["region", "team"], group_filters=filters)) == 3


def test_a_filter_on_a_later_key_alone_can_lose_usage(account: Account) -> None:
    customer, metric = account.customer(), account.metric()
    for hour in range(9):
        account.event(customer, f"2025-03-10T0{hour}:00:00Z", n="1", region="EU", team="ui")

    def total(**filters: list[str]) -> int:
        rows = account.groups(customer, metric, "HOUR", group_key=["region", "team"], group_filters=filters)
        return sum(row["value"] for row in rows)

    assert total(team=["ui"]) == 9
    account.set(filter_undercount=True)
    assert (total(team=["ui"]), total(region=["EU"]), total()) == (6, 9, 9)


def test_groups_add_up_to_the_ungrouped_value(account: Account, pair: tuple[str, str]) -> None:
    account.event(pair[0], n="0.125")
    for keys in (["region"], ["region", "team"]):
        assert sum(row["value"] for row in account.groups(*pair, group_key=keys)) == account.value()
