"""Runs killed at random moments, and the books that are done after each; `make chaos` kills 200 and does worse."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from metronome_pipeline.storage.embedded import EmbeddedPostgres
from metronome_pipeline_tests.chaos import servers
from metronome_pipeline_tests.chaos.account import Account
from metronome_pipeline_tests.chaos.books import differences
from metronome_pipeline_tests.chaos.gate import gates
from metronome_pipeline_tests.chaos.kills import Lanes
from metronome_pipeline_tests.chaos.watching import PHASES, Facts, phase
from metronome_pipeline_tests.world import Api

INGEST = "/v1/events/ingest"


@pytest.fixture
def stage(postgres: EmbeddedPostgres, world_template: str) -> servers.Postgres:
    return servers.Postgres(Path(), postgres, world_template)


@pytest.fixture
def account(stage: servers.Postgres, sandbox_urls: tuple[str, str], tmp_path: Path) -> Iterator[Account]:
    """An account that one run has brought over, where nothing is deduplicated."""
    opened = Account.imported(stage, sandbox_urls, tmp_path / "world", random.Random(1), deduplicated=False)
    assert opened.start().end() is None
    yield opened
    stage.drop(opened.world.database_url)


def test_after_a_kill_and_one_more_run_nothing_is_lost_and_nothing_doubled(
    stage: servers.Postgres, sandbox_urls: tuple[str, str], tmp_path: Path
) -> None:
    tally = Lanes(stage, sandbox_urls, tmp_path, seed=1, kills=6, a_world=3).run(1)
    assert tally.kills.total() == 6
    assert (tally.lost, tally.doubled, tally.red) == (0, 0, [])


def test_the_books_see_what_is_lost_doubled_and_left_over(account: Account) -> None:
    assert differences(account).wrong == ()
    world, one = account.world, account.world.stored_events()[0]
    again = {key: one[key] for key in ("reference", "customer_reference", "meter_reference", "timestamp")}
    number = one["meter_values"][0]
    value = {"reference": number["reference"], "number": "3"}
    world.solvimon.call("POST", INGEST, {**again, "meter_values": [value]})
    found = differences(account)
    assert found.doubled >= 1
    assert any(f"{one['reference']} counts 2 times" in sentence for sentence in found.wrong)
    copies = [event["id"] for event in world.stored_events() if event["reference"] == one["reference"]]
    for copy in copies:
        world.solvimon.call("POST", "/_sandbox/events/delete-by-hand", {"id": copy})
    found = differences(account)
    assert (found.lost, found.doubled) == (1, 0)
    assert f"the ledger says {number['number']}, Solvimon counts" in found.wrong[0]
    world.sql(
        "INSERT INTO ledger.claims (pair_id, event_ids, run_id) SELECT pair_id, '{1}', '' FROM ledger.events LIMIT 1"
    )
    assert "At rest there is still a claim on events {1}." in differences(account).wrong


def test_what_a_killed_run_was_at_shows_in_its_traces() -> None:
    nothing = Facts(0, 0, 0, 0, 0, 0, 0, 0)
    traces = [
        nothing,
        Facts(0, 0, 0, 0, 0, 5, 1, 0),
        Facts(1, 0, 0, 0, 0, 5, 1, 0),
        Facts(1, 9, 0, 9, 0, 5, 1, 0),
        Facts(1, 9, 0, 9, 1, 5, 1, 0),
        Facts(1, 9, 0, 9, 1, 5, 1, 2),
        Facts(1, 9, 9, 0, 0, 5, 1, 3),
    ]
    assert tuple(phase(nothing, now) for now in traces) == PHASES


def test_a_gate_that_is_shut_refuses_and_lets_through_once_it_is_open_again(sandbox_urls: tuple[str, str]) -> None:
    token = {"Authorization": "Bearer token-of-the-gate"}
    Api(sandbox_urls[0], token).call("PUT", "/_sandbox/store", {})
    with gates(sandbox_urls[0]) as (gate,):
        through = Api(gate.url, token)
        assert through.requests() == {}
        gate.shut()
        with pytest.raises(Exception, match=r"refused|disconnected|reset"):
            through.requests()
        gate.open()
        assert through.requests() == {}
