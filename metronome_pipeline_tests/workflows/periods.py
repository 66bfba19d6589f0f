"""What tests of usage by period to date share: days counted from START, daily runs, and what both sides say."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg

from metronome_pipeline_tests.world import START, World, failure, partitions_of

EVENTS = ["solvimon", "period_usage_events"]
DAY = timedelta(days=1)
SOON = timedelta(minutes=15)
LATER = timedelta(hours=1)


def day(number: int) -> datetime:
    """The midnight at which a day begins, counted from START, which is 5 January 2026."""
    return START + number * DAY


def key(number: int) -> str:
    """The partition of a day."""
    return day(number).strftime("%Y-%m-%d")


def choose(world: World, calculation: str, *metrics: str) -> None:
    """Sets how metrics are billed, from now on and all others as by default."""
    world.environment["METRIC_CALCULATIONS"] = json.dumps(dict.fromkeys(metrics, calculation))


def bill_by_period(world: World, *metrics: str) -> None:
    """Bills metrics by period to date."""
    choose(world, "PERIOD_TO_DATE", *metrics)


def run_days(
    world: World,
    first: int,
    last: int | None = None,
    *,
    at: datetime | None = None,
    config: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """A run over days, by default just after the last of them has closed."""
    last = first if last is None else last
    world.at(at or day(last + 1) + SOON)
    tags = {
        "dagster/asset_partition_range_start": key(first),
        "dagster/asset_partition_range_end": key(last),
    }
    ops = {"ops": {"period_usage": {"config": dict(config)}}} if config else None
    return world.run("ingest_period_usage", config=ops, tags=tags)


def close(world: World, number: int, *, after: timedelta = SOON) -> dg.ExecuteInProcessResult:
    """The daily run, some time after a day has closed. Time must not run backwards in a test: runs would wait."""
    config = {"look_back_days": 35, "fill_gaps": True}
    result = run_days(world, number, at=day(number + 1) + after, config=config)
    assert result.success, failure(result)
    return result


def reported(result: dg.ExecuteInProcessResult) -> list[int]:
    """The days that a run reported as done, counted from START."""
    keys = partitions_of(result.all_events, EVENTS)
    return [(datetime.fromisoformat(one).replace(tzinfo=START.tzinfo) - START) // DAY for one in keys]


def days_billed(world: World, customer: str, metric: str) -> dict[int, Decimal]:
    """What Solvimon counts by day; every event must be at a midnight."""
    hours = world.counted(customer, metric)
    assert all(hour % 24 == 0 for hour in hours), hours
    return {hour // 24: value for hour, value in hours.items()}


def billed(world: World, customer: str, metric: str, start: datetime, end: datetime) -> Decimal:
    """What Solvimon counts from one instant to another."""
    hours = world.counted(customer, metric)
    inside = (value for hour, value in hours.items() if start <= START + timedelta(hours=hour) < end)
    return sum(inside, Decimal(0))


def metered(world: World, customer: str, metric: str, start: datetime, end: datetime) -> Decimal:
    """The sandbox's own truth: Metronome's value over a range, computed from the raw events. None is 0."""
    rows = world.metronome.call(
        "GET",
        "/_sandbox/totals",
        **{"from": start.isoformat(), "to": end.isoformat(), "customer_id": customer, "metric_id": metric},
    )["rows"]
    return Decimal(rows[0]["value"]) if rows else Decimal(0)
