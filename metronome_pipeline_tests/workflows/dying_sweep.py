"""A sweep in a process of its own, killed with SIGKILL after it has compared some walks, as by the kernel."""

from functools import partial
from typing import Any

import dagster as dg

from metronome_pipeline.sweeps import proofs
from metronome_pipeline_tests.dying_run import die
from metronome_pipeline_tests.elsewhere import Run
from metronome_pipeline_tests.world import World


def sweep_and_die(world: World, walks: int) -> None:
    """A sweep that dies when it would compare one walk more."""
    Run.start(world, partial(_sweep_and_die, walks=walks)).dies()


def _sweep_and_die(world: World, walks: int) -> dg.ExecuteInProcessResult:
    compare, left = proofs.compare_days, walks

    def compare_or_die(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        if not left:
            die()
        left -= 1
        return compare(*arguments, **named)

    proofs.compare_days = compare_or_die
    return world.run("sweep_usage")
