"""Late for the destination: what changes after the invoice of its period is final is listed, and sent or held."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from metronome_pipeline_tests.world import START, World, failure

FINAL = datetime(2026, 2, 1, 8, tzinfo=UTC)
"""January's invoices are final: eight hours after the month."""


def _checks(result: Any) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


@pytest.fixture
def billed(world: World) -> tuple[World, str, str]:
    """An hour of January with usage, and the seven after it without, read in January."""
    world.at(START + timedelta(days=1))
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    assert world.ingest().success
    return world, customer, metric


def test_a_change_before_the_invoice_is_final_is_not_late(billed: tuple[World, str, str]) -> None:
    world, customer, metric = billed
    world.at(FINAL - timedelta(minutes=5))
    world.use(customer, metric, 1, 2)
    result = world.ingest(LATE_USAGE="hold")
    assert world.counted(customer, metric) == {1: 7}
    assert _checks(result)["nothing_late"]


def test_a_late_change_is_sent_and_listed(billed: tuple[World, str, str]) -> None:
    world, customer, metric = billed
    world.at(FINAL + timedelta(minutes=5))
    world.use(customer, metric, 1, 2)
    world.use(customer, metric, 2, 3)
    result = world.ingest()
    assert result.success, failure(result)
    assert world.counted(customer, metric) == {1: 7, 2: 3}, "a first event in an hour that was read empty is late too"
    assert not _checks(result)["nothing_late"]
    assert world.sql("SELECT kind, number, state FROM ledger.late_v1 ORDER BY start_at") == [
        ("correction", 2, "delivered"),
        ("usage", 3, "delivered"),
    ]


def test_a_held_change_waits_is_not_planned_again_and_leaves_when_a_person_says_so(
    billed: tuple[World, str, str],
) -> None:
    world, customer, metric = billed
    world.at(FINAL + timedelta(minutes=5))
    world.use(customer, metric, 1, 2)
    for _ in range(2):
        result = world.ingest(LATE_USAGE="hold")
        assert not _checks(result)["nothing_late"]
    assert world.counted(customer, metric) == {1: 5}
    assert world.events()[1:] == [("correction", 1, Decimal(2), "held")]
    world.use(customer, metric, 1, 1)
    world.ingest(LATE_USAGE="hold")
    assert len(world.events()) == 2, "a slot with a held event gets no other"

    from metronome_pipeline.ledger.waiting import retry  # noqa: PLC0415
    from metronome_pipeline.storage.database import Database  # noqa: PLC0415

    with Database(world.database_url) as database, database.transaction() as connection:
        retry(connection, 1, None, run_id="test", by="Ana", reason="test", state="held")
    assert world.ingest(LATE_USAGE="hold").success
    assert world.counted(customer, metric) == {1: 7}
    assert [event[3] for event in world.events()] == ["delivered", "delivered", "held"], (
        "the newer change waits in turn"
    )


def test_the_first_reading_of_a_range_is_not_late_however_old(world: World) -> None:
    world.at(FINAL + timedelta(days=20))
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    result = world.ingest(LATE_USAGE="hold")
    assert world.counted(customer, metric) == {1: 5}
    assert _checks(result)["nothing_late"]


def test_a_switch_of_slicing_is_asked_for_and_never_late(billed: tuple[World, str, str]) -> None:
    world, customer, _ = billed
    metric = world.metric(group_keys=[["region"]], name="Sliced")
    world.imported()
    world.use(customer, metric, 1, 5, region="eu")
    assert world.ingest().success
    world.at(FINAL + timedelta(days=1))
    from metronome_pipeline.ledger.slicings import switch_slicing  # noqa: PLC0415
    from metronome_pipeline.storage.database import Database  # noqa: PLC0415

    with Database(world.database_url) as database, database.transaction() as connection:
        switch_slicing(connection, 1, metric, '["region"]', by="Ana")
    result = world.ingest(job="ingest_grouped_usage", GROUPED_USAGE_ENABLED="true", LATE_USAGE="hold")
    assert result.success, failure(result)
    assert world.slices(customer, metric, 1) == {(("region", "eu"),): 5}


@pytest.mark.parametrize(("anchor", "late"), [("1", True), ("20", False)])
def test_the_period_begins_on_its_anchor_day(billed: tuple[World, str, str], anchor: str, late: bool) -> None:
    """The 5th of January lies in the period that ends on 1 February, or on 20 January."""
    world, customer, metric = billed
    world.at(FINAL + timedelta(minutes=5) if late else datetime(2026, 1, 20, 7, tzinfo=UTC))
    world.use(customer, metric, 1, 2)
    world.ingest(LATE_USAGE="hold", BILLING_PERIOD_ANCHOR_DAY=anchor)
    assert world.counted(customer, metric) == {1: 5 if late else 7}


def test_a_late_fall_of_a_maximum_holds_its_deletion_and_its_successor(world: World) -> None:
    world.at(START + timedelta(days=1))
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    world.use(customer, metric, 1, 4)
    highest = world.use(customer, metric, 1, 9)
    assert world.ingest().success
    world.at(FINAL + timedelta(days=1))
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [highest]})
    world.ingest(LATE_USAGE="hold")
    assert world.counted(customer, metric) == {1: 9}
    assert world.events()[1:] == [("deletion", None, None, "held"), ("correction", 1, 4, "held")]


def test_a_maximum_that_was_dropped_needs_no_deletion_once_usage_falls_below_it(world: World) -> None:
    world.at(START + timedelta(days=1))
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    world.use(customer, metric, 1, 2)
    middle, highest = (world.use(customer, metric, 1, value) for value in (4, 9))
    assert world.ingest().success
    world.at(FINAL + timedelta(days=1))
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [highest]})
    world.ingest(LATE_USAGE="hold")
    held = dict(world.sql("SELECT kind, reference FROM ledger.late_v1 WHERE state = 'held'"))

    from metronome_pipeline.ledger.waiting import drop  # noqa: PLC0415
    from metronome_pipeline.storage.database import Database  # noqa: PLC0415

    with Database(world.database_url) as database, database.transaction() as connection:
        drop(connection, 1, [held["correction"]], reason="credited", run_id="test", by="Ana", state="held")
    world.sql("UPDATE ledger.open_events SET state = 'planned'")
    world.ingest(LATE_USAGE="hold")
    assert world.total(customer, metric) is None
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [middle]})
    assert world.ingest().success
    assert world.total(customer, metric) == 2
    assert [state for *_, state in world.events()] == ["deleted", "delivered", "superseded", "delivered"]
