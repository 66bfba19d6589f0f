"""Ingest usage by period to date, through real runs: on any day the events of a period sum up to its exact value."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from metronome_pipeline_tests.workflows.periods import (
    DAY,
    LATER,
    bill_by_period,
    billed,
    close,
    day,
    days_billed,
    metered,
    reported,
    run_days,
)
from metronome_pipeline_tests.world import START, World, failure

JANUARY, FEBRUARY, MARCH = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))


@pytest.fixture(autouse=True)
def _at_the_start(world: World) -> None:
    world.at(START)


def test_the_days_of_a_unique_metric_add_up_to_the_period_after_every_day(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE", name="Users")
    bill_by_period(world, metric)
    world.imported()
    for hour, user in ((1, "ann"), (2, "bob"), (26, "ann"), (27, "cid"), (75, "bob"), (76, "dan")):
        world.use(customer, metric, hour, user)
    for number in range(4):
        result = close(world, number)
        assert reported(result) == [number]
        until = day(number + 1)
        assert billed(world, customer, metric, START, until) == metered(world, customer, metric, JANUARY, until)
    assert days_billed(world, customer, metric) == {0: 2, 1: 1, 3: 1}
    assert world.total(customer, metric) == 4
    world.solvimon.forget_requests()
    close(world, 3, after=LATER)
    assert world.solvimon.writes() == {}


def test_one_late_event_changes_several_days_and_they_stay_exact(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    bill_by_period(world, metric)
    world.imported()
    for number, user in ((0, "ann"), (3, "bob"), (5, "cid")):
        world.use(customer, metric, 24 * number, user)
    close(world, 5)
    assert days_billed(world, customer, metric) == {0: 1, 3: 1, 5: 1}
    # Cid, known since day 5, was there on day 2 already; and somebody new came.
    world.use(customer, metric, 2 * 24 + 5, "cid")
    world.use(customer, metric, 2 * 24 + 6, "dan")
    result = close(world, 6)
    assert days_billed(world, customer, metric) == {0: 1, 2: 2, 3: 1}
    assert reported(result) == [2, 5, 6]
    for number in range(7):
        until = day(number + 1)
        assert billed(world, customer, metric, START, until) == metered(world, customer, metric, JANUARY, until)
    kinds = [(kind, number) for kind, _, number, _ in world.events()]
    assert kinds[3:] == [("usage", Decimal(2)), ("correction", Decimal(-1))]


def test_a_latest_value_that_falls_gives_a_negative_day(world: World) -> None:
    customer, metric = world.customer(), world.metric("LATEST", name="Seats")
    bill_by_period(world, metric)
    world.imported()
    for number, seats in ((0, 7), (1, "8.25"), (3, 9), (4, "-4.5")):
        world.use(customer, metric, 24 * number + 3, seats)
    close(world, 5)
    assert days_billed(world, customer, metric) == {0: 7, 1: Decimal("1.25"), 3: Decimal("0.75"), 4: Decimal("-13.5")}
    assert world.total(customer, metric) == Decimal("-4.5")


def test_a_new_period_begins_with_nothing(world: World) -> None:
    customer, unique, latest = world.customer(), world.metric("UNIQUE"), world.metric("LATEST")
    bill_by_period(world, unique, latest)
    world.imported()
    last = (FEBRUARY - START) // DAY - 1
    for metric, values in ((unique, "aba"), (latest, "573")):
        for number, value in zip((last - 1, last, last + 1), values, strict=True):
            world.use(customer, metric, 24 * number, value)
    close(world, last + 1)
    assert days_billed(world, customer, unique) == {last - 1: 1, last: 1, last + 1: 1}
    assert days_billed(world, customer, latest) == {last - 1: 5, last: 2, last + 1: 3}
    # A late event on the last day of the old period is found, and the new one does not see it.
    world.use(customer, unique, 24 * last + 1, "c")
    close(world, last + 9)
    assert days_billed(world, customer, unique) == {last - 1: 1, last: 2, last + 1: 1}


def test_periods_begin_on_the_anchor_day(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    bill_by_period(world, metric)
    world.environment["BILLING_PERIOD_ANCHOR_DAY"] = "8"
    world.imported()
    for number in (0, 2, 3, 4):
        world.use(customer, metric, 24 * number, "ann")
    close(world, 4)
    assert days_billed(world, customer, metric) == {0: 1, 3: 1}


@pytest.mark.parametrize("empty", ["null", "zero", "omit"])
def test_a_period_without_usage_is_nothing_however_metronome_says_it(world: World, empty: str) -> None:
    customer, metric = world.customer(), world.metric("LATEST")
    world.metronome.set(empty_windows=empty)
    bill_by_period(world, metric)
    world.imported()
    world.use(customer, metric, 24 * 40, 5)
    close(world, 30)
    assert world.stored_events() == []
    close(world, 40)
    assert days_billed(world, customer, metric) == {40: 5}
    assert world.sql("SELECT count(*) FROM metronome.usage WHERE value <> 0") == [(1,)]


def test_what_was_before_a_cut_over_within_a_period_or_a_day_is_never_billed(world: World) -> None:
    customer, unique, latest = world.customer(), world.metric("UNIQUE"), world.metric("LATEST")
    world.environment["USAGE_START"] = "2026-01-07T06:00Z"
    bill_by_period(world, unique, latest)
    world.imported()
    # Before the cut-over, on its day, and after the first midnight.
    for hour, user, seats in ((1, "ann", 10), (2 * 24 + 1, "bob", 20), (2 * 24 + 9, "cid", 30), (3 * 24, "dan", 35)):
        world.use(customer, unique, hour, user)
        world.use(customer, latest, hour, seats)
    world.use(customer, unique, 4 * 24, "ann")
    result = run_days(world, 2, 4)
    assert result.success, failure(result)
    assert reported(result) == [2, 3, 4], "the cut-over's day is a day, and nothing of it is billed"
    assert days_billed(world, customer, unique) == {3: 1}, "ann, bob and cid were there before the first midnight"
    assert days_billed(world, customer, latest) == {3: 5}
    for metric in (unique, latest):
        assert world.total(customer, metric) == metered(world, customer, metric, JANUARY, day(5)) - metered(
            world, customer, metric, JANUARY, day(3)
        )


def test_a_customers_own_cut_over_is_its_first_midnight(world: World) -> None:
    early, late, metric = world.customer("Early"), world.customer("Late"), world.metric("UNIQUE")
    bill_by_period(world, metric)
    world.environment["CUSTOMER_USAGE_STARTS"] = f'{{"{late}": "{(START + 1.5 * DAY).isoformat()}"}}'
    world.imported()
    for customer in (early, late):
        for number, user in ((0, "ann"), (1, "bob"), (2, "cid"), (3, "ann")):
            world.use(customer, metric, 24 * number + 20, user)
    close(world, 3)
    assert days_billed(world, early, metric) == {0: 1, 1: 1, 2: 1}
    assert days_billed(world, late, metric) == {2: 1}
    world.metronome.forget_requests()
    assert close(world, 3, after=LATER).success
    # Midnights of 6, 7, 8 and 9 January, and the cut-over's own one, which is 5 and 7 January.
    assert world.metronome.requests()["POST /v1/usage"] == 5 + 3, "no gap is left that would be filled each day"


def test_a_walk_that_lacks_one_midnight_changes_nothing(world: World) -> None:
    whole, broken, metric = world.customer("Whole"), world.customer("Broken"), world.metric("UNIQUE")
    bill_by_period(world, metric)
    world.imported()
    for customer in (whole, broken):
        world.use(customer, metric, 1, "ann")
    close(world, 0)
    for customer in (whole, broken):
        world.use(customer, metric, 2, "bob")
        world.use(customer, metric, 50, "cid")
    # The midnight of 7 January has no answer for one of the two.
    log = world.metronome.call("GET", "/_sandbox/requests/log")["requests"]
    assert {one["body"]["window_size"] for one in log if one["path"] == "/v1/usage"} == {"NONE"}
    row = {
        "customer_id": broken,
        "billable_metric_id": metric,
        "billable_metric_name": "Calls",
        "start_timestamp": "2026-01-01T00:00:00Z",
        "end_timestamp": "2026-01-02T00:00:00Z",
        "value": 1,
    }
    answer = {"method": "POST", "path": "/v1/usage", "body": {"data": [row], "next_page": None}, "times": None}
    world.environment["USAGE_CUSTOMERS"] = broken
    world.metronome.call("PUT", "/_sandbox/answers", [answer])
    result = run_days(world, 1, 2)
    assert not result.success
    assert "did not complete" in failure(result)
    assert broken in failure(result)
    assert reported(result) == []
    assert days_billed(world, broken, metric) == {0: 1}
    assert world.sql("SELECT max(upper(covered)) FROM metronome.coverage WHERE customer_id = %s", broken) == [(day(1),)]
    world.metronome.call("PUT", "/_sandbox/answers", [])
    del world.environment["USAGE_CUSTOMERS"]
    world.metronome.faults({"path": "/v1/usage", "method": "POST", "kind": "status_403", "rate": 1, "after": 4})
    assert not run_days(world, 1, 2, at=day(3) + LATER).success
    world.metronome.faults()
    assert reported(close(world, 3)) == [0, 1, 2, 3]
    for customer in (whole, broken):
        assert days_billed(world, customer, metric) == {0: 2, 2: 1}


def test_a_backfill_over_two_periods_is_one_run_and_reads_each_whole(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    bill_by_period(world, metric)
    world.imported()
    for number in (0, 20, 27, 40, 60):
        world.use(customer, metric, 24 * number, f"user {number}")
        world.use(customer, metric, 24 * number + 1, "ann")
    world.metronome.forget_requests()
    result = run_days(world, 20, 30, at=day(70))
    assert result.success, failure(result)
    # Of January from the cut-over on, and of February, every day was read, and is done.
    january, february = (FEBRUARY - START) // DAY, (MARCH - FEBRUARY) // DAY
    assert reported(result) == list(range(january + february))
    assert days_billed(world, customer, metric) == {0: 2, 20: 1, 27: 2, 40: 1}
    assert billed(world, customer, metric, START, FEBRUARY) == metered(world, customer, metric, JANUARY, FEBRUARY)
    assert billed(world, customer, metric, FEBRUARY, MARCH) == metered(world, customer, metric, FEBRUARY, MARCH)
    assert world.metronome.requests()["POST /v1/usage"] == 1 + january + february
