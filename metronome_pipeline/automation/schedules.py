"""Schedules: every hour, fill in the closed hours that are missing, and look back for late usage.

Here: which hours a tick requests. Not here: how a run does them (``workflows/ingestion.py``).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from metronome_pipeline.automation.daily import daily_period_usage
from metronome_pipeline.automation.health import daily_billing_health
from metronome_pipeline.automation.jobs import Jobs, shown
from metronome_pipeline.automation.reconciliations import daily_reconciliation
from metronome_pipeline.automation.retention import daily_retention
from metronome_pipeline.automation.runs import (
    HOUR,
    IN_VAIN,
    UNDER_WAY,
    hour_of,
    hours_of,
    key_of,
    runs_of,
)
from metronome_pipeline.automation.sweeps import sweep_schedules
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.due import Workflow
from metronome_pipeline.workflows.grouped_usage import grouped_usage_workflow
from metronome_pipeline.workflows.tags import tags_of, tags_of_range
from metronome_pipeline.workflows.usage import usage_workflow

TICK = "tick"
"""The run tag that holds the time of the tick which requested the run."""
_DAY = timedelta(days=1)

Range = tuple[datetime, datetime]
"""First and last hour, by their starts."""


def schedules(settings: Settings, jobs: Jobs) -> list[dg.ScheduleDefinition]:
    """The hourly schedules of the two usage workflows."""
    return [
        _hourly(settings, jobs["ingest_usage"], usage_workflow(settings), running=settings.usage_enabled),
        _hourly(
            settings,
            jobs["ingest_grouped_usage"],
            grouped_usage_workflow(settings),
            running=settings.grouped_usage_enabled,
        ),
        daily_period_usage(settings, jobs["ingest_period_usage"]),
        *sweep_schedules(settings, jobs),
        daily_reconciliation(settings, jobs["reconcile"]),
        daily_retention(settings, jobs["retire_usage"]),
        daily_billing_health(settings, jobs["billing_health"]),
    ]


def _hourly(settings: Settings, job: dg.JobDefinition, workflow: Workflow, *, running: bool) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"hourly_{workflow.name}",
        job=job,
        cron_schedule=f"{settings.usage_close_minutes % 60} * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, workflow.name),
        description="Each hour, some minutes after it closed: requests every closed hour that was never done, the "
        f"newest first, in runs of at most {settings.backfill_partitions_per_run} hours. The newest run reads the last "
        f"{settings.usage_look_back_days} UTC days again in the same requests, and corrects what changed. Where all "
        "customers and metrics would take more than USAGE_HOURLY_SHARE of the hour's requests, those with usage of "
        "late are read each hour and the others take turns. Hours that a queued or started run will do are not "
        "requested again; older hours whose run failed wait for a day.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        at = context.scheduled_execution_time.astimezone(UTC)
        closed = closed_hours(settings, at)
        if not closed:
            return dg.SkipReason(f"No hour since the cut-over {settings.usage_start:%Y-%m-%d %H:%M} UTC is closed yet.")
        look_back = _midnight(closed[-1]) - (settings.usage_look_back_days - 1) * _DAY
        done = {hour_of(key) for key in context.instance.get_materialized_partitions(workflow.destination)}
        under_way = _under_way(context.instance, settings, workflow, job.name, at)
        failed = _failed_lately(context.instance, settings, workflow, job.name, at)
        failed = {hour for hour in failed if hour < look_back}
        elsewhere = under_way | failed
        # The newest hour even where it is done: its run is the one that looks back.
        ranges = ranges_of(
            [hour for hour in closed if hour not in elsewhere and (hour not in done or hour == closed[-1])],
            settings.backfill_partitions_per_run,
        )
        if not ranges:
            return dg.SkipReason(
                f"A run is doing the newest hour, {closed[-1]:%Y-%m-%d %H:%M} UTC, and no other of the {len(closed)} "
                "closed hours is to be requested."
            )
        # One run at a time fills gaps: an earlier one that is still at it would be doing the same.
        config = {
            "look_back_days": settings.usage_look_back_days,
            "fill_gaps": not under_way,
            "take_turns": True,
        }
        return [_request(workflow, hours, at, config if hours[1] == closed[-1] else None) for hours in ranges]

    return tick


def _request(workflow: Workflow, hours: Range, at: datetime, config: Mapping[str, object] | None) -> dg.RunRequest:
    """A run of a range. The one that looks back has a key of its tick alone, so that a tick has one at most."""
    first, last = key_of(hours[0]), key_of(hours[1])
    tags = {**tags_of_range(first, last), TICK: at.isoformat()}
    if config is None:
        key = f"{workflow.name} {at.isoformat()} {first} {last}"
        return dg.RunRequest(run_key=key, tags={**tags, "dagster/priority": "-1"})
    run_config = {"ops": {workflow.name: {"config": config}}}
    return dg.RunRequest(run_key=f"{workflow.name} {at.isoformat()}", run_config=run_config, tags=tags)


def closed_hours(settings: Settings, at: datetime) -> list[datetime]:
    """The hours since the cut-over that are closed at a moment, oldest first, by their starts."""
    closed = at.astimezone(UTC) - timedelta(minutes=settings.usage_close_minutes)
    count = int((closed - settings.usage_start) // HOUR)
    return [settings.usage_start + number * HOUR for number in range(count)]


def ranges_of(hours: Sequence[datetime], longest: int) -> list[Range]:
    """Hours in order of time, as runs of neighbours of at most ``longest`` hours, newest first."""
    ranges: list[Range] = []
    for hour in reversed(hours):
        if ranges and ranges[-1][0] - hour == HOUR and ranges[-1][1] - hour < longest * HOUR:
            ranges[-1] = (hour, ranges[-1][1])
        else:
            ranges.append((hour, hour))
    return ranges


def _under_way(
    instance: dg.DagsterInstance, settings: Settings, workflow: Workflow, job: str, at: datetime
) -> set[datetime]:
    """Hours that a queued or started run will do. A tick that is evaluated again leaves out its own runs."""
    return {
        hour
        for run in runs_of(instance, settings, workflow.destination, [job], UNDER_WAY)
        if run.tags.get(TICK) != at.isoformat()
        for hour in hours_of(run)
    }


def _failed_lately(
    instance: dg.DagsterInstance, settings: Settings, workflow: Workflow, job: str, at: datetime
) -> set[datetime]:
    """Hours of runs that failed or were cancelled within a day.

    One customer whose usage can't be read keeps every hour open: to read all hours since again, each hour, would leave
    no requests for the others.
    """
    runs = runs_of(instance, settings, workflow.destination, [job], IN_VAIN, created_after=at - _DAY)
    return {hour for run in runs for hour in hours_of(run)}


def _midnight(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)
