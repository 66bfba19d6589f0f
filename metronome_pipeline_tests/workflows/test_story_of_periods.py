"""Sixty days of metrics that do not add up: after every daily run each period is Metronome's, to the last digit.

A UNIQUE, a LATEST and a SQL metric, with usage that comes late, falls, goes below zero and vanishes, from a cut-over in
the middle of a period on. Time is set ahead day by day, and each run is a real one.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

from metronome_pipeline_tests.workflows.periods import DAY, bill_by_period, close, day, days_billed, metered
from metronome_pipeline_tests.world import START, World

DAYS = 60
OLDEST = 34
PERIODS = [datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3, 4)]


def periods_until(until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Start and end of each calendar month so far."""
    for start, end in pairwise(PERIODS):
        if start < until:
            yield start, min(end, until)


@dataclass
class Story:
    """A customer whose usage is always the same, day by day, and what is owed for it."""

    world: World
    customer: str
    users: str
    seats: str
    query: str
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    sent: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> Sequence[str]:
        return (self.users, self.seats, self.query)

    def goes_on(self, number: int) -> None:
        """A day: usage of its own but in a quiet time, perhaps some that is late, perhaps some that vanishes."""
        if number not in range(12, 15):
            self.use(number)
        if self.chance.random() < 0.5:
            self.use(self.chance.randrange(max(number - OLDEST, -4), number + 1))
        if self.chance.random() < 0.2:
            gone = [self.sent.pop(self.chance.randrange(len(self.sent))) for _ in range(3)]
            self.world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": gone})

    def use(self, number: int) -> None:
        """Something of everything on a day: known users and new ones, values that fall, below zero, with fractions."""
        hour = 24 * number + self.chance.randrange(24)
        who, peak = f"user {self.chance.randrange(40)}", self.chance.randrange(500)
        seats = Decimal(self.chance.randrange(-3000, 9000)) / 100
        self.sent.append(self.world.use(self.customer, self.users, hour, who, peak=peak))
        self.sent.append(self.world.use(self.customer, self.seats, hour, seats))

    def owed(self, metric: str, start: datetime, end: datetime) -> Decimal:
        """What a period's value is, without what it was at the cut-over."""
        before = metered(self.world, self.customer, metric, start, START) if start < START else Decimal(0)
        return metered(self.world, self.customer, metric, start, end) - before

    def is_billed(self, until: datetime) -> None:
        """Each period's total is what is owed for it."""
        for metric in self.metrics:
            days = days_billed(self.world, self.customer, metric)
            for start, end in periods_until(until):
                total = sum((value for number, value in days.items() if start <= day(number) < end), Decimal(0))
                assert total == self.owed(metric, start, end), (metric, start, until)


def begin(world: World) -> Story:
    world.at(START)
    # One page for all three metrics, so that the story is told in a third of the requests.
    world.metronome.set(pages_cross_pairs=True)
    sql = {"sql": "SELECT max(peak) AS value", "sandbox": {"aggregation_type": "MAX", "aggregation_key": "peak"}}
    story = Story(
        world,
        world.customer(),
        users=world.metric("UNIQUE", name="Users"),
        seats=world.metric("LATEST", name="Seats"),
        query=world.metric(None, name="Query", **sql),
    )
    bill_by_period(world, *story.metrics)
    world.environment["BRAKE_FLOOR"] = "1000000"
    world.imported()
    for number in (-4, -3, -1):
        story.use(number)
    return story


def test_sixty_days_of_late_falling_and_vanished_usage_keep_every_period_exact(world: World) -> None:
    story = begin(world)
    for number in range(DAYS):
        story.goes_on(number)
        close(world, number)
        story.is_billed(day(number + 1))

    # And not only at the end of each: on any day, the events so far are the period's value on that day.
    for metric in story.metrics:
        days = days_billed(world, story.customer, metric)
        for start, end in periods_until(day(DAYS)):
            total = Decimal(0)
            for number in range(max((start - START) // DAY, 0), (end - START) // DAY):
                total += days.get(number, Decimal(0))
                assert total == story.owed(metric, start, day(number + 1))
    assert min(days_billed(world, story.customer, story.seats).values()) < 0
    corrections = [number for kind, _, number, _ in world.events() if kind == "correction"]
    assert len(corrections) > DAYS / 4
    assert world.sql("SELECT count(*) FROM ledger.unsettled_hours") == [(0,)]
