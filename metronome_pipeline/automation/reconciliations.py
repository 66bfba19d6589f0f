"""The daily schedule of the reconciliation: the last days again, and every day that was ingested and never reconciled.

Here: which days a tick requests. Not here: how a run compares them (``workflows/reconciliation.py``).
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import dagster as dg

from metronome_pipeline.automation.daily import TICK, DayRange, day_of
from metronome_pipeline.automation.jobs import shown
from metronome_pipeline.automation.runs import (
    HOUR,
    IN_VAIN,
    UNDER_WAY,
    hour_of,
    runs_of,
)
from metronome_pipeline.mapping.periods import DAY, last_midnight, midnights
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.grouped_usage import grouped_usage_workflow
from metronome_pipeline.workflows.reconciliation import closed_until
from metronome_pipeline.workflows.reconciliation_reports import DAY_KEY, reconciliation_key
from metronome_pipeline.workflows.tags import partitions_asked, tags_of, tags_of_range
from metronome_pipeline.workflows.usage import usage_workflow

TRAILING_DAYS = 8
"""Days that are compared again each day: what the hourly runs correct lies in them."""
LONGEST_RANGE = 92


def daily_reconciliation(settings: Settings, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """The schedule, at 02:30 UTC: late enough that the hourly runs have done the day before."""

    @dg.schedule(
        name="daily_reconciliation",
        job=job,
        cron_schedule="30 2 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, "reconciliation"),
        description=f"Each night: compares the last {TRAILING_DAYS} UTC days on both sides, and every day before them "
        f"that was ingested and not reconciled yet, in runs of at most {LONGEST_RANGE} days. Days that a queued or "
        "started run will do are not requested again; older ones whose run failed wait for a day.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        at = context.scheduled_execution_time.astimezone(UTC)
        days = midnights(last_midnight(settings.usage_start), last_midnight(closed_until(settings, at)) - DAY)
        trailing = set(days[-TRAILING_DAYS:])
        asset = reconciliation_key(settings)
        done = {day_of(key) for key in context.instance.get_materialized_partitions(asset)}
        under_way = _days(context.instance, settings, job.name, UNDER_WAY, not_of=at)
        failed = _days(context.instance, settings, job.name, IN_VAIN, created_after=at - DAY)
        older = [day for day in days if day not in trailing | done | failed]
        ingested = set(_ingested(context.instance, settings, older))
        wanted = [day for day in days if day not in under_way and (day in trailing or day in ingested)]
        if not wanted:
            return dg.SkipReason("No closed day is to be reconciled that no other run is doing.")
        return [_request(days, at) for days in ranges_of(wanted)]

    return tick


def ranges_of(days: Iterable[datetime], longest: int = LONGEST_RANGE) -> list[DayRange]:
    """Days in order of time as ranges of neighbours of at most ``longest`` days, newest first."""
    ranges: list[DayRange] = []
    for day in reversed(list(days)):
        if ranges and ranges[-1][0] - day == DAY and ranges[-1][1] - day < longest * DAY:
            ranges[-1] = (day, ranges[-1][1])
        else:
            ranges.append((day, day))
    return ranges


def _ingested(instance: dg.DagsterInstance, settings: Settings, days: Sequence[datetime]) -> list[datetime]:
    """Days whose hours are all done in every workflow by hour that is on: others would only be found unread."""
    workflows = [usage_workflow(settings)] * settings.usage_enabled
    workflows += [grouped_usage_workflow(settings)] * settings.grouped_usage_enabled
    if not days or not workflows:
        return list(days)
    kept = list(days)
    for workflow in workflows:
        hours = {hour_of(key) for key in instance.get_materialized_partitions(workflow.destination)}
        kept = [day for day in kept if all(hour in hours for hour in _hours(day, settings.usage_start))]
    return kept


def _hours(day: datetime, start: datetime) -> list[datetime]:
    return [hour for number in range(24) if (hour := day + number * HOUR) >= start]


def _request(days: DayRange, at: datetime) -> dg.RunRequest:
    first, last = (day.strftime(DAY_KEY) for day in days)
    return dg.RunRequest(
        run_key=f"reconciliation {at.isoformat()} {first} {last}",
        tags={**tags_of_range(first, last), TICK: at.isoformat()},
    )


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
    found: set[datetime] = set()
    asset = reconciliation_key(settings)
    for run in runs_of(instance, settings, asset, [job], statuses, created_after=created_after):
        asked = partitions_asked(run.tags)
        if asked and (not_of is None or run.tags.get(TICK) != not_of.isoformat()):
            found.update(midnights(*map(day_of, asked)))
    return found
