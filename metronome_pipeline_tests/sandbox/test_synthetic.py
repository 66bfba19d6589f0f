"""Synthetic usage: a pure function, in any size, with raw events on top."""

import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from metronome_pipeline.sandbox.metronome import create_app
from metronome_pipeline.sandbox.server import serve
from metronome_pipeline.sandbox.synthetic import GROUP_KEY, Synthetic
from metronome_pipeline_tests.sandbox.metronome_account import Account

START = datetime(2025, 3, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(url: str) -> Account:
    return Account(url)


def load(account: Account, **options: object) -> Synthetic:
    sizes = {"customers": 2, "metrics": 3, "hours": 24, "groups": 0, "seed": 5, **options}
    body = {"dataset": "synthetic", "start": "2025-03-10T00:00:00Z", **sizes}
    answer = account.http.put("/_sandbox/dataset", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"customers": sizes["customers"], "metrics": 3, "products": 3, "events": 0}
    return Synthetic(start=START, **sizes)  # type: ignore[arg-type] # all are whole numbers


def test_usage_is_a_pure_function_of_its_seed() -> None:
    def values(seed: int) -> list[list[tuple[str | None, Decimal]]]:
        one = Synthetic(customers=2, metrics=2, groups=3, seed=seed, start=START)
        customer, metric = one.customer_id(1), one.metric_id(1)
        return [list(one.values(customer, metric, hour)) for hour in one.window_hours()]

    assert values(1) == values(1)
    assert values(1) != values(2)
    assert Synthetic(seed=1).customer_id(0) != Synthetic(seed=2).customer_id(0)


def test_outside_of_its_size_there_is_no_usage() -> None:
    one = Synthetic(customers=1, metrics=1, hours=2, start=START)
    customer, metric, first = one.customer_id(0), one.metric_id(0), one.window_hours()[0]
    assert list(one.values(customer, metric, first + 2)) == []
    assert list(one.values(one.customer_id(1), metric, first)) == []
    assert list(one.values(customer, one.metric_id(1), first)) == []


@pytest.mark.parametrize(
    ("field", "value"), [("customers", -1), ("hours", -1), ("start", datetime(2025, 1, 1, 0, 30, tzinfo=UTC))]
)
def test_a_wrong_size_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Synthetic(**{field: value})  # type: ignore[arg-type] # wrong on purpose


def test_a_million_windows_need_little_memory() -> None:
    tracemalloc.start()
    one = Synthetic(customers=100, metrics=10, hours=1000, groups=50)
    customer, metric = one.customer_id(99), one.metric_id(9)
    assert sum(1 for hour in one.window_hours()[:20] for _ in one.values(customer, metric, hour)) > 500
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("groups", [0, 4])
def test_usage_through_the_api_is_the_function_and_the_truth(account: Account, groups: int) -> None:
    one = load(account, groups=groups)
    expected: dict[tuple[str, str, str], Decimal] = {}
    for customer in map(one.customer_id, range(2)):
        for metric in map(one.metric_id, range(3)):
            for at, hour in enumerate(one.window_hours()):
                values = [value for _, value in one.values(customer, metric, hour)]
                whole = max if one.kind_of(metric) == "MAX" else sum
                if values:
                    expected[customer, metric, f"2025-03-10T{at:02d}:00:00Z"] = Decimal(whole(values))
    seen = {
        (row["customer_id"], row["billable_metric_id"], row["start_timestamp"]): row["value"]
        for row in account.usage("HOUR")
        if row["value"] is not None
    }
    assert seen == expected
    told = {(row["customer_id"], row["metric_id"], row["start"]): Decimal(row["value"]) for row in account.truth()}
    assert told == expected


def test_groups_add_up(account: Account) -> None:
    one = load(account, groups=4)
    customer = one.customer_id(0)
    for metric, combine in ((one.metric_id(0), sum), (one.metric_id(2), max)):
        rows = account.groups(customer, metric, "DAY", group_key=[GROUP_KEY])
        assert len(rows) == 4
        (whole,) = account.usage("DAY", customer_ids=[customer], billable_metrics=[{"id": metric}])
        assert combine(row["value"] for row in rows) == whole["value"]
        told = account.truth(customer_id=customer, metric_id=metric, group_key=GROUP_KEY)
        assert combine(Decimal(row["value"]) for row in told) == whole["value"]


def test_raw_events_add_on_top(account: Account) -> None:
    one = load(account, groups=2)
    customer, (total, count, greatest) = one.customer_id(0), map(one.metric_id, range(3))

    def values() -> dict[str, Decimal]:
        rows = account.usage("DAY", customer_ids=[customer])
        return {row["billable_metric_id"]: row["value"] for row in rows}

    before = values()
    account.event("synthetic-000000", event_type="synthetic", amount="1000000000.5", segment="segment-00001")
    after = values()
    assert after[total] - before[total] == Decimal("1000000000.5")
    assert after[count] - before[count] == 1
    assert after[greatest] == Decimal("1000000000.5")
    totals = account.get("/_sandbox/totals", customer_id=customer)["rows"]
    assert {row["metric_id"]: Decimal(row["value"]) for row in totals} == after


@pytest.mark.parametrize(
    "options", [{"customers": -1}, {"metrics": "3"}, {"start": "2025-03-10T00:30:00Z"}, {"size": 1}]
)
def test_a_wrong_option_is_refused_by_name(account: Account, options: dict[str, object]) -> None:
    answer = account.http.put("/_sandbox/dataset", json={"dataset": "synthetic", **options})
    assert answer.status_code == 400
    assert next(iter(options)) in answer.json()["message"]
