"""Runs of usage in processes of their own, which may kill themselves at one moment, as the kernel does."""

import os
import signal
from enum import StrEnum
from functools import partial
from typing import Any

import dagster as dg

from metronome_pipeline.ledger import claims, deliver
from metronome_pipeline_tests.elsewhere import Run
from metronome_pipeline_tests.world import World


class Moment(StrEnum):
    """When a run dies: planned and claimed, nothing sent; or sent, the answers not written down."""

    BEFORE_SENDING = "before sending"
    BEFORE_RECEIPTS = "before receipts"


def ingest_elsewhere(world: World, first: int, last: int) -> Run:
    """A run over the hours ``first`` to ``last``, which goes on when this returns."""
    return Run.start(world, partial(World.ingest, first=first, last=last))


def ingest_and_die(world: World, moment: Moment, first: int = 0, last: int = 7) -> None:
    """The same, killed with SIGKILL at a moment."""
    Run.start(world, partial(_ingest_and_die, moment=moment, first=first, last=last)).dies()


def _ingest_and_die(world: World, moment: Moment, first: int, last: int) -> dg.ExecuteInProcessResult:
    match moment:
        case Moment.BEFORE_SENDING:
            deliver._Sending.run = die  # type: ignore[method-assign]
        case Moment.BEFORE_RECEIPTS:
            claims.settle = die
    return world.ingest(first, last)


def die(*_: Any, **__: Any) -> Any:
    """What a process does whose power is cut."""
    os.kill(os.getpid(), signal.SIGKILL)
