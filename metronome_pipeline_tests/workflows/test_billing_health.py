"""Billing health: the last 35 days by day and metric, on a world with everything that can become of usage."""

import base64
import xml.etree.ElementTree as ET
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg

from metronome_pipeline.ledger.over_time import HealthOfDay
from metronome_pipeline.workflows.billing_health import health_metadata
from metronome_pipeline_tests.world import START, World, failure, metadata, rows

KEY = ("solvimon", "billing_health")
FINAL = datetime(2026, 2, 1, 8, tzinfo=UTC)
"""January's invoices are final: eight hours after the month."""
DAY = 24


def picture(shown: dict[str, Any]) -> ET.Element:
    return ET.fromstring(base64.b64decode(shown["picture"].rpartition(",")[2][:-1]))


def dots(svg: ET.Element, colour: str) -> int:
    """Dots of a colour, without the legend's."""
    return sum(each.attrib["fill"] == colour for each in svg.iter("{http://www.w3.org/2000/svg}circle")) - 1


def refuse(world: World, customer: str, metric: str, hour: int) -> None:
    at = START + timedelta(hours=hour)
    ((reference,),) = world.sql(
        "SELECT ledger.event_reference(%s, %s, %s, %s, 'total', 0)", customer, metric, at, at + timedelta(hours=1)
    )
    world.solvimon.set(refuse_reference=[reference])


def ingest(world: World, last: int, late: str = "send") -> None:
    result = world.ingest(0, last, LATE_USAGE=late)
    assert result.success, failure(result)


def test_each_day_and_metric_has_its_amounts_and_what_waits_or_came_late_is_counted(world: World) -> None:
    """The 8th of January is sent, the 9th corrected and refused in part, the 10th changes once its invoice is final."""
    world.at(START + timedelta(days=6))
    customer, other = world.customer("Acme"), world.customer("Initech")
    calls, peak = world.metric(name="Calls"), world.metric("MAX", name="Peak")
    world.imported()
    world.use_hours(customer, calls, {3 * DAY: "1.25", 3 * DAY + 1: 10, 4 * DAY: 100, 5 * DAY: 1000})
    world.use_hours(other, calls, {3 * DAY: 20})
    world.use_hours(customer, peak, {3 * DAY: 7, 3 * DAY + 5: 9, 4 * DAY: 5})
    world.use_hours(other, peak, {3 * DAY: 8})
    refuse(world, customer, calls, 4 * DAY + 1)
    world.use(customer, calls, 4 * DAY + 1, 400)
    ingest(world, 6 * DAY - 1)
    world.use(customer, calls, 4 * DAY, "0.5")
    ingest(world, 6 * DAY - 1)
    world.at(FINAL + timedelta(minutes=5))
    world.use(customer, calls, 5 * DAY, 1)
    ingest(world, 6 * DAY - 1, late="hold")
    world.metronome.forget_requests()
    world.solvimon.forget_requests()
    result = world.run("billing_health")
    assert result.success, failure(result)
    assert not world.metronome.requests(), "it is fed by the ledger alone"
    assert not world.solvimon.requests()
    shown = metadata(result, *KEY)
    assert [
        (row["day"], row["metric"], row["Metronome"], row["delivered"], row["difference"])
        for row in rows(shown["by_day_and_metric"])
    ] == [
        ("2026-01-10", "Calls", "1001", "1000", "1"),
        ("2026-01-09", "Calls", "500.5", "100.5", "400"),
        ("2026-01-09", "Peak", "5", "5", "0"),
        ("2026-01-08", "Calls", "31.25", "31.25", "0"),
        ("2026-01-08", "Peak", "9", "9", "0"),
    ]
    assert [list(row.values()) for row in rows(shown["by_day"])] == [
        ["2026-01-10", "2", "1", "1", "1", "0", "1", "Calls", "not yet"],
        ["2026-01-09", "4", "3", "1", "1", "0", "0", "Calls", "not yet"],
        ["2026-01-08", "6", "6", "0", "0", "0", "0", "none", "not yet"],
    ]
    numbers = {name: shown[name] for name in ("events", "delivered", "corrections", "open", "late")}
    assert numbers == {"events": 12, "delivered": 10, "corrections": 2, "open": 2, "late": 1}
    assert shown["days_that_differ"] == 2
    svg = picture(shown)
    words = [each.text for each in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Calls", "Peak", "differs", "corrected", "open", "late"} <= set(words)
    assert [dots(svg, colour) for colour in ("#dc2626", "#d97706", "#7c3aed", "#be185d")] == [2, 2, 2, 1]


def test_days_leave_after_35_and_a_reconciliation_is_told(world: World) -> None:
    world.at(START + timedelta(days=2, hours=1))
    world.solvimon.set(match_all=True)
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 1, DAY: 2})
    ingest(world, 2 * DAY - 1)
    days = {
        "dagster/asset_partition_range_start": "2026-01-05",
        "dagster/asset_partition_range_end": "2026-01-06",
    }
    assert world.run("reconcile", tags=days).success
    for at, left in ((34, ["2026-01-06", "2026-01-05"]), (35, ["2026-01-06"]), (36, [])):
        world.at(START + timedelta(days=at, hours=23))
        shown = metadata(world.run("billing_health"), *KEY)
        assert [(row["day"], row["reconciled"]) for row in rows(shown["by_day"])] == [(day, "equal") for day in left]


def test_a_day_that_was_not_read_since_a_switch_does_not_count_as_different(world: World) -> None:
    from metronome_pipeline.ledger.slicings import switch_slicing  # noqa: PLC0415
    from metronome_pipeline.storage.database import Database  # noqa: PLC0415

    world.at(START + timedelta(days=2))
    customer, metric = world.customer(), world.metric(group_keys=[["region"]])
    world.imported()
    world.use_hours(customer, metric, {1: 5})
    world.use(customer, metric, 30, 3, region="eu")
    ingest(world, 2 * DAY - 1)
    with Database(world.database_url) as database, database.transaction() as connection:
        switch_slicing(connection, 1, metric, '["region"]', by="Ana")
    result = world.ingest(DAY, 2 * DAY - 1, job="ingest_grouped_usage", GROUPED_USAGE_ENABLED="true")
    assert result.success, failure(result)
    shown = metadata(world.run("billing_health"), *KEY)
    assert [(row["Metronome"], row["delivered"], row["difference"]) for row in rows(shown["by_day_and_metric"])] == [
        ("3", "3", "0"),
        ("", "5", "not read"),
    ]
    assert shown["days_that_differ"] == 0


def test_an_account_without_usage_has_an_empty_picture_and_a_long_table_is_cut(world: World) -> None:
    result = world.run("billing_health")
    assert result.success, failure(result)
    shown = metadata(result, *KEY)
    assert shown["dagster/row_count"] == 0
    assert picture(shown).tag.endswith("svg")
    one = HealthOfDay(date(2026, 1, 5), "1", "Calls", Decimal(1), None, Decimal(1), 1, 0, 0, None, 1, 0, 0, None)
    long = health_metadata([one] * 400)
    assert len(long["by_day_and_metric"].records) == 350
    assert long["rows_not_listed"] == 50
    assert len(long["by_day"].records) == 1


def test_it_depends_on_the_workflows_that_are_on(world: World) -> None:
    def upstream(**variables: str) -> list[str]:
        asset = world.definitions(**variables).get_assets_def(dg.AssetKey(KEY))
        return sorted(key.path[-1] for key in asset.asset_deps[dg.AssetKey(KEY)])

    assert upstream() == ["reconciliation", "usage_events"]
    assert upstream(
        GROUPED_USAGE_ENABLED="true",
        METRIC_CALCULATIONS='{"c0a80101-0000-4000-8000-000000000001": "PERIOD_TO_DATE"}',
    ) == ["grouped_usage_events", "period_usage_events", "reconciliation", "usage_events"]
