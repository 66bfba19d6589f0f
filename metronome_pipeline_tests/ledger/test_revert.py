"""Revert: the exact opposite of what a run delivered, once, and closed until a person opens it again."""

from pathlib import Path

import pytest

from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.world import START, World, failure


@pytest.fixture(autouse=True)
def _no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _ingest(world: World, first: int = 0, last: int = 7) -> str:
    result = world.ingest(first, last, BRAKE_SHARE="1")
    assert result.success, failure(result)
    return result.run_id


def test_a_wrong_backfill_is_taken_back_stays_so_and_comes_back_when_released(world: World) -> None:
    customer, metric, highest = world.customer(), world.metric(), world.metric("MAX", name="Peak")
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 7})
    world.use_hours(customer, highest, {1: 5, 2: 7})
    run = _ingest(world)
    env = variables(world)

    shown = command("revert", "run", run, "--dry-run", env=env)
    assert shown.status == 0, shown.err
    assert "-12" in shown.out
    assert len(world.events()) == 4, "a dry run writes nothing"

    assert command("revert", "run", run, "--yes", "--by", "Ana", env=env).status == 0
    _ingest(world)
    assert world.counted(customer, metric) == {}
    assert world.counted(customer, highest) == {}
    events = world.events()
    result = world.ingest(0, 7)
    assert world.events() == events, "what was taken back is not sent again"
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert not checks["nothing_left_unsettled"]

    again = command("revert", "run", run, "--yes", env=env)
    assert again.status == 0
    assert "nothing to take back" in again.err
    assert world.events() == events
    assert run in command("revert", "list", env=env).out

    assert command("revert", "release", run, env=env).status == 0
    _ingest(world, 6, 7)
    assert world.counted(customer, metric) == {1: 5, 2: 7}, "the next run plans it, whatever its hours"
    assert world.counted(customer, highest) == {1: 5, 2: 7}


def test_only_what_the_run_added_is_taken_back(world: World) -> None:
    customer, metric, highest = world.customer(), world.metric(), world.metric("MAX", name="Peak")
    world.imported()
    for each in (metric, highest):
        world.use(customer, each, 1, 5)
    _ingest(world)
    for each in (metric, highest):
        world.use(customer, each, 1, 8)
        world.use(customer, each, 2, 1)
    run = _ingest(world)
    assert world.counted(customer, metric) == {1: 13, 2: 1}
    assert command("revert", "run", run, "--yes", env=variables(world)).status == 0
    _ingest(world)
    assert world.counted(customer, metric) == {1: 5}
    assert world.total(customer, highest) == 5


def test_a_maximum_that_the_run_lowered_goes_back_to_what_it_was(world: World) -> None:
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    world.use(customer, metric, 1, 4)
    highest = world.use(customer, metric, 1, 9)
    _ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [highest]})
    run = _ingest(world)
    assert world.total(customer, metric) == 4
    assert command("revert", "run", run, "--yes", env=variables(world)).status == 0
    _ingest(world)
    assert world.total(customer, metric) == 9


def test_a_slot_that_was_corrected_since_is_refused_by_name_and_the_others_go_on(world: World) -> None:
    customer, metric = world.customer("Acme"), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 7})
    run = _ingest(world)
    world.use(customer, metric, 1, 1)
    later = _ingest(world)
    done = command("revert", "run", run, "--yes", env=variables(world))
    assert done.status == 3
    assert later[:8] in done.out
    assert "Acme" in done.out
    _ingest(world)
    assert world.counted(customer, metric) == {1: 6}


def test_a_slot_with_an_event_under_way_is_refused(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    ((reference,),) = world.sql(
        "SELECT ledger.event_reference(%s, %s, %s, %s + interval '1 hour', 'total', 0)", customer, metric, START, START
    )
    world.solvimon.set(refuse_reference=[reference])
    world.use(customer, metric, 0, 5)
    run = _ingest(world)
    done = command("revert", "run", run, "--yes", env=variables(world))
    assert done.status == 3
    assert "quarantined" in done.out
    assert len(world.events()) == 1


def test_an_unknown_run_is_wrong_use(world: World) -> None:
    world.imported()
    assert command("revert", "run", "no-such-run", env=variables(world)).status == 2
    assert command("revert", "release", "no-such-run", env=variables(world)).status == 2


def test_groups_are_taken_back_with_their_own_properties(world: World) -> None:
    customer, metric = world.customer(), world.metric(group_keys=[["region"]])
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    world.imported()
    world.use(customer, metric, 1, 5, region="eu")
    world.use(customer, metric, 1, 3, region="us")
    result = world.ingest(job="ingest_grouped_usage")
    assert result.success, failure(result)
    assert command("revert", "run", result.run_id, "--yes", env=variables(world)).status == 0
    assert world.ingest(job="ingest_grouped_usage").success
    assert world.slices(customer, metric, 1) == {}


def test_usage_that_was_taken_back_is_not_billed_as_another_group(world: World) -> None:
    customer, metric = world.customer(), world.metric(group_keys=[["region"]])
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    world.imported()
    moving = world.use(customer, metric, 1, 5, region="eu")
    run = world.ingest(job="ingest_grouped_usage").run_id
    assert command("revert", "run", run, "--yes", env=variables(world)).status == 0
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [moving]})
    world.use(customer, metric, 1, 5, region="us")
    world.use(customer, metric, 2, 1, region="us")
    result = world.ingest(job="ingest_grouped_usage")
    assert world.slices(customer, metric, 1) == {}
    assert world.slices(customer, metric, 2) == {(("region", "us"),): 1}
    assert not {c.check_name: c.passed for c in result.get_asset_check_evaluations()}["nothing_left_unsettled"]
    assert command("revert", "release", run, env=variables(world)).status == 0
    assert world.ingest(job="ingest_grouped_usage").success
    assert world.slices(customer, metric, 1) == {(("region", "us"),): 5}


def test_usage_that_was_taken_back_is_not_billed_through_another_slicing(world: World) -> None:
    customer, metric = world.customer(), world.metric(group_keys=[["region"]])
    world.imported()
    world.use(customer, metric, 1, 5, region="eu")
    run = _ingest(world)
    assert command("revert", "run", run, "--yes", env=variables(world)).status == 0
    _ingest(world)
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    env = {**variables(world), "GROUPED_USAGE_ENABLED": "true"}
    assert command("slicing", "switch", metric, "--yes", env=env).status == 0
    assert world.ingest(job="ingest_grouped_usage").success
    assert world.slices(customer, metric, 1) == {}
    assert command("revert", "release", run, env=env).status == 0
    assert world.ingest(job="ingest_grouped_usage").success
    assert world.slices(customer, metric, 1) == {(("region", "eu"),): 5}
