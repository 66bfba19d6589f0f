"""Idle pairs take turns, through real runs: what is read in which hour, and that nothing is lost by it."""

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from metronome_pipeline_tests.world import START, World, failure, metadata, partition, partitions_of

EVENTS = ["solvimon", "usage_events"]
USAGE = "POST /v1/usage"
SHARE = "USAGE_HOURLY_SHARE"
THREE = "0.00000085"
"""The share of 3,600,000 requests an hour that allows three."""
TICK = {"look_back_days": 8, "fill_gaps": True, "take_turns": True}
CHECK = "every_pair_is_read_within_a_day"


@pytest.fixture
def world(world: World) -> World:
    world.environment[SHARE] = THREE
    return world


def tick(world: World, hour: int, first: int | None = None, **variables: str) -> dg.ExecuteInProcessResult:
    """The run of an hour, and of those since ``first`` that are not done yet."""
    world.metronome.forget_requests()
    return world.ingest(hour if first is None else first, hour, config=TICK, **variables)


def asked(world: World) -> int:
    return world.metronome.requests().get(USAGE, 0)


def check_of(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    return next(check for check in result.get_asset_check_evaluations() if check.check_name == CHECK)


def settled(world: World) -> tuple[list[str], str]:
    """Seven customers that were read up to hour 7. The first had usage."""
    people, metric = [world.customer(f"Customer {number}") for number in range(7)], world.metric("SUM")
    world.imported()
    world.use(people[0], metric, 3, 1)
    assert world.ingest(0, 7).success
    return people, metric


def unread_since(world: World, hour: int) -> list[str]:
    rows = world.sql(
        "SELECT customer_id::text FROM metronome.coverage WHERE upper(covered) = %s", START + timedelta(hours=hour)
    )
    return [customer for (customer,) in rows]


def test_active_usage_arrives_in_the_very_run_and_an_idle_pairs_at_its_turn(world: World) -> None:
    people, metric = settled(world)
    world.use(people[0], metric, 8, 5)
    first = tick(world, 8)
    assert first.success, failure(first)
    assert asked(world) == 3
    assert world.counted(people[0], metric) == {3: 1, 8: 5}
    assert partitions_of(first.all_events, EVENTS) == [partition(8)]
    shown = metadata(first, "metronome", "usage")
    assert {name: shown[name] for name in shown if name.startswith(("pairs", "longest", "every"))} == {
        "pairs_due": 7,
        "pairs_with_usage_of_late": 1,
        "pairs_read": 3,
        "pairs_waiting": 4,
        "longest_wait_hours": 1.0,
        "every_pair_within_hours": 3.0,
    }
    waiting = unread_since(world, 8)
    assert len(waiting) == 4
    for customer in waiting:
        world.use(customer, metric, 8, 7)
    world.use(people[0], metric, 9, 5)
    second = tick(world, 9)
    assert asked(world) == 3
    assert world.counted(people[0], metric) == {3: 1, 8: 5, 9: 5}
    assert sum(world.counted(customer, metric) == {8: 7} for customer in waiting) == 2
    assert partitions_of(second.all_events, EVENTS) == [partition(8), partition(9)], "they woke up in hour 8"
    assert check_of(second).passed
    # Three are active now, and all three requests are theirs: the others wait for longer, and are not forgotten.
    tick(world, 10, USAGE_HOURLY_SHARE="0.0000015")
    assert asked(world) == 5
    assert all(world.counted(customer, metric) == {8: 7} for customer in waiting)
    assert world.sql("SELECT count(*) FROM metronome.turns") == [(0,)]


def test_everything_is_read_where_it_fits_and_where_a_person_asks_for_it(world: World) -> None:
    settled(world)
    tick(world, 8)
    for hour, config, variables in ((9, {}, {}), (10, {"look_back_days": 8}, {}), (11, TICK, {SHARE: "0.6"})):
        world.metronome.forget_requests()
        result = world.ingest(hour, hour, config=config, **variables)
        assert result.success
        assert asked(world) == 7
        assert "pairs_due" not in metadata(result, "metronome", "usage")
        assert check_of(result).passed
        assert world.sql("SELECT count(*) FROM metronome.rotations") == [(hour < 11,)], "nobody has to wait any more"


def test_hours_that_wait_are_no_gaps_and_those_of_a_newcomer_are(world: World) -> None:
    _, metric = settled(world)
    newcomer = world.customer("Newcomer", id="00000000-0000-4000-8000-000000000000")
    world.use(newcomer, metric, 1, 9)
    # Nobody was read for over 8 days, so all count as new, and nobody's hours but the newcomer's were reported as done.
    result = tick(world, 8 * 24 + 20)
    assert result.success, failure(result)
    assert world.counted(newcomer, metric) == {1: 9}
    assert asked(world) == 3 + 1, "its first day is filled in by the run that met it, and nobody else's"


def test_a_pair_that_cannot_be_read_fails_its_run_by_name_and_not_the_next_one(world: World) -> None:
    settled(world)
    world.metronome.faults({"path": "/v1/usage", "kind": "repeated_cursor", "rate": 1})
    result = tick(world, 8)
    assert "3 walks of usage did not complete" in failure(result)
    assert partitions_of(result.all_events, EVENTS) == []
    world.metronome.faults()
    failed = {row[0] for row in world.sql("SELECT customer_id::text FROM metronome.turns WHERE failures = 1")}
    assert len(failed) == 3
    result = tick(world, 9, first=8)
    assert result.success, failure(result)
    assert partitions_of(result.all_events, EVENTS) == [partition(8), partition(9)]
    assert asked(world) == 3
    # The active one is tried at once, the two others are at the end of the line.
    assert len(failed & set(unread_since(world, 8))) == 2
    assert world.sql("SELECT count(*) FROM metronome.turns") == [(2,)]
    # The active one is read before the others. Its three attempts take two requests each.
    world.metronome.faults({"path": "/v1/usage", "kind": "repeated_cursor", "rate": 1, "times": 6})
    result = tick(world, 10)
    assert "1 walks of usage did not complete" in failure(result)
    assert partitions_of(result.all_events, EVENTS) == [], "an hour is done once all that were chosen were read"


def test_both_workflows_by_hour_share_the_requests(world: World) -> None:
    people = [world.customer(f"Customer {number}") for number in range(4)]
    world.metric("SUM")
    sliced = world.metric("SUM", name="Sliced", group_keys=[["region"]])
    on: dict[str, Any] = {"GROUPED_USAGE_ENABLED": "true"}
    world.imported(**on)
    world.use(people[0], sliced, 3, 1, region="eu")
    for job in ("ingest_usage", "ingest_grouped_usage"):
        assert world.ingest(0, 7, job=job, USAGE_HOURLY_SHARE="0.6", **on).success
    # 4 for the one, 4 and a page of groups for the other, of 7 requests in all.
    world.use(people[0], sliced, 8, 2, region="us")
    on[SHARE] = "0.000002"
    tick(world, 8, **on)
    assert asked(world) == 3
    world.metronome.forget_requests()
    result = world.ingest(8, 8, job="ingest_grouped_usage", config=TICK, **on)
    assert result.success, failure(result)
    assert world.counted(people[0], sliced) == {3: 1, 8: 2}
    assert sum(count for path, count in world.metronome.requests().items() if "usage" in path) == 3


def test_a_sweep_reads_the_hours_that_wait_before_anything_is_planned_from_them(world: World) -> None:
    world.at(START + timedelta(hours=8, minutes=30))
    people, metric = settled(world)
    world.at(START + timedelta(hours=23, minutes=50))
    tick(world, 22)
    sleeper = next(customer for customer in unread_since(world, 8) if customer != people[0])
    world.use(sleeper, metric, 20, 6)
    world.at(START + timedelta(days=1, hours=2, minutes=30))
    swept = world.run("sweep_usage")
    assert swept.success, failure(swept)
    definitions = world.definitions()
    sensor = definitions.resolve_sensor_def("sweep_findings")
    with dg.build_sensor_context(instance=world.instance, resources=definitions.resources) as context:
        (request,) = sensor.evaluate_tick(context).run_requests or []
    assert request.job_name is not None
    assert world.run(request.job_name, config=request.run_config, tags=request.tags).success
    assert world.counted(sleeper, metric) == {20: 6}
    assert tick(world, 24).success
    assert world.counted(sleeper, metric) == {20: 6}, "its own turn finds nothing new"


def test_the_reconciliation_of_a_night_does_not_call_hours_that_wait_a_gap(world: World) -> None:
    world.at(START + timedelta(hours=8, minutes=30))
    settled(world)
    tick(world, 8)
    world.at(START + timedelta(days=1, hours=2, minutes=30))
    world.ingest(9, 23, config=TICK)
    day = {"dagster/partition": START.strftime("%Y-%m-%d")}

    def complete() -> bool:
        checks = world.run("reconcile", tags=day).get_asset_check_evaluations()
        return next(check.passed for check in checks if check.check_name == "complete")

    assert unread_since(world, 8)
    assert complete()
    world.sql("UPDATE metronome.rotations SET until_at = until_at + interval '9 hours'")
    assert not complete(), "24 hours after the first of them it is one"
