"""Schedules of the sweeps: by day every night, by hour every week, over closed periods every month.

Here: when a sweep is requested. Not here: what it does (``workflows/sweep.py``), and what becomes of what it finds
(``findings.py``).
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from metronome_pipeline.automation.jobs import Jobs, shown
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.sweeps.sweeps import SweepKind, last_complete
from metronome_pipeline.workflows.tags import tags_of

_SLACK = timedelta(hours=3)
"""Half of what lies between two ticks, so that a sweep which began a little late does not put off the next one."""


def sweep_schedules(settings: Settings, jobs: Jobs) -> list[dg.ScheduleDefinition]:
    """A schedule for each kind of sweep, at different hours, as one sweeps at a time.

    Each ticks every six hours and mostly skips, so that a sweep which was cut short is resumed soon.
    """
    return [
        _schedule(settings, jobs, "daily", SweepKind.usage, "10 3,9,15,21 * * *", timedelta(days=1)),
        _schedule(settings, jobs, "weekly", SweepKind.usage_by_hour, "10 5,11,17,23 * * *", timedelta(days=7)),
        _schedule(settings, jobs, "monthly", SweepKind.closed_periods, "10 1,7,13,19 * * *", timedelta(days=30)),
    ]


def _schedule(
    settings: Settings, jobs: Jobs, name: str, kind: SweepKind, cron: str, every: timedelta
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{name}_sweep_{kind.value}",
        job=jobs[f"sweep_{kind.value}"],
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING
        if settings.usage_enabled or settings.grouped_usage_enabled
        else dg.DefaultScheduleStatus.STOPPED,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, "sweep"),
        description=f"{_WHAT[kind]} Requested when the last complete one is {every.days * 24} hours old. One that was "
        "cut short is resumed within six.",
    )
    def tick(context: dg.ScheduleEvaluationContext, store: StoreResource) -> dg.RunRequest | dg.SkipReason:
        at = context.scheduled_execution_time.astimezone(UTC)
        with store.open(connections=1) as opened, opened.database.transaction() as connection:
            last = last_complete(connection, opened.pair.pair_id, kind)
        began: datetime | None = last[0] if last else None
        if began and at < began + every - _SLACK:
            return dg.SkipReason(f"The last complete sweep of this kind began at {began:%Y-%m-%d %H:%M} UTC.")
        return dg.RunRequest(run_key=f"sweep {kind.value} {at.isoformat()}")

    return tick


_WHAT = {
    SweepKind.usage: "Compares the trailing days of everything that is billed with the ledger, day by day, and reads "
    "the hours of those that differ.",
    SweepKind.usage_by_hour: "Compares the trailing days with the ledger hour by hour, as days that agree can hide "
    "hours that do not.",
    SweepKind.closed_periods: "Compares everything that is older, back to the cut-over, with the ledger day by day: "
    "moved aliases and corrections by Metronome's staff have no age limit.",
}
