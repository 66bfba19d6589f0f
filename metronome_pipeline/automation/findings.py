"""The sensor of findings: requests the runs that plan and send what sweeps have found.

Here: when a run is requested and under which key. It reads the database and Dagster's instance, and asks no API. Not
here: how findings are made (``sweeps/findings.py``) and planned (``workflows/ingestion.py``).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from metronome_pipeline.automation.jobs import Jobs, shown
from metronome_pipeline.automation.runs import IN_VAIN, UNDER_WAY, is_of_account, key_of
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.sweeps.findings import Waiting, waiting
from metronome_pipeline.workflows.grouped_usage import GROUPED_USAGE
from metronome_pipeline.workflows.tags import PARTITION, RANGE, account_tags, tags_of
from metronome_pipeline.workflows.usage import USAGE

OF_SWEEP = "sweep"
"""The run tag that says which sweep's findings a run plans."""
AGAIN_AFTER = timedelta(minutes=15)


def sweep_findings(settings: Settings, jobs: Jobs) -> dg.SensorDefinition:
    """The sensor."""

    @dg.sensor(
        name="sweep_findings",
        jobs=[jobs[_job(workflow)] for workflow in (USAGE, GROUPED_USAGE)],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, "sweep"),
        description="Requests the runs that correct what a sweep found, from the hours that the sweep has read: once "
        "its run has ended, and again 15 minutes after a run that failed. It reads the database only.",
    )
    def sensor(context: dg.SensorEvaluationContext, store: StoreResource) -> list[dg.RunRequest] | dg.SkipReason:
        with store.open(connections=1) as opened, opened.database.transaction() as connection:
            found = waiting(connection, opened.pair.pair_id)
        if not found:
            return dg.SkipReason("Nothing to correct: no sweep has an open finding.")
        answers = [_answer(context.instance, settings, each, datetime.now(UTC)) for each in found]
        requests = [answer for answer in answers if isinstance(answer, dg.RunRequest)]
        return requests or dg.SkipReason(" ".join(str(answer) for answer in answers))

    return sensor


def _answer(instance: dg.DagsterInstance, settings: Settings, found: Waiting, now: datetime) -> dg.RunRequest | str:
    """The run that plans some findings, or the reason why there is none now."""
    sweeping = instance.get_run_by_id(found.run_id)
    if sweeping is not None and sweeping.status in UNDER_WAY:
        return f"Sweep {found.sweep_id} is still under way, in run {found.run_id}."
    workflow = GROUPED_USAGE if found.grouped else USAGE
    job = _job(workflow)
    tags = {OF_SWEEP: str(found.sweep_id), **account_tags(settings)}
    runs = [
        each
        for each in instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags))
        if is_of_account(each.dagster_run, settings.account_name)
    ]
    running = [each for each in runs if each.dagster_run.status in UNDER_WAY]
    if running:
        return f"Run {running[0].dagster_run.run_id} is planning what sweep {found.sweep_id} found."
    if _failed_lately(runs, now):
        minutes = int(AGAIN_AFTER / timedelta(minutes=1))
        return f"Run {runs[0].dagster_run.run_id} failed less than {minutes} minutes ago: see why."
    # Also after a success: findings that a sweep made later are a new attempt's. A run of a partitioned asset needs a
    # partition: the first hour stands for all that differ, and only hours that change are reported.
    attempt = len(runs) + 1
    return dg.RunRequest(
        run_key=f"{job} of sweep {found.sweep_id}, attempt {attempt}",
        job_name=job,
        run_config={"ops": {workflow: {"config": {"sweep": found.sweep_id}}}},
        tags={
            OF_SWEEP: str(found.sweep_id),
            PARTITION: key_of(found.first),
            RANGE: f"from {found.first:%Y-%m-%d %H:%M} UTC on",
            "attempt": str(attempt),
            "because": f"{found.hours} hours of {found.customers} customers differ",
        },
    )


def _failed_lately(runs: Sequence[dg.RunRecord], now: datetime) -> bool:
    """Whether the newest of some runs, which come newest first, ended in vain just now."""
    if not runs or runs[0].dagster_run.status not in IN_VAIN:
        return False
    ended = datetime.fromtimestamp(runs[0].end_time or runs[0].create_timestamp.timestamp(), UTC)
    return now - ended < AGAIN_AFTER


def _job(workflow: str) -> str:
    return f"correct_{workflow}"
