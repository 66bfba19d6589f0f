"""The checker is checked: a core that is broken on purpose turns the simulation red."""

import pytest

from metronome_pipeline_tests.simulation.breakages import BREAKAGES, Breakage
from metronome_pipeline_tests.simulation.postgres import Server
from metronome_pipeline_tests.simulation.simulation import simulate
from metronome_pipeline_tests.simulation.trouble import Scenario


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name.replace(" ", "_"))
def test_a_broken_core_turns_the_simulation_red(
    simulation_server: Server, monkeypatch: pytest.MonkeyPatch, breakage: Breakage
) -> None:
    breakage.apply(monkeypatch)
    for seed in range(breakage.within):
        if simulate(Scenario(seed, only=breakage.trouble), simulation_server).violations:
            return
    pytest.fail(f"{breakage.within} seeds did not show that {breakage.name}.", pytrace=False)
