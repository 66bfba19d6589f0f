"""The hourly schedules: evaluated ticks, and what becomes of the runs that they request."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from metronome_pipeline.automation.schedules import closed_hours, ranges_of
from metronome_pipeline_tests.world import START, World, dagsters_statements, failure, partition, partitions_of

EVENTS = ["solvimon", "usage_events"]
HOUR = timedelta(hours=1)
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def after_hour(hour: int, minutes: int = 15) -> datetime:
    """The tick that finds the hour ``hour``, counted from START, as the newest closed one."""
    return START + (hour + 1) * HOUR + timedelta(minutes=minutes)


def tick(world: World, at: datetime, *, schedule: str = "hourly_usage", **variables: str) -> ScheduleExecutionData:
    definitions = world.definitions(**variables)
    context = dg.build_schedule_context(instance=world.instance, scheduled_execution_time=at)
    return definitions.resolve_schedule_def(schedule).evaluate_tick(context)


def requests_of(world: World, at: datetime, **variables: str) -> Sequence[dg.RunRequest]:
    return tick(world, at, **variables).run_requests or []


def hours(request: dg.RunRequest) -> tuple[int, int]:
    """The range that a request names, counted from START."""
    first, last = (
        int((datetime.strptime(request.tags[tag], "%Y-%m-%d-%H:%M").replace(tzinfo=UTC) - START) / HOUR)
        for tag in (FIRST, LAST)
    )
    return first, last


def execute(
    world: World, request: dg.RunRequest, job: str = "ingest_usage", **variables: str
) -> dg.ExecuteInProcessResult:
    """What the daemon does with a request, in this process."""
    result = world.run(job, config=request.run_config, tags=request.tags, **variables)
    assert result.success, failure(result)
    return result


def tick_and_run(world: World, at: datetime, **variables: str) -> list[dg.ExecuteInProcessResult]:
    return [execute(world, request, **variables) for request in requests_of(world, at, **variables)]


def done(world: World, *some: int) -> None:
    """Hours that an earlier run reported."""
    for hour in some:
        world.instance.report_runless_asset_event(dg.AssetMaterialization(EVENTS, partition=partition(hour)))


def waiting_run(
    world: World,
    first: int,
    last: int,
    *,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.QUEUED,
    job: str = "ingest_usage",
    assets: Sequence[Sequence[str]] | None = None,
) -> str:
    tags = {"dagster/partition": partition(first)}
    if first != last:
        tags = {FIRST: partition(first), LAST: partition(last)}
    selection = frozenset(dg.AssetKey(list(key)) for key in assets) if assets else None
    return recorded_run(world, job, status, tags, selection)


def recorded_run(
    world: World,
    job: str,
    status: dg.DagsterRunStatus,
    tags: Mapping[str, str],
    selection: frozenset[dg.AssetKey] | None = None,
) -> str:
    """A run that the instance knows of, and that nobody executes."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("metronome_pipeline"), "__repository__")
    origin = RemoteJobOrigin(repository, job)
    run = create_run_for_test(
        world.instance,
        job_name=job,
        status=status,
        tags=dict(tags),
        asset_selection=selection,
        remote_job_origin=origin,
    )
    return str(run.run_id)


def test_the_very_first_tick_requests_every_hour_since_the_cut_over_the_newest_first(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    for hour in (0, 7, 13, 24):
        world.use(customer, metric, hour, hour + 1)
    settings = {"BACKFILL_PARTITIONS_PER_RUN": "10", "USAGE_LOOK_BACK_DAYS": "1"}
    requests = requests_of(world, after_hour(24), **settings)
    assert [hours(request) for request in requests] == [(15, 24), (5, 14), (0, 4)]
    assert len({request.run_key for request in requests}) == 3
    assert [request.tags.get("dagster/priority") for request in requests] == [None, "-1", "-1"]
    assert [bool(request.run_config) for request in requests] == [True, False, False]
    world.metronome.forget_requests()
    for request in requests:
        execute(world, request, **settings)
    assert world.counted(customer, metric) == {0: 1, 7: 8, 13: 14, 24: 25}
    assert world.metronome.requests()["POST /v1/usage"] == 3, "what the others do is no gap for the newest to fill"
    assert [hours(request) for request in requests_of(world, after_hour(25), **settings)] == [(25, 25)]


def test_an_ordinary_hour_of_1000_pairs_costs_a_request_each_and_at_most_20_more(world: World) -> None:
    customers = [world.customer(f"Customer {number}") for number in range(50)]
    metrics = [world.metric("SUM") for _ in range(20)]
    pairs, newest = 1_000, 8 * 24 - 1
    world.imported()
    for customer in customers:
        world.use(customer, metrics[0], 3, 10)
    assert world.ingest(0, newest - 1).success
    world.metronome.forget_requests()
    world.solvimon.forget_requests()
    (result,) = tick_and_run(world, after_hour(newest))
    asked = world.metronome.requests()
    assert asked["POST /v1/usage"] == pairs
    assert sum(asked.values()) <= pairs + 20
    assert not [endpoint for endpoint in world.solvimon.requests() if not endpoint.startswith("GET")]
    assert partitions_of(result.all_events, EVENTS) == [partition(newest)]


def test_an_ordinary_hour_finds_what_came_late_in_the_same_requests(world: World) -> None:
    customers, metrics = [world.customer(name) for name in "AB"], [world.metric(kind) for kind in ("SUM", "MAX")]
    world.imported()
    world.use(customers[0], metrics[0], 3, 10)
    pairs, newest = 4, 8 * 24 - 1
    assert world.ingest(0, newest).success

    # Seven days ago, and in the newest hour.
    world.use(customers[0], metrics[0], 30, 5)
    world.use(customers[1], metrics[1], newest + 1, 7)
    world.metronome.forget_requests()
    (result,) = tick_and_run(world, after_hour(newest + 1))
    assert world.metronome.requests()["POST /v1/usage"] == pairs
    assert partitions_of(result.all_events, EVENTS) == [partition(30), partition(newest + 1)]
    assert world.counted(customers[0], metrics[0]) == {3: 10, 30: 5}
    assert world.counted(customers[1], metrics[1]) == {newest + 1: 7}

    # The first day has left the look-back: late usage there is not found by this schedule.
    world.use(customers[0], metrics[0], 4, 100)
    (result,) = tick_and_run(world, after_hour(newest + 2))
    assert world.counted(customers[0], metrics[0]) == {3: 10, 30: 5}

    # A customer and a metric that appear later get their hours since the cut-over, from the days that were read before.
    newcomer, new_metric = world.customer("Newcomer"), world.metric("SUM", name="New")
    world.run("import_meters")
    world.use(newcomer, metrics[0], 2, 8)
    world.use(customers[1], new_metric, 1, 9)
    world.metronome.forget_requests()
    (result,) = tick_and_run(world, after_hour(newest + 3))
    assert world.counted(newcomer, metrics[0]) == {2: 8}
    assert world.counted(customers[1], new_metric) == {1: 9}
    assert set(partitions_of(result.all_events, EVENTS)) == {partition(newest + 3), partition(1), partition(2)}
    # Nine pairs, and the first day of the five new ones: two metrics share a walk only where both are new.
    assert world.metronome.requests()["POST /v1/usage"] == 9 + 5
    world.metronome.forget_requests()
    tick_and_run(world, after_hour(newest + 4))
    assert world.metronome.requests()["POST /v1/usage"] == 9


def test_a_customer_archived_long_ago_costs_nothing(world: World) -> None:
    world.customer("Gone", archived_at=(START - 36 * 24 * HOUR).isoformat())
    left = world.customer("Left", archived_at=(START - 34 * 24 * HOUR).isoformat())
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(left, metric, 1, 2)
    world.use(customer, metric, 40, 1)
    settings = {"USAGE_LOOK_BACK_DAYS": "1"}
    tick_and_run(world, after_hour(47), **settings)
    tick_and_run(world, after_hour(48), **settings)
    world.metronome.forget_requests()
    (result,) = tick_and_run(world, after_hour(49), **settings)
    assert world.metronome.requests()["POST /v1/usage"] == 1
    assert not [entry for entry in world.instance.all_logs(result.run_id) if "never read" in entry.user_message]
    assert world.counted(left, metric) == {1: 2}


def test_missed_ticks_and_holes_are_filled_in(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    for hour in range(9):
        world.use(customer, metric, hour, 1)
    assert world.ingest(0, 1).success
    assert world.ingest(3, 4).success
    # Hour 2 is a hole, and the ticks after the hours 5, 6 and 7 never came.
    requests = requests_of(world, after_hour(8))
    assert [hours(request) for request in requests] == [(5, 8), (2, 2)]
    results = [execute(world, request) for request in requests]
    assert partitions_of(results[1].all_events, EVENTS) == [partition(2)]
    assert world.counted(customer, metric) == dict.fromkeys(range(9), 1)
    assert [hours(request) for request in requests_of(world, after_hour(8))] == [(8, 8)]


def test_hours_that_a_run_will_do_are_not_requested_again(world: World) -> None:
    done(world, 0)
    waiting_run(world, 1, 3)
    started = dg.DagsterRunStatus.STARTED
    waiting_run(world, 5, 5, status=started, job="__ASSET_JOB", assets=[EVENTS, ["metronome", "usage"]])
    # Neither of these does usage events: a backfill of grouped usage, one of the source alone, and a run that failed.
    waiting_run(world, 7, 7, job="__ASSET_JOB", assets=[["solvimon", "grouped_usage_events"]])
    waiting_run(world, 8, 8, job="ingest_usage", assets=[["metronome", "usage"]])
    waiting_run(world, 9, 9, status=dg.DagsterRunStatus.FAILURE)
    requests = requests_of(world, after_hour(10))
    assert [hours(request) for request in requests] == [(6, 10), (4, 4)]
    gaps = requests[0].run_config["ops"]["usage"]["config"]["fill_gaps"]
    assert gaps is False, "another run may be filling them"


def test_a_tick_is_skipped_while_a_run_does_all_that_is_missing(world: World) -> None:
    done(world, 0)
    waiting_run(world, 1, 2, job="__ASSET_JOB", assets=[EVENTS])
    found = tick(world, after_hour(2))
    assert not found.run_requests
    assert "2026-01-05 02:00" in str(found.skip_message)
    assert "3 closed hours" in str(found.skip_message)


def test_older_hours_whose_run_failed_wait_for_a_day(world: World) -> None:
    nine_days = 9 * 24
    run_id = waiting_run(world, 0, nine_days - 1, status=dg.DagsterRunStatus.FAILURE)
    at = after_hour(nine_days)
    # Eight UTC days are read in any case; a failure there is tried again at once.
    assert [hours(request) for request in requests_of(world, at)] == [(48, nine_days)]
    world.sql("UPDATE runs SET create_timestamp = %s WHERE run_id = %s", at - timedelta(hours=25), run_id)
    assert [hours(request) for request in requests_of(world, at)] == [(0, nine_days)]


def test_ticks_of_one_time_request_the_same_runs(world: World) -> None:
    done(world, 1)
    first, second = requests_of(world, after_hour(3)), requests_of(world, after_hour(3))
    assert [request.run_key for request in first] == [request.run_key for request in second]
    # The daemon died after it had queued the first run, and evaluates the tick again.
    recorded_run(world, "ingest_usage", dg.DagsterRunStatus.QUEUED, first[0].tags)
    again = requests_of(world, after_hour(3))
    assert [request.run_key for request in again] == [request.run_key for request in first]
    # The next tick sees the queued run, and asks for what is left under keys of its own.
    following = requests_of(world, after_hour(4))
    assert [hours(request) for request in following] == [(4, 4), (0, 0)]
    assert not {request.run_key for request in following} & {request.run_key for request in first}


def test_a_tick_before_the_first_hour_is_closed_is_skipped_with_the_cut_over(world: World) -> None:
    for at in (START, after_hour(0, minutes=14)):
        found = tick(world, at)
        assert not found.run_requests
        assert "2026-01-05 00:00" in str(found.skip_message)
    assert [hours(request) for request in requests_of(world, after_hour(0))] == [(0, 0)]


def test_hours_may_close_later_than_the_next_one_ends(world: World) -> None:
    schedule = world.definitions(USAGE_CLOSE_MINUTES="75").resolve_schedule_def("hourly_usage")
    assert schedule.cron_schedule == "15 * * * *"
    late = {"USAGE_CLOSE_MINUTES": "75"}
    assert not requests_of(world, after_hour(0, minutes=74), **late)
    assert [hours(request) for request in requests_of(world, after_hour(0, minutes=75), **late)] == [(0, 0)]
    assert [hours(request) for request in requests_of(world, after_hour(3, minutes=75), **late)] == [(0, 3)]


def test_a_year_ends_between_two_hours_like_any_other(world: World) -> None:
    settings = {"USAGE_START": "2025-12-31T22:00Z"}
    (request,) = requests_of(world, datetime(2026, 1, 1, 2, 15, tzinfo=UTC), **settings)
    assert (request.tags[FIRST], request.tags[LAST]) == ("2025-12-31-22:00", "2026-01-01-01:00")
    customer, metric = world.customer(), world.metric("SUM")
    world.imported(**settings)
    first_hour = int((datetime(2026, 1, 1, tzinfo=UTC) - START) / HOUR)
    for hour in (first_hour - 1, first_hour):
        world.use(customer, metric, hour, 1)
    result = execute(world, request, **settings)
    assert len(partitions_of(result.all_events, EVENTS)) == 4
    assert world.counted(customer, metric) == {first_hour - 1: 1, first_hour: 1}


def test_usage_with_properties_has_a_schedule_of_its_own_that_is_off_by_default(world: World) -> None:
    running, stopped = dg.DefaultScheduleStatus.RUNNING, dg.DefaultScheduleStatus.STOPPED

    def statuses(**variables: str) -> dict[str, dg.DefaultScheduleStatus]:
        definitions = world.definitions(**variables)
        return {
            name: definitions.resolve_schedule_def(name).default_status
            for name in ("hourly_usage", "hourly_grouped_usage")
        }

    assert statuses() == {"hourly_usage": running, "hourly_grouped_usage": stopped}
    assert statuses(GROUPED_USAGE_ENABLED="true") == {"hourly_usage": running, "hourly_grouped_usage": running}
    assert statuses(USAGE_ENABLED="false")["hourly_usage"] == stopped
    done(world, 0, 1)
    (request,) = requests_of(world, after_hour(1), schedule="hourly_grouped_usage")
    assert hours(request) == (0, 1), "hours without properties are not hours with them"
    assert list(request.run_config["ops"]) == ["grouped_usage"]
    execute(world, request, "ingest_grouped_usage", GROUPED_USAGE_ENABLED="true")


def test_a_tick_asks_postgres_the_same_few_questions_however_many_hours_are_done(world: World) -> None:
    done(world, 0)
    five_years = 5 * 365 * 24
    with dagsters_statements() as few:
        requests_of(world, after_hour(1))
    world.sql(
        "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, asset_key, partition) "
        "SELECT run_id, '{}', dagster_event_type, timestamp, asset_key, "
        "to_char(%s::timestamp + hour * interval '1 hour', 'YYYY-MM-DD-HH24:MI') "
        "FROM event_logs, generate_series(1, %s) AS hour",
        START.replace(tzinfo=None),
        five_years,
    )
    with dagsters_statements() as many:
        (request,) = requests_of(world, after_hour(five_years + 1))
    assert hours(request) == (five_years + 1, five_years + 1)
    assert many == few


@pytest.mark.parametrize(
    ("missing", "longest", "ranges"),
    [
        ([], 10, []),
        ([4], 10, [(4, 4)]),
        ([0, 1, 2, 3], 4, [(0, 3)]),
        ([0, 1, 2, 3, 4], 4, [(1, 4), (0, 0)]),
        ([0, 1, 3, 5, 6], 2, [(5, 6), (3, 3), (0, 1)]),
        ([0, 1, 2], 1, [(2, 2), (1, 1), (0, 0)]),
    ],
)
def test_missing_hours_become_runs_of_neighbours_the_newest_first(
    missing: list[int], longest: int, ranges: list[tuple[int, int]]
) -> None:
    found = ranges_of([START + hour * HOUR for hour in missing], longest)
    assert [(int((first - START) / HOUR), int((last - START) / HOUR)) for first, last in found] == ranges


def test_an_hour_is_closed_some_minutes_after_its_end(world: World) -> None:
    settings = world.settings(USAGE_CLOSE_MINUTES="15")
    assert closed_hours(settings, START - 5 * HOUR) == []
    assert closed_hours(settings, after_hour(2, minutes=14)) == [START, START + HOUR]
    assert closed_hours(settings, after_hour(2)) == [START, START + HOUR, START + 2 * HOUR]
    east = after_hour(2).astimezone(datetime.fromisoformat("2026-01-01T00:00+05:30").tzinfo)
    assert closed_hours(settings, east) == closed_hours(settings, after_hour(2))
