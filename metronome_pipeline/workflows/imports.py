"""What the three imports share: their step, what was read, an outcome for each record, and what Dagster shows of them.

Not here: customers, meters and products themselves (files of their own), HTTP, SQL.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import dagster as dg

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import AlreadyExists, Refused, quoted
from metronome_pipeline.http import RequestCounts
from metronome_pipeline.metronome.records import Page, Refusal
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.imports import Outcome
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.session import Session, failing_in_a_sentence, open_session
from metronome_pipeline.workflows.tags import tag_run


class HasId(Protocol):
    """Anything that either API lists."""

    @property
    def id(self) -> str:
        """Its id there."""
        ...


R = TypeVar("R")
Listed = TypeVar("Listed", bound=HasId)
Stored = TypeVar("Stored", bound=HasId)
Imported = TypeVar("Imported", bound=Outcome)

PREVIEW_ROWS = 20
LISTED_ROWS = 500
"""Rows of a table of refused or noted records in Dagster. All of them stand in Postgres."""

LONGEST_CELL = 2_000
"""Characters of a cell of a table in Dagster."""


class Incompatible(Exception):
    """What stands in Solvimon under a reference cannot serve, as a sentence for the person who must act."""


@dataclass(frozen=True)
class Listing(Generic[Listed]):
    """A complete walk of one of Metronome's lists: the records by id, and those that cannot be kept."""

    records: dict[str, Listed] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)


def run_in_session(
    context: dg.AssetExecutionContext,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
    work: Callable[[Session], Awaitable[Mapping[str, Any]]],
) -> dg.MaterializeResult[None]:
    """The step of an import: opens everything, does the work, and gives its numbers to Dagster.

    Raises:
        dg.Failure: One sentence, where the work as a whole could not be done.
    """

    async def step() -> dg.MaterializeResult[None]:
        async with open_session(metronome, solvimon, store, context.run.run_id) as session:
            return dg.MaterializeResult(metadata=await work(session))

    tag_run(context)
    with failing_in_a_sentence():
        return asyncio.run(step())


async def walk(*lists: AsyncIterator[Page[Listed]]) -> Listing[Listed]:
    """Walks lists to their ends, one after the other. Of two records with one id the later is kept."""
    listing: Listing[Listed] = Listing()
    for pages in lists:
        async for page in pages:
            listing.records.update({record.id: record for record in page.records})
            listing.refused.update({refusal.record_id: refusal for refusal in page.refused})
    return listing


def listing_metadata(
    listing: Listing[Listed], counts: RequestCounts, *, name: Callable[[Listed], str]
) -> dict[str, Any]:
    """Numbers of a complete walk, a preview, and what was refused."""
    records = [listing.records[record_id] for record_id in sorted(listing.records)]
    refused = [(refusal.record_id, refusal.field, refusal.reason) for refusal in listing.refused.values()]
    return {
        "dagster/row_count": len(records),
        "refused": len(refused),
        **request_metadata(counts),
        "preview": table(("id", "name"), [(record.id, name(record)) for record in records[:PREVIEW_ROWS]]),
        **({"refused_records": table(("id", "field", "reason"), refused[:LISTED_ROWS])} if refused else {}),
    }


async def import_each(
    records: Iterable[R],
    bring: Callable[[R], Awaitable[Imported]],
    *,
    refused: Callable[[R, str], Imported],
    workers: int,
) -> list[Imported]:
    """Brings every record over, several at once. One that Solvimon refuses is an outcome, and the others go on."""
    waiting = iter(records)
    outcomes: list[Imported] = []

    async def work() -> None:
        for record in waiting:
            try:
                outcomes.append(await bring(record))
            except (Refused, Incompatible) as error:
                outcomes.append(refused(record, str(error)))

    await work_together(work, workers)
    return sorted(outcomes, key=lambda outcome: outcome.reference)


async def find_or_create(
    listed: Stored | None,
    create: Callable[[], Awaitable[Stored]],
    find: Callable[[], Awaitable[Stored | None]],
) -> tuple[Stored, bool]:
    """What stands in Solvimon under a reference, made where nothing does; and whether it was made.

    A list may hide drafts and what is archived: what it does not show is found when its creation conflicts.

    Raises:
        AlreadyExists: It cannot be made, and cannot be found either.
    """
    if listed is not None:
        return listed, False
    try:
        return await create(), True
    except AlreadyExists as error:
        found = await find()
        if found is None:
            raise
        return found, error.may_have_arrived


def what_happened(*, made: bool, changed: bool) -> Literal["created", "updated", "unchanged"]:
    """The outcome of a record that stands in Solvimon as it should."""
    return "created" if made else "updated" if changed else "unchanged"


def check_usable(what: str, reference: str | None, status: str | None) -> None:
    """Passes what is active, or a draft that can be made so.

    Raises:
        Incompatible: It was archived, deprecated or closed by someone.
    """
    if status not in (None, "DRAFT", "ACTIVE"):
        raise clash(what, reference, f"status {status}", "status ACTIVE")


def clash(what: str, reference: str | None, has: str, needs: str) -> Incompatible:
    """Something else stands under a reference that an import needs."""
    return Incompatible(
        f"A {what} with the reference {reference} exists in Solvimon with {quoted(has, 200)}, where {needs} is needed. "
        "Correct it or give it another reference there, then import again."
    )


def import_metadata(outcomes: Sequence[Outcome], counts: RequestCounts) -> dict[str, Any]:
    """Numbers by outcome, requests made, and tables of what was refused or should be known."""
    by_outcome = Counter(outcome.outcome for outcome in outcomes)
    refused = [outcome for outcome in outcomes if outcome.outcome == "refused"]
    noted = [outcome for outcome in outcomes if outcome.outcome != "refused" and outcome.reason]
    return {
        "dagster/row_count": len(outcomes),
        **{name: by_outcome[name] for name in ("created", "updated", "unchanged", "refused")},
        **request_metadata(counts),
        "preview": outcome_table(outcomes[:PREVIEW_ROWS]),
        **({"refused_records": outcome_table(refused[:LISTED_ROWS])} if refused else {}),
        **({"to_note": outcome_table(noted[:LISTED_ROWS])} if noted else {}),
    }


def request_metadata(counts: RequestCounts) -> dict[str, Any]:
    """Requests made, and how many of them were repeats."""
    return {"requests": counts.requests, "retries": counts.retries, "waited_seconds": round(counts.waited_seconds, 1)}


def outcome_table(outcomes: Sequence[Outcome]) -> dg.TableMetadataValue:
    """Outcomes as a table."""
    return table(
        ("reference", "name", "outcome", "reason"),
        [(o.reference, o.name, o.outcome, o.reason or "") for o in outcomes],
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dg.TableMetadataValue:
    """Rows of text as a table in Dagster's UI, which shows every cell as text and runs none of it.

    Long cells are cut: 500 names of a megabyte each would make one event of half a gigabyte.
    """
    records = [
        dg.TableRecord({column: _cell(value) for column, value in zip(columns, row, strict=True)}) for row in rows
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(column, "string") for column in columns])
    return dg.TableMetadataValue(records=records, schema=schema)


def _cell(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…"


def column_schema(columns: Mapping[str, tuple[str, str]]) -> dg.TableSchema:
    """A column schema from name → (type, description)."""
    return dg.TableSchema(
        columns=[dg.TableColumn(name, kind, description=text) for name, (kind, text) in columns.items()]
    )
