"""By event: every event of a customer as Solvimon has it, against the ledger's, and both against Metronome by hour.

Here: what is read of a customer, in which order, so that what runs send meanwhile is not mistaken for a difference.
Not here: how two events are compared (``readback.py``).
"""

from dataclasses import replace

from metronome_pipeline.concurrency import work_together
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.reconciliation import standing
from metronome_pipeline.reconciliation.afresh import Unreadable, slots_of_metric
from metronome_pipeline.reconciliation.comparison import LOOKS, Comparison, Shown
from metronome_pipeline.reconciliation.lines import DayLine, ReconciledMetric
from metronome_pipeline.reconciliation.readback import Copies, judge_copies
from metronome_pipeline.reconciliation.standing import StandingEvent


async def compare_events(comparison: Comparison) -> None:
    """Reads every event of each customer back, and compares slot by slot with what Solvimon itself holds."""
    waiting = iter(comparison.question.starts)

    async def work() -> None:
        for customer_id in waiting:
            await _compare_customer(comparison, customer_id)
            comparison.say_progress()

    await work_together(work, comparison.accounts.in_flight)


async def _compare_customer(comparison: Comparison, customer_id: str) -> None:
    window = comparison.question.window_of(customer_id)
    if window.start >= window.end:
        return
    before = await _events(comparison, customer_id, list(comparison.metrics), window)
    copies = Copies(window, frozenset(comparison.metrics), frozenset(event.reference for event in before))
    solvimon_id = await comparison.solvimon_id(customer_id)
    if solvimon_id is not None:
        async for page in comparison.accounts.solvimon.events(customer_id=solvimon_id):
            copies.take(data for data in page if data.customer_reference == customer_id)
            comparison.tally.events_read_back += len(page)
            comparison.say_progress()
    accepted = frozenset(event.reference for event in before if event.accepted)
    for metric in comparison.question.metrics:
        if slots_of_metric(metric, window):
            await _compare_pair(comparison, customer_id, metric, window, copies, accepted)


async def _compare_pair(
    comparison: Comparison,
    customer_id: str,
    metric: ReconciledMetric,
    window: Window,
    copies: Copies,
    accepted: frozenset[str],
) -> None:
    lines: list[DayLine] = []
    try:
        for _ in range(LOOKS):
            began = await comparison.began()
            values = await comparison.afresh.values(customer_id, metric, window)
            events = await _events(comparison, customer_id, [metric.metric_id], window)
            shown = await _shown(comparison, metric.metric_id, copies, events, accepted)
            lines = await comparison.accounts.database.run(
                lambda c, v=values, s=shown, e=events: comparison.compare(c, customer_id, metric, window, v, s, e)  # type: ignore[misc]
            )
            if not await comparison.may_be_stale(customer_id, metric.metric_id, lines, began):
                break
    except Unreadable as error:
        await comparison.note_unread(customer_id, (metric.metric_id,), str(error), window)
        return
    await comparison.give(lines)


async def _shown(
    comparison: Comparison,
    metric_id: str,
    copies: Copies,
    events: list[StandingEvent],
    accepted: frozenset[str],
) -> Shown:
    """What Solvimon shows of a metric's events, those among them that were delivered since the walk began."""
    for event in events:
        if event.accepted and event.reference not in accepted and event.kind != "deletion":
            copies.by_reference[event.reference] = await comparison.copies(event.reference)
    elsewhere = {event.reference for event in await comparison.by_reference(copies.strangers())}
    back = judge_copies(replace(copies, metric_ids=frozenset({metric_id})), events, elsewhere)
    return Shown(back.found, back.foreign, back.live)


async def _events(
    comparison: Comparison, customer_id: str, metric_ids: list[str], window: Window
) -> list[StandingEvent]:
    pair_id = comparison.accounts.pair_id
    return await comparison.accounts.database.run(
        lambda c: standing.events_standing(c, pair_id, customer_id, metric_ids, window.start, window.end)
    )
