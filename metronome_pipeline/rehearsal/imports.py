"""Rehearse the imports: what they would create, update and refuse in Solvimon, without doing it.

Here: the imports' own functions, in their order, against a database and a Solvimon in which nothing lasts. Not here:
how these two are made (``storage/rehearsed.py``, ``solvimon/rehearsed.py``), usage (``rehearsal.py``), the terminal.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metronome_pipeline.rehearsal.lines import Requests
from metronome_pipeline.rehearsal.session import Rehearsing
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.imports import Outcome
from metronome_pipeline.workflows.customers import import_known_customers, read_customers
from metronome_pipeline.workflows.meters import import_known_metrics, read_metrics
from metronome_pipeline.workflows.products import import_known_products, read_products
from metronome_pipeline.workflows.session import Session

Read = Callable[[Session], Awaitable[Any]]
Bring = Callable[[Session, Settings], Awaitable[Sequence[Outcome]]]


async def _import_products(session: Session, settings: Settings) -> Sequence[Outcome]:
    del settings
    return await import_known_products(session)


IMPORTS: Mapping[str, tuple[Read, Bring]] = {
    "customers": (read_customers, import_known_customers),
    "meters": (read_metrics, import_known_metrics),
    "products": (read_products, _import_products),
}
"""The imports by what they bring over, in the order in which all of them run: products need meters."""


@dataclass(frozen=True)
class ImportPlan:
    """What one import would do."""

    what: str
    outcomes: Sequence[Outcome]
    requests: Requests

    def of(self, outcome: str) -> list[Outcome]:
        """The records with an outcome: created, updated, unchanged or refused."""
        return [each for each in self.outcomes if each.outcome == outcome]


async def rehearse_import(rehearsing: Rehearsing, what: str) -> ImportPlan:
    """Rehearses one import. What imports that were rehearsed before would have made is there."""
    read, bring = IMPORTS[what]
    session, solvimon = rehearsing.session, rehearsing.solvimon_http
    asked, written = session.metronome.http.counts(), solvimon.requests
    await read(session)
    outcomes = await bring(session, rehearsing.settings)
    now = session.metronome.http.counts()
    requests = (now.requests - now.retries) - (asked.requests - asked.retries)
    return ImportPlan(what, outcomes, rehearsing.at_todays_pace(requests, solvimon.requests - written))
