"""Ingest usage with properties, through real runs: groups arrive as properties, totals agree, nothing counts twice."""

import json
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from metronome_pipeline.ledger.slicings import switch_slicing
from metronome_pipeline.mapping.usage import slicing_of
from metronome_pipeline.storage.database import Database
from metronome_pipeline_tests.world import World, failure, partition, partitions_of

JOB = "ingest_grouped_usage"
EVENTS = ["solvimon", "grouped_usage_events"]
Slices = dict[tuple[tuple[str, str], ...], Any]


@pytest.fixture
def world(world: World) -> World:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    return world


def grouped(world: World, first: int = 0, last: int = 3, **variables: str) -> dg.ExecuteInProcessResult:
    settings: Any = variables
    result = world.ingest(first, last, job=JOB, **settings)
    assert result.success, failure(result)
    return result


def posts(world: World) -> int:
    return sum(count for endpoint, count in world.solvimon.requests().items() if not endpoint.startswith("GET"))


def check(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    return next(each for each in result.get_asset_check_evaluations() if each.check_name == name)


def region(name: str | None) -> tuple[tuple[str, str], ...]:
    return () if name is None else (("region", name),)


def switch(world: World, metric: str, *group_key: str) -> None:
    with Database(world.database_url) as database, database.transaction() as connection:
        switch_slicing(connection, 1, metric, slicing_of(group_key), by="a person")


def slicings(slicing: dict[str, list[str]]) -> str:
    return json.dumps(slicing)


def test_groups_arrive_as_properties_and_follow_every_change(world: World) -> None:
    customer = world.customer()
    metric = world.metric("SUM", group_keys=[["region"]])
    compound = world.metric("COUNT", name="Jobs", group_keys=[["region", "data center"], ["region"]])
    plain = world.metric("SUM", name="Plain")
    world.imported()
    for value, properties in (("1.5", {"region": "eu"}), (2, {"region": "us west"}), (4, {}), (8, {"region": ""})):
        world.use(customer, metric, 1, value, **properties)
    moving = world.use(customer, metric, 2, 10, region="eu")
    leaving = world.use(customer, metric, 3, 5, region="gone")
    for properties in ({"region": "eu", "data center": "a b"}, {"region": "eu"}, {"data center": "a b"}, {}, {}):
        world.use(customer, compound, 1, 1, **properties)
    world.use(customer, plain, 1, 3, region="eu")
    result = grouped(world)
    assert partitions_of(result.all_events, EVENTS) == [partition(hour) for hour in range(4)]
    assert check(result, "groups_add_up").passed
    assert world.slices(customer, metric, 1) == {
        region("eu"): Decimal("1.5"),
        region("us west"): 2,
        region(None): 4,
        region(""): 8,
    }
    spaced = ("data%20center", "a b")
    assert world.slices(customer, compound, 1) == {(spaced, ("region", "eu")): 1, region("eu"): 1, (spaced,): 1, (): 2}
    assert world.counted(customer, plain) == {}, "a metric without group keys is of the other workflow"
    assert world.ingest(0, 3).success
    assert world.counted(customer, plain) == {1: 3}
    assert {m: world.total(customer, m) for m in (metric, compound)} == {metric: Decimal("30.5"), compound: 5}

    world.solvimon.forget_requests()
    grouped(world)
    assert world.ingest(0, 3).success
    assert posts(world) == 0

    world.use(customer, metric, 1, "0.25", region="us west")
    world.use(customer, metric, 1, -1)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [moving, leaving]})
    world.use(customer, metric, 2, 10, region="ap")
    grouped(world)
    assert world.slices(customer, metric, 1) == {
        region("eu"): Decimal("1.5"),
        region("us west"): Decimal("2.25"),
        region(None): 3,
        region(""): 8,
    }
    assert world.slices(customer, metric, 2) == {region("ap"): 10}
    assert world.slices(customer, metric, 3) == {}
    corrections = world.sql(
        "SELECT properties ->> 'region', revision, number FROM ledger.events_v1 WHERE kind = 'correction' "
        "ORDER BY start_at, properties ->> 'region'"
    )
    assert corrections == [("us west", 1, Decimal("0.25")), (None, 1, -1), ("eu", 1, -10), ("gone", 1, -5)]
    assert {state for *_, state in world.events()} == {"delivered"}


def test_the_workflow_is_off_until_it_is_enabled_and_an_undeclared_key_is_refused_by_name(world: World) -> None:
    customer = world.customer()
    metric = world.metric("SUM", group_keys=[["region"], ["team"]])
    other = world.metric("SUM", name="Other", group_keys=[["team"]])
    world.imported()
    for each in (metric, other):
        world.use(customer, each, 1, 3, region="eu", team="a")
    off = world.ingest(0, 3, job=JOB, GROUPED_USAGE_ENABLED="false")
    assert not off.success
    assert "GROUPED_USAGE_ENABLED" in failure(off)
    assert partitions_of(off.all_events, EVENTS) == []

    result = grouped(world, METRIC_SLICINGS=slicings({metric: ["region", "team"]}))
    refused = check(result, "every_metric_is_billed")
    assert not refused.passed
    assert metric in str(refused.metadata["list"].value)
    assert '["region"], ["team"], ungrouped' in str(refused.metadata["list"].value)
    assert world.counted(customer, metric) == {}
    assert world.slices(customer, other, 1) == {(("team", "a"),): 3}

    grouped(world, METRIC_SLICINGS=slicings({metric: ["team"]}))
    assert world.slices(customer, metric, 1) == {(("team", "a"),): 3}, "a setting that was wrong binds nothing"
    disagreeing = grouped(world)
    assert not check(disagreeing, "every_metric_is_billed").passed
    assert world.slices(customer, metric, 1) == {(("team", "a"),): 3}


def test_groups_that_are_cut_short_lower_nothing_and_the_rest_makes_the_total_exact(world: World) -> None:
    customer = world.customer()
    summed = world.metric("SUM", group_keys=[["region", "team"]])
    highest = world.metric("MAX", name="Peak", group_keys=[["region", "team"]])
    world.imported()
    for number in range(5):
        for metric in (summed, highest):
            world.use(customer, metric, 1, 10 + number, region=f"r{number}", team="a")
    grouped(world)
    whole = world.slices(customer, summed, 1)
    assert len(whole) == 5
    assert [world.total(customer, summed), world.total(customer, highest)] == [60, 14]

    for number in range(5):
        world.use(customer, summed, 1, 1, region=f"r{number}", team="a")
    for metric in (summed, highest):
        world.use(customer, metric, 1, 100, region="new", team="a")
        world.use(customer, metric, 2, 7, region="r0", team="a")
    world.metronome.set(max_compound_groups=2)
    world.metronome.forget_requests()
    short = grouped(world)
    assert world.metronome.requests()["POST /v1/usage/groups"] <= 4, "two reads of each pair"
    assert not check(short, "groups_add_up").passed
    now = world.slices(customer, summed, 1)
    assert all(now[group] >= value for group, value in whole.items())
    assert now[()] > 0
    assert [world.total(customer, summed), world.total(customer, highest)] == [172, 100]
    listed = world.sql("SELECT metric_id::text, total FROM metronome.short_groups WHERE start_at = '2026-01-05T01:00Z'")
    assert (summed, Decimal(165)) in listed
    assert world.ingest(0, 3, job=JOB).success
    assert world.slices(customer, summed, 1) == now

    world.metronome.set(max_compound_groups=None)
    assert check(grouped(world), "groups_add_up").passed
    assert world.slices(customer, summed, 1) == {
        **{group: value + 1 for group, value in whole.items()},
        (("region", "new"), ("team", "a")): 100,
    }
    assert [world.total(customer, summed), world.total(customer, highest)] == [172, 100]
    assert () not in world.slices(customer, highest, 1)
    assert world.sql("SELECT count(*) FROM metronome.short_groups") == [(0,)]


def test_a_switch_of_slicing_is_asked_for_and_no_total_ever_changes(world: World) -> None:
    customer = world.customer()
    keys = [["region"], ["region", "team"]]
    summed = world.metric("SUM", group_keys=keys)
    highest = world.metric("MAX", name="Peak", group_keys=keys)
    other = world.metric("SUM", name="Other", group_keys=[["region"]])
    world.imported()
    metrics = (summed, highest)
    for metric in (*metrics, other):
        for hour in (1, 2, 30):
            for value, where, team in ((1000, "eu", "a"), (300, "eu", "b"), (200, "us", "a")):
                world.use(customer, metric, hour, value, region=where, team=team)

    def totals() -> list[Decimal | None]:
        return [world.total(customer, metric) for metric in metrics]

    def ingest_ungrouped() -> dg.ExecuteInProcessResult:
        listed = ",".join(metrics)
        result = world.ingest(0, 30, GROUPED_USAGE_ENABLED="false", USAGE_METRICS=listed)
        assert result.success, failure(result)
        return result

    ingest_ungrouped()
    assert totals() == [4500, 1000]

    refused = grouped(world)
    names = str(check(refused, "every_metric_is_billed").metadata["list"].value)
    assert all(metric in names and "slicing switch" in names for metric in metrics)
    assert totals() == [4500, 1000]
    assert world.slices(customer, other, 1) == {region("eu"): 1300, region("us"): 200}, "and the rest is done"

    for metric in metrics:
        switch(world, metric, "region")
    grouped(world, 0, 3)
    assert world.slices(customer, summed, 1) == {region("eu"): 1300, region("us"): 200}
    assert world.slices(customer, highest, 1) == {region("eu"): 1000, region("us"): 200}
    assert world.slices(customer, summed, 30) == {(): 1500}, "not read since: as it was"
    assert totals() == [4500, 1000]
    grouped(world, 0, 30)
    assert world.slices(customer, summed, 30) == {region("eu"): 1300, region("us"): 200}
    assert totals() == [4500, 1000]
    stale = ingest_ungrouped()
    assert not check(stale, "every_metric_is_billed").passed
    assert totals() == [4500, 1000]

    chosen = slicings({metric: ["region", "team"] for metric in metrics})
    for metric in metrics:
        switch(world, metric, "region", "team")
    grouped(world, 0, 30, METRIC_SLICINGS=chosen)
    eu_b = (("region", "eu"), ("team", "b"))
    assert world.slices(customer, summed, 2)[eu_b] == 300
    assert set(world.slices(customer, highest, 2)) == {
        eu_b,
        (("region", "eu"), ("team", "a")),
        (("region", "us"), ("team", "a")),
    }
    assert totals() == [4500, 1000]

    for metric in metrics:
        switch(world, metric)
    ingest_ungrouped()
    assert world.slices(customer, summed, 30) == {(): 1500}
    assert world.slices(customer, highest, 30) == {(): 1000}
    assert totals() == [4500, 1000]
    assert world.sql("SELECT count(*) FROM ledger.brakes") == [(0,)]
    world.solvimon.forget_requests()
    ingest_ungrouped()
    assert posts(world) == 0


@pytest.mark.parametrize("job", [JOB, "ingest_usage"])
def test_a_pair_that_cannot_be_read_is_named_and_all_the_others_are_done(world: World, job: str) -> None:
    customers = [world.customer(f"Customer {number}") for number in range(3)]
    keys = [["region"]] if job == JOB else []
    metrics = [world.metric("SUM", name=f"Metric {number}", group_keys=keys) for number in range(2)]
    world.imported()
    for customer in customers:
        for metric in metrics:
            world.use(customer, metric, 1, 5, region="eu")
    wrong = world.use(customers[1], metrics[0], 2, "9" * 101, region="eu")
    result = world.ingest(0, 3, job=job)
    assert not result.success
    assert "1 walks of usage did not complete" in failure(result)
    assert customers[1] in failure(result)
    assert metrics[0] in failure(result)
    assert "over 100 digits" in failure(result)
    done = {(c, m): world.counted(c, m) for c in customers for m in metrics}
    assert done == {(c, m): {} if (c, m) == (customers[1], metrics[0]) else {1: 5} for c, m in done}
    assert [event for event in result.all_events if event.is_step_materialization] == [], "no hour is done"
    assert world.sql("SELECT count(*) FROM metronome.staged_usage") == [(0,)]
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [wrong]})
    assert world.ingest(0, 3, job=job).success
    assert world.counted(customers[1], metrics[0]) == {1: 5}


def test_a_group_that_cannot_be_stored_is_billed_in_the_rest_and_reported(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM", group_keys=[["region"]])
    world.imported()
    world.use(customer, metric, 1, 5, region="eu")
    world.use(customer, metric, 1, 3, region="a\0b")
    result = grouped(world)
    assert world.slices(customer, metric, 1) == {region("eu"): 5, (): 3}
    assert not check(result, "groups_add_up").passed
    world.use(customer, metric, 1, -3, region="a\0b")
    grouped(world)
    assert world.slices(customer, metric, 1) == {region("eu"): 5}
