"""By day, and by hour where a day cannot say: comparing both sides in as few requests as there are.

Here: which days and hours of Metronome are read, and which days are opened. Solvimon's side is what it acknowledged,
and its own lists. Not here: reading its events back (``by_event.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.ledger.read import Window, midnight
from metronome_pipeline.mapping.periods import DAY, first_midnight, last_midnight
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE
from metronome_pipeline.reconciliation import standing
from metronome_pipeline.reconciliation.afresh import STRETCH_DAYS, Unreadable, slots_of_metric
from metronome_pipeline.reconciliation.comparison import LOOKS, Comparison, Shown
from metronome_pipeline.reconciliation.differences import compare_day
from metronome_pipeline.reconciliation.lines import DayLine, ReconciledMetric
from metronome_pipeline.reconciliation.readback import SolvimonLists, judge_lists
from metronome_pipeline.sweeps.days import DayReader, DayTotal

_REFERENCES_AT_ONCE = 5_000


async def suspect(comparison: Comparison, lists: SolvimonLists) -> None:
    """Notes which of our events Solvimon's lists contradict: their days are opened, whatever their totals say."""
    references = sorted({each.reference for each in (*lists.deleted, *lists.duplicates)})
    for first in range(0, len(references), _REFERENCES_AT_ONCE):
        events = await comparison.by_reference(references[first : first + _REFERENCES_AT_ONCE])
        by_id = {event.event_id: event for event in events}
        for found in await judge_lists(lists, events, comparison.copies):
            event = by_id[found.event_id]
            before = comparison.shown.get(event.customer_id, Shown())
            comparison.shown[event.customer_id] = replace(
                before,
                found={**before.found, found.event_id: found},
                suspect_days=before.suspect_days | {(event.metric_id, midnight(event.start))},
            )


async def compare_days(comparison: Comparison) -> None:
    """Whole days of everything whose days compare, one walk a customer; days that differ are opened by hour."""
    question = comparison.question
    metric_ids = [m.metric_id for m in question.metrics if m.by_day and m.slicing != PERIOD_TO_DATE]
    if not metric_ids:
        return
    groups: dict[tuple[datetime, datetime], list[str]] = {}
    for customer_id in question.starts:
        window = question.window_of(customer_id)
        bounds = first_midnight(window.start), last_midnight(window.end)
        if bounds[0] < bounds[1]:
            groups.setdefault(bounds, []).append(customer_id)

    async def take(customer_id: str, _: Sequence[str], totals: Sequence[DayTotal]) -> None:
        await _take_days(comparison, customer_id, totals)

    for (start, end), customers in groups.items():
        reader = DayReader(comparison.accounts.metronome, comparison.accounts.in_flight)
        unread = await reader.read([(each, metric_ids) for each in customers], start, end, take)
        for each in unread:
            await comparison.note_unread(each.customer_id, each.metric_ids, each.reason, Window(start, end))


async def compare_hours(comparison: Comparison) -> None:
    """What days cannot say: days that are cut, and metrics whose days are not the sum of their hours."""
    waiting = (
        (customer_id, metric, window)
        for customer_id in comparison.question.starts
        for metric in comparison.question.metrics
        for window in _hour_windows(comparison.question.window_of(customer_id), metric)
    )

    async def work() -> None:
        for customer_id, metric, window in waiting:
            await _open(comparison, customer_id, metric, window)
            comparison.say_progress()

    await work_together(work, comparison.accounts.in_flight)


async def _take_days(comparison: Comparison, customer_id: str, totals: Sequence[DayTotal]) -> None:
    slicings = {total.metric_id: comparison.metrics[total.metric_id].slicing for total in totals}
    start, end = totals[0].day, totals[-1].day + DAY
    pair_id = comparison.accounts.pair_id
    rows = await comparison.accounts.database.run(
        lambda c: standing.days_standing(c, pair_id, customer_id, slicings, start, end)
    )
    stands = {(row.metric_id, row.day): row for row in rows}
    suspects = comparison.shown.get(customer_id, Shown()).suspect_days
    lines: list[DayLine] = []
    to_open: dict[str, list[datetime]] = {}
    for total in totals:
        key = (total.metric_id, total.day)
        metric = comparison.metrics[total.metric_id]
        line = None if key in suspects else compare_day(metric, customer_id, total.value, stands[key])
        if line is None:
            to_open.setdefault(total.metric_id, []).append(total.day)
        else:
            lines.append(line)
    await comparison.give(lines)
    for metric_id, days in to_open.items():
        for window in _stretches(days):
            await _open(comparison, customer_id, comparison.metrics[metric_id], window, only=frozenset(days))
    comparison.say_progress()


def _hour_windows(window: Window, metric: ReconciledMetric) -> Iterator[Window]:
    """The parts of a customer's window that are compared by hour from the start."""
    if window.start >= window.end:
        return
    first, last = first_midnight(window.start), last_midnight(window.end)
    if metric.slicing == PERIOD_TO_DATE:
        if slots_of_metric(metric, window):
            yield window
    elif not metric.by_day or first > last:
        yield window
    else:
        edges = Window(window.start, first), Window(last, window.end)
        yield from (edge for edge in edges if edge.start < edge.end)


async def _open(
    comparison: Comparison,
    customer_id: str,
    metric: ReconciledMetric,
    window: Window,
    *,
    only: frozenset[datetime] | None = None,
) -> None:
    """Compares a pair slot by slot; looks again where a run that went on meanwhile may have made the difference."""
    shown = comparison.shown.get(customer_id, Shown())
    lines: list[DayLine] = []
    try:
        for _ in range(LOOKS):
            began = await comparison.began()
            values = await comparison.afresh.values(customer_id, metric, window)
            lines = await comparison.accounts.database.run(
                lambda c, values=values: comparison.compare(c, customer_id, metric, window, values, shown)  # type: ignore[misc]
            )
            if not await comparison.may_be_stale(customer_id, metric.metric_id, lines, began):
                break
    except Unreadable as error:
        await comparison.note_unread(customer_id, (metric.metric_id,), str(error), window)
        return
    await comparison.give([line for line in lines if only is None or line.day in only])


def _stretches(days: Sequence[datetime]) -> list[Window]:
    """Days as windows of at most what one page of hours holds, oldest first."""
    windows: list[Window] = []
    for day in sorted(days):
        if windows and day + DAY - windows[-1].start <= STRETCH_DAYS * DAY:
            windows[-1] = Window(windows[-1].start, day + DAY)
        else:
            windows.append(Window(day, day + DAY))
    return windows
