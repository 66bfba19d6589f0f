"""Estimate a backfill: its requests and its time, from Metronome's page size and a sample of what it would read.

Here: which walks a backfill makes, and the page size that is observed. Not here: the sample (``sampling.py``), reading
all of it (``rehearsal.py``), the terminal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from metronome_pipeline.ledger.read import Window, parts_of, steps
from metronome_pipeline.ledger.synchronise import Due
from metronome_pipeline.mapping.periods import first_midnight, midnights, period_of
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.metronome.records import Usage
from metronome_pipeline.rehearsal.lines import Requests
from metronome_pipeline.rehearsal.sampling import Pair, Sample
from metronome_pipeline.rehearsal.session import AllDue, Part, Rehearsing
from metronome_pipeline.rehearsal.usage import (
    Say,
    customers_in_solvimon,
    period_windows,
    planned_earlier,
    requests_to_create,
    runs_in_all,
    runs_of,
    usage_rehearsal,
)
from metronome_pipeline.workflows.hours import HOUR
from metronome_pipeline.workflows.period_ingestion import billing_of

_DAY = timedelta(days=1)
_LONGEST_LOOK = timedelta(days=35)


@dataclass(frozen=True)
class Pages:
    """How many windows a page of usage holds (None: at least as many as were looked at), and whether of several pairs.

    Metronome documents neither (its notes, section 6), and the endpoint takes no ``limit``.
    """

    windows: int | None = None
    crossing: bool = False

    def requests(self, metrics: int, windows: int) -> int:
        """The requests of a walk of one customer over so many metrics and windows of each."""
        if self.windows is None:
            return 1 if self.crossing else metrics
        if self.crossing:
            return ceil(metrics * windows / self.windows)
        return metrics * ceil(windows / self.windows)


@dataclass(frozen=True)
class Estimate:
    """What a backfill would take.

    Attributes:
        window: Its hours.
        due: Whose usage.
        runs: How many runs it would be, both workflows together.
        pairs: Customers times metrics.
        pages: What was observed of Metronome's pages, by workflow.
        requests: To both sides, with their time.
        metronome_margin: How far the number may be off, as a share of it, for what was sampled.
        solvimon_margin: The same.
        sampled: Weeks of a pair that were read for it.
        walks: Weeks of a pair that the backfill would read.
    """

    window: Window
    due: AllDue
    runs: int
    pairs: int
    pages: dict[str, Pages]
    requests: Requests
    metronome_margin: float
    solvimon_margin: float
    sampled: int
    walks: int


async def estimate_usage(rehearsing: Rehearsing, due: AllDue, window: Window, *, say: Say) -> Estimate:
    """Estimates the runs of a backfill over a window, both workflows together."""
    pair_id, limit = rehearsing.session.pair.pair_id, rehearsing.solvimon.batch_limit
    runs = runs_of(window, rehearsing.settings.backfill_partitions_per_run)
    pages: dict[str, Pages] = {}
    total, daily = runs_in_all(due, window, rehearsing.settings) * due.listing, 0
    earlier = sum(line.events for line in await rehearsing.database.run(lambda c: planned_earlier(c, pair_id)))
    samples = []
    for part in due.parts:
        if not part.due.metrics or not part.due.customers:
            continue
        pages[part.workflow.name] = seen = await observe_pages(rehearsing.session.metronome, part.due, window)
        if part.by_period:
            asked, sent = _by_period(rehearsing, part, window, seen)
            total, daily = total + asked, daily + sent
            continue
        total += sum(_totals(rehearsing, part, step, seen) for run in runs for step in steps(run))
        sample = _sample_of(rehearsing, part, runs, seen)
        say(f"Sampling {part.workflow.name.replace('_', ' ')} …")
        await sample.take(exact=total)
        samples.append(sample)
    known = await rehearsing.database.run(lambda c: customers_in_solvimon(c, pair_id))
    new = {each.customer_id for part in due.parts for each in part.due.customers} - known
    to_metronome = total + round(sum(sample.pages for sample in samples))
    to_solvimon = ceil(earlier / limit) + requests_to_create(len(new), known=len(known))
    to_solvimon += daily + sum(sample.batches for sample in samples)
    return Estimate(
        window,
        due,
        runs_in_all(due, window, rehearsing.settings),
        sum(len(part.due.customer_ids(window)) * len(part.due.metrics) for part in due.parts),
        pages,
        rehearsing.at_todays_pace(to_metronome, to_solvimon, steps=sum(len(steps(run)) for run in runs)),
        _share(sum(sample.pages_variance for sample in samples), to_metronome),
        _share(sum(sample.batches_variance for sample in samples), to_solvimon),
        sum(sample.size for sample in samples),
        sum(len(pair.steps) for sample in samples for pair in sample.pairs),
    )


async def observe_pages(api: MetronomeApi, due: Due, window: Window) -> Pages:
    """Reads a few pages of one customer to see how many windows they hold."""
    customer_id = next(iter(due.customer_ids(window)), None)
    if customer_id is None:
        return Pages()
    start, end = window.days
    start = max(start, end - _LONGEST_LOOK)
    metric_ids = [metric.metric_id for metric in due.metrics[:2]]
    walk = api.usage(customer_id=customer_id, metric_ids=metric_ids[:1], starting_on=start, ending_before=end)
    windows = _page_size([page async for page in walk], start, (end - start) // HOUR)
    if len(metric_ids) == 1:
        return Pages(windows)
    walk = api.usage(customer_id=customer_id, metric_ids=metric_ids, starting_on=end - _DAY, ending_before=end)
    two = [page async for page in walk]
    crossing = len(two) == 1 or any(len({usage.metric_id for usage in page}) > 1 for page in two)
    return Pages(windows, crossing)


def _page_size(pages: Sequence[Sequence[Usage]], start: datetime, windows: int) -> int | None:
    """The windows of a page, from a walk of one pair. Rows of windows without usage may be missing."""
    if len(pages) == 1:
        return None
    least, most = ceil(windows / len(pages)), ceil(windows / (len(pages) - 1)) - 1
    seen = (pages[1][0].start - start) // HOUR if pages[1] else least
    return seen if least <= seen <= most else least


def _totals(rehearsing: Rehearsing, part: Part, step: Window, pages: Pages) -> int:
    """The requests for ungrouped usage of a step: they are known exactly."""
    customers = len(part.due.customer_ids(step))
    in_flight = rehearsing.metronome.requests_in_flight
    walks = parts_of(part.due.metrics, customers, in_flight, grouped=part.workflow.grouped)
    return customers * sum(pages.requests(len(metrics), _windows(step)) for metrics in walks)


def _by_period(rehearsing: Rehearsing, part: Part, window: Window, pages: Pages) -> tuple[int, int]:
    """Requests for usage by period to date: one a midnight, and to Solvimon at most an event a day of each pair."""
    billing = billing_of(rehearsing.settings)
    closed = billing.closed(rehearsing.session.clock.now())
    asked = sent = 0
    for each in period_windows(rehearsing, window):
        period = period_of(each.start, billing.anchor_day)
        customers, days = part.due.customer_ids(each), 0
        walks = parts_of(part.due.metrics, len(customers), rehearsing.metronome.requests_in_flight, grouped=False)
        for customer_id in customers:
            start = first_midnight(max(period.start, billing.start_of(customer_id)))
            read = midnights(start, min(period.end, closed))
            if len(read) > 1:
                values = sum(midnight > period.start for midnight in read)
                asked += values * sum(pages.requests(len(metrics), 1) for metrics in walks)
                days += len(read) - 1
        sent += ceil(days * len(part.due.metrics) / rehearsing.solvimon.batch_limit)
    return asked, sent


def _windows(step: Window) -> int:
    """The windows that are asked for: those of whole UTC days."""
    start, end = step.days
    return (end - start) // HOUR


def _sample_of(rehearsing: Rehearsing, part: Part, runs: Sequence[Window], pages: Pages) -> Sample:
    def totals(step: Window) -> int:
        return pages.requests(1, _windows(step))

    return Sample(
        rehearsal=usage_rehearsal(rehearsing),
        http=rehearsing.session.metronome.http,
        batch_limit=rehearsing.solvimon.batch_limit,
        pairs=_pairs(part, runs),
        starts=part.due.starts,
        totals=totals if part.workflow.grouped else None,
    )


def _pairs(part: Part, runs: Sequence[Window]) -> list[Pair]:
    """Every pair with the steps in which it is due."""
    steps_of: dict[str, list[Window]] = {}
    for run in runs:
        for step in steps(run):
            for customer_id in part.due.customer_ids(step):
                steps_of.setdefault(customer_id, []).append(step)
    return [
        Pair(customer, metric, steps_of[customer.customer_id])
        for customer in part.due.customers
        if customer.customer_id in steps_of
        for metric in part.due.metrics
    ]


def _share(variance: float, number: int) -> float:
    """Two standard errors, as a share of a number."""
    return 2 * variance**0.5 / number if number else 0.0
