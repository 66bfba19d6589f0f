"""What Solvimon says of a customer's billing period: its events read back, and the invoices that they are on.

Here: the walk, the traces, and the place on disk where both wait until the ledger's lines ask for them. Not here: what
the ledger says (``statement.py``). Nothing here touches the database.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import Malformed, PipelineError, Unauthorised
from metronome_pipeline.mapping.meters import value_reference
from metronome_pipeline.mapping.usage import canonical_properties
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import EventTrace, MeterData
from metronome_pipeline.statements.files import instant, plain

Say = Callable[[str], None]

COUNTED, UNMATCHED, DUPLICATE, DELETED = "counted", "unmatched", "duplicate", "deleted"
COUNTING = (COUNTED, UNMATCHED)
"""Unmatched events count: they are stored, and bill once they are matched."""

_CHUNK = 500
_PAGES_A_LINE = 100


class NoTrace(PipelineError):
    """Solvimon does not let this key see on which invoice an event is."""


@dataclass(frozen=True)
class Wanted:
    """Which events are wanted: of these meters, in ``[start, end)``. ``references``: of meters, by Solvimon's id."""

    metric_ids: frozenset[str]
    references: Mapping[str, str]
    start: datetime
    end: datetime

    def metric_of(self, event: MeterData) -> str | None:
        """The metric of an event's meter; None for a meter that is not one of them."""
        reference = event.meter_reference or self.references.get(event.meter_id or "")
        return reference if reference in self.metric_ids else None

    def holds(self, event: MeterData) -> bool:
        """Whether an event's timestamp is in the span. Solvimon's timestamps are the hours' starts, in UTC."""
        if event.timestamp is None:
            return False
        moment = event.timestamp if event.timestamp.tzinfo else event.timestamp.replace(tzinfo=UTC)
        return self.start <= moment < self.end


class ReturnedEvent(NamedTuple):
    """One event as Solvimon has it. ``number`` is None where it has no readable one; ``invoices`` by space."""

    id: str
    reference: str | None
    metric_id: str
    at: str
    number: str | None
    properties: str | None
    state: str
    invoices: str | None


class Returned:
    """Events read back, on disk, so that memory does not grow with them. Made with ``returned_events``."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.executescript(_TABLES)

    def put(self, rows: Iterable[ReturnedEvent]) -> None:
        """Keeps events; one that is there already stays as it is."""
        self._database.executemany(_PUT, ((*row, _RANK[row.state]) for row in rows))

    def expect(self, references: Iterable[tuple[str]]) -> None:
        """Notes references under which an event ought to be there."""
        self._database.executemany("INSERT OR IGNORE INTO expected VALUES (?)", references)

    def lacking(self) -> Sequence[str]:
        """Some references that are expected, and were neither found nor looked up."""
        rows = self._database.execute(_LACKING, [_CHUNK]).fetchall()
        return [reference for (reference,) in rows]

    def looked_up(self, reference: str) -> None:
        """Notes that a reference was asked for alone."""
        self._database.execute("DELETE FROM expected WHERE reference = ?", [reference])

    def untraced(self) -> Sequence[str]:
        """Ids of some events that may be on an invoice and were not traced."""
        return [event_id for (event_id,) in self._database.execute(_UNTRACED, [_CHUNK]).fetchall()]

    def to_trace(self) -> int:
        """How many ``untraced`` has still to give."""
        return int(self._database.execute(_TO_TRACE).fetchone()[0])

    def traced(self, event_id: str, invoices: Iterable[str]) -> None:
        """Notes the invoices of an event."""
        text = " ".join(sorted(set(invoices)))
        self._database.execute("UPDATE found SET traced = 1, invoices = ? WHERE id = ?", [text or None, event_id])

    def take(self, reference: str) -> ReturnedEvent | None:
        """The event under a reference, once: the one that counts, where there are several."""
        row = self._database.execute(_TAKE, [reference]).fetchone()
        if row is None:
            return None
        self._database.execute("UPDATE found SET taken = 1 WHERE id = ?", [row[0]])
        return ReturnedEvent(*row)

    def rest(self) -> Iterator[ReturnedEvent]:
        """What was never taken, by metric and time."""
        for row in self._database.execute(_REST):
            yield ReturnedEvent(*row)

    def numbers(self) -> Iterator[tuple[str, Decimal | None]]:
        """Metric and number of every event that counts."""
        for metric_id, number in self._database.execute(_NUMBERS):
            yield metric_id, None if number is None else Decimal(number)


@contextmanager
def returned_events() -> Iterator[Returned]:
    """An empty place, gone with the block."""
    # An empty name is a file of its own that SQLite deletes. It is used by one thread after the other.
    database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    try:
        yield Returned(database)
    finally:
        database.close()


async def read_back(api: SolvimonApi, customer_id: str, wanted: Wanted, returned: Returned, say: Say) -> None:
    """Walks every event of a customer, deleted ones too, and keeps those of the span; then looks up what lacks.

    The list has no filter by date (its notes, section 3.4), so all pages of the customer are read. An event that is
    expected and not in the walk is asked for by its reference.

    Args:
        api: Solvimon.
        customer_id: Metronome's id, which is Solvimon's reference.
        wanted: The span and the meters.
        returned: Where events go. Its expected references are looked up.
        say: Told now and then how far the walk is.

    Raises:
        Malformed: The list holds an event of another customer: the filter was ignored.
    """
    customer = await api.find_customer(customer_id)
    if customer is not None:
        pages = api.events(customer_id=customer.id)
        read = 0
        async for number, page in _numbered(pages):
            for event in page:
                if event.customer_id not in (None, customer.id):
                    sentence = "Solvimon listed an event of another customer than the one asked for: nothing is stated."
                    raise Malformed(sentence, system="Solvimon", endpoint="GET /v1/events", field="customer_id")
            read += len(page)
            returned.put(_kept(page, wanted))
            if number % _PAGES_A_LINE == 0:
                say(f"{read:,} events read back, in {number:,} pages")
    while lacking := returned.lacking():
        for reference in lacking:
            async for page in api.events(reference=reference):
                returned.put(_kept(page, wanted))
            returned.looked_up(reference)


async def trace(api: SolvimonApi, returned: Returned, workers: int, say: Say) -> int:
    """Asks of every event that may be on an invoice on which; how many were asked for.

    One request an event: there is no list of traces. Duplicates and unmatched events are on no invoice and are not
    asked for; deleted ones are, as an invoice may have become final before.

    Raises:
        NoTrace: The key may not see traces.
    """
    total, done = returned.to_trace(), 0
    while ids := returned.untraced():
        waiting = iter(ids)

        async def work(waiting: Iterator[str] = waiting) -> None:
            for event_id in waiting:
                returned.traced(event_id, _invoices(await _traced(api, event_id)))

        await work_together(work, workers)
        done += len(ids)
        if done < total:
            say(f"{done:,} of {total:,} events traced to their invoices")
    return done


async def _traced(api: SolvimonApi, event_id: str) -> EventTrace:
    try:
        return await api.event_trace(event_id)
    except Unauthorised as error:
        raise NoTrace(
            f"{error} Give the key METER_DATA.EVENT_TRACE.VIEW, or leave the invoices out with --no-trace."
        ) from None


def _invoices(found: EventTrace) -> Iterator[str]:
    return (link.invoice_id for link in found.links or () if link.invoice_id)


def _kept(page: Iterable[MeterData], wanted: Wanted) -> Iterator[ReturnedEvent]:
    for event in page:
        metric_id = wanted.metric_of(event)
        if metric_id is not None and wanted.holds(event):
            yield returned_event(event, metric_id)


def returned_event(event: MeterData, metric_id: str) -> ReturnedEvent:
    """What is kept of an event of a metric."""
    number = number_of(event, metric_id)
    group = {each.reference or "": each.value for each in event.meter_properties}
    assert event.timestamp is not None
    moment = event.timestamp if event.timestamp.tzinfo else event.timestamp.replace(tzinfo=UTC)
    return ReturnedEvent(
        id=event.id,
        reference=event.reference,
        metric_id=metric_id,
        at=instant(moment),
        number=None if number is None else plain(number),
        properties=canonical_properties(group) if group else None,
        state=state_of(event),
        invoices=None,
    )


def number_of(event: MeterData, metric_id: str) -> Decimal | None:
    """The quantity of an event: of the value that meters of ours have, or of the only one."""
    values = event.meter_values
    own = [value for value in values if value.reference == value_reference(metric_id)] or values
    return own[0].quantity if len(own) == 1 else None


def state_of(event: MeterData) -> str:
    """What an event is for the bill: deleted, duplicate, unmatched or counted."""
    if event.deleted:
        return DELETED
    if event.is_duplicate:
        return DUPLICATE
    details = event.processed_details
    return UNMATCHED if details is not None and details.type == "NOT_MATCHED" else COUNTED


async def _numbered(pages: AsyncIterator[list[MeterData]]) -> AsyncIterator[tuple[int, list[MeterData]]]:
    number = 0
    async for page in pages:
        number += 1
        yield number, page


_RANK = {COUNTED: 0, UNMATCHED: 1, DELETED: 2, DUPLICATE: 3}

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE found (
    id TEXT PRIMARY KEY, reference TEXT, metric_id TEXT NOT NULL, at TEXT NOT NULL, number TEXT, properties TEXT,
    state TEXT NOT NULL, invoices TEXT, rank INTEGER NOT NULL, traced INTEGER NOT NULL DEFAULT 0,
    taken INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX found_reference ON found (reference, rank);
CREATE INDEX found_untraced ON found (id) WHERE NOT traced AND state IN ('counted', 'deleted');
CREATE TABLE expected (reference TEXT PRIMARY KEY);
"""
_PUT = "INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)"
_LACKING = """
SELECT reference FROM expected e WHERE NOT EXISTS (SELECT 1 FROM found f WHERE f.reference = e.reference) LIMIT ?
"""
_UNTRACED = "SELECT id FROM found WHERE NOT traced AND state IN ('counted', 'deleted') ORDER BY id LIMIT ?"
_TO_TRACE = "SELECT count(*) FROM found WHERE NOT traced AND state IN ('counted', 'deleted')"
_TAKE = """
SELECT id, reference, metric_id, at, number, properties, state, invoices FROM found
WHERE reference = ? AND NOT taken ORDER BY rank, id LIMIT 1
"""
_REST = """
SELECT id, reference, metric_id, at, number, properties, state, invoices FROM found
WHERE NOT taken ORDER BY metric_id, at, id
"""
_NUMBERS = "SELECT metric_id, number FROM found WHERE state IN ('counted', 'unmatched')"
