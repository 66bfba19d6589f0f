"""Schedules: every hour, fill in the closed hours that are missing, and look back for late usage."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from metronome_pipeline.automation.jobs import Jobs
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.grouped_usage import GROUPED_USAGE
from metronome_pipeline.workflows.ingestion import Workflow
from metronome_pipeline.workflows.usage import USAGE

_HOUR = timedelta(hours=1)
_KEY = "%Y-%m-%d-%H:%M"
_ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
_START, _END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def schedules(settings: Settings, jobs: Jobs) -> list[dg.ScheduleDefinition]:
    """The hourly schedules of the two usage workflows."""
    return [
        _hourly(settings, jobs["ingest_usage"], USAGE, running=settings.usage_enabled),
        _hourly(settings, jobs["ingest_grouped_usage"], GROUPED_USAGE, running=settings.grouped_usage_enabled),
    ]


def _hourly(settings: Settings, job: dg.JobDefinition, workflow: Workflow, *, running: bool) -> dg.ScheduleDefinition:
    running_status, stopped = dg.DefaultScheduleStatus.RUNNING, dg.DefaultScheduleStatus.STOPPED

    @dg.schedule(
        name=f"hourly_{workflow.name}",
        job=job,
        cron_schedule=f"{settings.usage_close_minutes % 60} * * * *",
        execution_timezone="UTC",
        default_status=running_status if running else stopped,
        description="Each hour, some minutes after it closed: requests every closed hour that was never done, the newest first, in one "
        f"run for each {settings.backfill_partitions_per_run} hours. The newest run reads the last {settings.usage_look_back_days} UTC "
        "days again in the same requests, and corrects what changed.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        closed = closed_hours(settings, context.scheduled_execution_time)
        if not closed:
            return dg.SkipReason(f"No hour since the cut-over {settings.usage_start:%Y-%m-%d %H:%M} UTC is closed yet.")
        done = {
            datetime.strptime(key, _KEY).replace(tzinfo=UTC)
            for key in context.instance.get_materialized_partitions(workflow.destination)
        } | _requested(context.instance, job.name)
        ranges = ranges_to_request(closed, done, settings.backfill_partitions_per_run)
        newest = ranges[0] if ranges and ranges[0][1] == closed[-1] else (closed[-1], closed[-1])
        others = [each for each in ranges if each != newest]
        look_back = {"look_back_days": settings.usage_look_back_days, "fill_gaps": True}
        return [
            _request(
                newest, {"ops": {workflow.name: {"config": look_back}}}, workflow, context.scheduled_execution_time
            ),
            *[_request(each, {}, workflow, context.scheduled_execution_time) for each in others],
        ]

    return tick


def _request(
    hours: tuple[datetime, datetime], run_config: dict[str, object], workflow: Workflow, at: datetime
) -> dg.RunRequest:
    first, last = (hour.strftime(_KEY) for hour in hours)
    return dg.RunRequest(
        run_key=f"{workflow.destination.to_user_string()} {first} {last} {at.isoformat()}",
        run_config=run_config,
        tags={_START: first, _END: last},
    )


def closed_hours(settings: Settings, at: datetime) -> list[datetime]:
    """The hours since the cut-over that are closed at a moment, oldest first, by their starts."""
    closed_end = (at.astimezone(UTC) - timedelta(minutes=settings.usage_close_minutes)).replace(
        minute=0, second=0, microsecond=0
    )
    count = int((closed_end - settings.usage_start) / _HOUR)
    return [settings.usage_start + number * _HOUR for number in range(count)]


def ranges_to_request(closed: Sequence[datetime], done: set[datetime], longest: int) -> list[tuple[datetime, datetime]]:
    """The closed hours that are not done, as (first, last) of runs of neighbours of at most ``longest`` hours, newest first."""
    ranges: list[tuple[datetime, datetime]] = []
    for hour in reversed(closed):
        if hour in done:
            continue
        first, last = ranges[-1] if ranges else (None, None)
        if first is not None and last is not None and first - hour == _HOUR and last - hour < longest * _HOUR:
            ranges[-1] = (hour, last)
        else:
            ranges.append((hour, hour))
    return ranges


def _requested(instance: dg.DagsterInstance, job_name: str) -> set[datetime]:
    """Hours that a waiting or running run of the job will do."""
    hours: set[datetime] = set()
    for run in instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=_ACTIVE)):
        first, last = run.tags.get(_START), run.tags.get(_END)
        if first and last:
            hour, end = (datetime.strptime(key, _KEY).replace(tzinfo=UTC) for key in (first, last))
            while hour <= end:
                hours.add(hour)
                hour += _HOUR
    return hours
