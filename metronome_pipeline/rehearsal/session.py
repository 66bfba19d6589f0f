"""What a rehearsal needs: a session that writes nothing, and whose usage is due in each workflow that is on.

Here: how both are made. Not here: what is rehearsed with them (``rehearsal.py``, ``import_rehearsal.py``).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from metronome_pipeline.ledger.synchronise import Due
from metronome_pipeline.mapping.usage import Calculation
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.rehearsal.lines import SOLVIMON_SECONDS, Requests
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.rehearsed import RehearsedHttp, rehearsed_solvimon
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.database import Database
from metronome_pipeline.storage.rehearsed import RehearsedDatabase
from metronome_pipeline.workflows.customers import read_customers
from metronome_pipeline.workflows.due import RefusedMetric, Workflow, due_period_usage, due_usage
from metronome_pipeline.workflows.grouped_usage import grouped_usage_workflow
from metronome_pipeline.workflows.meters import read_metrics
from metronome_pipeline.workflows.period_ingestion import bills_by_period
from metronome_pipeline.workflows.period_usage import PERIOD_USAGE, period_usage_workflow
from metronome_pipeline.workflows.session import Session
from metronome_pipeline.workflows.usage import usage_workflow


@dataclass(frozen=True)
class Rehearsing:
    """Everything that a rehearsal needs: a session that writes nothing, and the resources that it was made with."""

    session: Session
    database: Database
    solvimon_http: RehearsedHttp
    metronome: MetronomeResource
    solvimon: SolvimonResource
    settings: Settings

    def at_todays_pace(self, metronome: int, solvimon: int, *, steps: int = 1) -> Requests:
        """So many requests at today's pace."""
        in_flight = self.solvimon.requests_in_flight
        return Requests(
            metronome,
            solvimon,
            metronome / self.metronome.requests_per_second,
            solvimon * SOLVIMON_SECONDS / in_flight,
            steps,
        )


def rehearsing_on(
    session: Session, metronome: MetronomeResource, solvimon: SolvimonResource, settings: Settings
) -> Rehearsing:
    """A session as a run has it, without the means to write."""
    api, http = rehearsed_solvimon(session.solvimon)
    database = RehearsedDatabase(session.database, session.clock)
    unwritten = replace(session, solvimon=api, database=database)
    return Rehearsing(unwritten, session.database, http, metronome, solvimon, settings)


@dataclass(frozen=True)
class Chosen:
    """What a plan is narrowed to, by name or id, in any case. Empty: everything."""

    customers: Collection[str] = ()
    metrics: Collection[str] = ()


class NothingOfThatName(Exception):
    """A customer or metric that was named is not there, as a sentence."""


@dataclass(frozen=True)
class Part:
    """What is due in one workflow."""

    workflow: Workflow
    due: Due
    refused: Sequence[RefusedMetric]

    @property
    def by_period(self) -> bool:
        """Whether it is billed by period to date, day by day."""
        return self.workflow.name == PERIOD_USAGE


@dataclass(frozen=True)
class AllDue:
    """What the workflows that are on have to do, and the names of everything known.

    ``listing``: requests that each run makes to learn this.
    """

    parts: Sequence[Part]
    customers: Mapping[str, str]
    metrics: Mapping[str, str]
    listing: int

    @property
    def refused(self) -> list[RefusedMetric]:
        """Metrics whose usage is not sent, and why."""
        return [metric for part in self.parts for metric in part.refused]

    @property
    def calculations(self) -> dict[str, Calculation]:
        """How each metric that is due is billed."""
        return {metric.metric_id: metric.calculation for part in self.parts for metric in part.due.metrics}


def workflows_of(settings: Settings) -> list[Workflow]:
    """The usage workflows that are on."""
    grouped = [grouped_usage_workflow(settings)] if settings.grouped_usage_enabled else []
    by_period = [period_usage_workflow(settings)] if bills_by_period(settings) else []
    return [usage_workflow(settings), *grouped, *by_period]


async def read_all_due(rehearsing: Rehearsing, chosen: Chosen) -> AllDue:
    """Reads customers and metrics as a run does, and says whose usage is due. Nothing of it is stored.

    Raises:
        NothingOfThatName: ``chosen`` names something that is not there, or is not billed.
    """
    session = rehearsing.session
    before = session.metronome.http.counts().requests
    customers, metrics = await read_customers(session), await read_metrics(session)
    listing = session.metronome.http.counts().requests - before
    names = {c.id: c.name for c in customers.records.values()}, {m.id: m.name for m in metrics.records.values()}
    customer_ids = _ids("customer", chosen.customers, names[0])
    metric_ids = _ids("billable metric", chosen.metrics, names[1])
    database = session.database
    assert isinstance(database, RehearsedDatabase)

    async def due_of_all(connected: Database) -> list[Part]:
        inside = replace(session, database=connected)
        workflows = workflows_of(rehearsing.settings)
        found = [await _due(inside, rehearsing.settings, workflow) for workflow in workflows]
        return [Part(workflow, due, refused) for workflow, (due, refused) in zip(workflows, found, strict=True)]

    parts = [_narrowed(part, customer_ids, metric_ids) for part in await database.at_once(due_of_all)]
    return AllDue(parts, *names, listing)


def _ids(what: str, asked: Collection[str], names: Mapping[str, str]) -> frozenset[str] | None:
    """The ids of what was named by id or name; None for everything."""
    found = set()
    for each in asked:
        ids = {key for key, name in names.items() if each.casefold() in (key.casefold(), name.casefold())}
        if not ids:
            raise NothingOfThatName(f"Metronome has no {what} {each!r}, neither as a name nor as an id.")
        found |= ids
    return frozenset(found) if asked else None


def _narrowed(part: Part, customer_ids: frozenset[str] | None, metric_ids: frozenset[str] | None) -> Part:
    due = Due(
        [each for each in part.due.customers if customer_ids is None or each.customer_id in customer_ids],
        [each for each in part.due.metrics if metric_ids is None or each.metric_id in metric_ids],
        part.due.starts,
    )
    refused = [each for each in part.refused if metric_ids is None or each.metric_id in metric_ids]
    return replace(part, due=due, refused=refused)


async def _due(session: Session, settings: Settings, workflow: Workflow) -> tuple[Due, list[RefusedMetric]]:
    if workflow.name == PERIOD_USAGE:
        return await due_period_usage(session, settings)
    return await due_usage(session, settings, grouped=workflow.grouped)
