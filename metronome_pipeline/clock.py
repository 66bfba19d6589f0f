"""Time as the core sees it: what o'clock it is, and how to wait. Nothing here reads a database or the network.

Everything that needs the time takes a ``Clock``, so that a test or a simulation can run a month in a second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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


def clock_ahead(by: timedelta) -> Clock:
    """The system's clock, ahead by so much: what a database whose own time was set ahead goes with."""
    return Clock(now=lambda: _utc_now() + by) if by else SYSTEM_CLOCK
