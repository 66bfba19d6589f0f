"""Coarse reading: what each day of each (customer, metric) amounts to, in as few requests as there are.

Here: walks by day, when one counts as complete, and what becomes of one that does not. Not here: walks by hour and
what they replace (``read.py``), and what a day is compared with (``sweeps.py``). Nothing here touches the database.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import CursorRepeated, Malformed, PipelineError, RateLimited, Refused, Unavailable
from metronome_pipeline.ledger.readings import RepeatedRow
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.metronome.api import MetronomeApi

_DAY = timedelta(days=1)
_ATTEMPTS = 3
_LONGEST_OUTAGE_WALKS = 3

# What ends one walk and is no reason to give up the others. It may pass when the walk is begun anew.
_OF_THE_WALK = (RepeatedRow, Malformed, CursorRepeated, Refused)
_OUTAGE = (Unavailable, RateLimited)


@dataclass(frozen=True)
class DayTotal:
    """The ungrouped value of one UTC day, which begins at ``day``. None: nothing matched."""

    customer_id: str
    metric_id: str
    day: datetime
    value: Decimal | None


Take = Callable[[str, Sequence[str], Sequence[DayTotal]], Awaitable[None]]
"""Takes a complete walk: the customer, the metrics, and a row for every metric and day that was asked for."""


@dataclass(frozen=True)
class DayReader:
    """Reads usage by day.

    A page of usage holds about 200 windows of one (customer, metric), so half a year of a pair's days is one request,
    and several metrics in one walk cost what they cost alone (Metronome notes, section 6).
    """

    api: MetronomeApi
    in_flight: int = 8

    async def read(
        self, walks: Iterable[tuple[str, Sequence[str]]], start: datetime, end: datetime, take: Take
    ) -> tuple[Unread, ...]:
        """Walks the days ``[start, end)``, both UTC midnights, of each (customer, metrics), several walks at once.

        ``take`` is given each walk that is complete, and no other. One that is not is begun anew, each of its metrics
        alone; what then still cannot be read is returned by name. ``walks`` is consumed as the walks begin.

        Raises:
            Unauthorised: Nothing is read any further.
            Unavailable, RateLimited: Several walks after each other got no answer: Metronome is down.
            ValueError: A bound is not a UTC midnight, or a walk names no metric.
        """
        reading = _Reading(self.api, start, end, take)
        waiting = iter(walks)

        async def work() -> None:
            for customer_id, metric_ids in waiting:
                await reading.walk(customer_id, metric_ids)

        await work_together(work, self.in_flight)
        return tuple(reading.unread)


@dataclass
class _Reading:
    """One read under way: what it could not read so far, and how many walks got no answer since the last that did."""

    api: MetronomeApi
    start: datetime
    end: datetime
    take: Take
    unread: list[Unread] = field(default_factory=list)
    outages: int = 0

    async def walk(self, customer_id: str, metric_ids: Sequence[str]) -> None:
        """Walks some metrics of a customer together; where that does not complete, each alone, so that one is named."""
        failed = await self._try(customer_id, metric_ids)
        if failed is None:
            return
        for metric_id in metric_ids:
            error: PipelineError | None = failed
            for _ in range(1, _ATTEMPTS):
                if error is not None:
                    error = await self._try(customer_id, [metric_id])
            if error is not None:
                self.unread.append(Unread(customer_id, (metric_id,), str(error)))

    async def _try(self, customer_id: str, metric_ids: Sequence[str]) -> PipelineError | None:
        """One walk, taken when it is complete. Returns what ended it, if that may pass when it is begun anew."""
        try:
            totals = await self._totals(customer_id, metric_ids)
        except _OUTAGE as error:
            self.outages += 1
            if self.outages > _LONGEST_OUTAGE_WALKS:
                raise
            self.unread.append(Unread(customer_id, tuple(metric_ids), str(error)))
            return None
        except _OF_THE_WALK as error:
            return error
        self.outages = 0
        await self.take(customer_id, metric_ids, totals)
        return None

    async def _totals(self, customer_id: str, metric_ids: Sequence[str]) -> list[DayTotal]:
        """Every day of every metric; one that is absent is one without usage, as a null one is."""
        read: dict[tuple[str, datetime], Decimal | None] = {}
        async for page in self.api.usage(
            customer_id=customer_id,
            metric_ids=metric_ids,
            starting_on=self.start,
            ending_before=self.end,
            window_size="DAY",
        ):
            for usage in page:
                key = (usage.metric_id, usage.start)
                if key in read:
                    raise RepeatedRow(
                        f"Metronome returned the day {usage.start:%Y-%m-%d} of metric {usage.metric_id} for customer "
                        f"{customer_id} twice in one walk"
                    )
                read[key] = usage.value
        return [
            DayTotal(customer_id, metric_id, day, read.get((metric_id, day)))
            for metric_id in metric_ids
            for day in days_of(self.start, self.end)
        ]


def days_of(start: datetime, end: datetime) -> list[datetime]:
    """The UTC days of ``[start, end)``, by their starts."""
    return [start + number * _DAY for number in range((end - start) // _DAY)]
