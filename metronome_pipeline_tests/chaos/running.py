"""Runs in processes of their own, forked from one that has imported everything already.

Here: what a run is told, its process, and how it ends. Not here: when it is killed. Importing Dagster takes longer than
the whole run, so each run is a fork; the process that forks has no thread and no connection, and never runs anything.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Self

# Imported here, where the forks find them: the first request of a run would import them otherwise.
import aiohttp  # noqa: F401
import dagster_postgres  # noqa: F401
import httpx_aiohttp  # noqa: F401

from metronome_pipeline_tests.world import Api, World, failure, instance_on

LONGEST = 180.0
"""Seconds after which a run that was left alone is taken to hang."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Assignment:
    """One run: whose, of which hours, and a folder for what it says and its temporary files."""

    database_url: str
    metronome: tuple[str, Mapping[str, str]]
    solvimon: tuple[str, Mapping[str, str]]
    environment: Mapping[str, str]
    folder: Path
    job: str
    first: int = 0
    last: int = 0


class Run:
    """A run that has been started."""

    def __init__(self, assignment: Assignment, process: ForkServerProcess) -> None:
        self._assignment = assignment
        self._process = process
        self.began = time.monotonic()

    @classmethod
    def start(cls, assignment: Assignment) -> Self:
        """Start a run; it goes on when this returns."""
        process = _context.Process(target=_run, args=(assignment,), daemon=True)
        process.start()
        return cls(assignment, process)

    @property
    def goes_on(self) -> bool:
        return self._process.exitcode is None

    def kill(self) -> bool:
        """SIGKILL, now; whether it came before the run had ended."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -9

    def end(self, longest: float = LONGEST) -> str | None:
        """Waits for the end; what the run failed with, None where it succeeded."""
        self._process.join(longest)
        if self._process.exitcode is None:
            self.kill()
            return f"It still went on after {longest:.0f} s."
        if self._process.exitcode == 0:
            return None
        said = _log(self._assignment).read_text(encoding="utf-8", errors="replace").strip()
        return said[-1_000:] or f"It ended with {self._process.exitcode}."


def _log(assignment: Assignment) -> Path:
    return assignment.folder / "run.log"


def _run(assignment: Assignment) -> None:
    """In the fork: the run, from an instance of its own to its end."""
    with _log(assignment).open("w", encoding="utf-8") as log, Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        # What a killed run leaves behind goes with the folder.
        tempfile.tempdir = str(assignment.folder)
        try:
            with instance_on(assignment.database_url) as instance:
                world = World(
                    Api(*assignment.metronome),
                    Api(*assignment.solvimon),
                    assignment.database_url,
                    instance,
                    dict(assignment.environment),
                )
                if assignment.job.startswith("ingest_"):
                    result = world.ingest(assignment.first, assignment.last, job=assignment.job)
                else:
                    result = world.run(assignment.job)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the run failed with
            log.write(f"{type(error).__name__}: {error}")
            log.flush()
            sys.exit(1)
        log.write("" if result.success else failure(result) or "The run failed without a word.")
    sys.exit(not result.success)
