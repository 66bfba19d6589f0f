"""The reconciliation as an asset: rows, checks by day, a picture, and one walk a pair for a whole range."""

import base64
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from metronome_pipeline.reconciliation import standing
from metronome_pipeline_tests.world import START, World, failure, metadata, partitions_of, rows

KEY = ("solvimon", "reconciliation")
Found = dict[tuple[str, str | None], bool]


@pytest.fixture
def world(world: World) -> World:
    world.solvimon.set(match_all=True)
    return world


def reconcile(
    world: World, first: int = 5, last: int = 5, *, deep: bool = False, alone: bool = True, **variables: str
) -> dg.ExecuteInProcessResult:
    """A run over days of January 2026. ``alone``: nothing else sends meanwhile."""
    tags = {
        "dagster/asset_partition_range_start": f"2026-01-{first:02}",
        "dagster/asset_partition_range_end": f"2026-01-{last:02}",
    }
    config: Any = {"ops": {"reconciliation": {"config": {"deep": deep}}}}
    before = world.solvimon.writes()
    result = world.run("reconcile", tags=tags, config=config, **variables)
    assert not alone or world.solvimon.writes() == before, "nothing is sent, deleted or changed"
    return result


def checks(result: dg.ExecuteInProcessResult) -> Found:
    return {(each.check_name, each.partition): each.passed for each in result.get_asset_check_evaluations()}


def listed(result: dg.ExecuteInProcessResult, name: str, day: str | None = None) -> list[dict[str, Any]]:
    (one,) = [each for each in result.get_asset_check_evaluations() if (each.check_name, each.partition) == (name, day)]
    return rows(one.metadata["list"].value)


def ingest(world: World, last: int = 71) -> None:
    result = world.ingest(0, last)
    assert result.success, failure(result)


def test_a_range_is_one_walk_a_pair_and_a_red_day_shows_its_table_in_its_own_partition(world: World) -> None:
    customer, metric = world.customer("Acme"), world.metric()
    world.imported()
    world.prove_deduplication()
    world.use_hours(customer, metric, {1: "5.5", 30: 7, 50: 9})
    ingest(world)
    world.use(customer, metric, 31, "0.000000000000000000000000000001")
    world.metronome.forget_requests()
    result = reconcile(world, 5, 7)
    assert result.success, failure(result)
    assert world.metronome.requests()["POST /v1/usage"] == 2, (
        "three days of a pair, and the hours of the one that differs"
    )
    assert partitions_of(result.all_events, KEY) == ["2026-01-05", "2026-01-06", "2026-01-07"]

    found = checks(result)
    red = {key for key, passed in found.items() if not passed}
    assert red == {("delivered_equals_observed", "2026-01-06"), ("delivered_equals_observed", None)}
    assert len(found) == 5 * 4
    (row,) = listed(result, "delivered_equals_observed", "2026-01-06")
    assert row["customer"] == "Acme"
    assert row["reason"] == "changed since read"
    assert row["difference"] == "0.000000000000000000000000000001"
    assert row["hour"] == "2026-01-06 07:00"
    kept = world.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(list(KEY)), "delivered_equals_observed"), 10
    )
    assert len(kept) == 4

    assert world.sql(
        "SELECT day::text, customer, metronome, delivered, solvimon, difference, outcome, reasons, granularity "
        "FROM ledger.reconciliations_v1 ORDER BY day"
    ) == [
        ("2026-01-05", "Acme", Decimal("5.5"), Decimal("5.5"), None, 0, "equal", [], "day"),
        (
            "2026-01-06",
            "Acme",
            Decimal("7.000000000000000000000000000001"),
            7,
            None,
            Decimal("0.000000000000000000000000000001"),
            "explained",
            ["changed since read"],
            "hour",
        ),
        ("2026-01-07", "Acme", 9, 9, None, 0, "equal", [], "day"),
    ]
    ingest(world)
    assert reconcile(world, 6, 6).success
    assert world.sql("SELECT DISTINCT outcome FROM ledger.reconciliations") == [("equal",)]


def test_a_day_shows_its_totals_its_differences_and_a_picture(world: World) -> None:
    customer, metric = world.customer(), world.metric(name="Calls & more")
    world.imported()
    world.use_hours(customer, metric, {1: 5, 30: 7})
    ingest(world, 47)
    assert reconcile(world, 5, 5).success
    result = reconcile(world, 6, 6, deep=True)
    shown = metadata(result, *KEY)
    assert (shown["equal"], shown["explained"], shown["unexplained"], shown["proved_by"]) == (1, 0, 0, "event")
    assert rows(shown["totals"])[0] == {
        "metric": "Calls & more", "Metronome": "7", "ledger": "7", "delivered": "7", "Solvimon": "7", "difference": "0",
    }  # fmt: skip
    assert "differences" not in shown
    svg = base64.b64decode(shown["picture"].rpartition(",")[2][:-1])
    assert b"2026-01-05" in svg, "the days before are drawn as well"
    assert ET.fromstring(svg).tag.endswith("svg")
    assert shown["solvimon_requests_for_lists"] == 1


def test_hours_that_were_never_read_make_a_day_incomplete(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5})
    ingest(world, 30)
    found = checks(reconcile(world, 5, 6))
    assert found["complete", "2026-01-05"]
    assert not found["complete", "2026-01-06"]
    assert found["delivered_equals_observed", "2026-01-06"], "as there was no usage"


def test_unmatched_hand_deleted_and_unproved_each_turn_their_own_check_red(world: World) -> None:
    world.solvimon.set(match_all=False)
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 30: 7})
    ingest(world, 47)
    ((reference,),) = world.sql("SELECT reference FROM ledger.events WHERE number = 5")
    world.solvimon.call("POST", "/v1/events/delete", {"reference": reference})
    result = reconcile(world, 5, 6)
    found = checks(result)
    assert {name for (name, day), passed in found.items() if day == "2026-01-05" and not passed} == {
        "delivered_equals_observed",
        "nothing_deleted_by_hand",
        "reference_deduplication_proved",
    }
    assert {name for (name, day), passed in found.items() if day == "2026-01-06" and not passed} == {
        "nothing_unmatched",
        "reference_deduplication_proved",
    }
    assert listed(result, "nothing_deleted_by_hand", "2026-01-05")[0]["references"] == reference
    assert world.sql("SELECT day::text, outcome, reasons FROM ledger.reconciliations ORDER BY day") == [
        ("2026-01-05", "explained", ["deleted by hand"]),
        ("2026-01-06", "explained", ["unmatched"]),
    ]


def test_a_pair_that_cannot_be_read_fails_the_run_by_name_and_leaves_its_days_open(world: World) -> None:
    customer, metric, other = world.customer("Acme"), world.metric(), world.metric(name="Other")
    world.imported()
    world.use_hours(customer, metric, {1: 5})
    world.use_hours(customer, other, {1: 5})
    ingest(world, 23)
    wrong = world.use(customer, metric, 2, "9" * 101)
    result = reconcile(world)
    assert not result.success
    assert metric in failure(result)
    assert partitions_of(result.all_events, KEY) == []
    assert not checks(result)["delivered_equals_observed", "2026-01-05"]
    assert listed(result, "delivered_equals_observed", "2026-01-05")[0]["reason"] == "unread"
    assert dict(world.sql("SELECT metric_id::text, outcome FROM ledger.reconciliations")) == {
        metric: "unread",
        other: "equal",
    }
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [wrong]})
    assert reconcile(world).success
    assert world.sql("SELECT DISTINCT outcome FROM ledger.reconciliations") == [("equal",)]


def test_a_day_that_is_not_closed_is_not_reconciled(world: World) -> None:
    world.at(START + timedelta(hours=23, minutes=59))
    result = reconcile(world)
    assert not result.success
    assert "not closed yet" in failure(result)


def test_a_run_that_corrects_meanwhile_leaves_no_difference_that_nobody_explains(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5})
    ingest(world, 23)
    world.use(customer, metric, 1, 1)
    before = standing.slots
    asked = 0

    def slots(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            world.use(customer, metric, 1, 1)
            ingest(world, 23)
        return before(*arguments)

    monkeypatch.setattr(standing, "slots", slots)
    result = reconcile(world, alone=False)
    assert result.success, failure(result)
    assert asked == 2
    assert checks(result)["delivered_equals_observed", "2026-01-05"]


def test_a_range_before_the_cut_over_of_a_customer_has_no_rows_and_the_first_day_may_be_cut(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    start = datetime(2026, 1, 5, 6, tzinfo=UTC).isoformat()
    world.imported(USAGE_START=start)
    world.use_hours(customer, metric, {1: 100, 7: 5, 30: 1})
    days = {
        "dagster/asset_partition_range_start": "2026-01-05-06:00",
        "dagster/asset_partition_range_end": "2026-01-06-23:00",
    }
    assert world.run("ingest_usage", tags=days, USAGE_START=start).success
    result = reconcile(world, 5, 6, USAGE_START=start)
    assert result.success, failure(result)
    assert world.sql("SELECT day::text, metronome, outcome, granularity FROM ledger.reconciliations ORDER BY day") == [
        ("2026-01-05", 5, "equal", "hour"),
        ("2026-01-06", 1, "equal", "day"),
    ]
