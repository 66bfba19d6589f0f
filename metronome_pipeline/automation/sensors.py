"""Sensors: notice what the imports should bring over. A sensor has a minute, so it reads what runs have stored.

Here: which import is requested, when, and under which key. Not here: what a change is (``changes.py``).
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import dagster as dg
import msgspec

from metronome_pipeline.automation.alerts import alert_sensors
from metronome_pipeline.automation.changes import Change, Look, Notice, change_of, look_at_audit_log
from metronome_pipeline.automation.findings import sweep_findings
from metronome_pipeline.automation.jobs import IMPORTS, SOURCES, Jobs, shown
from metronome_pipeline.automation.runs import IN_VAIN, UNDER_WAY, runs_of
from metronome_pipeline.clock import SYSTEM_CLOCK
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.settings import Permitted, Settings
from metronome_pipeline.storage.changes import KINDS, Count, Kind, counts, suspects
from metronome_pipeline.storage.pace import SharedPacer
from metronome_pipeline.storage.resource import Store, StoreResource
from metronome_pipeline.workflows.naming import asset_key
from metronome_pipeline.workflows.tags import tags_of

CHANGE = "account_change"
"""The run tag that says which changes a run was requested for."""
AUDIT_SECONDS = 20.0
AGAIN_AFTER = timedelta(minutes=15)
_AUDIT_RETRIES = RetryPolicy(attempts=2, longest_delay=1.0)
_PIECE = 40
_FIRST_LOOK = timedelta(days=1)
_NEVER = "never imported"
_Allowed = Mapping[Kind, Permitted]


@dataclass(frozen=True)
class Findings:
    """All that an import should bring over for an account pair: stored changes, and what the audit log mentions."""

    pair_id: int
    changes: Sequence[Change]
    noticed: Mapping[Kind, Notice]

    @property
    def kinds(self) -> list[Kind]:
        """The kinds that need an import, in the order of their dependencies."""
        return [kind for kind in KINDS if kind in self.noticed or any(change.kind == kind for change in self.changes)]

    @property
    def digest(self) -> str:
        """What identifies these findings: the same ones have the same digest in every tick."""
        facts = [
            [self.pair_id],
            *[[change.kind, change.record_id, change.what, change.state] for change in self.changes],
            *[[kind, self.noticed[kind].entry_id] for kind in sorted(self.noticed)],
        ]
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:16]

    def because(self, kind: Kind) -> str:
        """The findings of a kind in a few words, such as ``customers (2 new, 1 renamed)``."""
        counted = Counter(change.what for change in self.changes if change.kind == kind)
        words = [f"{count} {what}" for what, count in sorted(counted.items())]
        if kind in self.noticed:
            words.append(_NEVER if self.noticed[kind].entry_id == _NEVER else "in the audit log")
        return f"{kind} ({', '.join(words)})"


class Cursor(msgspec.Struct, frozen=True):
    """What the sensor keeps: the pair, where it is in the pair's audit log, and what it waits to see imported.

    Metronome's page token is kept in short pieces: Dagster's UI shows the cursor, and cannot break a long word, which
    pushes the sensor's description off the page.
    """

    pair_id: int
    since: datetime
    next_page: tuple[str, ...] | str | None = None
    noticed: dict[Kind, Notice] = {}
    looked: bool = False

    @classmethod
    def of(cls, text: str | None, pair_id: int, now: datetime) -> Self:
        """The cursor of a tick; a fresh one for another account pair."""
        try:
            cursor = msgspec.json.decode(text or "", type=cls)
        except msgspec.DecodeError:
            cursor = None
        return cursor if cursor and cursor.pair_id == pair_id else cls(pair_id, now - _FIRST_LOOK)

    def after(self, look: Look, noticed: Mapping[Kind, Notice]) -> "Cursor":
        """The cursor for the next tick."""
        token = look.next_page or ""
        pieces = tuple(token[start : start + _PIECE] for start in range(0, len(token), _PIECE))
        return Cursor(self.pair_id, max(self.since, look.last_at or self.since), pieces, dict(noticed), looked=True)

    def text(self) -> str:
        """As Dagster keeps and shows it, with spaces at which it can be broken."""
        return msgspec.json.format(msgspec.json.encode(self), indent=0).decode()


def sensors(settings: Settings, jobs: Jobs) -> list[dg.SensorDefinition]:
    """Every sensor."""

    @dg.sensor(
        name="account_changes",
        jobs=[jobs[name] for name in IMPORTS],
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        metadata=shown(settings.resource_owners),
        tags=tags_of(settings, "imports"),
        description="Requests the import of customers, billable metrics and products that are new, renamed, archived "
        "or otherwise changed in Metronome. It compares what runs have stored with what was imported, and reads on in "
        "Metronome's audit log with one request. What an import refused is left alone until it changes.",
    )
    def account_changes(
        context: dg.SensorEvaluationContext,
        store: StoreResource,
        metronome: MetronomeResource,
        settings: dg.ResourceParam[Settings],
    ) -> dg.SensorResult:
        now = datetime.now(UTC)
        with store.open(connections=2) as opened:
            cursor = Cursor.of(context.cursor, opened.pair.pair_id, now)
            allowed: _Allowed = {"customers": settings.permitted_customers, "meters": settings.permitted_metrics}
            changes, numbers = _stored(opened, allowed)
            look = asyncio.run(_look(opened, store, metronome, cursor, allowed))
        first = [] if cursor.looked else [kind for kind in KINDS if not numbers[kind].imported]
        never = {kind: Notice(_NEVER, now) for kind in first}
        noticed = {
            kind: notice
            for kind, notice in {**cursor.noticed, **look.noticed, **never}.items()
            if not _imported_since(context.instance, settings, kind, notice.at)
        }
        found = Findings(cursor.pair_id, changes, noticed)
        answer = _request(context.instance, settings, found, numbers, look, now)
        following = cursor.after(look, noticed).text()
        if isinstance(answer, dg.SkipReason):
            return dg.SensorResult(skip_reason=answer, cursor=following)
        return dg.SensorResult(run_requests=[answer], cursor=following)

    return [account_changes, sweep_findings(settings, jobs), *alert_sensors(settings)]


def _stored(opened: Store, allowed: _Allowed) -> tuple[list[Change], dict[Kind, Count]]:
    """Changes that runs have read already, and how much there is of each kind."""
    pair_id = opened.pair.pair_id
    with opened.database.transaction() as connection:
        found = [
            change_of(kind, known)
            for kind in KINDS
            for known in suspects(connection, pair_id, kind, allowed.get(kind, Permitted()))
        ]
        return sorted(change for change in found if change), counts(connection, pair_id)


async def _look(
    opened: Store, store: StoreResource, metronome: MetronomeResource, cursor: Cursor, allowed: _Allowed
) -> Look:
    """A look at the audit log, paced with everything else that asks this account."""
    account = f"{store.metronome_host}/{store.metronome_environment}"
    pacer = SharedPacer(opened.database, SYSTEM_CLOCK, account, metronome.requests_per_second)
    randomness = random.Random()  # noqa: S311 - jitter needs no secrecy
    async with metronome.open(
        pacer=pacer, clock=SYSTEM_CLOCK, random=randomness, run_id="account_changes", policy=_AUDIT_RETRIES
    ) as api:
        return await look_at_audit_log(
            api,
            since=cursor.since,
            next_page="".join(cursor.next_page or ()) or None,
            allowed=allowed,
            seconds=AUDIT_SECONDS,
        )


def _imported_since(instance: dg.DagsterInstance, settings: Settings, kind: Kind, moment: datetime) -> bool:
    """Whether runs that began after a moment read a kind and brought it over: they saw what had changed by then."""
    for asset in (asset_key(settings, "metronome", SOURCES[kind]), asset_key(settings, "solvimon", kind)):
        run_id = _last_run(instance, asset)
        record = instance.get_run_record_by_id(run_id) if run_id else None
        if record is None or record.start_time is None or record.start_time <= moment.timestamp():
            return False
    return True


def _last_run(instance: dg.DagsterInstance, asset: dg.AssetKey) -> str | None:
    event = instance.get_latest_materialization_event(asset)
    return event.run_id if event else None


def _request(
    instance: dg.DagsterInstance,
    settings: Settings,
    found: Findings,
    numbers: Mapping[Kind, Count],
    look: Look,
    now: datetime,
) -> dg.RunRequest | dg.SkipReason:
    """The one import that brings over all changes, unless it is under way or was tried lately."""
    log = look.trouble or f"{look.entries} new entries in the audit log."
    if not found.kinds:
        known = ", ".join(f"{numbers[kind].known} {kind}" for kind in KINDS)
        return dg.SkipReason(f"Nothing to import: {known} known, none of them changed. {log}")
    because = ", ".join(map(found.because, found.kinds))
    held_back, key = _earlier_runs(instance, settings, found, now)
    if held_back:
        return dg.SkipReason(f"To import: {because}. {held_back} {log}")
    job = "import_everything" if len(found.kinds) > 1 else f"import_{found.kinds[0]}"
    tags = {**_ours(settings), CHANGE: found.digest, "because": because}
    return dg.RunRequest(run_key=f"{job} {key}", job_name=job, tags=tags)


def _earlier_runs(
    instance: dg.DagsterInstance, settings: Settings, found: Findings, now: datetime
) -> tuple[str | None, str]:
    """What earlier runs say against another one, and a key for it: Dagster starts no second run under a key."""
    assets = {kind: asset_key(settings, "solvimon", kind) for kind in found.kinds}
    running = [
        run for kind in found.kinds for run in runs_of(instance, settings, assets[kind], _jobs_of(kind), UNDER_WAY)
    ]
    if running:
        return f"Run {running[0].run_id} of {running[0].job_name} comes first.", ""
    key = found.digest
    succeeded = dg.RunsFilter(tags={**_ours(settings), CHANGE: found.digest}, statuses=[dg.DagsterRunStatus.SUCCESS])
    for run in instance.get_runs(succeeded, limit=1):
        # The same change again, such as a name that was changed back and forth, unless nothing was imported since.
        key = f"{found.digest} after {run.run_id}"
        if all(_last_run(instance, assets[change.kind]) == run.run_id for change in found.changes) and found.changes:
            return f"Run {run.run_id} did so, and they still differ: see its outcomes.", key
    for record in instance.get_run_records(dg.RunsFilter(tags=_ours(settings)), limit=1):
        if record.dagster_run.status in IN_VAIN:
            key = f"{found.digest} after {record.dagster_run.run_id}"
            ended = datetime.fromtimestamp(record.end_time or now.timestamp(), UTC)
            if now - ended < AGAIN_AFTER:
                minutes = int(AGAIN_AFTER / timedelta(minutes=1))
                return f"Run {record.dagster_run.run_id} failed less than {minutes} minutes ago: see why.", key
    return None, key


def _ours(settings: Settings) -> dict[str, str]:
    """The tag of runs that this sensor requests. Not the account's tag: no filter finds the runs that lack one."""
    names = ([settings.account_name] if settings.account_name else []) + ["account_changes"]
    return {"requested_by": "/".join(names)}


def _jobs_of(kind: Kind) -> list[str]:
    return [job for job, kinds in IMPORTS.items() if kind in kinds]
