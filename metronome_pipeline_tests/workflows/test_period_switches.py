"""Which metrics are billed by period to date, through real runs: switches, refusals, and what came later."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.workflows.periods import (
    DAY,
    LATER,
    bill_by_period,
    choose,
    close,
    day,
    days_billed,
    reported,
    run_days,
)
from metronome_pipeline_tests.world import START, World, failure


@pytest.fixture(autouse=True)
def _at_the_start(world: World) -> None:
    world.at(START)


def refused(result: dg.ExecuteInProcessResult, *source: str) -> dict[str, str]:
    """Metric → why its usage is not sent, by the check of a source asset."""
    checks = [c for c in result.get_asset_check_evaluations() if c.check_name == "every_metric_is_billed"]
    (check,) = [check for check in checks if check.asset_key == dg.AssetKey(["metronome", *source])]
    listed: Any = check.metadata["list"].value if "list" in check.metadata else None
    found = {str(record.data["metric"]): str(record.data["reason"]) for record in listed.records} if listed else {}
    assert check.passed == (not found)
    return found


def switch(world: World, metric: str, slicing: str) -> None:
    """As a person asks for it, whatever the settings say by then."""
    done = command("slicing", "switch", metric, "--to", slicing, "--yes", env=variables(world) | world.environment)
    assert (done.status, "is billed through" in done.err) == (0, True), done.err


def hourly(world: World, last_day: int) -> dg.ExecuteInProcessResult:
    """The hourly run that looks back over everything, after a day."""
    result = world.ingest(0, 24 * (last_day + 1) - 1, config={"look_back_days": 8, "fill_gaps": True})
    assert result.success, failure(result)
    return result


def test_a_switch_corrects_hours_to_days_and_back_and_never_doubles(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    choose(world, "SUM", metric)
    world.imported()
    for hour, user in ((1, "ann"), (2, "ann"), (2, "bob"), (30, "ann"), (50, "cid"), (75, "ann")):
        world.use(customer, metric, hour, user)
    world.at(day(3) + 4 * LATER)
    hourly(world, 2)
    hours = {1: 1, 2: 2, 30: 1, 50: 1}
    assert world.counted(customer, metric) == hours

    # The setting alone refuses, in the workflow whose metric it would be, and bills nothing.
    bill_by_period(world, metric)
    result = run_days(world, 2, at=day(3) + 5 * LATER)
    assert result.success, failure(result)
    assert "slicing switch" in refused(result, "period_usage")[metric]
    assert world.counted(customer, metric) == hours
    result = hourly(world, 2)
    assert refused(result, "usage") == {}, "it is the other workflow's to list"
    assert world.counted(customer, metric) == hours

    switch(world, metric, "period_to_date")
    result = close(world, 3)
    assert days_billed(world, customer, metric) == {0: 2, 2: 1}
    assert world.total(customer, metric) == 3
    assert reported(result) == [0, 1, 2, 3]

    # And back. Days become hours again where they are read.
    switch(world, metric, "ungrouped")
    assert "slicing switch" in refused(run_days(world, 3, at=day(4) + LATER), "period_usage")[metric]
    choose(world, "SUM", metric)
    hourly(world, 3)
    assert world.counted(customer, metric) == {**hours, 75: 1}
    world.solvimon.forget_requests()
    hourly(world, 3)
    assert world.solvimon.writes() == {}
    switch(world, metric, "period_to_date")
    bill_by_period(world, metric)
    close(world, 4)
    assert days_billed(world, customer, metric) == {0: 2, 2: 1}


def test_hours_of_the_cut_overs_day_are_taken_back_by_a_switch(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    world.environment["USAGE_START"] = (START + DAY / 4).isoformat()
    choose(world, "SUM", metric)
    world.imported()
    for hour, user in ((7, "ann"), (25, "bob"), (26, "bob")):
        world.use(customer, metric, hour, user)
    world.at(day(2) + LATER)
    assert world.ingest(6, 47).success
    assert world.counted(customer, metric) == {7: 1, 25: 1, 26: 1}
    switch(world, metric, "period_to_date")
    bill_by_period(world, metric)
    close(world, 2)
    assert days_billed(world, customer, metric) == {1: 1}


def test_a_maximum_by_the_hour_becomes_days_once_its_meter_has_a_sum(world: World) -> None:
    customer, metric = world.customer(), world.metric("LATEST")
    choose(world, "MAX", metric)
    world.imported()
    for hour, seats in ((1, 9), (2, 4), (30, 6)):
        world.use(customer, metric, hour, seats)
    world.at(day(1) + LATER)
    assert world.ingest(0, 23).success
    assert world.counted(customer, metric) == {1: 9, 2: 4}
    switch(world, metric, "period_to_date")
    bill_by_period(world, metric)
    assert "run import_meters" in refused(run_days(world, 0, at=day(1) + 2 * LATER), "period_usage")[metric]
    world.imported()
    close(world, 1)
    assert days_billed(world, customer, metric) == {0: 4, 1: 2}
    switch(world, metric, "ungrouped")
    choose(world, "MAX", metric)
    world.imported()
    assert world.ingest(0, 47).success
    truth = world.solvimon.call("GET", "/_sandbox/truth", customer_reference=customer, meter_reference=metric)["rows"]
    highest = {(datetime.fromisoformat(row["timestamp"]) - START) // LATER: Decimal(row["max"]) for row in truth}
    assert highest == {1: 9, 2: 4, 30: 6}, "days are deleted, and what took an hour back does not lower its maximum"


def test_a_choice_that_does_not_fit_its_metric_is_refused_by_name(world: World) -> None:
    customer = world.customer()
    total, peak, agreeing = world.metric("SUM"), world.metric("MAX"), world.metric("COUNT")
    grouped, fitting = (world.metric("UNIQUE", group_keys=[["region"]]) for _ in range(2))
    chosen = {total: "PERIOD_TO_DATE", peak: "SUM", agreeing: "SUM", grouped: "PERIOD_TO_DATE"}
    world.environment |= {
        "METRIC_CALCULATIONS": json.dumps({**chosen, fitting: "PERIOD_TO_DATE"}),
        "METRIC_SLICINGS": json.dumps({grouped: ["region"]}),
        "GROUPED_USAGE_ENABLED": "true",
    }
    world.imported()
    for metric in (total, peak, agreeing, grouped, fitting):
        world.use(customer, metric, 1, 5, region="eu")
    world.at(day(1) + LATER)
    asked = command("slicing", "switch", total, "--to", "period_to_date", env=variables(world) | world.environment)
    assert asked.status == 2, "what adds up is billed by the hour"
    by_hour = world.ingest(0, 23)
    assert by_hour.success
    reasons = refused(by_hour, "usage")
    assert set(reasons) == {total, peak}
    assert "METRIC_CALCULATIONS says PERIOD_TO_DATE, and a SUM metric" in reasons[total]
    assert "METRIC_CALCULATIONS says SUM, and a MAX metric" in reasons[peak]
    assert refused(world.ingest(0, 23, job="ingest_grouped_usage"), "grouped_usage") == {}
    by_day = close(world, 1)
    assert set(refused(by_day, "period_usage")) == {grouped}
    assert "METRIC_SLICINGS names group keys" in refused(by_day, "period_usage")[grouped]
    assert {metric: world.total(customer, metric) for metric in (total, peak, agreeing, grouped, fitting)} == {
        total: None,
        peak: None,
        agreeing: 1,
        grouped: None,
        fitting: 1,
    }


def test_a_metric_and_a_customer_that_come_later_get_their_periods_since_the_cut_over(world: World) -> None:
    first, metric = world.customer("First"), world.metric("UNIQUE")
    sql = world.metric(
        None,
        sql="SELECT count(DISTINCT who) AS value",
        sandbox={"aggregation_type": "UNIQUE", "aggregation_key": "value"},
    )
    bill_by_period(world, metric)
    world.imported()
    world.use(first, metric, 1, "ann")
    world.use(first, metric, 24 * 30, "bob")
    result = run_days(world, 0, 69)
    assert result.success, failure(result)
    assert days_billed(world, first, metric) == {0: 1, 30: 1}

    newcomer = world.customer("Newcomer")
    world.use(newcomer, metric, 24 * 2, "dan")
    bill_by_period(world, metric, sql)
    world.run("import_meters")
    result = close(world, 70)
    assert days_billed(world, newcomer, metric) == {2: 1}
    assert days_billed(world, first, sql) == {0: 1, 30: 1}
    assert days_billed(world, newcomer, sql) == {2: 1}
    assert set(reported(result)) == {0, 2, 30, 70}
    assert days_billed(world, first, metric) == {0: 1, 30: 1}
    world.metronome.forget_requests()
    close(world, 70, after=LATER)
    in_reach = 28 + 16  # February and March so far, of four pairs; January is filled.
    assert world.metronome.requests()["POST /v1/usage"] == 4 * in_reach


def test_archived_customers_and_metrics_are_still_billed_until_late_usage_has_passed(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    bill_by_period(world, metric)
    world.imported()
    world.use(customer, metric, 1, "ann")
    world.customer(id=customer, archived_at=day(1).isoformat())
    world.metric("UNIQUE", id=metric, archived_at=day(1).isoformat())
    close(world, 1)
    world.use(customer, metric, 2, "bob")
    close(world, 30)
    assert days_billed(world, customer, metric) == {0: 2}
    world.metronome.forget_requests()
    close(world, 100)
    assert "POST /v1/usage" not in world.metronome.requests()


def test_a_day_whose_event_waits_in_quarantine_keeps_the_others_exact_and_is_corrected_after_it(world: World) -> None:
    customer, metric = world.customer(), world.metric("LATEST")
    bill_by_period(world, metric)
    world.imported()
    world.use(customer, metric, 1, 5)
    world.use(customer, metric, 25, 8)
    world.solvimon.call("PATCH", f"/v1/meters/{metric}", {"status": "DEPRECATED"})
    close(world, 1)
    assert {state for *_, state in world.events()} == {"quarantined"}
    world.solvimon.call("PATCH", f"/v1/meters/{metric}", {"status": "ACTIVE"})
    world.use(customer, metric, 2, 6)
    close(world, 2)
    assert world.stored_events() == []
    assert world.sql("SELECT count(*) FROM ledger.unsettled_hours") == [(2,)]
    world.sql("UPDATE ledger.open_events SET state = 'planned'")
    close(world, 60)
    assert days_billed(world, customer, metric) == {0: 6, 1: 2}
    assert world.sql("SELECT count(*) FROM ledger.unsettled_hours") == [(0,)]


def test_a_run_without_any_such_metric_says_so_and_reports_no_day(world: World) -> None:
    world.imported()
    result = run_days(world, 0)
    assert not result.success
    assert "METRIC_CALCULATIONS names PERIOD_TO_DATE for none" in failure(result)
    assert reported(result) == []


def test_a_day_that_is_not_closed_is_refused_in_a_sentence(world: World) -> None:
    bill_by_period(world, world.metric("UNIQUE"))
    world.environment["USAGE_CLOSE_MINUTES"] = "90"
    world.imported()
    result = run_days(world, 3, at=day(4) + LATER)
    assert not result.success
    assert "2026-01-08 UTC is not closed yet" in failure(result)


def test_a_large_fall_is_held_whole_and_the_period_stays_what_it_was(world: World) -> None:
    customer, metric = world.customer(), world.metric("LATEST")
    bill_by_period(world, metric)
    world.imported()
    world.use(customer, metric, 1, 1000)
    close(world, 0)
    world.use(customer, metric, 2, 400)
    world.use(customer, metric, 25, 500)
    result = close(world, 1)
    assert days_billed(world, customer, metric) == {0: 1000}, "neither the fall nor the rise after it"
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "nothing_held_by_the_brake"]
    assert not check.passed
    world.sql("UPDATE ledger.brakes SET released_at = now(), released_by = 'a person'")
    close(world, 2)
    assert days_billed(world, customer, metric) == {0: Decimal(400), 1: 100}
