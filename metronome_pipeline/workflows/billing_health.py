"""Billing health: the last 35 days at a glance, by day and metric, from the ledger alone.

Here: the asset, its tables and its picture. Not here: the statement (``ledger/over_time.py``), and reading either API.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from itertools import groupby
from typing import Any

import dagster as dg

from metronome_pipeline.ledger.over_time import HealthOfDay, billing_health
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.requests import plain_number
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.due import destinations
from metronome_pipeline.workflows.imports import column_schema, table
from metronome_pipeline.workflows.naming import asset_key
from metronome_pipeline.workflows.pictures import Bar, Mark, markdown_image, usage_picture
from metronome_pipeline.workflows.reconciliation_reports import reconciliation_key
from metronome_pipeline.workflows.session import failing_in_a_sentence
from metronome_pipeline.workflows.tags import tag_run, tags_of

COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "day": ("date", "The UTC day."),
        "metric_id": ("uuid", "Metronome's billable metric id."),
        "metric": ("text", "Its name."),
        "calculation": ("text", "How its meter adds up, such as SUM or MAX."),
        "metronome": ("numeric", "What Metronome reported when the day was last read: a sum, of a MAX the highest."),
        "delivered": ("numeric", "The same of what Solvimon has taken."),
        "difference": ("numeric", "metronome less delivered, to the last digit; null: not read since a switch."),
        "events": ("bigint", "Events in the ledger."),
        "delivered_events": ("bigint", "Those of them that Solvimon has taken."),
        "corrections": ("bigint", "Those of them that change an earlier one: corrections and deletions."),
        "corrected": ("numeric", "The sum of the corrections; null for a MAX."),
        "open_events": ("bigint", "Those of them that are planned, on their way, in quarantine or held."),
        "unsettled_hours": ("bigint", "Hours known to differ, which the next run plans first."),
        "late": ("bigint", "Events that came when the invoice of their period was final."),
        "reconciled": ("text", "The last reconciliation: equal, explained, unexplained, unread; null: none yet."),
    }
)
DAY_COLUMNS = (
    "day", "events", "delivered", "corrections", "open", "unsettled", "late", "differs", "reconciled",
)  # fmt: skip
METRIC_COLUMNS = (
    "day", "metric", "Metronome", "delivered", "difference", "corrections", "corrected by", "open", "late",
)  # fmt: skip
_MARKS: dict[Mark, Callable[[HealthOfDay], object]] = {
    Mark.differs: lambda one: one.differs,
    Mark.corrected: lambda one: one.corrections,
    Mark.open: lambda one: one.open or one.unsettled,
    Mark.late: lambda one: one.late,
}
_WORST = ("unread", "unexplained", "explained", "equal")
_LISTED = 350


def billing_health_key(settings: Settings) -> dg.AssetKey:
    """The asset."""
    return asset_key(settings, "solvimon", "billing_health")


def billing_health_asset(settings: Settings) -> dg.AssetsDefinition:
    """The asset."""

    @dg.asset(
        key=billing_health_key(settings),
        deps=[*destinations(settings), reconciliation_key(settings)],
        group_name="solvimon",
        kinds={"metronome", "solvimon", "postgres"},
        owners=settings.resource_owners,
        tags=tags_of(settings, "billing_health"),
        metadata={"dagster/column_schema": COLUMNS, "dagster/table_name": "ledger.billing_health_v1"},
        description="The last 35 UTC days at a glance, today among them: what Metronome reported, what Solvimon has "
        "taken, and how much was corrected, is open, or came late; one row a day and metric.\n\n**From** the ledger "
        "alone, in one query: neither API is asked anything, so it may be materialized at any time. Counts are of "
        "events, amounts are in each metric's own unit.\n\n**Fresh:** the schedule `daily_billing_health` takes the "
        "picture each day; the view in Postgres holds the present state whenever it is read.\n\n**If a day differs,** "
        "the checks of the usage events say what waits for whom, and `solvimon/reconciliation` of that day says why.",
    )
    def billing_health_of_35_days(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> dg.MaterializeResult[None]:
        tag_run(context)
        with failing_in_a_sentence(), store.open(connections=1) as opened, opened.database.transaction() as connection:
            rows = billing_health(connection, opened.pair.pair_id)
        context.log.info(_sentence(rows))
        return dg.MaterializeResult(metadata=health_metadata(rows))

    return billing_health_of_35_days


def health_metadata(rows: Sequence[HealthOfDay]) -> dict[str, Any]:
    """Numbers that Dagster plots, a row a day, a row a day and metric, and the picture. ``rows``: newest day first."""
    return {
        "dagster/row_count": len(rows),
        "events": sum(one.events for one in rows),
        "delivered": sum(one.delivered_events for one in rows),
        "corrections": sum(one.corrections for one in rows),
        "open": sum(one.open for one in rows),
        "unsettled_hours": sum(one.unsettled for one in rows),
        "late": sum(one.late for one in rows),
        "days_that_differ": len({one.day for one in rows if one.differs}),
        "picture": dg.MetadataValue.md(_picture(rows)),
        "by_day": table(DAY_COLUMNS, [_day(list(of_day)) for _, of_day in groupby(rows, key=lambda one: one.day)]),
        "by_day_and_metric": table(METRIC_COLUMNS, [_of_metric(one) for one in rows[:_LISTED]]),
        **({"rows_not_listed": len(rows) - _LISTED} if len(rows) > _LISTED else {}),
    }


def _day(rows: Sequence[HealthOfDay]) -> tuple[object, ...]:
    outcomes = {one.reconciled for one in rows}
    return (
        rows[0].day,
        sum(one.events for one in rows),
        sum(one.delivered_events for one in rows),
        sum(one.corrections for one in rows),
        sum(one.open for one in rows),
        sum(one.unsettled for one in rows),
        sum(one.late for one in rows),
        ", ".join(one.metric for one in rows if one.differs) or "none",
        next((outcome for outcome in _WORST if outcome in outcomes), "not yet"),
    )


def _of_metric(one: HealthOfDay) -> tuple[object, ...]:
    difference = "not read" if one.difference is None else _text(one.difference)
    amounts = (_text(one.metronome), _text(one.delivered), difference)
    return one.day, one.metric, *amounts, one.corrections, _text(one.corrected), one.open, one.late


def _text(number: Decimal | None) -> str:
    return "" if number is None else plain_number(number)


def _picture(rows: Sequence[HealthOfDay]) -> str:
    bars = [
        Bar(
            one.metric_id,
            one.metric,
            datetime.combine(one.day, time(), UTC),
            one.metronome,
            one.delivered,
            frozenset(mark for mark, has in _MARKS.items() if has(one)),
        )
        for one in rows
    ]
    return markdown_image(usage_picture(bars, tuple(_MARKS)), _sentence(rows))


def _sentence(rows: Sequence[HealthOfDay]) -> str:
    if not rows:
        return "The last 35 days have no usage and no events."
    differ = len({one.day for one in rows if one.differs})
    days = len({one.day for one in rows})
    return (
        f"{rows[-1].day} to {rows[0].day}: {days} days with usage, {differ} of them differ; "
        f"{sum(one.events for one in rows)} events, {sum(one.corrections for one in rows)} corrections, "
        f"{sum(one.open for one in rows)} open, {sum(one.late for one in rows)} late."
    )
