"""Runs of Dagster, found by what they do: a backfill from the UI has no job of ours, only assets and partitions.

Here: questions to the instance. Not here: what is requested because of the answers (``schedules.py``, ``sensors.py``).
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.tags import ACCOUNT, partitions_asked

HOUR = timedelta(hours=1)
UNDER_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)
IN_VAIN = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def runs_of(
    instance: dg.DagsterInstance,
    settings: Settings,
    asset: dg.AssetKey,
    jobs: Collection[str],
    statuses: Sequence[dg.DagsterRunStatus],
    *,
    created_after: datetime | None = None,
) -> list[dg.DagsterRun]:
    """Runs of an asset in one of some statuses: whole runs of the account's jobs, and any run that selects the asset.

    Jobs of other accounts have the same names; assets have not.
    """
    found = instance.get_runs(dg.RunsFilter(statuses=statuses, created_after=created_after))
    return [
        run
        for run in found
        if (
            run.job_name in jobs and is_of_account(run, settings.account_name)
            if run.asset_selection is None
            else asset in run.asset_selection
        )
    ]


def is_of_account(run: dg.DagsterRun, account: str) -> bool:
    """Whether a run is of an account, by its tag; "" for the one without a name. Every run of a job has the tag."""
    return run.tags.get(ACCOUNT, "") == account


def hours_of(run: dg.DagsterRun) -> set[datetime]:
    """The hours that a run was asked for, by their starts; none for a run without partitions."""
    asked = partitions_asked(run.tags)
    if asked is None:
        return set()
    start, end = map(hour_of, asked)
    return {start + number * HOUR for number in range(int((end - start) / HOUR) + 1)}


def hour_of(key: str) -> datetime:
    """The hour of a partition key, by its start. Five years have 43,800 keys, and ``strptime`` takes 8 µs for each."""
    return datetime.fromisoformat(f"{key[:10]}T{key[11:]}").replace(tzinfo=UTC)


def key_of(hour: datetime) -> str:
    """The partition key of an hour."""
    return hour.strftime("%Y-%m-%d-%H:%M")
