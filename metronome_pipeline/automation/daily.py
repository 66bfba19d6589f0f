"""The daily schedule of usage by period to date: read every period that may still change, and fill in missed days.

Here: which days a tick requests. Not here: how a run does them (``workflows/period_ingestion.py``), and the hourly
schedules (``schedules.py``).
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import dagster as dg

from metronome_pipeline.automation.jobs import shown
from metronome_pipeline.automation.runs import IN_VAIN, UNDER_WAY, runs_of
from metronome_pipeline.mapping.periods import DAY, last_midnight, midnights
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.period_ingestion import billing_of, bills_by_period
from metronome_pipeline.workflows.period_reports import DAY_KEY
from metronome_pipeline.workflows.period_usage import PERIOD_USAGE, period_usage_workflow
from metronome_pipeline.workflows.tags import partitions_asked, tags_of, tags_of_range

LOOK_BACK_DAYS = 35
"""Metronome takes usage 34 days late, and today is a day of its own."""
TICK = "tick"

DayRange = tuple[datetime, datetime]
"""First and last day, by their starts."""


def daily_period_usage(settings: Settings, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """The schedule, some minutes after midnight UTC; it runs where a metric is billed by period to date."""
    minutes = settings.usage_close_minutes % 1440
    running = bills_by_period(settings)
    asset = period_usage_workflow(settings).destination

    @dg.schedule(
        name=f"daily_{PERIOD_USAGE}",
        job=job,
        cron_schedule=f"{minutes % 60} {minutes // 60} * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, PERIOD_USAGE),
        description="Each day, some minutes after midnight UTC: one run for the day that closed, which reads every "
        f"billing period that overlaps the last {LOOK_BACK_DAYS} days whole, up to that midnight, corrects what "
        "changed, and reports days of these periods that were missed. Days missed before them are requested in runs "
        "of their own, where no queued or started run will do them; those whose run failed wait for a day.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        at = context.scheduled_execution_time.astimezone(UTC)
        days = closed_days(settings, at)
        if not days:
            return dg.SkipReason(f"No day since the cut-over {settings.usage_start:%Y-%m-%d %H:%M} UTC is closed yet.")
        under_way = _days(context.instance, settings, job.name, UNDER_WAY, not_of=at)
        failed = _days(context.instance, settings, job.name, IN_VAIN, created_after=at - DAY)
        done = {day_of(key) for key in context.instance.get_materialized_partitions(asset)}
        newest = days[-1]
        looked_at = last_midnight(
            billing_of(settings).windows(newest + DAY - LOOK_BACK_DAYS * DAY, newest + DAY)[0].start
        )
        older = [day for day in days if day < looked_at and day not in done | under_way | failed]
        requests = [_request(each, at) for each in ranges_of(older)]
        if newest not in under_way:
            # One run at a time fills gaps: an earlier one that is still at it would be doing the same.
            config = {"look_back_days": LOOK_BACK_DAYS, "fill_gaps": not under_way}
            return [_request((newest, newest), at, config), *requests]
        return requests or dg.SkipReason(f"A run is doing the newest day, {newest:%Y-%m-%d}, and no other is missing.")

    return tick


def closed_days(settings: Settings, at: datetime) -> list[datetime]:
    """The days since the cut-over's that are closed at a moment, oldest first, by their starts."""
    return midnights(last_midnight(settings.usage_start), billing_of(settings).closed(at) - DAY)


def ranges_of(days: Iterable[datetime]) -> list[DayRange]:
    """Days in order of time as ranges of neighbours, newest first."""
    ranges: list[DayRange] = []
    for day in days:
        if ranges and day - ranges[-1][1] == DAY:
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges[::-1]


def day_of(key: str) -> datetime:
    """The day of a partition key, by its start."""
    return datetime.fromisoformat(key).replace(tzinfo=UTC)


def _request(days: DayRange, at: datetime, config: Mapping[str, object] | None = None) -> dg.RunRequest:
    """A run of a range. The one that looks back has a key of its tick alone, so that a tick has one at most."""
    first, last = (day.strftime(DAY_KEY) for day in days)
    tags = {**tags_of_range(first, last), TICK: at.isoformat()}
    if config is None:
        key = f"{PERIOD_USAGE} {at.isoformat()} {first} {last}"
        return dg.RunRequest(run_key=key, tags={**tags, "dagster/priority": "-1"})
    run_config = {"ops": {PERIOD_USAGE: {"config": dict(config)}}}
    return dg.RunRequest(run_key=f"{PERIOD_USAGE} {at.isoformat()}", run_config=run_config, tags=tags)


def _days(
    instance: dg.DagsterInstance,
    settings: Settings,
    job: str,
    statuses: tuple[dg.DagsterRunStatus, ...],
    *,
    not_of: datetime | None = None,
    created_after: datetime | None = None,
) -> set[datetime]:
    """Days of runs in some statuses. A tick that is evaluated again leaves out its own runs."""
    asset = period_usage_workflow(settings).destination
    runs = runs_of(instance, settings, asset, [job], statuses, created_after=created_after)
    return {day for run in runs if not_of is None or run.tags.get(TICK) != not_of.isoformat() for day in _days_of(run)}


def _days_of(run: dg.DagsterRun) -> list[datetime]:
    asked = partitions_asked(run.tags)
    return midnights(*map(day_of, asked)) if asked else []
