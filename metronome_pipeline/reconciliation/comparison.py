"""One reconciliation under way: what was asked, what was found so far, and how one pair's slots become its lines.

Here: what comparing by day, by hour and by event have in common. Not here: what differs and why (``differences.py``),
and what is read when (``by_day.py``, ``by_event.py``).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from metronome_pipeline.clock import Clock, Pauses
from metronome_pipeline.ledger.read import Window, midnight
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.mapping.periods import DAY, first_midnight
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.reconciliation import standing
from metronome_pipeline.reconciliation.afresh import Afresh, Values, slots_of_metric
from metronome_pipeline.reconciliation.differences import compare_slot, line_of
from metronome_pipeline.reconciliation.lines import (
    DayLine,
    Difference,
    Evidence,
    Foreign,
    Found,
    ReconciledMetric,
    SlotTotals,
)
from metronome_pipeline.reconciliation.readback import Unmatched
from metronome_pipeline.reconciliation.standing import Connection, StandingEvent
from metronome_pipeline.reconciliation.tally import Tally
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import MeterData
from metronome_pipeline.storage.database import Database
from metronome_pipeline.sweeps.days import days_of

LOOKS = 3
"""How often a pair is looked at while runs keep changing it."""
_HOUR = timedelta(hours=1)

Take = Callable[[Sequence[DayLine]], Awaitable[None]]


@dataclass(frozen=True)
class Question:
    """What is to be reconciled.

    Attributes:
        window: Closed hours.
        metrics: Every metric to compare, refused ones too.
        starts: The customers to compare, each with the first hour that is billed for it.
        solvimon_ids: Solvimon's ids of customers, as far as they are known.
        deep: Whether every event of these customers is read back from Solvimon.
        whole_account: Whether these are all customers: Solvimon's lists are then read for the account at once.
    """

    window: Window
    metrics: Sequence[ReconciledMetric]
    starts: Mapping[str, datetime]
    solvimon_ids: Mapping[str, str] = field(default_factory=dict)
    deep: bool = False
    whole_account: bool = True

    def window_of(self, customer_id: str) -> Window:
        """The hours of a customer: nothing from before its cut-over is compared. It may be empty."""
        return Window(max(self.window.start, self.starts[customer_id]), self.window.end)


@dataclass(frozen=True)
class Accounts:
    """One account pair, open: both APIs and the database."""

    metronome: MetronomeApi
    solvimon: SolvimonApi
    database: Database
    pair_id: int
    clock: Clock
    say: Callable[[str], None]
    in_flight: int = 8
    anchor_day: int = 1


@dataclass(frozen=True)
class Shown:
    """What Solvimon itself shows of one customer. ``live`` as in ``Evidence``.

    ``suspect_days`` are (metric, day) in which it holds an event otherwise than its receipt says.
    """

    found: Mapping[int, Found] = field(default_factory=dict)
    foreign: Sequence[Foreign] = ()
    live: Mapping[int, Decimal] | None = None
    suspect_days: frozenset[tuple[str, datetime]] = frozenset()


class Comparison:
    """One reconciliation: everything that its parts share."""

    def __init__(self, accounts: Accounts, question: Question, take: Take) -> None:
        self.accounts = accounts
        self.question = question
        self.metrics = {metric.metric_id: metric for metric in question.metrics}
        self.tally = Tally(self.metrics)
        self.afresh = Afresh(accounts.metronome, accounts.anchor_day)
        self.shown: dict[str, Shown] = {}
        self.unmatched: dict[tuple[str, str, datetime], list[Unmatched]] = {}
        self._take = take
        self._pauses = Pauses(accounts.clock)

    async def give(self, lines: Sequence[DayLine]) -> None:
        """Counts lines and passes them on, with what Solvimon does not bill of them."""
        complete = [self._with_unmatched(line) for line in lines]
        self.tally.take(complete)
        if complete:
            await self._take(complete)

    async def note_unread(self, customer_id: str, metric_ids: Sequence[str], reason: str, window: Window) -> None:
        """Lists pairs that could not be read, and gives a line for each of their days."""
        self.tally.unread.append(Unread(customer_id, tuple(metric_ids), reason))
        days = days_of(midnight(window.start), first_midnight(window.end))
        await self.give([_unread_line(customer_id, metric_id, day) for metric_id in metric_ids for day in days])

    def compare(
        self,
        connection: Connection,
        customer_id: str,
        metric: ReconciledMetric,
        window: Window,
        values: Values,
        shown: Shown,
        events: Sequence[StandingEvent] | None = None,
    ) -> list[DayLine]:
        """The lines of a pair, slot by slot, from Metronome's ``values``; ``events`` where they are known already."""
        starts = slots_of_metric(metric, window)
        ids = self.accounts.pair_id, customer_id, metric.metric_id
        known = standing.slots(connection, *ids, metric.slicing, starts)
        if events is None:
            pair_id, metric_id = self.accounts.pair_id, metric.metric_id
            events = standing.events_standing(connection, pair_id, customer_id, [metric_id], window.start, window.end)
        length = DAY if metric.slicing == PERIOD_TO_DATE else _HOUR
        of_slots: dict[datetime, list[StandingEvent]] = {}
        for event in events:
            of_slots.setdefault(_slot_start(event.start, length), []).append(event)
        strangers: dict[datetime, list[Foreign]] = {}
        for foreign in shown.foreign:
            if (foreign.customer_id, foreign.metric_id) == (customer_id, metric.metric_id):
                strangers.setdefault(_slot_start(foreign.start, length), []).append(foreign)
        of_days: dict[datetime, list[SlotTotals]] = {}
        for start in starts:
            theirs = strangers.get(start, ())
            evidence = Evidence(known[start], start + length, of_slots.get(start, ()), shown.found, theirs, shown.live)
            slot = compare_slot(metric, customer_id, values.get(start), evidence)
            of_days.setdefault(midnight(start), []).append(slot)
        read_back = shown.live is not None
        return [line_of(metric, customer_id, day, slots, read_back=read_back) for day, slots in of_days.items()]

    async def may_be_stale(self, customer_id: str, metric_id: str, lines: Sequence[DayLine], began: datetime) -> bool:
        """Whether a difference may only be there because a run read or planned while this pair was looked at."""
        reasons = {part.reason for line in lines for part in line.differences}
        if not reasons & {"unknown", "changed since read", "never read"}:
            return False
        pair_id = self.accounts.pair_id
        return await self.accounts.database.run(lambda c: standing.moved(c, pair_id, customer_id, metric_id, began))

    async def began(self) -> datetime:
        """The database's time."""
        return await self.accounts.database.run(standing.moment)

    async def by_reference(self, references: Sequence[str]) -> list[StandingEvent]:
        """The ledger's events with some references."""
        if not references:
            return []
        pair_id = self.accounts.pair_id
        return await self.accounts.database.run(lambda c: standing.events_by_reference(c, pair_id, references))

    async def copies(self, reference: str) -> list[MeterData]:
        """Everything that Solvimon stores under a reference."""
        return [data async for page in self.accounts.solvimon.events(reference=reference) for data in page]

    async def solvimon_id(self, customer_id: str) -> str | None:
        """Solvimon's id of a customer; None where it has no such customer."""
        known = self.question.solvimon_ids.get(customer_id)
        if known is not None:
            return known
        found = await self.accounts.solvimon.find_customer(customer_id)
        return found.id if found else None

    def say_progress(self) -> None:
        """A line now and then."""
        if not self._pauses.are_over():
            return
        back = f", {self.tally.events_read_back:,} events read back" if self.question.deep else ""
        lines = sum(self.tally.counted.values())
        self.accounts.say(f"So far {lines:,} days of a customer and metric compared{back}.")

    def _with_unmatched(self, line: DayLine) -> DayLine:
        """The line with what Solvimon counts and does not bill. That is no difference of totals, and is listed."""
        start = self.question.window_of(line.customer_id).start
        found = self.unmatched.get((line.customer_id, line.metric_id, line.day), ())
        parts = [_unmatched_part(each) for each in sorted(found, key=lambda each: each.start) if each.start >= start]
        return replace(line, differences=(*line.differences, *parts)) if parts else line


def _slot_start(instant: datetime, length: timedelta) -> datetime:
    return midnight(instant) if length == DAY else instant


def _unread_line(customer_id: str, metric_id: str, day: datetime) -> DayLine:
    return DayLine(customer_id, metric_id, day, None, None, None, None, None, 0, 0, "hour", read=False)


def _unmatched_part(unmatched: Unmatched) -> Difference:
    return Difference(
        unmatched.customer_id,
        unmatched.metric_id,
        unmatched.start,
        unmatched.start + _HOUR,
        None,
        None,
        None,
        unmatched.number,
        "unmatched",
        f"{unmatched.events} events that Solvimon counts and does not bill",
        "event",
        (unmatched.reference,),
    )
