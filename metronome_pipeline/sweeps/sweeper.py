"""A sweep under way: days for every pair, then the hours of what differs, then what is found in them.

Here: which requests a sweep makes, in which order, and what is committed after each. Not here: the statements
(``sweeps.py``, ``findings.py``), when a walk counts as complete (``days.py``, ``read.py``), and Dagster.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from metronome_pipeline.clock import Clock
from metronome_pipeline.concurrency import work_together
from metronome_pipeline.ledger.read import UsageReader, Window
from metronome_pipeline.ledger.shelf import ReadReport, Unread
from metronome_pipeline.mapping.usage import BilledMetric
from metronome_pipeline.storage.database import Database
from metronome_pipeline.sweeps import findings, proofs, sweeps
from metronome_pipeline.sweeps.days import DayReader, DayTotal
from metronome_pipeline.sweeps.sweeps import Connection, Stretch, Sweep, SweepKind, Swept

_METRICS_PER_WALK = 50
_STRETCHES_AT_ONCE = 256

HourWalk = tuple[str, Sequence[BilledMetric], Window]
"""A customer, metrics that are all ungrouped or one with groups, and the hours to read."""


@dataclass(frozen=True)
class StretchReader(UsageReader):
    """Reads usage by hour, each walk over a window of its own, and stores it by the rules of every other read."""

    async def read_each(self, walks: Iterable[HourWalk], *, grouped: bool) -> ReadReport:
        """Makes every walk, several at once. What could not be read is named in the report.

        Raises:
            Unauthorised: Nothing is read any further.
            Unavailable, RateLimited: Several walks after each other got no answer: Metronome is down.
        """
        shelf = self.new_shelf(self.database, self.pair_id, self.run_id, grouped=grouped)
        waiting = iter(walks)

        async def work() -> None:
            for customer_id, metrics, window in waiting:
                await self._walk(customer_id, metrics, window, shelf)

        await shelf.tidy()
        try:
            await work_together(work, self.in_flight)
            await shelf.store()
        finally:
            await shelf.clear()
        return shelf.report


@dataclass
class SweepReport:
    """What a run did of a sweep.

    Attributes:
        days_compared: Days held against the ledger, or against their last total.
        days_differing: Those that differ; of them
        days_waiting: have hours that are read and stored already, so that their difference is no news.
        days_by_hour: Days whose hours were read.
        stretches: Stretches of hours that were read.
        found: Findings (customer, metric, stretch).
        unread: Pairs that could not be read.
    """

    days_compared: int = 0
    days_differing: int = 0
    days_waiting: int = 0
    days_by_hour: int = 0
    stretches: int = 0
    found: int = 0
    unread: list[Unread] = field(default_factory=list)


@dataclass(frozen=True)
class Sweeper:
    """Takes a sweep to its end. ``say`` is told how far it has come, a few times in all."""

    days: DayReader
    hours: StretchReader
    database: Database
    swept: Swept
    clock: Clock
    say: Callable[[str], None] = lambda _: None

    async def run(self, sweep: Sweep) -> SweepReport:
        """Does what is left of a sweep and closes it. Pairs that cannot be read are noted, and the others go on.

        Raises:
            Unauthorised, Unavailable, RateLimited: Metronome cannot be asked. What was done is kept; the sweep is not
                closed, and another run goes on with the rest.
        """
        report = SweepReport()
        if sweep.kind is not SweepKind.usage_by_hour:
            await self._compare_days(sweep, report)
        await self._read_hours(sweep, report)
        await self.database.run(lambda connection: sweeps.end(connection, sweep))
        return report

    async def _compare_days(self, sweep: Sweep, report: SweepReport) -> None:
        pairs = await self.database.run(lambda connection: sweeps.pairs_to_ask(connection, sweep))
        progress = _Progress(self.say, self.clock, "pairs compared by day", sum(len(metrics) for _, metrics in pairs))

        async def take(customer_id: str, metric_ids: Sequence[str], totals: Sequence[DayTotal]) -> None:
            def work(connection: Connection) -> tuple[proofs.Compared, int]:
                compared = proofs.compare_days(connection, self.swept, sweep, customer_id, totals)
                sweeps.note_done(connection, sweep, [(customer_id, metric_id) for metric_id in metric_ids])
                waiting = {
                    Stretch(customer_id, metric_id, sweeps.stretch_of(self.swept, sweep, day))
                    for metric_id, day in compared.waiting
                }
                return compared, findings.note(connection, self.swept, sweep, list(waiting)) if waiting else 0

            compared, found = await self.database.run(work)
            report.days_compared += compared.days
            report.days_differing += compared.differing
            report.days_waiting += len(compared.waiting)
            report.found += found
            progress.done(len(metric_ids))

        walks = _day_walks(pairs, self.days.in_flight)
        unread = await self.days.read(walks, sweep.window.start, sweep.window.end, take)
        await self._note_unread(sweep, unread, report)

    async def _read_hours(self, sweep: Sweep, report: SweepReport) -> None:
        stretches = await self.database.run(lambda c: sweeps.stretches_to_read(c, self.swept, sweep))
        if not stretches:
            return
        pairs = len({(stretch.customer_id, stretch.metric_id) for stretch in stretches})
        self.say(f"{len(stretches)} stretches of {pairs} pairs are read by hour.")
        progress = _Progress(self.say, self.clock, "stretches read by hour", len(stretches))
        for some in _chunks(stretches):
            for grouped in (False, True):
                own = [each for each in some if bool(self._billed(each).group_key) == grouped]
                await self._read_some(sweep, own, report, grouped=grouped)
            progress.done(len(some))

    async def _read_some(self, sweep: Sweep, some: Sequence[Stretch], report: SweepReport, *, grouped: bool) -> None:
        if not some:
            return
        read = await self.hours.read_each(self._hour_walks(some, grouped=grouped), grouped=grouped)
        missed = {(unread.customer_id, metric_id) for unread in read.unread for metric_id in unread.metric_ids}
        done = [each for each in some if (each.customer_id, each.metric_id) not in missed]

        def work(connection: Connection) -> tuple[int, int]:
            found = findings.note(connection, self.swept, sweep, done)
            proved = proofs.prove_by_hour(connection, self.swept, sweep, done)
            sweeps.note_read(connection, sweep, done)
            if sweep.kind is SweepKind.usage_by_hour:
                sweeps.note_done(connection, sweep, [(each.customer_id, each.metric_id) for each in done])
            return found, proved

        if done:
            found, proved = await self.database.run(work)
            report.found += found
            report.days_by_hour += proved
            report.stretches += len(done)
        await self._note_unread(sweep, read.unread, report)

    async def _note_unread(self, sweep: Sweep, unread: Sequence[Unread], report: SweepReport) -> None:
        if unread:
            await self.database.run(lambda connection: sweeps.note_unread(connection, sweep, unread))
            report.unread += unread

    def _hour_walks(self, stretches: Sequence[Stretch], *, grouped: bool) -> Iterator[HourWalk]:
        """Stretches of one customer and window are one walk; metrics with groups are walked alone."""

        def together(stretch: Stretch) -> tuple[str, str, str]:
            return stretch.customer_id, stretch.window.start.isoformat(), stretch.metric_id if grouped else ""

        for _, walk in groupby(sorted(stretches, key=together), key=together):
            own = list(walk)
            for first in range(0, len(own), _METRICS_PER_WALK):
                part = own[first : first + _METRICS_PER_WALK]
                yield part[0].customer_id, [self._billed(each) for each in part], part[0].window

    def _billed(self, stretch: Stretch) -> BilledMetric:
        return self.swept.metrics[stretch.metric_id].billed


def _day_walks(pairs: Sequence[tuple[str, Sequence[str]]], in_flight: int) -> list[tuple[str, Sequence[str]]]:
    """One walk a customer; more where there are too few customers to keep the requests in flight busy."""
    size = max(1, min(_METRICS_PER_WALK, -(-sum(len(metrics) for _, metrics in pairs) // (2 * in_flight))))
    return [
        (customer_id, metric_ids[first : first + size])
        for customer_id, metric_ids in pairs
        for first in range(0, len(metric_ids), size)
    ]


def _chunks(stretches: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    """Some stretches at a time, all of a pair together: what is read is written down after each."""
    chunk: list[Stretch] = []
    for _, of_pair in groupby(stretches, key=lambda stretch: (stretch.customer_id, stretch.metric_id)):
        chunk += of_pair
        if len(chunk) >= _STRETCHES_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@dataclass
class _Progress:
    """Says at each quarter of the way how far it is and how long the rest will take."""

    say: Callable[[str], None]
    clock: Clock
    what: str
    total: int
    _done: int = 0
    _said: int = 0
    _began: float | None = None

    def __post_init__(self) -> None:
        self._began = self.clock.monotonic()

    def done(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        quarter = 4 * self._done // max(self.total, 1)
        if self._said < quarter < 4:
            self._said = quarter
            passed = self.clock.monotonic() - (self._began or 0.0)
            left = passed / self._done * (self.total - self._done)
            self.say(f"{self._done} of {self.total} {self.what}, about {left:.0f} s to go.")
