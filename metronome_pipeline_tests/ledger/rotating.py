"""An account whose idle pairs take turns, on a simulated clock and a real Postgres: chosen, read and planned each hour.

Here: whose usage there is, and what each tick did. What Metronome would answer is written straight into the tables that
a walk writes. Not here: requests, which are counted by what was chosen.
"""

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from metronome_pipeline.ledger import readings, rotation
from metronome_pipeline.ledger.plan import Connection, Scope, plan
from metronome_pipeline.ledger.read import CustomerMetrics, Window
from metronome_pipeline.ledger.readings import Reading, UsageRow, Walk
from metronome_pipeline.ledger.rotation import Turns
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.ledger.synchronise import Due
from metronome_pipeline.mapping.usage import UNGROUPED, BilledMetric
from metronome_pipeline.storage.accounts import KnownCustomer

START = datetime.fromisoformat("2026-01-05T00:00:00+00:00")
HOUR = timedelta(hours=1)
Pair = tuple[str, str]
# As many as a read stores at a time.
_WALKS_AT_ONCE = 32


@dataclass
class Tick:
    """What one hourly run did. ``late``: hours that passed between the close of an hour and the plan of its usage."""

    hour: int
    turns: Turns
    planned: int
    late: dict[int, int]
    choice_seconds: float
    plan_seconds: float


@dataclass
class Account:
    """Customers times metrics, of which some have usage in every hour from an hour of their own on."""

    connection: Connection
    pair_id: int
    customers: Sequence[str]
    metrics: Sequence[BilledMetric]
    requests: int
    begins: dict[Pair, int] = field(default_factory=dict)
    unreadable: set[Pair] = field(default_factory=set)
    planned: dict[Pair, int] = field(default_factory=dict)

    @property
    def due(self) -> Due:
        return Due([KnownCustomer(customer, "Acme", None) for customer in self.customers], self.metrics)

    @property
    def pairs(self) -> Iterator[Pair]:
        return ((customer, metric.metric_id) for customer in self.customers for metric in self.metrics)

    def window(self, hour: int) -> Window:
        end = START + (hour + 1) * HOUR
        return Window(max(START, rotation.first_of_page(end)), end)

    def tick(self, hour: int, *, dies: bool = False, plans: bool = True) -> Tick:
        """The run of an hour, a quarter of an hour after its end. ``dies``: once it has chosen."""
        self.connection.execute("SELECT set_config('ledger.moment', %s, false)", [str(START + (hour + 1.25) * HOUR)])
        began = time.perf_counter()
        with self.connection.transaction():
            turns = rotation.choose(
                self.connection, self.pair_id, self.due, self.window(hour), self.requests, run_id=f"tick {hour}"
            )
        tick = Tick(hour, turns, 0, {}, time.perf_counter() - began, 0.0)
        if dies:
            return tick
        unread: list[Unread] = []
        for part in turns.parts:
            for first in range(0, len(part), _WALKS_AT_ONCE):
                unread += self._read(part[first : first + _WALKS_AT_ONCE], turns.window)
            if plans:
                self._plan(turns.window, tick)
        with self.connection.transaction():
            rotation.end(self.connection, self.pair_id, f"tick {hour}", unread)
        return tick

    def _read(self, part: Sequence[CustomerMetrics], window: Window) -> list[Unread]:
        """One walk a customer, stored together."""
        unread: list[Unread] = []
        read: list[Reading] = []
        with self.connection.transaction():
            began = self.connection.execute(
                "INSERT INTO metronome.walks (began_at) SELECT ledger.moment() FROM generate_series(1, %s) "
                "RETURNING walk_id, began_at",
                [len(part)],
            )
            for (customer, metrics), walk in zip(part, [Walk(*row) for row in began], strict=True):
                pairs = [(customer, metric.metric_id) for metric in metrics]
                unread += [Unread(customer, (pair[1],), "no") for pair in pairs if pair in self.unreadable]
                readable = [pair for pair in pairs if pair not in self.unreadable]
                read += [Reading(walk, *pair, UNGROUPED, window.start, window.end) for pair in readable]
                if rows := [row for pair in readable for row in self._usage(pair, window)]:
                    readings.stage(self.connection, walk, rows)
            readings.store(self.connection, self.pair_id, read, grouped=False, run_id="tick")
        return unread

    def _usage(self, pair: Pair, window: Window) -> list[UsageRow]:
        if pair not in self.begins:
            return []
        first, last = (int((moment - START) / HOUR) for moment in (window.start, window.end))
        return [
            UsageRow(*pair, START + hour * HOUR, START + (hour + 1) * HOUR, Decimal(1))
            for hour in range(max(first, self.begins[pair]), last)
        ]

    def _plan(self, window: Window, tick: Tick) -> None:
        began = time.perf_counter()
        scope = Scope(self.pair_id, window.start, window.end, self.metrics, self.customers, brake=None)
        with self.connection.transaction():
            plan(self.connection, scope, run_id=f"tick {tick.hour}")
            rows = self.connection.execute(
                "SELECT customer_id::text, metric_id::text, start_at FROM ledger.open_events JOIN ledger.events "
                "USING (event_id)"
            ).fetchall()
            # Everything arrives.
            self.connection.execute("DELETE FROM ledger.open_events")
        for customer, metric, start in rows:
            hour = int((start - START) / HOUR)
            tick.late[tick.hour - hour] = tick.late.get(tick.hour - hour, 0) + 1
            self.planned[customer, metric] = self.planned.get((customer, metric), 0) + 1
        tick.planned += len(rows)
        tick.plan_seconds += time.perf_counter() - began

    def owed(self, hour: int) -> dict[Pair, int]:
        """Hours of usage up to an hour that no event tells of yet."""
        return {
            pair: missing
            for pair, begins in self.begins.items()
            if (missing := max(0, hour + 1 - begins) - self.planned.get(pair, 0))
        }


def account(
    connection: Connection, pair_id: int, *, customers: int, metrics: int, active: float, requests: int
) -> Account:
    """An account of so many pairs, a share of which has usage from the first hour on."""
    draw = random.Random(7)
    made = Account(
        connection,
        pair_id,
        [str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(customers)],
        [BilledMetric(str(uuid.UUID(int=draw.getrandbits(128))), "Calls", "SUM", UNGROUPED) for _ in range(metrics)],
        requests,
    )
    everyone = list(made.pairs)
    made.begins.update(dict.fromkeys(draw.sample(everyone, round(active * len(everyone))), 0))
    return made
