"""Time as the core sees it: what o'clock it is, and how to wait. Nothing here reads a database or the network.

Everything that needs the time takes a ``Clock``, so that a test or a simulation can run a month in a second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """``now`` gives aware UTC instants, ``monotonic`` seconds that never run backwards, ``sleep`` waits for seconds."""

    now: Callable[[], datetime] = _utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


SYSTEM_CLOCK = Clock()


@dataclass
class Pauses:
    """When to say how far something has come: after half a minute, then after pauses that double, to ten minutes.

    So an hour is told in nine lines, and nothing is silent for so long that it seems to be dead.
    """

    clock: Clock
    _pause: float = 30.0
    _said: float = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begins a pause: something else was said just now."""
        self._said = self.clock.monotonic()

    def are_over(self) -> bool:
        """Whether it is time to say something, which begins the next pause."""
        if self.clock.monotonic() - self._said < self._pause:
            return False
        self._pause = min(2 * self._pause, 600.0)
        self.begin()
        return True


def clock_ahead(by: timedelta) -> Clock:
    """The system's clock, ahead by so much: what a database whose own time was set ahead goes with."""
    return Clock(now=lambda: _utc_now() + by) if by else SYSTEM_CLOCK
