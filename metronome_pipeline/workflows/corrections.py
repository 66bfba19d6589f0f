"""Corrections: from what a sweep found to the ledger and to Solvimon, without reading anything again.

Here: which windows are planned for which metrics, and when a finding counts as planned. Not here: how hours are found
(``sweeps/findings.py``), planned (``ledger/plan.py``) and delivered (``ledger/synchronise.py``).
"""

from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import groupby

from metronome_pipeline.ledger.shelf import ReadReport
from metronome_pipeline.ledger.synchronise import Due, Step, Synchroniser
from metronome_pipeline.sweeps import findings
from metronome_pipeline.workflows.reports import left_by_earlier_runs
from metronome_pipeline.workflows.session import Session


async def corrected(
    session: Session,
    synchroniser: Synchroniser,
    due: Due,
    sweep_id: int,
    *,
    grouped: bool,
    say: Callable[[str], None],
) -> AsyncIterator[Step]:
    """Plans the findings of a sweep, stretch by stretch, and yields each once it is committed and delivered.

    A stretch is planned for the metrics that differ there and for every customer: the brake has to judge a decrease by
    all that was billed, and to see usage that moved from one customer to another. Pairs that agree plan nothing.

    What cannot be planned, for an open event or the brake, is noted by the plan, and each hourly run plans that: the
    finding is closed either way. Only a run that fails leaves it open, for another attempt.
    """
    pair_id, run_id = session.pair.pair_id, session.run_id
    found = await session.database.run(lambda c: findings.taken_up(c, pair_id, sweep_id, grouped=grouped))
    slicings = {metric.metric_id: metric.slicing for metric in due.metrics}
    void = [finding for finding in found if slicings.get(finding.metric_id) != finding.slicing]
    if void:
        say(f"{len(void)} findings are void: their metrics are not billed that way any more.")
        await session.database.run(lambda c: findings.close(c, void, run_id, void=True))
    await synchroniser.finish(left_by_earlier_runs(say))
    for stretch, group in groupby((each for each in found if each not in void), key=lambda finding: finding.stretch):
        own = list(group)
        differing = {finding.metric_id for finding in own}
        some = Due(due.customers, [metric for metric in due.metrics if metric.metric_id in differing], due.starts)
        planned, delivered = await synchroniser.send(some, stretch)
        await session.database.run(partial(findings.close, findings=own, run_id=run_id))
        yield Step(stretch, ReadReport(), planned, delivered, revisited=True)
