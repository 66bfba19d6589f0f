"""The sensor of alerts: every minute, tells people what has gone wrong since the last one, and what is over.

Here: when the sensor runs, and what its tick says. Not here: what a problem is, and how it is told (``alerts/``).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from metronome_pipeline.alerts.channels import channels_of
from metronome_pipeline.alerts.here import Here
from metronome_pipeline.alerts.messages import place_of
from metronome_pipeline.alerts.of_dagster import failed_runs, red_checks, stale_usage
from metronome_pipeline.alerts.of_ledger import problems_of_ledger
from metronome_pipeline.alerts.problems import Problem, in_order
from metronome_pipeline.alerts.telling import tell
from metronome_pipeline.automation.jobs import shown
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.resource import Store, StoreResource
from metronome_pipeline.workflows.tags import tags_of
from metronome_pipeline.workflows.usage import usage_workflow


def alert_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensor. It runs where a channel is set."""
    running = bool(channels_of(settings))

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, "alerts"),
        description="Tells people, through ALERT_WEBHOOK_URL and ALERT_EMAIL_TO, of failed runs, red checks, usage "
        "that is stale or unsettled, quarantine, the brake and late changes: once when it begins and once when it is "
        "over. A channel that is down is tried again by the next tick, which says so. It requests no run.",
    )
    def alerts(
        context: dg.SensorEvaluationContext, store: StoreResource, settings: dg.ResourceParam[Settings]
    ) -> dg.SkipReason:
        channels = channels_of(settings)
        if not channels:
            return dg.SkipReason("Nobody is told of anything: set ALERT_WEBHOOK_URL, or ALERT_EMAIL_TO with SMTP_URL.")
        with store.open(connections=3) as opened:
            report = tell(
                opened.database,
                opened.pair.pair_id,
                lambda: problems_of(context, opened, settings),
                channels,
                place_of(settings),
                remind_after=timedelta(hours=settings.alert_remind_hours),
                now=opened.clock.now,
            )
        return dg.SkipReason("Another tick is telling." if report is None else str(report))

    return [alerts]


def problems_of(context: dg.SensorEvaluationContext, opened: Store, settings: Settings) -> Sequence[Problem]:
    """Everything that is wrong with an account pair now, by kind."""
    origin = context.code_location_origin
    here = Here(context.instance, settings, origin.location_name if origin else None)
    with opened.database.transaction() as connection:
        of_ledger = problems_of_ledger(
            connection,
            opened.pair.pair_id,
            events=usage_workflow(settings).destination,
            unsettled_for=timedelta(hours=settings.alert_stale_hours),
            anchor_day=settings.billing_period_anchor_day,
        )
    return in_order(
        [
            *of_ledger,
            *failed_runs(here, datetime.now(UTC)),
            *red_checks(here, _checks(context)),
            *stale_usage(here, opened.clock.now()),
        ]
    )


def _checks(context: dg.SensorEvaluationContext) -> dict[dg.AssetCheckKey, str]:
    """Every check of this code location, with its description."""
    repository = context.repository_def
    if repository is None:
        return {}
    graph = repository.asset_graph
    return {key: graph.get_check_spec(key).description or "" for key in graph.asset_check_keys}
