"""The daily schedule of usage by period to date: evaluated ticks, and what becomes of the runs that they request."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from metronome_pipeline.automation.daily import LOOK_BACK_DAYS, closed_days, day_of, ranges_of
from metronome_pipeline_tests.workflows.periods import (
    DAY,
    EVENTS,
    SOON,
    bill_by_period,
    billed,
    day,
    days_billed,
    key,
    metered,
    reported,
)
from metronome_pipeline_tests.world import START, World, failure

FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
FEBRUARY = 27
"""The day, counted from START, on which February begins."""


@pytest.fixture(autouse=True)
def _billed_by_period(world: World) -> None:
    world.at(START)
    bill_by_period(world, "9c9a4a71-171e-41f9-b8da-d982baf1a388")


def schedule(world: World) -> dg.ScheduleDefinition:
    return world.definitions().resolve_schedule_def("daily_period_usage")


def tick(world: World, at: datetime) -> ScheduleExecutionData:
    context = dg.build_schedule_context(instance=world.instance, scheduled_execution_time=at)
    return schedule(world).evaluate_tick(context)


def requests_after(world: World, number: int) -> Sequence[dg.RunRequest]:
    """What the tick requests that finds a day as the newest closed one."""
    return tick(world, day(number + 1) + SOON).run_requests or []


def days(request: dg.RunRequest) -> tuple[int, int]:
    first, last = ((day_of(request.tags[tag]) - START) // DAY for tag in (FIRST, LAST))
    return first, last


def execute(world: World, request: dg.RunRequest, number: int) -> dg.ExecuteInProcessResult:
    """What the daemon does with a request, in this process."""
    world.at(day(number + 1) + SOON)
    result = world.run("ingest_period_usage", config=request.run_config, tags=request.tags)
    assert result.success, failure(result)
    return result


def done(world: World, *numbers: int) -> None:
    """Days that an earlier run reported."""
    for number in numbers:
        world.instance.report_runless_asset_event(dg.AssetMaterialization(EVENTS, partition=key(number)))


def recorded_run(world: World, first: int, last: int, status: dg.DagsterRunStatus) -> None:
    """A run that the instance knows of, and that nobody executes."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("metronome_pipeline"), "__repository__")
    tags = {FIRST: key(first), LAST: key(last)} if first != last else {"dagster/partition": key(first)}
    create_run_for_test(
        world.instance,
        job_name="ingest_period_usage",
        status=status,
        tags=tags,
        remote_job_origin=RemoteJobOrigin(repository, "ingest_period_usage"),
    )


def test_it_runs_only_where_a_metric_is_billed_by_period_to_date(world: World) -> None:
    assert schedule(world).default_status == dg.DefaultScheduleStatus.RUNNING
    world.environment["METRIC_CALCULATIONS"] = '{"9c9a4a71-171e-41f9-b8da-d982baf1a388": "SUM"}'
    assert schedule(world).default_status == dg.DefaultScheduleStatus.STOPPED
    del world.environment["METRIC_CALCULATIONS"]
    assert schedule(world).default_status == dg.DefaultScheduleStatus.STOPPED


@pytest.mark.parametrize(
    ("minutes", "cron"),
    [("15", "15 0 * * *"), ("0", "0 0 * * *"), ("150", "30 2 * * *"), ("1440", "0 0 * * *")],
)
def test_it_ticks_when_a_day_closes(world: World, minutes: str, cron: str) -> None:
    world.environment["USAGE_CLOSE_MINUTES"] = minutes
    assert schedule(world).cron_schedule == cron
    at = day(3) + timedelta(minutes=int(minutes))
    assert closed_days(world.settings(), at) == [day(0), day(1), day(2)]
    assert closed_days(world.settings(), at - timedelta(minutes=1)) == [day(0), day(1)]


def test_before_the_first_day_has_closed_nothing_is_requested(world: World) -> None:
    found = tick(world, day(0) + SOON)
    assert not found.run_requests
    assert "is closed yet" in (found.skip_message or "")


def test_a_tick_requests_the_newest_day_and_what_was_missed_before_the_periods_that_are_read_anyway(
    world: World,
) -> None:
    # On day 65 the look-back of 35 days begins on day 31, in February. All of January was missed but days 3 and 4.
    done(world, 3, 4, 64)
    found = requests_after(world, 65)
    assert [days(request) for request in found] == [(65, 65), (5, FEBRUARY - 1), (0, 2)]
    assert [dict(request.run_config) for request in found] == [
        {"ops": {"period_usage": {"config": {"look_back_days": LOOK_BACK_DAYS, "fill_gaps": True}}}},
        {},
        {},
    ]
    assert [request.tags.get("dagster/priority") for request in found] == [None, "-1", "-1"]
    keys = [request.run_key for request in found]
    assert len(set(keys)) == 3
    assert [request.run_key for request in requests_after(world, 65)] == keys


def test_days_that_a_run_will_do_are_left_to_it_and_failed_ones_wait_for_a_day(world: World) -> None:
    recorded_run(world, 0, 2, dg.DagsterRunStatus.QUEUED)
    recorded_run(world, 7, 7, dg.DagsterRunStatus.STARTED)
    (newest, *older) = requests_after(world, 65)
    assert newest.run_config["ops"]["period_usage"]["config"]["fill_gaps"] is False
    assert [days(request) for request in older] == [(8, FEBRUARY - 1), (3, 6)]
    recorded_run(world, 65, 65, dg.DagsterRunStatus.STARTED)
    assert [days(request) for request in requests_after(world, 65)] == [(8, FEBRUARY - 1), (3, 6)]
    recorded_run(world, 3, FEBRUARY, dg.DagsterRunStatus.FAILURE)
    found = tick(world, day(66) + SOON)
    assert not found.run_requests
    assert "A run is doing the newest day" in (found.skip_message or "")


def test_days_are_requested_as_ranges_of_neighbours() -> None:
    assert ranges_of([]) == []
    assert ranges_of([day(0), day(1), day(3)]) == [(day(3), day(3)), (day(0), day(1))]


def test_a_first_tick_long_after_the_cut_over_leads_to_the_truth_of_every_period(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    bill_by_period(world, metric)
    world.imported()
    for number in (0, 20, 30, 64):
        world.use(customer, metric, 24 * number, "ann")
        world.use(customer, metric, 24 * number + 1, f"user {number}")
    requests = requests_after(world, 65)
    assert [days(request) for request in requests] == [(65, 65), (0, FEBRUARY - 1)]
    assert reported(execute(world, requests[0], 65)) == list(range(FEBRUARY, 66))
    assert days_billed(world, customer, metric) == {30: 2, 64: 2}
    assert reported(execute(world, requests[1], 66)) == list(range(FEBRUARY))
    for start, end in ((0, FEBRUARY), (FEBRUARY, FEBRUARY + 28), (FEBRUARY + 28, 66)):
        bounds = (day(start), day(end))
        assert billed(world, customer, metric, *bounds) == metered(world, customer, metric, *bounds)
    assert [days(request) for request in requests_after(world, 66)] == [(66, 66)]
