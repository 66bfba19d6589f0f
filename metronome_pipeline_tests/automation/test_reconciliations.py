"""The daily schedule of the reconciliation: which days a tick requests."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg

from metronome_pipeline.automation.reconciliations import ranges_of
from metronome_pipeline.mapping.periods import DAY
from metronome_pipeline_tests.automation.test_schedules import FIRST, LAST, tick, waiting_run
from metronome_pipeline_tests.world import START, World, failure, partition, partitions_of

KEY = ["solvimon", "reconciliation"]


def day(number: int) -> str:
    return (START + number * DAY).strftime("%Y-%m-%d")


def at(number: int) -> datetime:
    """The tick of the night after a day, counted from START."""
    return START + (number + 1) * DAY + timedelta(hours=2, minutes=30)


def requested(world: World, number: int, **variables: str) -> list[tuple[str, str]]:
    found = tick(world, at(number), schedule="daily_reconciliation", **variables).run_requests or []
    return [(request.tags[FIRST], request.tags[LAST]) for request in found]


def reported(world: World, key: list[str], keys: Iterable[str]) -> None:
    for each in keys:
        world.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=each))


def test_the_last_eight_days_are_compared_each_night_and_older_ones_once_they_are_ingested(world: World) -> None:
    assert requested(world, 0) == [(day(0), day(0))]
    assert requested(world, 7) == [(day(0), day(7))]
    assert requested(world, 20) == [(day(13), day(20))], "what was not ingested is left to the hourly schedule"
    reported(world, ["solvimon", "usage_events"], [partition(hour) for hour in range(24, 13 * 24)])
    assert requested(world, 20) == [(day(1), day(20))], "the first day lacks its hours"
    reported(world, KEY, [day(number) for number in range(1, 5)])
    assert requested(world, 20) == [(day(5), day(20))]
    reported(world, KEY, [day(number) for number in range(5, 21)])
    assert requested(world, 20) == [(day(13), day(20))], "the last eight in any case"


def test_days_that_a_run_is_doing_are_left_out_and_older_ones_that_failed_wait_for_a_day(world: World) -> None:
    selection = [KEY]
    run_id = waiting_run(world, 0, 0, job="reconcile", assets=selection)
    world.instance.add_run_tags(run_id, {"dagster/partition": day(20)})
    assert requested(world, 20) == [(day(13), day(19))]


def test_a_range_is_cut_from_its_newest_day_backwards() -> None:
    days = [START + number * DAY for number in (0, 1, 2, 5, 6)]
    assert ranges_of(days, longest=2) == [(days[3], days[4]), (days[1], days[2]), (days[0], days[0])]


def test_the_first_hours_of_a_cut_over_have_no_closed_day_and_requests_run(world: World) -> None:
    assert requested(world, -1) == []
    world.customer(), world.metric()
    world.imported()
    assert world.ingest(0, 23).success
    (request,) = tick(world, at(0), schedule="daily_reconciliation").run_requests or []
    result = world.run("reconcile", config=request.run_config, tags=request.tags)
    assert result.success, failure(result)
    assert partitions_of(result.all_events, KEY) == [day(0)]
    assert at(0).tzinfo is UTC
