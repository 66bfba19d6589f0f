"""Virtual time: an event loop whose clock jumps to the next moment at which something is due. Nothing ever waits."""

import asyncio
import selectors
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any


class NothingLeftToDo(Exception):
    """Every task waits for another: without the simulation this would be a process that hangs for ever."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what is due in order of its virtual time; ``time()`` counts seconds from 0."""

    def __init__(self, latest: float) -> None:
        """``latest`` bounds the virtual time: a simulation that goes on beyond it never ends."""
        self.virtual = 0.0
        super().__init__(_Jump(self, latest))
        self.set_exception_handler(_leave_to_the_task)

    def time(self) -> float:
        return self.virtual


class _Jump(selectors.SelectSelector):
    """In place of waiting for sockets: moves the loop's clock."""

    def __init__(self, loop: VirtualLoop, latest: float) -> None:
        super().__init__()
        self._loop = loop
        self._latest = latest

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeftToDo("Every task waits for another.")
        if timeout > 0:
            self._loop.virtual += timeout
            if self._loop.virtual > self._latest:
                raise NothingLeftToDo(f"It goes on for more than {self._latest:,.0f} s of virtual time.")
        return []


def _leave_to_the_task(_: asyncio.AbstractEventLoop, __: Mapping[str, Any]) -> None:
    """Abandoned tasks and generators of dead processes have nothing to report."""


def instant(start: datetime, seconds: float) -> datetime:
    """A moment of virtual time as an instant, to the microsecond."""
    return start + timedelta(microseconds=round(seconds * 1_000_000))
