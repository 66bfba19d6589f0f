"""The daily schedule of retention, which runs where USAGE_RETENTION_DAYS is set.

Here: when. Not here: what is removed (``upkeep/retention.py``).
"""

import dagster as dg

from metronome_pipeline.automation.jobs import shown
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.tags import tags_of


def daily_retention(settings: Settings, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Each day, after the nightly sweep and reconciliation."""
    running = settings.usage_retention_days is not None
    return dg.ScheduleDefinition(
        name="daily_retention",
        job=job,
        cron_schedule="40 4 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, "retention"),
        description="Each day: removes raw usage that is older than USAGE_RETENTION_DAYS, but for customers of whom "
        "something older still waits.",
    )
