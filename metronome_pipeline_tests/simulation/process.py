"""One simulated process: when it dies, what time it believes it is, how long its statements take."""

import asyncio
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from metronome_pipeline.clock import Clock
from metronome_pipeline_tests.simulation.database import SimulatedDatabase
from metronome_pipeline_tests.simulation.postgres import Server
from metronome_pipeline_tests.simulation.virtual_time import VirtualLoop, instant


class Crashed(BaseException):
    """The process is killed here. No ``except Exception`` stops it."""


@dataclass(eq=False)
class Process:
    """A run of the pipeline in one process.

    Attributes:
        name: Its run id.
        dies_at: The point at which it is killed, counted from 1; None: never.
        dies_sending: It is killed soon after its so manieth request about events has left; None: never.
        loses_at: The statement at which the server goes away.
        lock_lost_after: Seconds for which its locks hold.
        skew: What its own clock is wrong by. The database's clock is right.
        interleaved: Whether another process runs beside it.
    """

    name: str
    server: Server
    loop: VirtualLoop
    start: datetime
    draw: random.Random
    dies_at: int | None = None
    dies_sending: int | None = None
    loses_at: int | None = None
    lock_lost_after: float | None = None
    skew: timedelta = timedelta(0)
    interleaved: bool = False
    dead: bool = False
    points: int = 0
    statements: int = 0
    died_where: str = ""
    task: "asyncio.Task[None] | None" = None
    database: SimulatedDatabase = field(init=False)

    def __post_init__(self) -> None:
        self.database = SimulatedDatabase(self.server, self)

    @property
    def clock(self) -> Clock:
        """Time as this process sees it."""
        return Clock(now=self._now, monotonic=self.loop.time, sleep=self._sleep)

    def _now(self) -> datetime:
        return instant(self.start, self.loop.time()) + self.skew

    async def _sleep(self, seconds: float) -> None:
        self.point("before a sleep")
        await asyncio.sleep(seconds)
        self.point("after a sleep")

    def moment(self) -> str:
        """The database's time."""
        return instant(self.start, self.loop.time()).isoformat()

    def point(self, where: str) -> None:
        """A moment at which the process may die; a dead one does nothing any more."""
        if self.dead:
            raise Crashed
        self.points += 1
        if self.points == self.dies_at:
            self.died_where = where
            self.die()
            raise Crashed

    def die(self) -> None:
        """Killed: nothing that it still tries has any effect."""
        self.dead = True
        self.database.die()

    def has_sent_events(self) -> None:
        """A request about events has left: this may be the last thing that it does."""
        if self.dies_sending is None:
            return
        self.dies_sending -= 1
        if self.dies_sending == 0:
            wait = self.draw.choice((0.0, self.draw.uniform(0, 1), self.draw.uniform(0, 50)))
            self.loop.call_later(wait, self.kill)

    def kill(self) -> None:
        """Killed from outside, at whatever it waits for."""
        if not self.dead and self.task is not None and not self.task.done():
            self.died_where = "while a request about events was on its way"
            self.die()
            self.task.cancel()

    def loses_its_connection(self) -> str | None:
        """Whether the server goes away at this statement, before or after it was done."""
        self.statements += 1
        if self.statements != self.loses_at:
            return None
        return self.draw.choice(("before", "after"))

    def lock_is_lost_after(self) -> float | None:
        """For how many seconds the next lock holds, where the server ends its session."""
        after, self.lock_lost_after = self.lock_lost_after, None
        return after

    async def takes_a_moment(self) -> None:
        """A statement's time: some milliseconds, and rarely seconds, so that processes meet in the midst of theirs."""
        slow = self.interleaved and self.draw.random() < 0.02
        await asyncio.sleep(self.draw.expovariate(0.5 if slow else 500))
