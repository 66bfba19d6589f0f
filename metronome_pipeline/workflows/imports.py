"""What the three imports share: an outcome for each record, and the numbers and the table that Dagster shows of them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import dagster as dg

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import Refused
from metronome_pipeline.http import RequestCounts
from metronome_pipeline.storage.imports import Outcome

R = TypeVar("R")
O = TypeVar("O", bound=Outcome)
PREVIEW_ROWS = 20


async def import_each(
    records: Iterable[R],
    bring: Callable[[R], Awaitable[O]],
    *,
    refused: Callable[[R, str], O],
    workers: int,
) -> list[O]:
    """Brings every record over, several at once. A record that Solvimon refuses is an outcome; the others go on."""
    waiting = iter(records)
    outcomes: list[O] = []

    async def work() -> None:
        for record in waiting:
            try:
                outcomes.append(await bring(record))
            except Refused as error:
                outcomes.append(refused(record, str(error)))

    await work_together(work, workers)
    return sorted(outcomes, key=lambda outcome: outcome.reference)


def import_metadata(outcomes: Sequence[Outcome], counts: RequestCounts) -> dict[str, Any]:
    """Numbers by outcome, requests made, and tables of what was refused or changed."""
    by_outcome = Counter(outcome.outcome for outcome in outcomes)
    refused = [outcome for outcome in outcomes if outcome.outcome == "refused"]
    noted = [outcome for outcome in outcomes if outcome.outcome != "refused" and outcome.reason]
    metadata: dict[str, Any] = {
        "dagster/row_count": len(outcomes),
        **{name: by_outcome[name] for name in ("created", "updated", "unchanged", "refused")},
        **request_metadata(counts),
        "preview": outcome_table(outcomes[:PREVIEW_ROWS]),
    }
    if refused:
        metadata["refused_records"] = outcome_table(refused)
    if noted:
        metadata["to_note"] = outcome_table(noted)
    return metadata


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
    """Rows of text as a table in Dagster's UI, which shows every cell as text and runs none of it."""
    records = [
        dg.TableRecord({column: str(value) for column, value in zip(columns, row, strict=True)}) for row in rows
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(column, "string") for column in columns])
    return dg.TableMetadataValue(records=records, schema=schema)


def column_schema(columns: Mapping[str, tuple[str, str]]) -> dg.TableSchema:
    """A column schema from name → (type, description)."""
    return dg.TableSchema(
        columns=[dg.TableColumn(name, kind, description=text) for name, (kind, text) in columns.items()]
    )
