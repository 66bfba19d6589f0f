"""Afresh: what Metronome says of one (customer, metric) now, slot by slot, without writing any of it down.

Here: a walk of hours, a walk of a billing period's midnights, and when one that fails is begun anew. Not here: walks by
day (``days.py``), walks whose rows are stored and planned from (``read.py``).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from metronome_pipeline.errors import CursorRepeated, Malformed, PipelineError, RateLimited, Refused, Unavailable
from metronome_pipeline.ledger.read import Window, steps
from metronome_pipeline.ledger.readings import RepeatedRow
from metronome_pipeline.mapping.periods import DAY, first_midnight, increases, last_midnight, midnights, periods_within
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.reconciliation.lines import ReconciledMetric

_HOUR = timedelta(hours=1)
_ATTEMPTS = 3
_LONGEST_OUTAGE_WALKS = 3
# 192 hours fill one page of usage, which holds about 200 windows of one pair (Metronome notes, section 6).
STRETCH_DAYS = 8
"""UTC days of hours that are one request."""
_OF_THE_WALK = (RepeatedRow, Malformed, CursorRepeated, Refused)

Values = Mapping[datetime, Decimal | None]
"""The value of every slot of a window, by its start. None: no usage."""


class Unreadable(PipelineError):
    """A (customer, metric) could not be read, in several attempts."""


@dataclass
class Afresh:
    """Reads single pairs, and notices when Metronome is down: several walks after each other without an answer."""

    api: MetronomeApi
    anchor_day: int = 1
    _outages: int = 0

    async def values(self, customer_id: str, metric: ReconciledMetric, window: Window) -> Values:
        """Every slot of a window: hours, or the whole UTC days in it for a metric that is billed period to date.

        Raises:
            Unreadable: The walk did not complete.
            Unavailable, RateLimited: Metronome is down.
            Unauthorised: The credential is wrong.
        """
        if metric.slicing == PERIOD_TO_DATE:
            return await self._tried(lambda: self._days(customer_id, metric.metric_id, window))
        values: dict[datetime, Decimal | None] = {}
        for step in steps(window, STRETCH_DAYS):
            values |= await self._tried(lambda step=step: self._hours(customer_id, metric.metric_id, step))  # type: ignore[misc]
        return values

    async def _tried(self, walk: Callable[[], Awaitable[Values]]) -> Values:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                values = await walk()
            except (Unavailable, RateLimited) as error:
                self._outages += 1
                if self._outages > _LONGEST_OUTAGE_WALKS:
                    raise
                raise Unreadable(str(error)) from None
            except _OF_THE_WALK as error:
                if attempt == _ATTEMPTS:
                    raise Unreadable(str(error)) from None
            else:
                self._outages = 0
                return values
        raise AssertionError

    async def _hours(self, customer_id: str, metric_id: str, window: Window) -> Values:
        starting_on, ending_before = window.days
        read: dict[datetime, Decimal | None] = {}
        async for page in self.api.usage(
            customer_id=customer_id, metric_ids=[metric_id], starting_on=starting_on, ending_before=ending_before
        ):
            for usage in page:
                if usage.start in read:
                    raise RepeatedRow(
                        f"Metronome returned the hour {usage.start:%Y-%m-%dT%H:%MZ} of metric {metric_id} for customer "
                        f"{customer_id} twice in one walk"
                    )
                read[usage.start] = usage.value
        return {start: read.get(start) for start in slots_of(window)}

    async def _days(self, customer_id: str, metric_id: str, window: Window) -> Values:
        """The increase of each day: the period's value at its end, less that at its beginning."""
        first, end = first_midnight(window.start), last_midnight(window.end)
        values: dict[datetime, Decimal | None] = {}
        for period in periods_within(first, end, self.anchor_day):
            marks = midnights(max(first, period.start), min(end, period.end))
            at_marks = [await self._to_date(customer_id, metric_id, period.start, mark) for mark in marks]
            values |= dict(zip(marks[:-1], increases(at_marks), strict=True))
        return values

    async def _to_date(self, customer_id: str, metric_id: str, start: datetime, mark: datetime) -> Decimal | None:
        if mark == start:
            return None
        value = None
        async for page in self.api.usage(
            customer_id=customer_id, metric_ids=[metric_id], starting_on=start, ending_before=mark, window_size="NONE"
        ):
            for usage in page:
                value = usage.value
        return value


def slots_of(window: Window, length: timedelta = _HOUR) -> list[datetime]:
    """The slots of a window, by their starts."""
    return [window.start + number * length for number in range((window.end - window.start) // length)]


def slots_of_metric(metric: ReconciledMetric, window: Window) -> list[datetime]:
    """The slots in which a metric is billed within a window."""
    if metric.slicing != PERIOD_TO_DATE:
        return slots_of(window)
    return slots_of(Window(first_midnight(window.start), last_midnight(window.end)), DAY)
