"""Thousands of seeds over several processes, with progress and a summary.

Here: one embedded Postgres for all of them, a database for each process. Not here: a single seed (``simulation.py``).
"""

import logging
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from metronome_pipeline.storage.embedded import embedded_postgres
from metronome_pipeline_tests.simulation.postgres import Server
from metronome_pipeline_tests.simulation.shrinking import report, shrunk
from metronome_pipeline_tests.simulation.simulation import Tally, simulate
from metronome_pipeline_tests.simulation.trouble import Scenario

_CHUNK = 10
_EVERY_SECONDS = 10.0


@dataclass
class Findings:
    """What many seeds have shown."""

    tally: Tally = field(default_factory=lambda: Tally(0))
    red: list[str] = field(default_factory=list)


@contextmanager
def embedded_server() -> Iterator[str]:
    """The URL of a Postgres that dies with the block, in memory where the machine has a place for that."""
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="mpsim-", dir=memory if memory.is_dir() else None))
    # What is committed here need not outlive the machine.
    server = embedded_postgres(home, fast_commits=True)
    try:
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def quiet_libraries() -> None:
    """Dead processes leave connections in a state that psycopg finds worth a warning."""
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)


def run_one(scenario: Scenario, url: str) -> str | None:
    """Runs one scenario; what is wrong, or None."""
    server = Server(url)
    verdict = simulate(scenario, server)
    return report(verdict) if verdict.violations else None


def run_many(seeds: Sequence[int], processes: int) -> Findings:
    """Runs seeds and prints how far it is, each red one at once and made smaller."""
    began, told, findings = time.monotonic(), 0.0, Findings()
    chunks = [seeds[first : first + _CHUNK] for first in range(0, len(seeds), _CHUNK)]
    context = multiprocessing.get_context("spawn")
    with embedded_server() as url:
        names = context.SimpleQueue()
        with psycopg.connect(url, autocommit=True) as connection:
            for number in range(processes):
                connection.execute(f"CREATE DATABASE simulation_{number}")
                names.put(url.replace("/postgres?", f"/simulation_{number}?", 1))
        with context.Pool(processes, initializer=_begin, initargs=(names,)) as pool:
            for tally, reds in pool.imap_unordered(_work, chunks):
                findings.tally += tally
                findings.red += reds
                for red in reds:
                    _print(red)
                elapsed = time.monotonic() - began
                if elapsed - told >= _EVERY_SECONDS:
                    told = elapsed
                    rate = findings.tally.seeds / elapsed
                    left = (len(seeds) - findings.tally.seeds) / rate
                    _print(f"{findings.tally.seeds:,} of {len(seeds):,} seeds, {rate:.1f} a second, {left:.0f} s left")
    _print(summary(findings, time.monotonic() - began))
    return findings


def summary(findings: Findings, seconds: float) -> str:
    """One line about all of it."""
    tally = findings.tally
    return (
        f"{tally.seeds:,} seeds, {len(findings.red)} red: {tally.runs:,} runs, {tally.requests:,} requests, "
        f"{tally.crashes:,} crashes, {tally.events:,} events in {seconds:.0f} s"
    )


_server: Server | None = None


def _begin(names: "multiprocessing.SimpleQueue[str]") -> None:
    global _server  # noqa: PLW0603 - one for each process of the pool
    quiet_libraries()
    _server = Server(names.get())


def _work(seeds: Sequence[int]) -> tuple[Tally, list[str]]:
    assert _server is not None
    tally, reds = Tally(0), []
    for seed in seeds:
        verdict = simulate(Scenario(seed), _server)
        tally += verdict.tally
        if verdict.violations:
            reds.append(report(shrunk(verdict, _server)))
    return tally, reds


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
