"""Read, for metrics that do not add up: the value of a billing period at each midnight, as increases from day to day.

Here: which requests a period takes, when its walk is complete, and the rows that it leaves. Not here: what becomes of a
walk that does not complete, and of one that does (``read.py``, ``readings.py``), and the arithmetic
(``mapping/periods.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg

from metronome_pipeline.errors import Malformed, PipelineError
from metronome_pipeline.ledger.read import UsageReader, Window
from metronome_pipeline.ledger.readings import Reading, RepeatedRow, UsageRow
from metronome_pipeline.ledger.shelf import Shelf
from metronome_pipeline.mapping.periods import (
    DAY,
    Period,
    first_midnight,
    increases,
    last_midnight,
    midnights,
    period_of,
    periods_within,
)
from metronome_pipeline.mapping.usage import BilledMetric

Connection = psycopg.Connection[Any]
_VALUES = "POST /v1/usage"


@dataclass(frozen=True)
class Billing:
    """What is billed by period: periods that begin on ``anchor_day``, from the cut-over ``start`` on.

    ``starts`` are later cut-overs of single customers. A day closes ``closes_after`` its end.
    """

    anchor_day: int
    start: datetime
    starts: Mapping[str, datetime] = field(default_factory=dict)
    closes_after: timedelta = timedelta(0)

    def windows(self, start: datetime, end: datetime) -> list[Window]:
        """The periods that overlap ``[start, end)``, oldest first: each whole, but for what is before the cut-over."""
        periods = periods_within(max(start, self.start), end, self.anchor_day)
        return [Window(max(period.start, self.start), period.end) for period in periods]

    def closed(self, moment: datetime) -> datetime:
        """The last midnight that was closed at a moment: days before it may be billed."""
        return last_midnight(moment - self.closes_after)

    def start_of(self, customer_id: str) -> datetime:
        """The customer's cut-over."""
        return max(self.start, self.starts.get(customer_id, self.start))


def moment(connection: Connection) -> datetime:
    """The database's time, by which a walk knows which days are closed."""
    row = connection.execute("SELECT ledger.moment()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


@dataclass(frozen=True, kw_only=True)
class PeriodReader(UsageReader):
    """Reads the billing period of each (customer, metric) as the increases of its value from midnight to midnight.

    The value up to a midnight is one request, ``window_size=NONE`` over [period's start, midnight): a month of a pair
    is 31 requests at most, and one more where the cut-over is within it. The first value is that of the first midnight
    at or after the cut-over, so that what was before is never billed. A value that is null or absent is 0.

    A walk reads every midnight of its period that is closed when it begins. A walk that began later thus covers all
    days of one that began earlier, and a period's days are always those of one walk: they telescope. Usage that comes
    during a walk may be counted on a neighbouring day, never twice and never not at all.
    """

    billing: Billing

    async def _walk_once(
        self,
        customer_id: str,
        metrics: Sequence[BilledMetric],
        window: Window,
        shelf: Shelf,
        *,
        accept_short: bool = False,
    ) -> None:
        walk = await shelf.begin()
        try:
            period = period_of(window.start, self.billing.anchor_day)
            start = max(period.start, self.billing.start_of(customer_id))
            end = min(period.end, self.billing.closed(walk.began_at))
            if start >= end:
                await shelf.discard([walk])
                return
            days = midnights(first_midnight(start), end)
            values = await self._values(customer_id, metrics, period, days)
            rows = [row for metric in metrics for row in _rows(customer_id, metric, days, values[metric.metric_id])]
            complete = [Reading(walk, customer_id, metric.metric_id, metric.slicing, start, end) for metric in metrics]
            await shelf.put(walk, rows, complete)
        except PipelineError:
            await shelf.discard([walk])
            raise

    async def _values(
        self, customer_id: str, metrics: Sequence[BilledMetric], period: Period, days: Sequence[datetime]
    ) -> dict[str, list[Decimal | None]]:
        """The period's value of each metric at each midnight. At its own start it has none."""
        values: dict[str, list[Decimal | None]] = {metric.metric_id: [] for metric in metrics}
        for midnight in days if len(days) > 1 else ():
            found: Mapping[str, Decimal | None] = {}
            if midnight > period.start:
                found = await self._values_at(customer_id, list(values), period.start, midnight)
            for metric_id, at_midnights in values.items():
                at_midnights.append(found.get(metric_id))
        return values

    async def _values_at(
        self, customer_id: str, metric_ids: Sequence[str], start: datetime, end: datetime
    ) -> dict[str, Decimal | None]:
        """The value of each metric over ``[start, end)``: one row a metric, over the whole range."""
        found: dict[str, Decimal | None] = {}
        async for page in self.api.usage(
            customer_id=customer_id, metric_ids=metric_ids, starting_on=start, ending_before=end, window_size="NONE"
        ):
            for usage in page:
                what = f"metric {usage.metric_id} for customer {customer_id} from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
                if usage.metric_id in found:
                    raise RepeatedRow(f"Metronome returned two values of {what}, where one was asked for")
                if (usage.start, usage.end) != (start, end):
                    raise Malformed(
                        f"Metronome returned a value of {usage.start:%Y-%m-%dT%H:%MZ} to {usage.end:%Y-%m-%dT%H:%MZ} "
                        f"for that of {what}: it does not say what the period's value is.",
                        system="Metronome",
                        endpoint=_VALUES,
                        field="start_timestamp",
                    )
                found[usage.metric_id] = usage.value
        return found


def _rows(
    customer_id: str, metric: BilledMetric, days: Sequence[datetime], values: Sequence[Decimal | None]
) -> list[UsageRow]:
    """A row for each day on which the period has a value: what that day added to it."""
    return [
        UsageRow(customer_id, metric.metric_id, day, day + DAY, increase)
        for day, increase in zip(days, increases(values), strict=False)
        if increase is not None
    ]
