"""300 seeds of the synchronising core under trouble; `make simulate SEEDS=10000` runs more."""

import pytest

from metronome_pipeline_tests.simulation.postgres import Server
from metronome_pipeline_tests.simulation.shrinking import report, shrunk
from metronome_pipeline_tests.simulation.simulation import simulate
from metronome_pipeline_tests.simulation.trouble import Scenario

_SEEDS = 300
_A_CASE = 25

REGRESSIONS = (
    # The request of a killed run arrives while another process takes its events over.
    Scenario(46, only=frozenset({"deduplication_off", "crash", "slow", "second_process"})),
    # A reading that began first is stored last.
    Scenario(3, only=frozenset({"second_process", "slow_answers", "late_events", "removed_events"})),
    # Two plans of the same hours at the same time.
    Scenario(29, only=frozenset({"second_process"})),
    # The database goes away in the midst of a pipeline of statements.
    Scenario(7, only=frozenset({"database_lost", "late_events", "removed_events"})),
)
"""Histories that a broken core, or the simulation itself, once failed. A red seed is added here when it is mended."""


@pytest.mark.parametrize("first", range(0, _SEEDS, _A_CASE))
def test_everything_agrees_once_the_trouble_is_over(simulation_server: Server, first: int) -> None:
    for seed in range(first, first + _A_CASE):
        _require_green(Scenario(seed), simulation_server)


@pytest.mark.parametrize("scenario", REGRESSIONS, ids=lambda scenario: str(scenario.seed))
def test_what_was_red_once_stays_green(simulation_server: Server, scenario: Scenario) -> None:
    _require_green(scenario, simulation_server)


def test_a_seed_replays_exactly(simulation_server: Server) -> None:
    for seed in (3, 18, 121):
        one, two = (simulate(Scenario(seed), simulation_server) for _ in range(2))
        assert one.story == two.story
        assert one.tally == two.tally


def _require_green(scenario: Scenario, server: Server) -> None:
    verdict = simulate(scenario, server)
    if verdict.violations:
        pytest.fail(f"{report(verdict)}\n\nSmaller:\n{report(shrunk(verdict, server))}", pytrace=False)
