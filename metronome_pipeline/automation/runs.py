"""Runs of Dagster, found by what they do: a backfill from the UI has no job of ours, only assets and partitions.

Here: questions to the instance. Not here: what is requested because of the answers (``schedules.py``, ``sensors.py``).
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

HOUR = timedelta(hours=1)
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
UNDER_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)
IN_VAIN = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def runs_of(
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    jobs: Collection[str],
    statuses: Sequence[dg.DagsterRunStatus],
    *,
    created_after: datetime | None = None,
) -> list[dg.DagsterRun]:
    """Runs of an asset in one of some statuses: whole runs of the named jobs, and any run that selects the asset."""
    found = instance.get_runs(dg.RunsFilter(statuses=statuses, created_after=created_after))
    return [
        run for run in found if (run.job_name in jobs if run.asset_selection is None else asset in run.asset_selection)
    ]


def hours_of(run: dg.DagsterRun) -> set[datetime]:
    """The hours that a run was asked for, by their starts; none for a run without partitions."""
    one = run.tags.get(PARTITION)
    first, last = run.tags.get(RANGE_START, one), run.tags.get(RANGE_END, one)
    if not first or not last:
        return set()
    start, end = hour_of(first), hour_of(last)
    return {start + number * HOUR for number in range(int((end - start) / HOUR) + 1)}


def hour_of(key: str) -> datetime:
    """The hour of a partition key, by its start. Five years have 43,800 keys, and ``strptime`` takes 8 µs for each."""
    return datetime.fromisoformat(f"{key[:10]}T{key[11:]}").replace(tzinfo=UTC)


def key_of(hour: datetime) -> str:
    """The partition key of an hour."""
    return hour.strftime("%Y-%m-%d-%H:%M")
