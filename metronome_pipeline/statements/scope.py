"""What a statement is about: a billing period, the customers in it, the billable metrics and how they are billed.

Here: names and bounds, from settings and from what was imported. Not here: any usage.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from metronome_pipeline.statements.metered import StatedMetric

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class BillingPeriod:
    """The billing period ``[start, end)``, named by the month in which it begins.

    ``until`` is its end, or the last closed hour of a period that is not over.
    """

    month: str
    start: datetime
    end: datetime
    until: datetime

    @property
    def over(self) -> bool:
        """Whether every hour of it is closed."""
        return self.until == self.end


@dataclass(frozen=True)
class StatedCustomer:
    """A customer to state, and from when on: its own cut-over, where that is later than the period's start."""

    customer_id: str
    name: str
    start: datetime


def billing_period(month: str, anchor_day: int, closed_until: datetime) -> BillingPeriod:
    """The billing period that begins in ``month`` (``2026-10``), at midnight UTC on the anchor day.

    Raises:
        ValueError: It is no month, or no hour of the period is closed yet.
    """
    start = datetime.strptime(month, "%Y-%m").replace(day=anchor_day, tzinfo=UTC)
    end = (start.replace(day=1) + timedelta(days=31)).replace(day=anchor_day)
    hour = closed_until.replace(minute=0, second=0, microsecond=0)
    if hour <= start:
        raise ValueError(f"the billing period of {month} begins on {start:%Y-%m-%d}, and no hour of it is closed yet")
    return BillingPeriod(f"{start:%Y-%m}", start, end, min(end, hour))


def meters_by_id(connection: Connection, pair_id: int) -> dict[str, str]:
    """The references of imported meters, by Solvimon's id."""
    rows = connection.execute(
        "SELECT solvimon_id, reference FROM solvimon.meters WHERE pair_id = %s AND solvimon_id IS NOT NULL", [pair_id]
    )
    return dict(rows.fetchall())


def stated_metrics(connection: Connection, pair_id: int) -> list[StatedMetric]:
    """Every billable metric of the account and how it is billed; gone ones too, as there may be events of them."""
    return [StatedMetric(*row) for row in connection.execute(_METRICS, [pair_id])]


_METRICS = """
SELECT m.metric_id::text, m.name, m.aggregation_type,
       CASE WHEN t.calculation_id IS NULL THEN NULL WHEN t.calculation_type = 'MAX' THEN 'MAX' ELSE 'SUM' END,
       s.slicing, coalesce(t.reason, CASE WHEN t.reference IS NULL THEN 'its meter was not imported'
                                          WHEN s.slicing IS NULL THEN 'it was never billed' END)
FROM metronome.billable_metrics m
LEFT JOIN solvimon.meters t ON t.pair_id = m.pair_id AND t.reference = m.metric_id::text
LEFT JOIN ledger.slicings s ON s.pair_id = m.pair_id AND s.metric_id = m.metric_id
WHERE m.pair_id = %s
ORDER BY m.metric_id
"""


def customers_of_period(
    connection: Connection, pair_id: int, period: BillingPeriod, allowed: Collection[str]
) -> dict[str, str]:
    """Id → name of the customers to state, in the order of their ids.

    Those with events in the period, whoever they are, and those that Metronome lists, archived ones too: of these only
    ``allowed``, unless that is empty.
    """
    rows = connection.execute(
        _CUSTOMERS,
        {"pair_id": pair_id, "start": period.start, "end": period.until, "allowed": list(allowed) or None},
    )
    return dict(rows.fetchall())


# Through the metrics, for events are found by metric and customer.
_CUSTOMERS = """
SELECT customer_id::text, name FROM metronome.customers c
WHERE pair_id = %(pair_id)s AND (
    (gone_at IS NULL AND (%(allowed)s::uuid[] IS NULL OR customer_id = ANY (%(allowed)s::uuid[])))
    OR EXISTS (
        SELECT FROM metronome.billable_metrics m
        JOIN ledger.events e ON e.pair_id = m.pair_id AND e.metric_id = m.metric_id
        WHERE m.pair_id = %(pair_id)s AND e.customer_id = c.customer_id
          AND e.start_at >= %(start)s AND e.start_at < %(end)s))
ORDER BY customer_id
"""


def events_of_period(connection: Connection, pair_id: int, period: BillingPeriod, customers: Collection[str]) -> int:
    """How many events the ledger has of these customers in the period."""
    row = connection.execute(
        "SELECT count(*) FROM metronome.billable_metrics m JOIN ledger.events e USING (pair_id, metric_id) "
        "WHERE pair_id = %s AND kind <> 'deletion' AND customer_id = ANY (%s::uuid[]) "
        "AND start_at >= %s AND start_at < %s",
        [pair_id, list(customers), period.start, period.until],
    ).fetchone()
    assert row is not None
    return int(row[0])
