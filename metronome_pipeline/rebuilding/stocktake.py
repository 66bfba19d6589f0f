"""Stocktaking: every event that Solvimon stores, walked until two walks agree, in a temporary table beside the ledger.

Here: the walks, and the statements that keep them. Rows stream into Postgres page by page, so memory does not grow with
their number. Not here: which slot an event stands for (``adoption.py``), and what the ledger does with them
(``rebuild.py``).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

import psycopg

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.ledger.deduplication import PROBE
from metronome_pipeline.mapping.usage import canonical_properties
from metronome_pipeline.rebuilding.adoption import Known, Placement, place, sent_group
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import MeterData

Connection = psycopg.Connection[Any]
Say = Callable[[str], None]

MOST_WALKS = 6
_STAGE_ROWS = 1_000
_TELL_EVERY = 10_000


class EventsKeepChanging(PipelineError):
    """No two walks of Solvimon's events agreed: something else writes to it."""


async def take_stock(connection: Connection, api: SolvimonApi, known: Known, say: Say) -> int:
    """Fills the temporary table ``stored`` with every event of the platform, deleted ones too; returns how many walks.

    Solvimon's list has no filter by time and shifts while events arrive, so one walk proves nothing: two walks after
    each other must show the same events in the same state.

    Raises:
        EventsKeepChanging: No two of ``MOST_WALKS`` walks agreed.
        ApiError: Solvimon could not be read to the end.
    """
    connection.execute(_NEW)
    await _walk(connection, api, known, 1, say)
    for walk in range(2, MOST_WALKS + 1):
        await _walk(connection, api, known, walk, say)
        connection.execute("ANALYZE stored")
        row = connection.execute(_DIFFERENCE, {"walk": walk}).fetchone()
        assert row is not None
        connection.execute("DELETE FROM stored WHERE walk < %s", [walk])
        if row[0] == 0:
            connection.execute("ANALYZE stored")
            return walk
        say(f"{row[0]:,} events arrived or changed since the walk before: walking once more.")
    raise EventsKeepChanging(
        f"Solvimon's events changed between each of {MOST_WALKS} walks, so what it holds is not known. Nothing was "
        "written: stop what else writes to it, then rebuild again."
    )


async def _walk(connection: Connection, api: SolvimonApi, known: Known, walk: int, say: Say) -> None:
    rows: list[tuple[Any, ...]] = []
    events = 0
    async for stored in _everything(api):
        events += 1
        rows.append((walk, events, *_row(stored, place(stored, known))))
        if len(rows) == _STAGE_ROWS:
            _stage(connection, rows)
            rows = []
        if events % _TELL_EVERY == 0:
            say(f"Walk {walk}: {events:,} events read.")
    _stage(connection, rows)
    connection.execute(_ONE_STATE, {"walk": walk})
    say(f"Walk {walk}: {events:,} events, to the end.")


async def _everything(api: SolvimonApi) -> AsyncIterator[MeterData]:
    """Every event once. Whether the list without a filter shows deleted ones is not documented: these are asked for."""
    deleted: set[str] = set()
    async for page in api.events():
        for stored in page:
            if stored.customer_reference == PROBE:
                continue
            if stored.deleted:
                deleted.add(stored.id)
            yield stored
    async for page in api.events(deleted=True):
        for stored in page:
            if stored.id not in deleted and stored.customer_reference != PROBE:
                yield stored


def _row(stored: MeterData, placed: Placement) -> tuple[Any, ...]:
    """One event as a row of ``stored``, without its walk and its place in it."""
    group, slot = sent_group(stored), placed.slot
    return (
        _storable(stored.id),
        _storable(stored.reference),
        _storable(stored.customer_reference or stored.customer_id),
        _storable(stored.meter_reference or stored.meter_id),
        stored.timestamp,
        _moment(stored.created_at),
        None if group is None else canonical_properties(group),
        placed.number,
        not stored.deleted and not stored.is_duplicate,
        stored.deleted,
        stored.is_duplicate,
        placed.ours,
        *((slot.customer_id, slot.metric_id, slot.start, slot.end, slot.slice) if slot else (None,) * 5),
        placed.revision,
        placed.properties,
        placed.exact,
        placed.customer_id,
        placed.metric_id,
        placed.why,
    )


def _storable(text: str | None) -> str | None:
    """A text as it is, but for NUL, which Postgres cannot hold: such an event is left alone."""
    return None if text is None else text.replace("\0", "\\0")


def _moment(text: str | None) -> datetime | None:
    """When an event was created, where Solvimon says it as an instant."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _stage(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    with connection.cursor().copy("COPY stored FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


# customer, meter: as the event names them; by_customer, by_metric: the records here that these are.
_NEW = """
CREATE TEMP TABLE stored (
    walk int, place int, id text, reference text, customer text, meter text, stamp timestamptz, created timestamptz,
    sent text,
    number numeric, live boolean, deleted boolean, duplicate boolean, ours boolean,
    customer_id uuid, metric_id uuid, start_at timestamptz, end_at timestamptz, slice text,
    revision int, properties text, exact boolean, by_customer uuid, by_metric uuid, why text
) ON COMMIT DROP
"""

# One that was deleted between the two lists of a walk is in both.
_ONE_STATE = """
DELETE FROM stored a USING stored b
WHERE a.walk = %(walk)s AND b.walk = a.walk AND b.id = a.id AND b.deleted AND NOT a.deleted
"""

_DIFFERENCE = """
SELECT count(DISTINCT id) FROM (
    SELECT id FROM (
        SELECT walk, id, reference, customer, meter, stamp, sent, number, deleted, duplicate, why FROM stored
        WHERE walk = %(walk)s
    ) AS now FULL JOIN (
        SELECT walk, id, reference, customer, meter, stamp, sent, number, deleted, duplicate, why FROM stored
        WHERE walk = %(walk)s - 1
    ) AS before USING (id)
    WHERE (now.reference, now.customer, now.meter, now.stamp, now.sent, now.number, now.deleted, now.duplicate,
           now.why, now.walk IS NULL)
        IS DISTINCT FROM (before.reference, before.customer, before.meter, before.stamp, before.sent, before.number,
           before.deleted, before.duplicate, before.why, before.walk IS NULL)
) AS different
"""
