"""Rehearse the usage workflows: what a backfill of a range would send, correct, delete and hold, without doing it.

Here: from a range to the numbers of a plan. Not here: the rehearsal of a step (``synchroniser.py``), imports
(``import_rehearsal.py``), what is only estimated (``estimate.py``), the terminal (``cli/plan.py``).
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta

from metronome_pipeline.ledger.brakes import Brake
from metronome_pipeline.ledger.periods import PeriodReader
from metronome_pipeline.ledger.plan import Connection
from metronome_pipeline.ledger.proposals import Proposal
from metronome_pipeline.ledger.read import UsageReader, Window
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.ledger.synchronise import Synchroniser
from metronome_pipeline.ledger.unsettled import unsettled_windows
from metronome_pipeline.mapping.periods import last_midnight
from metronome_pipeline.rehearsal.lines import HOLDS, Line, PlanLines, Requests, requests_to_deliver
from metronome_pipeline.rehearsal.session import AllDue, Part, Rehearsing
from metronome_pipeline.rehearsal.synchroniser import Rehearsal, Rehearsed, rehearsal_of
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.calls import PAGE_SIZE
from metronome_pipeline.workflows.hours import HOUR
from metronome_pipeline.workflows.limits import lateness_of
from metronome_pipeline.workflows.period_ingestion import billing_of
from metronome_pipeline.workflows.reports import Progress
from metronome_pipeline.workflows.synchronising import synchroniser_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class UsagePlan:
    """What runs over a range would do."""

    window: Window
    due: AllDue
    lines: Sequence[Line]
    brakes: Sequence[Brake]
    unread: Sequence[Unread]
    new_customers: Sequence[str]
    requests: Requests

    @property
    def does_everything(self) -> bool:
        """Whether nothing would be refused, held, left waiting or unread."""
        holds = any(line.what in HOLDS for line in self.lines)
        return not (holds or self.due.refused or self.unread)


def closed_window(start: datetime, end: datetime, now: datetime, settings: Settings) -> Window | None:
    """The hours of a range that are billed and closed; None when there are none yet."""
    closed = (now - timedelta(minutes=settings.usage_close_minutes)).replace(minute=0, second=0, microsecond=0)
    window = Window(max(start, settings.usage_start), min(end, closed))
    return window if window.start < window.end else None


def runs_of(window: Window, partitions_per_run: int) -> list[Window]:
    """The runs of a backfill over a range of hours."""
    length, runs = partitions_per_run * HOUR, [window.start]
    while runs[-1] + length < window.end:
        runs.append(runs[-1] + length)
    return [Window(start, end) for start, end in zip(runs, [*runs[1:], window.end], strict=True)]


def runs_in_all(due: AllDue, window: Window, settings: Settings) -> int:
    """How many runs a backfill is, of all workflows together. By period to date it is one."""
    by_hour = len(runs_of(window, settings.backfill_partitions_per_run))
    return sum(1 if part.by_period else by_hour for part in due.parts)


async def rehearse_usage(
    rehearsing: Rehearsing,
    due: AllDue,
    window: Window,
    *,
    say: Say,
    see: Callable[[Rehearsed], None] = lambda _: None,
) -> UsagePlan:
    """Rehearses the runs of a backfill over a window, workflow by workflow. ``see`` is told each step."""
    session, settings = rehearsing.session, rehearsing.settings
    lateness = lateness_of(settings)
    lines = PlanLines(due.calculations, lateness.hold)
    notes = _Notes()
    counted = session.metronome.http.counts()
    earlier = await rehearsing.database.run(lambda c: planned_earlier(c, session.pair.pair_id))
    for line in earlier:
        lines.put(line)
    notes.to_solvimon += -(-sum(line.events for line in earlier) // rehearsing.solvimon.batch_limit)
    notes.customers |= {line.customer_id for line in earlier}
    for part in due.parts:
        async with aclosing(_steps(rehearsing, part, window, say)) as steps:
            async for step in steps:
                lines.add(step)
                notes.add(step, hold_late=lateness.hold, batch_limit=rehearsing.solvimon.batch_limit)
                see(step)
    now = session.metronome.http.counts()
    read = (now.requests - now.retries) - (counted.requests - counted.retries)
    known = await rehearsing.database.run(lambda c: customers_in_solvimon(c, session.pair.pair_id))
    new = sorted(notes.customers - known)
    runs = runs_in_all(due, window, settings)
    solvimon = notes.to_solvimon + requests_to_create(len(new), known=len(known))
    return UsagePlan(
        window,
        due,
        lines.all,
        notes.brakes,
        notes.unread,
        [due.customers.get(customer_id, customer_id) for customer_id in new],
        rehearsing.at_todays_pace(read + runs * due.listing, solvimon, steps=notes.steps),
    )


@dataclass
class _Notes:
    """What a plan keeps of its steps besides the lines."""

    steps: int = 0
    to_solvimon: int = 0
    customers: set[str] = field(default_factory=set)
    brakes: list[Brake] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)

    def add(self, step: Rehearsed, *, hold_late: bool, batch_limit: int) -> None:
        self.steps += 1
        leaving: list[Proposal] = [each for each in step.written if not (each.late and hold_late)]
        self.to_solvimon += requests_to_deliver(leaving, batch_limit)
        # A customer is made once it has an event that waits, a held one too.
        self.customers |= {each.customer_id for each in step.written}
        self.brakes += step.brakes
        self.unread += step.read.unread


def _steps(rehearsing: Rehearsing, part: Part, window: Window, say: Say) -> AsyncGenerator[Rehearsed, None]:
    return (_periods if part.by_period else _weeks)(rehearsing, part, window, say)


async def _weeks(rehearsing: Rehearsing, part: Part, window: Window, say: Say) -> AsyncGenerator[Rehearsed, None]:
    """The steps of every run. What an earlier run left is revisited by the first of them."""
    rehearsal = usage_rehearsal(rehearsing)
    pairs = len(part.due.customer_ids(window)) * len(part.due.metrics)
    for number, run in enumerate(runs_of(window, rehearsing.settings.backfill_partitions_per_run)):
        progress = Progress(say, rehearsing.session.clock, pairs)
        async with aclosing(rehearsal.rehearse(part.due, run, progress=progress)) as steps:
            async for step in steps:
                if not step.revisited:
                    yield step
                elif number == 0:
                    yield _without(step, window)


async def _periods(rehearsing: Rehearsing, part: Part, window: Window, say: Say) -> AsyncGenerator[Rehearsed, None]:
    """The billing periods of a range: one run, which reads and plans each of them whole."""
    session = rehearsing.session
    windows = period_windows(rehearsing, window)
    rehearsal = period_rehearsal(rehearsing)
    pair_id, metric_ids = session.pair.pair_id, [metric.metric_id for metric in part.due.metrics]
    noted = await rehearsing.database.run(lambda c: unsettled_windows(c, pair_id, metric_ids))
    billing = billing_of(rehearsing.settings)
    others = dict.fromkeys(period for each in noted for period in billing.windows(each.start, each.end))
    for other in others:
        if windows and other not in windows:
            yield await rehearsal.revisit(part.due, other)
    for period in windows:
        say(f"Reading the billing period from {period.start:%Y-%m-%d} …")
        yield await rehearsal.rehearse_step(part.due, period)


def period_windows(rehearsing: Rehearsing, window: Window) -> list[Window]:
    """The billing periods that a run over the closed days of a window reads."""
    billing = billing_of(rehearsing.settings)
    end = min(window.end, billing.closed(rehearsing.session.clock.now()))
    start = last_midnight(window.start)
    return billing.windows(start, end) if start < end else []


def period_rehearsal(rehearsing: Rehearsing) -> Rehearsal:
    """The rehearsal of what a run by period to date would do."""
    run = _synchroniser(rehearsing)
    parts = {each.name: getattr(run.reader, each.name) for each in fields(UsageReader)}
    reader = PeriodReader(**parts, billing=billing_of(rehearsing.settings))
    return rehearsal_of(replace(run, reader=reader), rehearsing.session.clock)


def _without(step: Rehearsed, window: Window) -> Rehearsed:
    """Revisited hours without what is held or waits within a window, whose own steps judge that anew."""
    braked = [each for each in step.braked if not window.start <= each.start < window.end]
    waiting = [slot for slot in step.waiting if not window.start <= slot[2] < window.end]
    return replace(step, braked=braked, brakes=step.brakes if braked else (), waiting=waiting)


def usage_rehearsal(rehearsing: Rehearsing) -> Rehearsal:
    """The rehearsal of what a run by hour would do, in transactions that are rolled back."""
    return rehearsal_of(_synchroniser(rehearsing), rehearsing.session.clock)


def _synchroniser(rehearsing: Rehearsing) -> Synchroniser:
    # Rehearsals roll back by themselves, so that what they have staged lasts until then.
    session = replace(rehearsing.session, database=rehearsing.database)
    return synchroniser_of(session, rehearsing.metronome, rehearsing.solvimon, rehearsing.settings)


def requests_to_create(customers: int, *, known: int) -> int:
    """Requests to Solvimon that making customers takes: it is asked first which ones it has."""
    return customers + max(1, -(-known // PAGE_SIZE)) if customers else 0


def planned_earlier(connection: Connection, pair_id: int) -> list[Line]:
    """What earlier runs planned and did not send: any run sends it first."""
    rows = connection.execute(_PLANNED_EARLIER, [pair_id])
    return [
        Line(customer_id, metric_id, "earlier", events, late, quantity, first, last)
        for customer_id, metric_id, events, late, quantity, first, last in rows
    ]


def customers_in_solvimon(connection: Connection, pair_id: int) -> set[str]:
    """The customers that an import has brought over, or tried to."""
    rows = connection.execute("SELECT reference FROM solvimon.customers WHERE pair_id = %s", [pair_id])
    return {reference for (reference,) in rows}


# Runs deliver whatever waits for the pair, whichever run planned it.
_PLANNED_EARLIER = """
SELECT e.customer_id::text, e.metric_id::text, count(*), count(*) FILTER (WHERE e.late),
       CASE WHEN m.calculation_type = 'MAX' THEN max(e.number) ELSE sum(e.number) END,
       min(e.start_at), max(e.start_at)
FROM ledger.open_events o JOIN ledger.events e USING (event_id)
LEFT JOIN solvimon.meters m ON m.pair_id = e.pair_id AND m.reference = e.metric_id::text
WHERE o.pair_id = %s AND o.state = 'planned'
GROUP BY e.customer_id, e.metric_id, m.calculation_type
"""
