"""Trouble that goes on: a share of all requests fails for as long as a run lasts, and what that costs, in counts.

The synchronising core of a run, on the simulation's network and virtual time, against the real Postgres: so requests
and seconds, waiting included, are the same each time.
"""

from collections.abc import Iterator

import psycopg
import pytest

from metronome_pipeline.sandbox.solvimon.settings import changed
from metronome_pipeline.storage.embedded import EmbeddedPostgres
from metronome_pipeline_tests.chaos.load import UNGROUPED, Load, reference_of, send_again_and_again
from metronome_pipeline_tests.simulation.account import CUSTOMERS
from metronome_pipeline_tests.simulation.long_run import quiet_libraries
from metronome_pipeline_tests.simulation.postgres import Server


@pytest.fixture(scope="module")
def server(postgres: EmbeddedPostgres) -> Iterator[Server]:
    quiet_libraries()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE trouble_that_goes_on")
    opened = Server(postgres.url.replace("/postgres?", "/trouble_that_goes_on?", 1))
    yield opened
    opened.close()


def measured(load: Load) -> tuple[float, int]:
    """Virtual seconds and requests of a run that brings everything over."""
    events = load.use_every_hour()
    assert load.run()
    assert load.differences() == []
    assert load.states() == {"delivered": events}
    return load.loop.time(), len(load.network.history)


def test_a_fifth_of_all_requests_answered_503_costs_little_more_than_their_repetition(server: Server) -> None:
    """What Metronome advises its customers to rehearse with; the pace of 8 requests a second stays the same."""
    seconds, requests = measured(Load(server, hours=480))
    longer, more = measured(Load(server, hours=480, trouble={"status_503": 0.2}))
    assert more <= 1.35 * requests
    assert longer <= 1.6 * seconds


def test_without_deduplication_a_fifth_answered_503_takes_longer_and_ends_exact_too(server: Server) -> None:
    """A 503 does not say that nothing was done: each event of such a request is looked up, after its timeout."""
    measured(Load(server, hours=96, deduplicated=False, trouble={"status_503": 0.2}))


@pytest.mark.parametrize("deduplicated", [True, False], ids=["deduplicated", "not deduplicated"])
def test_truncated_bodies_and_lost_answers_change_no_number(server: Server, deduplicated: bool) -> None:
    trouble = {"truncated_body": 0.02, "reset_after": 0.02}
    load = Load(server, hours=240, deduplicated=deduplicated, trouble=trouble)
    measured(load)
    assert {kind for exchange in load.network.history for kind in exchange.trouble} == set(trouble)


def test_one_poisoned_event_among_18000_costs_at_most_12_requests(server: Server) -> None:
    healthy = Load(server, hours=1_200)
    assert healthy.use_every_hour() == 18_000
    assert healthy.run()
    load = Load(server, hours=1_200)
    load.use_every_hour()
    poisoned = reference_of(CUSTOMERS[2], UNGROUPED[0].metric_id, 700)
    knobs = {"refuse_reference": [poisoned], "error_field_index": False}
    load.both.solvimon.settings = changed(load.both.solvimon.settings, knobs)
    assert load.run()
    assert load.states() == {"delivered": 17_999, "quarantined": 1}
    assert load.requests() <= healthy.requests() + 12
    assert load.differences(exact=False) == []


def test_a_meter_that_takes_nothing_costs_at_most_20_requests(server: Server) -> None:
    """A month is five steps of a run: what was refused in the first is not asked for again in the others."""
    without = Load(server, hours=720, metrics=UNGROUPED[1:])
    others = without.use_every_hour()
    assert without.run()
    load = Load(server, hours=720)
    events = load.use_every_hour()
    load.account._disable("meters", UNGROUPED[0].metric_id)
    assert load.run()
    assert load.states() == {"delivered": others, "quarantined": events - others}
    assert load.requests() <= without.requests() + 20
    assert load.differences(exact=False) == []


def test_one_id_that_is_sent_600_times_across_crashes_counts_once(server: Server) -> None:
    """`make chaos` sends it 10,000 times."""
    sends, runs, wrong = send_again_and_again(server, 600)
    assert wrong == []
    assert sends >= 600
    assert runs >= 50
