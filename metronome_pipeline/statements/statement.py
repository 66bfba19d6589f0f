"""The month-end statement: what was metered, billed and corrected for each customer in one billing period, as files.

Here: the order in which one customer is stated, and what all of them come to. Not here: the ledger's lines
(``statement_lines.py``), Metronome's totals (``statement_metered.py``), Solvimon's events (``statement_returned.py``),
sums (``statement_totals.py``), formats and digests (``statement_files.py``).

Nothing is written but files: not to the database, not to Metronome, not to Solvimon.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import CursorRepeated, Malformed, Refused, quoted
from metronome_pipeline.ledger.readings import RepeatedRow
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.statements.files import Cell, Columns, Format, instant, plain, statement_file
from metronome_pipeline.statements.lines import (
    LINE_COLUMNS,
    Stated,
    expected_references,
    ledger_lines,
    state_of_ledger,
)
from metronome_pipeline.statements.metered import Span, StatedMetric, Totals, metered
from metronome_pipeline.statements.returned import Returned, Wanted, read_back, returned_events, trace
from metronome_pipeline.statements.scope import BillingPeriod, StatedCustomer, meters_by_id
from metronome_pipeline.statements.totals import Tally, Total
from metronome_pipeline.storage.database import Database

Connection = psycopg.Connection[Any]

INDEX = "index"
INDEX_COLUMNS: Columns = MappingProxyType(
    {
        "customer_id": "text",
        "customer": "text",
        "metric_id": "text",
        "metric": "text",
        "calculation": "text",
        "slots": "whole",
        "events": "whole",
        "metronome": "number",
        "ledger": "number",
        "solvimon": "number",
        "difference": "number",
        "agrees": "text",
        "remarks": "text",
        "file": "text",
        "digest": "text",
    }
)
"""A line a customer and metric; one without metric is a customer that could not be stated, with the reason."""

_ATTEMPTS = 3
_AT_ONCE = 4
_LONGEST_NAME = 40
_STILL_CHANGING = "Usage of it was being planned or delivered: make the statement again after the run."
# What ends one customer's statement and is no reason to give up the others.
_OF_ONE_CUSTOMER = (RepeatedRow, Malformed, CursorRepeated, Refused)


@dataclass(frozen=True)
class CustomerStatement:
    """What became of one customer. ``refused``: why there is no file; no file either where there is nothing to say."""

    customer: StatedCustomer
    totals: Sequence[Total] = ()
    file: str | None = None
    digest: str | None = None
    refused: str | None = None


@dataclass
class Statement:
    """A finished statement. ``digest`` is the index's, which holds those of all files."""

    index: Path
    digest: str
    customers: Sequence[CustomerStatement]
    traces: int = 0

    @property
    def differing(self) -> int:
        """How many lines of the index differ."""
        return sum(total.agrees == "no" for customer in self.customers for total in customer.totals)

    @property
    def refused(self) -> Sequence[CustomerStatement]:
        """Customers that could not be stated."""
        return [customer for customer in self.customers if customer.refused]


@dataclass
class StatementMaker:
    """Makes the statement of one billing period. ``say`` is told of progress."""

    metronome: MetronomeApi
    solvimon: SolvimonApi
    database: Database
    pair_id: int
    accounts: Mapping[str, str]
    period: BillingPeriod
    metrics: Sequence[StatedMetric]
    folder: Path
    format: Format
    traced: bool
    now: Callable[[], datetime]
    say: Callable[[str], None]
    traces_in_flight: int = 8
    _meters: dict[str, str] = field(default_factory=dict)
    _traces: int = 0

    async def make(self, customers: Sequence[StatedCustomer]) -> Statement:
        """A file for each customer that there is something to say of, and the index with the totals of all.

        Raises:
            NoTrace, Unauthorised, Unavailable, RateLimited: Nothing can be stated; there is no index.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._meters = await self.database.run(partial(meters_by_id, pair_id=self.pair_id))
        waiting, done = iter(customers), list[CustomerStatement]()

        async def work() -> None:
            for customer in waiting:
                done.append(await self._customer(customer))
                self.say(f"{len(done):,} of {len(customers):,} customers: {quoted(customer.name, 100)}")

        await work_together(work, min(_AT_ONCE, max(len(customers), 1)))
        in_order = sorted(done, key=lambda each: (each.customer.name, each.customer.customer_id))
        index, digest = self._write_index(in_order)
        return Statement(index, digest, in_order, self._traces)

    async def _customer(self, customer: StatedCustomer) -> CustomerStatement:
        span = Span(self.period.start, max(customer.start, self.period.start), self.period.until)
        if span.start >= span.end:
            return CustomerStatement(customer)
        stated = Stated(self.pair_id, customer.customer_id, span, self.metrics)
        try:
            for _ in range(_ATTEMPTS):
                made = await self._attempt(customer, stated)
                if made is not None:
                    return made
        except _OF_ONE_CUSTOMER as error:
            return CustomerStatement(customer, refused=str(error))
        return CustomerStatement(customer, refused=_STILL_CHANGING)

    async def _attempt(self, customer: StatedCustomer, stated: Stated) -> CustomerStatement | None:
        """One attempt; None when the ledger changed while Solvimon was read."""
        before = await self.database.run(partial(state_of_ledger, stated=stated))
        totals = await metered(self.metronome, customer.customer_id, self.metrics, stated.span)
        with returned_events() as returned:
            await self.database.run(lambda c: returned.expect(expected_references(c, stated)))
            say = partial(self._say_of, customer)
            wanted = Wanted(
                frozenset(metric.metric_id for metric in self.metrics), self._meters, stated.span.start, stated.span.end
            )
            await read_back(self.solvimon, customer.customer_id, wanted, returned, say)
            if self.traced:
                self._traces += await trace(self.solvimon, returned, self.traces_in_flight, say)
            return await self.database.run(partial(self._write, customer, stated, before, totals, returned))

    def _say_of(self, customer: StatedCustomer, text: str) -> None:
        self.say(f"{quoted(customer.name, 100)}: {text}")

    def _write(
        self,
        customer: StatedCustomer,
        stated: Stated,
        before: tuple[Any, ...],
        metronome: Totals,
        returned: Returned,
        connection: Connection,
    ) -> CustomerStatement | None:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if state_of_ledger(connection, stated) != before:
            return None
        path = self.folder / f"{file_name(customer.name, customer.customer_id)}.{self.format}"
        tally = Tally()
        with statement_file(path, LINE_COLUMNS, self.format) as file:
            for line in ledger_lines(connection, stated, returned):
                tally.add(line)
                file.write(line)
            totals = tally.totals(self.metrics, metronome)
            if not totals:
                return CustomerStatement(customer)
            facts = {
                **self._facts(),
                "customer": {"id": customer.customer_id, "name": customer.name},
                "stated": {"from": instant(stated.span.start), "to": instant(stated.span.end)},
                "totals": [_json(total._asdict()) for total in totals],
            }
            digest = file.finish(facts, made_at=self.now())
        return CustomerStatement(customer, totals, path.name, digest)

    def _write_index(self, customers: Sequence[CustomerStatement]) -> tuple[Path, str]:
        path = self.folder / f"{INDEX}.{self.format}"
        with statement_file(path, INDEX_COLUMNS, self.format) as file:
            for one in customers:
                whose = (one.customer.customer_id, one.customer.name)
                for total in one.totals:
                    file.write((*whose, *total, one.file, one.digest))
                if one.refused:
                    nothing = (None,) * (len(INDEX_COLUMNS) - 6)
                    file.write((*whose, *nothing, "not stated", one.refused, None, None))
            digest = file.finish({**self._facts(), "customers": len(customers)}, made_at=self.now())
        return path, digest

    def _facts(self) -> dict[str, Any]:
        return {
            "accounts": dict(self.accounts),
            "month": self.period.month,
            "period": {"from": instant(self.period.start), "to": instant(self.period.end)},
            "until": instant(self.period.until),
            "invoices": self.traced,
        }


def file_name(name: str, customer_id: str) -> str:
    """A file's name, without its ending: letters, digits and marks of the name in any script, and the id.

    The id makes it one customer's. Nothing in a name reaches the file system as a separator, a dot or a command.
    """
    composed = unicodedata.normalize("NFC", name)
    kept = "".join(letter if unicodedata.category(letter)[0] in "LNM" else "_" for letter in composed)
    words = "_".join(word for word in kept.split("_") if word)[:_LONGEST_NAME].rstrip("_")
    return f"{words}_{customer_id}" if words else customer_id


def _json(record: Mapping[str, Cell]) -> dict[str, Any]:
    return {name: plain(cell) if isinstance(cell, Decimal) else cell for name, cell in record.items()}
