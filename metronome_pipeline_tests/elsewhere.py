"""Runs in processes of their own, forked from one that has imported everything already.

Here: such a process, and how it ends. Not here: when it is killed. Importing Dagster takes longer than the whole run,
so each run is a fork; the process that forks has no thread and no connection, and never runs anything.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self, cast

# Imported here, where the forks find them: the first request of a run would import them otherwise.
import aiohttp  # noqa: F401
import dagster as dg
import dagster_postgres  # noqa: F401
import httpx_aiohttp  # noqa: F401

from metronome_pipeline_tests.world import World, failure, instance_on

LONGEST = 180.0
"""Seconds after which a run that was left alone is taken to hang."""

Work = Callable[[World], dg.ExecuteInProcessResult]
"""What is done there: a function of a module, or a partial of one, since it is named to another process."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


class Run:
    """A run that has been started."""

    def __init__(self, process: ForkServerProcess, told: Connection) -> None:
        self._process = process
        self._told = told
        self.began = time.monotonic()

    @classmethod
    def start(cls, world: World, work: Work) -> Self:
        """Start work on a world, with a Dagster instance of its own; it goes on when this returns."""
        told, telling = _context.Pipe(duplex=False)
        there = replace(world, instance=cast("Any", None))
        process = _context.Process(target=_run, args=(there, work, telling), daemon=True)
        process.start()
        telling.close()
        return cls(process, told)

    @property
    def goes_on(self) -> bool:
        return self._process.exitcode is None

    def kill(self) -> bool:
        """SIGKILL, now; whether it came before the run had ended."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL

    def dies(self) -> None:
        """Waits for a run that kills itself."""
        failed = self.end()
        assert self._process.exitcode == -signal.SIGKILL, failed or "It did not die."

    def end(self, longest: float = LONGEST) -> str | None:
        """Waits for the end; what the run failed with, None where it succeeded."""
        self._process.join(longest)
        if self._process.exitcode is None:
            self.kill()
            return f"It still went on after {longest:.0f} s."
        if self._process.exitcode == 0:
            return None
        try:
            return str(self._told.recv())
        except EOFError:
            return f"It ended with {self._process.exitcode}."


def _run(world: World, work: Work, telling: Connection) -> None:
    """In the fork: the run, from an instance of its own to its end."""
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    # What a killed run leaves behind goes with the folder.
    tempfile.tempdir = str(world.folder)
    try:
        with instance_on(world.database_url) as instance:
            result = work(replace(world, instance=instance))
            failed = "" if result.success else failure(result) or "The run failed without a word."
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the run failed with
        failed = f"{type(error).__name__}: {error}"
    if failed:
        telling.send(failed[-1_000:])
    sys.exit(bool(failed))
