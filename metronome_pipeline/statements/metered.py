"""What Metronome says of a billing period: one total a metric, read afresh, in as few requests as are exact.

Here: which windows give an exact total for which metric, and the walks. Not here: the ledger's and Solvimon's side
(``statement.py``). Nothing here touches the database.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from metronome_pipeline.errors import CursorRepeated, Malformed, Refused
from metronome_pipeline.ledger.read import midnight
from metronome_pipeline.ledger.readings import RepeatedRow
from metronome_pipeline.mapping.usage import EXACT_CALCULATIONS, PERIOD_TO_DATE, Calculation, exact_sum
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.metronome.records import WindowSize

_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)
_ATTEMPTS = 3
_METRICS_PER_WALK = 50
_OF_THE_WALK = (RepeatedRow, Malformed, CursorRepeated, Refused)


@dataclass(frozen=True)
class Span:
    """What is stated of one customer: ``[start, end)`` of the billing period that begins at ``period_start``.

    ``start`` is later than the period's in the month of the customer's cut-over, ``end`` is the last closed hour of a
    period that is not over.
    """

    period_start: datetime
    start: datetime
    end: datetime

    @property
    def whole_days(self) -> bool:
        """Whether both ends are UTC midnights."""
        return self.start == midnight(self.start) and self.end == midnight(self.end)


@dataclass(frozen=True)
class StatedMetric:
    """A billable metric and how it is billed. ``calculation`` and ``slicing`` are None while it is not."""

    metric_id: str
    name: str
    aggregation: str | None
    calculation: Calculation | None
    slicing: str | None
    reason: str | None = None

    @property
    def billed(self) -> bool:
        """Whether usage of it is sent to Solvimon."""
        return self.calculation is not None and self.slicing is not None


@dataclass(frozen=True)
class _Walk:
    """Windows of ``size`` over the days around ``[start, end)``; those that begin outside of it do not count."""

    start: datetime
    end: datetime
    size: WindowSize


Totals = Mapping[str, Decimal | None]
"""Metric id → total; None: nothing matched."""


async def metered(
    api: MetronomeApi, customer_id: str, metrics: Sequence[StatedMetric], span: Span
) -> dict[str, Decimal | None]:
    """The totals of one customer, metric by metric.

    COUNT, SUM and MAX over whole days are one window of the whole span: one request a metric. Others that are billed by
    the hour are added up over their hours, as they are billed. A metric that is billed period to date is the value of
    the period less the value up to the first midnight from the cut-over on. One that is not billed at all is its own
    aggregation over the whole days of the span.

    Raises:
        RepeatedRow, Malformed, CursorRepeated, Refused: A walk did not complete, three times.
    """
    totals: dict[str, Decimal | None] = {}
    for walk, several in _walks(metrics, span).items():
        for first in range(0, len(several), _METRICS_PER_WALK):
            part = several[first : first + _METRICS_PER_WALK]
            values = await _read(api, customer_id, [metric.metric_id for metric in part], walk)
            totals.update({metric.metric_id: _aggregate(metric, values[metric.metric_id]) for metric in part})
    baseline = _ceiling(span.start)
    before = [metric for metric in metrics if metric.slicing == PERIOD_TO_DATE and metric.metric_id in totals]
    if before and span.period_start < baseline:
        walk = _Walk(span.period_start, baseline, "NONE")
        values = await _read(api, customer_id, [metric.metric_id for metric in before], walk)
        for metric in before:
            gone = exact_sum(values[metric.metric_id])
            totals[metric.metric_id] = exact_sum([totals.get(metric.metric_id) or Decimal(0), gone.copy_negate()])
    return totals


def _walks(metrics: Iterable[StatedMetric], span: Span) -> dict[_Walk, list[StatedMetric]]:
    walks: dict[_Walk, list[StatedMetric]] = {}
    for metric in metrics:
        walk = _walk_of(metric, span)
        if walk is not None:
            walks.setdefault(walk, []).append(metric)
    return walks


def _walk_of(metric: StatedMetric, span: Span) -> _Walk | None:
    if metric.slicing == PERIOD_TO_DATE:
        # Not before the first whole day since the cut-over: until then nothing of it is billed.
        start = span.period_start if _ceiling(span.start) < midnight(span.end) else span.end
        walk = _Walk(start, midnight(span.end), "NONE")
    elif not metric.billed:
        walk = _Walk(_ceiling(span.start), midnight(span.end), "NONE")
    elif span.whole_days and metric.aggregation in EXACT_CALCULATIONS:
        walk = _Walk(span.start, span.end, "NONE")
    else:
        walk = _Walk(span.start, span.end, "HOUR")
    return walk if walk.start < walk.end else None


async def _read(
    api: MetronomeApi, customer_id: str, metric_ids: Sequence[str], walk: _Walk
) -> dict[str, list[Decimal]]:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await _read_once(api, customer_id, metric_ids, walk)
        except _OF_THE_WALK:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("a walk either completes or raises")


async def _read_once(
    api: MetronomeApi, customer_id: str, metric_ids: Sequence[str], walk: _Walk
) -> dict[str, list[Decimal]]:
    values: dict[str, list[Decimal]] = {metric_id: [] for metric_id in metric_ids}
    seen: set[tuple[str, datetime]] = set()
    async for page in api.usage(
        customer_id=customer_id,
        metric_ids=metric_ids,
        starting_on=midnight(walk.start),
        ending_before=_ceiling(walk.end),
        window_size=walk.size,
    ):
        for usage in page:
            key = (usage.metric_id, usage.start)
            if key in seen:
                raise RepeatedRow(
                    f"Metronome returned the window {usage.start:%Y-%m-%dT%H:%MZ} of metric {usage.metric_id} for "
                    f"customer {customer_id} twice in one walk"
                )
            seen.add(key)
            if usage.value is not None and walk.start <= usage.start < walk.end:
                values[usage.metric_id].append(usage.value)
    return values


def _aggregate(metric: StatedMetric, values: Sequence[Decimal]) -> Decimal | None:
    if not values:
        return None
    return max(values) if metric.calculation == "MAX" else exact_sum(values)


def _ceiling(moment: datetime) -> datetime:
    return midnight(moment + _DAY - _MICROSECOND)
