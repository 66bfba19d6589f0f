"""Sweeps, through real runs: what changed after it was billed is found, corrected, and counted in requests."""

import json
import uuid
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import dagster as dg
import psycopg
import pytest

from metronome_pipeline import http
from metronome_pipeline.automation import findings
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.workflows.sweep import SWEEP_LOCK
from metronome_pipeline_tests.workflows.dying_sweep import sweep_and_die
from metronome_pipeline_tests.world import START, World, failure, metadata, partition, partitions_of

DAY = 24
USAGE = "POST /v1/usage"


@pytest.fixture
def world(world: World) -> World:
    world.at(START)
    return world


def bill(world: World, days: int, job: str = "ingest_usage") -> None:
    """The world is ``days`` old, and all of its usage is billed."""
    world.at(START + timedelta(days=days, minutes=30))
    result = world.ingest(0, days * DAY - 1, job=job)
    assert result.success, failure(result)
    world.metronome.forget_requests()


def sweep(world: World, kind: str = "usage") -> dg.ExecuteInProcessResult:
    result = world.run(f"sweep_{kind}")
    assert result.success, failure(result)
    return result


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return metadata(result, "metronome", "usage_sweep")


def tick(world: World) -> list[dg.RunRequest]:
    """What the sensor requests."""
    definitions = world.definitions()
    sensor = definitions.resolve_sensor_def("sweep_findings")
    with dg.build_sensor_context(instance=world.instance, resources=definitions.resources) as context:
        return list(sensor.evaluate_tick(context).run_requests or [])


def correct(world: World) -> list[dg.ExecuteInProcessResult]:
    """What the sensor requests, done."""
    results = []
    for request in tick(world):
        assert request.job_name is not None
        results.append(world.run(request.job_name, config=request.run_config, tags=request.tags))
        assert results[-1].success, failure(results[-1])
    return results


def usage_requests(world: World) -> int:
    return world.metronome.requests().get(USAGE, 0)


def states(world: World) -> list[str]:
    return [state for (state,) in world.sql("SELECT state FROM ledger.findings ORDER BY finding_id")]


def proofs(world: World, metric: str) -> Mapping[int, tuple[Any, bool, bool]]:
    """By day from START: the day's total, and whether it was proved by day and by hour."""
    rows = world.sql(
        "SELECT day, value, by_day_at IS NOT NULL, by_hour_at IS NOT NULL FROM metronome.day_totals "
        "WHERE metric_id = %s",
        metric,
    )
    return {(day - START).days: (value, by_day, by_hour) for day, value, by_day, by_hour in rows}


def move_alias(world: World, alias: str, old: str, new: str) -> None:
    world.metronome.call("POST", f"/v1/customers/{old}/setIngestAliases", {"ingest_aliases": []})
    world.metronome.call("POST", f"/v1/customers/{new}/setIngestAliases", {"ingest_aliases": [alias]})


# Found and corrected -------------------------------------------------------------------------------------------------


def test_usage_that_came_late_after_20_days_is_found_and_corrected(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use_hours(customer, metric, {5: 10, 3 * DAY: 7})
    bill(world, 22)
    world.use(customer, metric, 30, "2.5")
    result = sweep(world)
    assert usage_requests(world) == 2, "one for the pair's days, one for the stretch"
    shown = told(result)
    assert (shown["days_compared"], shown["days_that_differ"], shown["days_read_by_hour"]) == (22, 1, 8)
    assert [record.data["Metronome"] for record in shown["findings"].records] == ["2.5"]
    assert world.events()[-1][2] != Decimal("2.5"), "the sweep itself plans nothing"
    (request,) = tick(world)
    assert request.job_name == "correct_usage"
    (corrected,) = correct(world)
    assert world.counted(customer, metric) == {5: 10, 30: Decimal("2.5"), 3 * DAY: 7}
    assert states(world) == ["planned"]
    assert partitions_of(corrected.all_events, ["solvimon", "usage_events"]) == [partition(30)], "what changed"
    assert usage_requests(world) == 2, "the hours were read by the sweep"
    assert tick(world) == []
    assert proofs(world, metric)[1] == (Decimal("2.5"), True, True)
    assert proofs(world, metric)[3] == (7, True, True), "a day of the same stretch"
    assert proofs(world, metric)[20] == (None, True, False)

    again = sweep(world)
    assert told(again)["days_that_differ"] == 0
    assert usage_requests(world) == 3


def test_usage_that_fell_or_vanished_is_taken_back(world: World) -> None:
    customer = world.customer()
    total, highest = world.metric("SUM"), world.metric("MAX", name="Peak")
    world.imported()
    for metric in (total, highest):
        world.use(customer, metric, 40, 5)
    gone = [world.use(customer, metric, 70, 8) for metric in (total, highest)]
    bill(world, 20)
    world.use(customer, total, 40, -2)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": gone})
    sweep(world)
    correct(world)
    assert world.counted(customer, total) == {40: 3}
    assert world.counted(customer, highest) == {40: 5}
    assert told(sweep(world))["days_that_differ"] == 0


def test_what_hides_in_days_that_agree_is_found_by_hour(world: World) -> None:
    customer = world.customer()
    total, highest = world.metric("SUM"), world.metric("MAX", name="Peak")
    world.imported()
    world.use_hours(customer, total, {40: 10, 41: 10})
    world.use_hours(customer, highest, {40: 9, 41: 4})
    bill(world, 20)
    world.use(customer, total, 40, 5)
    world.use(customer, total, 41, -5)
    world.use(customer, highest, 41, 6)
    assert told(sweep(world))["days_that_differ"] == 0
    world.metronome.forget_requests()
    result = sweep(world, "usage_by_hour")
    assert usage_requests(world) == 2 * 3, "a request for each pair and stretch of 8 days"
    assert told(result)["granularity"] == "hour"
    assert len(told(result)["findings"].records) == 2
    correct(world)
    assert world.counted(customer, total) == {40: 15, 41: 5}
    assert world.total(customer, highest) == 9
    assert world.counted(customer, highest) == {40: 9, 41: 4 + 6}, "a higher value needs no deletion"
    assert {by_hour for _, _, by_hour in proofs(world, total).values()} == {True}
    assert told(sweep(world, "usage_by_hour"))["findings"].records == []


def test_a_move_between_groups_is_found_by_hour_and_late_usage_of_a_group_by_day(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    customer, metric = world.customer(), world.metric("SUM", group_keys=[["region"]])
    world.imported()
    moving = world.use(customer, metric, 40, 10, region="eu")
    bill(world, 20, job="ingest_grouped_usage")
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [moving]})
    world.use(customer, metric, 40, 10, region="us")
    world.use(customer, metric, 300, 2, region="us")
    assert told(sweep(world))["days_that_differ"] == 1
    assert [request.job_name for request in tick(world)] == ["correct_grouped_usage"]
    correct(world)
    assert world.slices(customer, metric, 300) == {(("region", "us"),): 2}
    assert world.slices(customer, metric, 40) == {(("region", "eu"),): 10}
    sweep(world, "usage_by_hour")
    correct(world)
    assert world.slices(customer, metric, 40) == {(("region", "us"),): 10}
    assert told(sweep(world, "usage_by_hour"))["findings"].records == []


def test_an_alias_that_moved_beyond_35_days_is_found_by_the_deep_sweep_archived_or_not(world: World) -> None:
    left, joined = world.customer("Left", ingest_aliases=["shared"]), world.customer("Joined")
    metric = world.metric("SUM")
    world.imported()
    world.use("shared", metric, 70, 30)
    world.use(joined, metric, 71, 4)
    bill(world, 60)
    fields = {"archived_at": (START + timedelta(days=10)).isoformat()}
    world.customer("Left", id=left, ingest_aliases=["shared"], **fields)
    world.metric("SUM", id=metric, **fields)
    move_alias(world, "shared", left, joined)
    assert told(sweep(world))["days_that_differ"] == 0
    world.metronome.forget_requests()
    result = sweep(world, "closed_periods")
    assert told(result)["days_that_differ"] == 2
    assert told(result)["days_compared"] == 2 * 25
    assert usage_requests(world) == 4
    correct(world)
    assert world.counted(left, metric) == {}
    assert world.counted(joined, metric) == {70: 30, 71: 4}


def test_the_brake_holds_what_it_concerns_and_the_difference_is_no_news_the_next_day(world: World) -> None:
    left, joined, other = world.customer("Left", ingest_aliases=["shared"]), world.customer("Joined"), world.customer()
    metric = world.metric("SUM")
    world.imported()
    world.use("shared", metric, 70, 3_000)
    for each in (left, joined, other):
        world.use(each, metric, 90, 1_000)
    bill(world, 20)
    move_alias(world, "shared", left, joined)
    world.use(other, metric, 100, 5)
    sweep(world)
    correct(world)
    assert world.counted(other, metric) == {90: 1_000, 100: 5}
    assert world.counted(left, metric) == {70: 3_000, 90: 1_000}
    assert world.counted(joined, metric) == {90: 1_000}
    assert world.sql("SELECT count(*) FROM ledger.brakes") == [(2,)]
    assert states(world) == ["planned"] * 3, "what is held is noted, and every hourly run plans that"
    world.metronome.forget_requests()
    again = sweep(world)
    assert (told(again)["days_that_differ"], told(again)["days_that_wait"]) == (2, 2)
    assert usage_requests(world) == 3, "their hours are known"
    assert tick(world) == []


def test_metrics_whose_days_do_not_compare_are_held_against_the_day_that_was_last_opened(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    world.environment["METRIC_CALCULATIONS"] = json.dumps({metric: "SUM"})
    world.imported()
    world.use_hours(customer, metric, {40: "a", 41: "a"})
    bill(world, 20)
    first = sweep(world)
    assert (told(first)["days_that_differ"], told(first)["findings"].records) == (20, []), "nothing to compare with yet"
    assert usage_requests(world) == 1 + 3
    world.metronome.forget_requests()
    assert told(sweep(world))["days_that_differ"] == 0
    assert usage_requests(world) == 1
    world.use(customer, metric, 42, "b")
    assert told(sweep(world))["days_that_differ"] == 1
    correct(world)
    assert world.counted(customer, metric) == {40: 1, 41: 1, 42: 1}
    assert told(sweep(world))["days_that_differ"] == 0


def test_nothing_from_before_a_cut_over_in_the_middle_of_a_day_is_found(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.environment["USAGE_START"] = (START + timedelta(hours=30)).isoformat()
    world.imported()
    world.use_hours(customer, metric, {29: 100, 31: 10, 60: 1})
    world.at(START + timedelta(days=12, minutes=30))
    assert world.ingest(30, 12 * DAY - 1).success
    world.use(customer, metric, 28, 1)
    for days in (1, 0):
        result = sweep(world)
        assert (told(result)["days_that_differ"], told(result)["findings"].records) == (days, [])
    world.use(customer, metric, 28, 1)
    world.use(customer, metric, 32, 2)
    sweep(world)
    correct(world)
    assert world.counted(customer, metric) == {31: 10, 32: 2, 60: 1}
    sweep(world, "usage_by_hour")
    assert tick(world) == []


# Cost ----------------------------------------------------------------------------------------------------------------


def test_1000_pairs_over_34_days_cost_a_request_each_and_one_more_for_what_changed(world: World) -> None:
    customers = [world.customer(f"Customer {number}") for number in range(100)]
    metrics = [world.metric("SUM", name=f"Metric {number}") for number in range(10)]
    world.imported()
    for customer in customers:
        world.use(customer, metrics[0], 30 * DAY, 3)
    world.at(START + timedelta(days=34, minutes=30))
    # A week is enough for every pair to be due; the days before it were never read and have no usage.
    billed = world.ingest(27 * DAY, 34 * DAY - 1)
    assert billed.success, failure(billed)
    world.metronome.forget_requests()
    shown = told(sweep(world))
    assert (shown["pairs"], shown["days_that_differ"]) == (1_000, 0)
    assert shown["days_compared"] == 34_000
    assert usage_requests(world) == 1_000
    assert sum(world.metronome.requests().values()) <= 1_000 + 20

    for customer in customers[:7]:
        for hour in (2 * DAY, 3 * DAY, 20 * DAY):
            world.use(customer, metrics[1], hour, 1)
    world.metronome.forget_requests()
    shown = told(sweep(world))
    assert shown["days_that_differ"] == 7 * 3
    assert usage_requests(world) == 1_000 + 7 * 2, "days 2 and 3 are one stretch"
    assert sum(world.metronome.requests().values()) <= 1_000 + 7 * 2 + 20
    assert len(shown["findings"].records) == 7 * 2


def test_a_change_in_the_last_8_days_costs_the_hourly_run_no_request(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 3 * DAY, 10)
    bill(world, 10)

    def hourly(hour: int) -> dict[str, int]:
        world.metronome.forget_requests()
        world.at(START + timedelta(hours=hour + 1, minutes=30))
        assert world.ingest(hour, hour, config={"look_back_days": 8, "fill_gaps": True}).success
        return world.metronome.requests()

    ordinary = hourly(10 * DAY)
    world.use(customer, metric, 5 * DAY, 4)
    assert hourly(10 * DAY + 1) == ordinary
    assert ordinary[USAGE] == 1
    assert world.counted(customer, metric) == {3 * DAY: 10, 5 * DAY: 4}


# Cut short -----------------------------------------------------------------------------------------------------------


def several(world: World, count: int = 12) -> tuple[list[str], str]:
    """Customers with usage that is billed, and changed since."""
    customers, metric = [world.customer(f"Customer {number}") for number in range(count)], world.metric("SUM")
    world.imported()
    for customer in customers:
        world.use(customer, metric, 40, 10)
    bill(world, 12)
    for customer in customers:
        world.use(customer, metric, 50, 1)
    return customers, metric


def assert_all_corrected(world: World, customers: list[str], metric: str) -> None:
    correct(world)
    for customer in customers:
        assert world.counted(customer, metric) == {40: 10, 50: 1}


def test_a_sweep_that_was_killed_goes_on_with_its_window_and_asks_only_the_rest(world: World) -> None:
    customers, metric = several(world)
    sweep_and_die(world, walks=5)
    done = world.sql("SELECT count(*) FROM ledger.sweep_pairs WHERE done_at IS NOT NULL")[0][0]
    assert 1 <= done <= 5
    # The next morning, but less than a day later.
    world.at(START + timedelta(days=13, minutes=20))
    world.metronome.forget_requests()
    shown = told(sweep(world))
    assert shown["resumed"]
    assert shown["window"] == "2026-01-05 00:00 to 2026-01-17 00:00 UTC", "as it began"
    assert usage_requests(world) == (12 - done) + 12, "the rest by day, and every stretch that differs"
    assert world.sql("SELECT outcome FROM ledger.sweeps") == [("complete",)]
    assert_all_corrected(world, customers, metric)
    assert told(sweep(world))["resumed"] is False


def test_a_sweep_in_an_outage_keeps_what_was_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    customers, metric = several(world)
    monkeypatch.setattr(http, "RetryPolicy", partial(RetryPolicy, attempts=1))
    world.metronome.faults({"path": "/v1/usage", "method": "POST", "kind": "status_503", "after": 4})
    # One after the other: of several at once, those that were answered and not yet stored are asked for again.
    down = world.run("sweep_usage", METRONOME_REQUESTS_IN_FLIGHT="1")
    assert not down.success
    assert "the next run of this kind goes on from there" in failure(down)
    assert world.sql("SELECT count(*) FROM ledger.sweep_pairs WHERE done_at IS NOT NULL") == [(4,)]
    world.metronome.faults()
    world.metronome.forget_requests()
    assert told(sweep(world))["resumed"]
    assert usage_requests(world) == 8 + 12
    assert_all_corrected(world, customers, metric)


def test_a_sweep_that_nobody_resumed_for_a_day_is_given_up_and_listed(world: World) -> None:
    customers, metric = several(world, 3)
    world.metronome.faults({"path": "/v1/usage", "method": "POST", "kind": "status_401"})
    assert not world.run("sweep_usage").success
    world.metronome.faults()
    world.at(START + timedelta(days=13, minutes=40))
    shown = told(sweep(world))
    assert not shown["resumed"]
    assert world.sql("SELECT sweep_id, outcome FROM ledger.sweeps ORDER BY sweep_id") == [
        (1, "incomplete"),
        (2, "complete"),
    ]
    assert world.sql("SELECT sweep_id, count(*) FROM ledger.sweep_pairs GROUP BY sweep_id") == [(1, 3)]
    assert_all_corrected(world, customers, metric)


def test_a_second_sweep_says_which_run_is_sweeping_and_does_nothing(world: World) -> None:
    several(world, 1)
    pair_id = world.sql("SELECT pair_id FROM ledger.account_pairs")[0][0]
    world.sql(
        "INSERT INTO ledger.sweeps (pair_id, kind, start_at, end_at, run_id) VALUES (%s, 'usage', %s, %s, 'the-first')",
        pair_id,
        START,
        START + timedelta(days=1),
    )
    with psycopg.connect(world.database_url, autocommit=True) as first:
        first.execute("SELECT pg_advisory_lock(%s, %s)", [SWEEP_LOCK, pair_id])
        result = sweep(world, "usage_by_hour")
    assert result.get_asset_materialization_events() == []
    assert sum(world.metronome.requests().values()) == 0
    logs = [event.user_message for event in world.instance.all_logs(result.run_id)]
    assert any("Run the-first is sweeping" in log for log in logs)


# What cannot be done -------------------------------------------------------------------------------------------------


def test_a_pair_that_cannot_be_read_is_listed_and_fails_the_run_after_everything_else(world: World) -> None:
    good, bad, metric = world.customer("Good"), world.customer("Bad"), world.metric("SUM")
    world.imported()
    for customer in (good, bad):
        world.use(customer, metric, 40, 10)
    bill(world, 12)
    world.use(good, metric, 41, 1)
    world.use(bad, metric, 41, "1" * 120)
    result = world.run("sweep_usage")
    assert not result.success
    assert f"customer {bad}" in failure(result)
    assert told(result)["unread"] == 1
    assert world.sql("SELECT customer_id::text FROM ledger.sweep_pairs WHERE unread IS NOT NULL") == [(bad,)]
    correct(world)
    assert world.counted(good, metric) == {40: 10, 41: 1}
    assert world.counted(bad, metric) == {40: 10}


def test_a_partial_read_of_hours_plans_nothing(world: World) -> None:
    customers, metric = several(world, 2)
    world.metronome.faults({"path": "/v1/usage", "method": "POST", "kind": "duplicate_page", "after": 2})
    world.metronome.set(rows_per_page=40)
    result = world.run("sweep_usage")
    assert not result.success
    assert "nothing was found or planned from them" in failure(result)
    assert told(result)["days_read_by_hour"] == 0
    assert tick(world) == []
    world.metronome.faults()
    sweep(world)
    assert_all_corrected(world, customers, metric)


def test_a_correction_that_failed_is_requested_again_under_another_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    customers, metric = several(world, 1)
    sweep(world)
    world.solvimon.faults({"path": "/v1/events*", "method": "POST", "kind": "status_401"})
    (first,) = tick(world)
    (same,) = tick(world)
    assert first.run_key == same.run_key, "until the run is there, the same findings have the same key"
    failed = world.run("correct_usage", config=first.run_config, tags=first.tags)
    assert not failed.success
    assert states(world) == ["open"]
    assert tick(world) == [], "it failed just now"
    monkeypatch.setattr(findings, "AGAIN_AFTER", timedelta(0))
    (second,) = tick(world)
    assert second.run_key != first.run_key
    assert second.run_key is not None
    assert second.run_key.endswith("attempt 2")
    world.solvimon.faults()
    assert_all_corrected(world, customers, metric)
    assert world.sql("SELECT attempts FROM ledger.findings") == [(2,)]
    assert tick(world) == []


def test_a_finding_in_a_slot_that_waits_in_quarantine_is_left_to_the_hourly_runs(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 40, 10)
    meter = world.solvimon.call("GET", f"/v1/meters/{metric}")
    world.solvimon.call("PATCH", f"/v1/meters/{meter['id']}", {"status": "ARCHIVED"})
    bill(world, 12)
    assert [state for *_, state in world.events()] == ["quarantined"]
    world.use(customer, metric, 40, 1)
    sweep(world)
    correct(world)
    assert states(world) == ["planned"]
    assert world.sql("SELECT start_at FROM ledger.unsettled_hours") == [(START + timedelta(hours=40),)]
    assert len(world.events()) == 1
    sweep(world)
    assert tick(world) == [], "it is known"


def test_a_finding_of_a_metric_that_is_not_billed_that_way_any_more_is_void(world: World) -> None:
    several(world, 1)
    sweep(world)
    world.sql("UPDATE ledger.findings SET slicing = '[\"region\"]'")
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    correct(world)
    assert states(world) == ["void"]


def test_findings_of_a_workflow_that_was_switched_off_are_void(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    customer, metric = world.customer(), world.metric("SUM", group_keys=[["region"]])
    world.imported()
    bill(world, 12, job="ingest_grouped_usage")
    world.use(customer, metric, 40, 10, region="us")
    sweep(world)
    world.environment["GROUPED_USAGE_ENABLED"] = "false"
    correct(world)
    assert states(world) == ["void"]
    assert tick(world) == []


def test_another_account_pair_is_left_alone(world: World) -> None:
    customers, metric = several(world, 1)
    world.sql("UPDATE ledger.account_pairs SET metronome_environment = 'other'")
    world.imported()
    assert told(sweep(world))["pairs"] == 0
    assert tick(world) == []
    assert uuid.UUID(customers[0])
    assert uuid.UUID(metric)
