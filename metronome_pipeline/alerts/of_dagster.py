"""Problems that Dagster's instance knows: failed runs whose work is still undone, red checks, hours never ingested.

Here: questions to the instance, which ask for what is newest only, for this runs every minute. Not here: problems that
the ledger knows (``of_ledger.py``), and what is told of either (``telling.py``).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.tags import WILL_RETRY_TAG

from metronome_pipeline.alerts.here import Here
from metronome_pipeline.alerts.problems import MOST_RECORDS, Kind, Problem, counted, record
from metronome_pipeline.automation.daily import closed_days, day_of
from metronome_pipeline.automation.jobs import IMPORTS
from metronome_pipeline.automation.runs import hour_of, key_of
from metronome_pipeline.automation.schedules import closed_hours
from metronome_pipeline.errors import quoted
from metronome_pipeline.mapping.periods import midnights
from metronome_pipeline.workflows.due import Workflow
from metronome_pipeline.workflows.grouped_usage import grouped_usage_workflow
from metronome_pipeline.workflows.period_ingestion import bills_by_period
from metronome_pipeline.workflows.period_usage import period_usage_workflow
from metronome_pipeline.workflows.reconciliation_reports import reconciliation_key
from metronome_pipeline.workflows.tags import partitions_asked
from metronome_pipeline.workflows.usage import usage_workflow

FAILURES_WITHIN = timedelta(days=35)
"""How far back failed runs are looked for. Newer runs of a job that goes on failing keep its problem open."""
_MOST_FAILURES = 100
_HOUR = timedelta(hours=1)
_LONGEST_SENTENCE = 400
_DAY_KEY = "%Y-%m-%d"
# What these four say, the ledger says by itself, and sooner: also right after a person's command.
_TOLD_BY_THE_LEDGER = {"nothing_in_quarantine", "nothing_held_by_the_brake", "nothing_left_unsettled", "nothing_late"}
# Checks of the reconciliation hold for their own partition, but for those that hold for the account: these speak by
# their latest evaluation, like the checks of every other asset. Dagster itself plans all of them by partition.
_OF_THE_ACCOUNT = {"reference_deduplication_proved"}


# Failed runs ---------------------------------------------------------------------------------------------------------


def failed_runs(here: Here, now: datetime) -> Iterator[Problem]:
    """One problem for each job (or selection of assets) that has a failed run whose work nobody has done since.

    Work is done when every partition that the run was asked for has been materialized after it failed, or, without
    partitions, when a later run of the job succeeded. Runs that Dagster starts again by itself are not told.

    Args:
        here: Whose runs.
        now: Dagster's time, which no test moves.
    """
    failed, since = [dg.DagsterRunStatus.FAILURE], now - FAILURES_WITHIN
    wanted = dg.RunsFilter(statuses=failed, created_after=since, tags=here.label)
    undone: dict[str, list[dg.DagsterRun]] = {}
    for each in here.instance.get_run_records(wanted, limit=_MOST_FAILURES):
        run = each.dagster_run
        again = run.tags.get(WILL_RETRY_TAG, "").lower() == "true"
        if here.owns(run) and not again and not _is_made_good(here, each):
            undone.setdefault(_what_runs(run), []).append(run)
    for name, runs in undone.items():
        newest = runs[0]
        yield Problem(
            key=f"run {name}",
            kind=Kind.run_failure,
            what=f"Run {newest.run_id[:8]} of {name} failed.",
            state=newest.run_id,
            to_do="Do what the error says, and run it again (Re-execute, in Dagster). Hours that were missed are "
            "requested again by their schedule. If the work is not wanted any more, delete the run.",
            records=tuple(
                record(_partitions_text(run), _sentence(here.instance, run.run_id)) for run in runs[:MOST_RECORDS]
            ),
            more=max(len(runs) - MOST_RECORDS, 0),
            page=f"runs/{newest.run_id}",
        )


def _what_runs(run: dg.DagsterRun) -> str:
    """The job; of a run that was launched from assets, the assets."""
    if run.asset_selection is None or not run.job_name.startswith("__"):
        return run.job_name
    return " and ".join(sorted(key.to_user_string() for key in run.asset_selection))


def _is_made_good(here: Here, failed: dg.RunRecord) -> bool:
    run = failed.dagster_run
    partitions = partitions_of(run)
    if not partitions:
        return _succeeded_since(here, failed)
    destination = here.destination(run.job_name)
    assets = run.asset_selection or ({destination} if destination else set())
    failure = _failed_at(here.instance, run.run_id)
    return bool(assets) and all(
        len(_materialized_after(here.instance, asset, partitions, failure)) == len(partitions) for asset in assets
    )


def _succeeded_since(here: Here, failed: dg.RunRecord) -> bool:
    """Whether a later run of the same job succeeded, or of one that does all of its work."""
    run = failed.dagster_run
    jobs = [run.job_name]
    if run.job_name in IMPORTS:
        jobs = [job for job, kinds in IMPORTS.items() if set(kinds) >= set(IMPORTS[run.job_name])]
    names = {*jobs, _what_runs(run)}
    since = failed.create_timestamp
    for job in jobs:
        succeeded = [dg.DagsterRunStatus.SUCCESS]
        wanted = dg.RunsFilter(job_name=job, statuses=succeeded, created_after=since, tags=here.label)
        if any(here.owns(later) and _what_runs(later) in names for later in here.instance.get_runs(wanted)):
            return True
    return False


def partitions_of(run: dg.DagsterRun) -> list[str]:
    """The keys of the hours or days that a run was asked for; none for a run without partitions."""
    asked = partitions_asked(run.tags)
    if asked is None:
        return []
    first, last = asked
    if len(first) == len("2026-01-05"):
        return [day.strftime(_DAY_KEY) for day in midnights(day_of(first), day_of(last))]
    start, end = hour_of(first), hour_of(last)
    return [key_of(start + number * _HOUR) for number in range(int((end - start) / _HOUR) + 1)]


def _materialized_after(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partitions: Sequence[str], storage_id: int
) -> Mapping[str, int]:
    return instance.event_log_storage.get_latest_storage_id_by_partition(
        asset, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions), after_cursor=storage_id
    )


def _failed_at(instance: dg.DagsterInstance, run_id: str) -> int:
    """The place of a run's failure in the event log."""
    found = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_FAILURE, limit=1, ascending=False)
    return found.records[0].storage_id if found.records else 0


def _sentence(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed: the sentence of its first failed step, else what Dagster says of the run."""
    steps = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1).records
    for each in steps:
        event = each.event_log_entry.dagster_event
        if event is None:
            continue
        told = event.step_failure_data.user_failure_data
        error = event.step_failure_data.error
        text = (told.description if told else None) or (error.message if error else "")
        return quoted(" ".join(text.split()), _LONGEST_SENTENCE)
    ends = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_FAILURE, limit=1, ascending=False)
    texts = [each.event_log_entry.user_message or "" for each in ends.records]
    return quoted(" ".join(" ".join(texts).split()), _LONGEST_SENTENCE)


def _partitions_text(run: dg.DagsterRun) -> str:
    keys = partitions_of(run)
    if not keys:
        return f"run {run.run_id[:8]}"
    return keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"


# Red checks ----------------------------------------------------------------------------------------------------------


def red_checks(here: Here, checks: Mapping[dg.AssetCheckKey, str]) -> Iterator[Problem]:
    """One problem for each check that is red. Those that the ledger tells by itself are left out.

    A check of the reconciliation is red as long as it is so for any day; every other speaks by its latest evaluation.
    One that is being evaluated keeps its last colour.

    Args:
        here: Whose checks.
        checks: Every check of the code location, with its description, which says what to do.
    """
    reconciliation = reconciliation_key(here.settings)
    for key, description in sorted(checks.items(), key=lambda item: item[0].to_user_string()):
        if key.name in _TOLD_BY_THE_LEDGER:
            continue
        reconciled = key.asset_key == reconciliation
        by_partition = reconciled and key.name not in _OF_THE_ACCOUNT
        red = _red_by_partition(here.instance, key) if by_partition else _failed_last(here.instance, key, None)
        if not red:
            continue
        evidence = _evidence(red[-1])
        days = [each.partition for each in red if each.partition]
        where = f" on {counted(len(days), 'day')}, the last {days[-1]}" if days else ""
        asset = key.asset_key.to_user_string()
        yield Problem(
            key=f"check {asset} {key.name}",
            kind=Kind.reconciliation if reconciled else Kind.red_check,
            what=f"{key.name.replace('_', ' ').capitalize()}: not so for {asset}{where}.",
            state=" ".join([str(_found(red[-1])), *days]),
            to_do=" ".join((description or "See the check's evidence.").split()),
            records=evidence,
            more=max(_found(red[-1]) - len(evidence), 0) if evidence else 0,
            page=f"assets/{asset}?view=checks&checkDetail={key.name}",
        )


def _red_by_partition(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> list[AssetCheckExecutionRecord]:
    """Failed evaluations that are the last of their partition, by partition."""
    suspects = sorted(
        info.partition_key
        for info in instance.event_log_storage.get_asset_check_partition_info([key])
        if info.partition_key and info.latest_execution_status != AssetCheckExecutionRecordStatus.SUCCEEDED
    )
    return [found for partition in suspects for found in _failed_last(instance, key, PartitionKeyFilter(key=partition))]


def _failed_last(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, only: PartitionKeyFilter | None
) -> list[AssetCheckExecutionRecord]:
    """The last evaluation of all, or of one partition, if it failed."""
    completed = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    latest = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status=completed, partition_filter=only
    )
    return [each for each in latest if each.status == AssetCheckExecutionRecordStatus.FAILED]


def _found(red: AssetCheckExecutionRecord) -> int:
    """How many things a check has found, as its metadata says."""
    value = red.evaluation.metadata.get("found") if red.evaluation else None
    return int(value.value) if isinstance(value, dg.IntMetadataValue) and value.value is not None else 0


def _evidence(red: AssetCheckExecutionRecord) -> tuple[str, ...]:
    """The first rows of the check's table."""
    metadata = red.evaluation.metadata if red.evaluation else {}
    for value in metadata.values():
        if isinstance(value, dg.TableMetadataValue):
            return tuple(record(*row.data.values()) for row in value.records[:MOST_RECORDS])
    return ()


# Stale usage ---------------------------------------------------------------------------------------------------------


def stale_usage(here: Here, now: datetime) -> Iterator[Problem]:
    """One problem for each workflow that is on and has hours (or days) which closed some hours ago and are not done.

    Args:
        here: Whose materializations, and by its settings which workflows are on, since when, and how long an hour may
            take (``ALERT_STALE_HOURS``).
        now: The database's time, which tests move.
    """
    settings = here.settings
    by = now - timedelta(hours=settings.alert_stale_hours)
    workflows = [usage_workflow(settings)] * settings.usage_enabled
    workflows += [grouped_usage_workflow(settings)] * settings.grouped_usage_enabled
    for workflow in workflows:
        yield from _stale(here, workflow, [key_of(hour) for hour in closed_hours(settings, by)], "hour")
    if bills_by_period(settings):
        days = [day.strftime(_DAY_KEY) for day in closed_days(settings, by)]
        yield from _stale(here, period_usage_workflow(settings), days, "day")


def _stale(here: Here, workflow: Workflow, due: Sequence[str], unit: str) -> Iterator[Problem]:
    if not due:
        return
    done = here.instance.get_materialized_partitions(workflow.destination)
    missing = [key for key in due if key not in done]
    if not missing:
        return
    asset = workflow.destination.to_user_string()
    yield Problem(
        key=f"stale {workflow.name}",
        kind=Kind.stale_usage,
        what=f"{counted(len(missing), f'closed {unit}')} of {asset} {'is' if len(missing) == 1 else 'are'} not "
        f"ingested, {counted(here.settings.alert_stale_hours, 'hour')} after closing.",
        state=f"{len(missing)} {missing[-1]}",
        to_do="See why the runs of this workflow fail, wait in the queue, or are not requested: the schedule may be "
        "off. Missing ones are requested by the schedule, or by a backfill in Dagster.",
        records=(record("the oldest", missing[0]), *([record("the newest", missing[-1])] if missing[1:] else [])),
        page=f"assets/{asset}?view=partitions",
    )
