"""The daily schedule of billing health. Here: when. Not here: what it shows (``workflows/billing_health.py``)."""

import dagster as dg

from metronome_pipeline.automation.jobs import shown
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.tags import tags_of


def daily_billing_health(settings: Settings, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Each day at 05:10 UTC, after the nightly sweep and reconciliation."""
    return dg.ScheduleDefinition(
        name="daily_billing_health",
        job=job,
        cron_schedule="10 5 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, "billing_health"),
        description="Each day: the last 35 days at a glance, from the ledger alone, once the night's sweep and "
        "reconciliation are done.",
    )
