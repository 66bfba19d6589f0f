"""Turns of an hourly run: whether its pairs fit into the hour, and the sentences about those that have to wait.

Here: the settings held against what is due. Not here: the choice itself (``ledger/rotation.py``), and reading it.
"""

from datetime import timedelta
from decimal import Decimal

from metronome_pipeline.ledger import rotation
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.rotation import Turns
from metronome_pipeline.ledger.slicings import slicings
from metronome_pipeline.ledger.synchronise import Due
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE, UNGROUPED, BilledMetric
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.session import Session

_HOUR = timedelta(hours=1)


async def turns_of(
    session: Session, settings: Settings, due: Due, window: Window, *, grouped: bool, per_second: float
) -> Turns | None:
    """What a run that looks back reads, and None where that is everything: all pairs fit into the share of an hour.

    A run that is given turns ends them with ``rotation.end``.
    """
    pair_id, run_id = session.pair.pair_id, session.run_id
    requests = int(settings.usage_hourly_share * Decimal(per_second) * 3600)
    other_is_on = settings.usage_enabled if grouped else settings.grouped_usage_enabled

    def work(connection: rotation.Connection) -> Turns | None:
        own = rotation.requests_of(connection, pair_id, due, window)
        others = 0
        if other_is_on:
            metrics = _billed_otherwise(slicings(connection, pair_id), settings, grouped=grouped)
            others = rotation.requests_of(connection, pair_id, Due(due.customers, metrics, due.starts), window)
        part = rotation.part_of(requests, own, others)
        if part is None or not own:
            rotation.end_all(connection, pair_id, grouped=grouped)
            return None
        return rotation.choose(connection, pair_id, due, window, part, run_id=run_id)

    return await session.database.run(work)


def _billed_otherwise(noted: dict[str, str], settings: Settings, *, grouped: bool) -> list[BilledMetric]:
    """The metrics of the other workflow by hour, as far as they were ever billed."""
    return [
        BilledMetric(metric_id, "", "SUM", slicing)
        for metric_id, slicing in noted.items()
        if slicing != PERIOD_TO_DATE and (slicing != UNGROUPED) != grouped and metric_id in settings.permitted_metrics
    ]


def turns_in_words(turns: Turns) -> str:
    """What a run reads, and who waits."""
    return (
        f"all {turns.pairs:,} pairs (customer, metric) take more requests than USAGE_HOURLY_SHARE of an hour's, so "
        f"some take turns. {turns.chosen:,} are read now; {turns.active:,} have had usage of late. {turns.waiting:,} "
        f"wait, for {_hours(turns.longest)} hours at most so far. Every pair is read within about "
        f"{_hours(turns.cycle)} hours."
    )


def warning_of(turns: Turns) -> str | None:
    """What a person should know: pairs wait for more than a day."""
    if turns.cycle <= rotation.LONGEST_WAIT:
        return None
    return (
        f"At this pace it takes {_hours(turns.cycle)} hours to read all {turns.pairs:,} pairs, more than a day: ask "
        "Metronome for a higher limit and raise METRONOME_REQUESTS_PER_SECOND, raise USAGE_HOURLY_SHARE, or name fewer "
        "metrics in USAGE_METRICS."
    )


def turn_figures(turns: Turns) -> dict[str, float]:
    """Numbers that Dagster plots."""
    return {
        "pairs_due": turns.pairs,
        "pairs_with_usage_of_late": turns.active,
        "pairs_read": turns.chosen,
        "pairs_waiting": turns.waiting,
        "longest_wait_hours": round(turns.longest / _HOUR, 1),
        "every_pair_within_hours": round(turns.cycle / _HOUR, 1),
    }


def _hours(time: timedelta) -> str:
    return f"{time / _HOUR:,.0f}"
