"""Strands: blocking work that takes turns with the event loop, so that two processes interleave statement by statement.

A strand is a thread, but never runs at the same time as the loop or another strand: each hands the turn over. So the
order of everything is the loop's, and with it the seed's.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
_POOL = ThreadPoolExecutor(64, thread_name_prefix="strand")


class Strand(Generic[T]):
    """One piece of blocking work. It calls ``pause`` where others may run."""

    def __init__(self, work: Callable[["Strand[T]"], T]) -> None:
        self._work = work
        self._turn = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._waits_for: Callable[[], Awaitable[object]] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self._ended = False

    def pause(self, until: Callable[[], Awaitable[object]]) -> None:
        """Called by the work: hands the turn to the loop, which gives it back once ``until()`` is over."""
        self._waits_for = until
        self._back.release()
        self._turn.acquire()

    async def run(self) -> T:
        """Runs the work to its end. A cancellation is passed on after that, as no transaction outlives its caller."""
        _POOL.submit(self._main)
        cancelled: asyncio.CancelledError | None = None
        while True:
            self._turn.release()
            # The loop stands still while a strand has the turn.
            self._back.acquire()
            if self._ended:
                break
            assert self._waits_for is not None
            waiting = asyncio.ensure_future(self._waits_for())
            while not waiting.done():
                try:
                    await asyncio.shield(waiting)
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def _main(self) -> None:
        self._turn.acquire()
        try:
            self._result = self._work(self)
        except BaseException as error:  # noqa: BLE001 - raised again where the work was asked for
            self._error = error
        self._ended = True
        self._back.release()
