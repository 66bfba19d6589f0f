"""A red seed made smaller: kinds of trouble and ticks are left out, one at a time, while it stays red."""

from dataclasses import replace

from metronome_pipeline_tests.simulation.postgres import Server
from metronome_pipeline_tests.simulation.simulation import Verdict, simulate
from metronome_pipeline_tests.simulation.trouble import Scenario


def shrunk(verdict: Verdict, server: Server) -> Verdict:
    """The smallest scenario found that is still red, with what it shows."""
    smallest = verdict
    tried = True
    while tried:
        tried = False
        for smaller in _smaller(smallest.scenario):
            found = simulate(smaller, server)
            if found.violations:
                smallest, tried = found, True
                break
    return smallest


def _smaller(scenario: Scenario) -> list[Scenario]:
    fewer = [replace(scenario, without=scenario.without | {kind}) for kind in sorted(scenario.trouble)]
    # More than three never are drawn.
    ticks = 4 if scenario.ticks is None else scenario.ticks
    return [*fewer, *(replace(scenario, ticks=count) for count in range(ticks) if count > 0)][: 20 if fewer else ticks]


def report(verdict: Verdict) -> str:
    """A red seed in words, with the command that replays it."""
    lines = [
        f"Seed {verdict.scenario.seed} is red. Replay it: {verdict.scenario.command}",
        f"Trouble: {', '.join(sorted(verdict.scenario.trouble)) or 'none'}",
        *(f"  {line}" for line in verdict.story),
        *(f"! {sentence}" for sentence in verdict.violations[:20]),
    ]
    more = len(verdict.violations) - 20
    return "\n".join([*lines, *([f"! … and {more} more."] if more > 0 else [])])
