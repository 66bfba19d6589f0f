"""Rehearse: what a run over some hours would plan, by the run's own functions, in transactions that are rolled back.

Here: the one short transaction of each step, and what it would have written. Nothing is locked while usage is read. Not
here: what is read meanwhile (``staging.py``), who asks, requests and prices (``workflows/``).
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, cast

from metronome_pipeline.clock import Clock
from metronome_pipeline.ledger import readings
from metronome_pipeline.ledger.brakes import Brake
from metronome_pipeline.ledger.deliver import Delivery, DeliveryReport
from metronome_pipeline.ledger.plan import PLANNING_LOCK, Connection, Planned, Scope, plan
from metronome_pipeline.ledger.proposals import Proposal
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.readings import Reading
from metronome_pipeline.ledger.shelf import ReadReport, Shelf, Unread
from metronome_pipeline.ledger.synchronise import Due, Step, Synchroniser
from metronome_pipeline.rehearsal.staging import StagedShelf
from metronome_pipeline.storage.database import Database
from metronome_pipeline.storage.rehearsed import rolled_back

Slot = tuple[str, str, datetime]
"""A customer's id, a metric's id, and an hour."""


@dataclass(frozen=True)
class Rehearsed:
    """What one step of a run would do.

    Attributes:
        window: Its hours.
        read: What was read for it.
        revisited: Whether these are hours of an earlier run, planned from what was read then.
        written: The events that it would write, those that it would hold as late among them.
        braked: The events that the brake would hold.
        brakes: Why.
        taken_back: The numbers that deletions take back, by reference.
        waiting: Hours that differ and would not be planned: their slot has an open event, or was reverted.
    """

    window: Window
    read: ReadReport
    revisited: bool
    written: Sequence[Proposal]
    braked: Sequence[Proposal]
    brakes: Sequence[Brake]
    taken_back: Mapping[str, Decimal]
    waiting: Sequence[Slot]


@dataclass
class _State:
    """Where a rehearsal is: what was read for steps to come (one is read ahead), and what came of the last one."""

    shelves: dict[Window, list[StagedShelf]] = field(default_factory=dict)
    revisited: list[Scope] = field(default_factory=list)
    last: "_Outcome | None" = None

    def new_shelf(self, window: Window, database: Database, pair_id: int, run_id: str, *, grouped: bool) -> Shelf:
        shelf = StagedShelf(database, pair_id, run_id, grouped)
        self.shelves.setdefault(window, []).append(shelf)
        return shelf

    async def clear(self, *windows: Window) -> None:
        for window in windows or tuple(self.shelves):
            for shelf in self.shelves.pop(window, ()):
                await shelf.give_back()


@dataclass(frozen=True)
class _Outcome:
    planned: Planned
    written: Sequence[Proposal]
    braked: Sequence[Proposal]
    taken_back: Mapping[str, Decimal]
    waiting: Sequence[Slot]
    left: Sequence[Reading]


class _NotDelivered(Delivery):
    """In place of a run's delivery. What it would deliver counts as taken by Solvimon."""

    async def deliver(self, *, progress: Callable[[DeliveryReport], None] = lambda _: None) -> DeliveryReport:
        del progress
        return DeliveryReport()


@dataclass(frozen=True)
class Rehearsal(Synchroniser):
    """A run that reads for real, and of which nothing stays. Made with ``rehearsal_of``."""

    clock: Clock = field(default_factory=Clock)
    state: _State = field(default_factory=_State)

    async def rehearse(
        self,
        due: Due,
        window: Window,
        *,
        days: int = 7,
        progress: Callable[[Window, ReadReport], None] = lambda _window, _report: None,
    ) -> AsyncGenerator[Rehearsed, None]:
        """Goes through a window as ``run`` does and yields what each step would do."""
        try:
            steps = cast("AsyncGenerator[Step, None]", self.run(due, window, days=days, progress=progress))
            async with aclosing(steps):
                async for step in steps:
                    yield self._rehearsed(step.window, step.read, revisited=step.revisited)
        finally:
            await self.state.clear()

    async def rehearse_step(self, due: Due, window: Window) -> Rehearsed:
        """Rehearses one step alone: nothing that earlier runs left is revisited."""
        try:
            read = await self.read(due, window)
            await self.send(due, window)
        finally:
            await self.state.clear()
        return self._rehearsed(window, read)

    async def revisit(self, due: Due, window: Window) -> Rehearsed:
        """Rehearses hours of an earlier run, from what was read then."""
        await self.send(due, window)
        return self._rehearsed(window, ReadReport(), revisited=True)

    def _rehearsed(self, window: Window, read: ReadReport, *, revisited: bool = False) -> Rehearsed:
        outcome = self.state.last
        assert outcome is not None
        return Rehearsed(
            window=window,
            read=_with_left(read, outcome.left),
            revisited=revisited,
            written=outcome.written,
            braked=outcome.braked,
            brakes=outcome.planned.brakes,
            taken_back=outcome.taken_back,
            waiting=outcome.waiting,
        )

    async def read(
        self, due: Due, window: Window, progress: Callable[[ReadReport], None] = lambda _: None
    ) -> ReadReport:
        """Reads a window as a run does, and puts what it read aside for the window's plan."""
        reader = replace(self.reader, new_shelf=partial(self.state.new_shelf, window))
        return await Synchroniser.read(replace(self, reader=reader), due, window, progress)

    async def send(self, due: Due, window: Window) -> tuple[Planned, DeliveryReport]:
        """Stores what was read, plans the window, keeps what was planned in mind, and rolls all of it back."""
        scope = self.scope(due, window)
        before = [each for each in self.state.revisited if each.start < scope.end and scope.start < each.end]
        shelves = self.state.shelves.get(window, [])
        read = [(shelf.grouped, shelf.complete) for shelf in shelves if shelf.complete]
        outcome = await rolled_back(self.database, self.clock, lambda c: _rehearse(c, scope, before, read, self.run_id))
        if not shelves:
            self.state.revisited.append(scope)
        self.state.last = outcome
        await self.state.clear(window)
        return outcome.planned, DeliveryReport()


def rehearsal_of(run: Synchroniser, clock: Clock) -> Rehearsal:
    """A rehearsal of what ``run`` would do, by its own limits and on its own account pair."""
    parts: dict[str, Any] = {each.name: getattr(run, each.name) for each in fields(Synchroniser)}
    delivery = {each.name: getattr(run.delivery, each.name) for each in fields(Delivery)}
    parts |= {"delivery": _NotDelivered(**delivery), "ensure_customers": _make_nobody}
    return Rehearsal(**parts, clock=clock)


async def _make_nobody() -> None:
    """Customers are made by runs."""


def _with_left(read: ReadReport, left: Sequence[Reading]) -> ReadReport:
    reason = "The metric was switched to another slicing while it was read."
    unread = tuple(Unread(reading.customer_id, (reading.metric_id,), reason) for reading in left)
    return replace(read, unread=(*read.unread, *unread)) if unread else read


def _rehearse(
    connection: Connection,
    scope: Scope,
    before: Sequence[Scope],
    read: Sequence[tuple[bool, Sequence[Reading]]],
    run_id: str,
) -> _Outcome:
    """A step of a run, from where the run would have left the ledger before it."""
    # Before anything that a plan locks as well, and in its order.
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, scope.pair_id])
    _deliver(connection, scope, before)
    for earlier in before:
        plan(connection, earlier, run_id=run_id)
        _deliver(connection, scope, before)
    left = [
        reading
        for grouped, complete in read
        for reading in readings.store(connection, scope.pair_id, complete, grouped=grouped, run_id=run_id)
    ]
    with connection.transaction(force_rollback=True):
        planned, written = _plan(connection, scope, run_id)
        waiting = _unsettled(connection, scope)
    braked: list[Proposal] = []
    if planned.brakes:
        with connection.transaction(force_rollback=True):
            _, everything = _plan(connection, replace(scope, brake=None), run_id)
        goes = set(written)
        braked = [proposal for proposal in everything if proposal not in goes]
    held = {(proposal.customer_id, proposal.metric_id, proposal.start) for proposal in braked}
    return _Outcome(
        planned,
        written,
        braked,
        _taken_back(connection, scope.pair_id, [*written, *braked]),
        [slot for slot in waiting if slot not in held],
        left,
    )


def _plan(connection: Connection, scope: Scope, run_id: str) -> tuple[Planned, list[Proposal]]:
    written: list[Proposal] = []
    planned = plan(connection, scope, run_id=run_id, witness=written.extend)
    return planned, written


def _deliver(connection: Connection, scope: Scope, others: Sequence[Scope]) -> None:
    """What waits to be sent in these hours, as if Solvimon had taken it: a run sends it before it plans."""
    windows = [scope, *others]
    connection.execute(
        _DELIVER,
        {
            "pair_id": scope.pair_id,
            "start": min(window.start for window in windows),
            "end": max(window.end for window in windows),
        },
    )


def _unsettled(connection: Connection, scope: Scope) -> list[Slot]:
    rows = connection.execute(
        _UNSETTLED,
        {
            "pair_id": scope.pair_id,
            "start": scope.start,
            "end": scope.end,
            "metrics": [metric.metric_id for metric in scope.metrics],
            "customers": None if scope.customers is None else list(scope.customers),
        },
    )
    return [(customer_id, metric_id, start) for customer_id, metric_id, start in rows]


def _taken_back(connection: Connection, pair_id: int, proposals: Sequence[Proposal]) -> dict[str, Decimal]:
    references = [proposal.reference for proposal in proposals if proposal.kind == "deletion"]
    if not references:
        return {}
    return dict(connection.execute(_NUMBERS, [pair_id, references]).fetchall())


# A deletion that was delivered leaves its event counting nothing.
_DELIVER = """
WITH sent AS (
    DELETE FROM ledger.open_events o USING ledger.events e
    WHERE e.event_id = o.event_id AND o.pair_id = %(pair_id)s AND o.state = 'planned'
      AND e.start_at >= %(start)s AND e.start_at < %(end)s
    RETURNING e.kind, e.deletes
)
INSERT INTO ledger.restatements (event_id, number) SELECT deletes, NULL FROM sent WHERE kind = 'deletion'
ON CONFLICT (event_id) DO UPDATE SET number = NULL
"""

_UNSETTLED = """
SELECT customer_id::text, metric_id::text, start_at FROM ledger.unsettled_hours
WHERE pair_id = %(pair_id)s AND start_at >= %(start)s AND start_at < %(end)s AND metric_id = ANY (%(metrics)s::uuid[])
  AND (%(customers)s::uuid[] IS NULL OR customer_id = ANY (%(customers)s::uuid[]))
ORDER BY start_at
"""

_NUMBERS = """
SELECT e.reference, CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END
FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
WHERE e.pair_id = %s AND e.kind <> 'deletion' AND e.reference = ANY (%s)
"""
