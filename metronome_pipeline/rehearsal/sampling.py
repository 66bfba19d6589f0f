"""A sample of what a backfill would read: what groups add to its requests, and how many events it would send.

A pair's weeks are alike, pairs are not: so one week of each pair is read, in random order, until enough is known. Each
is read and planned as a run would, and rolled back (``synchroniser.py``). Not here: what is known without a sample
(``estimate.py``).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from statistics import fmean, variance

from metronome_pipeline.http import Http
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.synchronise import Due
from metronome_pipeline.mapping.usage import BilledMetric
from metronome_pipeline.rehearsal.lines import REQUESTS_A_DELETION
from metronome_pipeline.rehearsal.synchroniser import Rehearsal
from metronome_pipeline.storage.accounts import KnownCustomer
from metronome_pipeline.workflows.hours import HOUR

_LEAST_PAIRS = 30
_READ_TWICE = 12
_SHARE_OF_REQUESTS = 0.1
_LEAST_REQUESTS = 60
_GOOD_ENOUGH = 0.01


@dataclass(frozen=True)
class Pair:
    """A customer, a metric, and the steps in which both are due."""

    customer: KnownCustomer
    metric: BilledMetric
    steps: Sequence[Window]


@dataclass(frozen=True)
class Seen:
    """What one step of a pair took: requests for its groups, and requests to Solvimon, of which batches are shares."""

    hours: int
    pages: float
    batches: float

    def pages_of(self, step: Window) -> float:
        """Requests for groups of another step. The last page is half full, for all that is known."""
        hours = _hours(step)
        if hours == self.hours or not self.pages:
            return self.pages
        return float(max(1, ceil((self.pages - 0.5) * hours / self.hours)))

    def batches_of(self, step: Window) -> float:
        """Requests to Solvimon for another step."""
        return self.batches * _hours(step) / self.hours


@dataclass
class Sample:
    """Steps of some pairs, read until they tell enough.

    ``totals``: requests for the totals of a step; None without groups.
    """

    rehearsal: Rehearsal
    http: Http
    batch_limit: int
    pairs: Sequence[Pair]
    starts: Mapping[str, datetime]
    totals: Callable[[Window], int] | None
    size: int = 0
    _seen: list[tuple[Pair, Seen]] = field(default_factory=list)
    _twice: list[tuple[Seen, Seen]] = field(default_factory=list)

    async def take(self, *, exact: int) -> None:
        """Reads steps until both numbers are good enough beside ``exact`` requests, or a tenth of all was asked."""
        # The same sample for the same question.
        source = random.Random(0)  # noqa: S311
        began = self._requests()
        for pair in source.sample(self.pairs, len(self.pairs)):
            spent, most = self._requests() - began, _SHARE_OF_REQUESTS * (exact + self.pages + self.batches)
            if len(self._seen) >= _LEAST_PAIRS and (self._is_enough(exact) or spent > max(_LEAST_REQUESTS, most)):
                break
            longest = max(map(_hours, pair.steps))
            steps = [step for step in pair.steps if _hours(step) == longest]
            first, *others = source.sample(steps, len(steps))
            seen = await self._read(pair, first)
            self._seen.append((pair, seen))
            if others and len(self._twice) < _READ_TWICE:
                self._twice.append((seen, await self._read(pair, others[0])))

    @property
    def pages(self) -> float:
        """Requests for groups, of all pairs."""
        return len(self.pairs) * fmean(self._pages_of_pairs()) if self._seen else 0.0

    @property
    def batches(self) -> int:
        """Requests to Solvimon, of all pairs. Each step is sent by itself, and its last batch need not be full."""
        steps: dict[Window, float] = {}
        for pair, seen in self._seen:
            for step in pair.steps:
                steps[step] = steps.get(step, 0.0) + seen.batches_of(step)
        share = len(self.pairs) / max(len(self._seen), 1)
        return sum(ceil(round(number * share, 6)) for number in steps.values())

    @property
    def pages_variance(self) -> float:
        """The square of the standard error of ``pages``."""
        return self._variance(self._pages_of_pairs(), [(a.pages, b.pages) for a, b in self._twice])

    @property
    def batches_variance(self) -> float:
        """The same of ``batches``."""
        of_pairs = [sum(seen.batches_of(step) for step in pair.steps) for pair, seen in self._seen]
        return self._variance(of_pairs, [(a.batches, b.batches) for a, b in self._twice])

    def _pages_of_pairs(self) -> list[float]:
        return [sum(seen.pages_of(step) for step in pair.steps) for pair, seen in self._seen]

    def _variance(self, of_pairs: Sequence[float], twice: Sequence[tuple[float, float]]) -> float:
        """By how pairs differ, as far as they were not all read, and by how the weeks of one do."""
        if len(of_pairs) < 2:
            return 0.0
        all_pairs, read = len(self.pairs), len(of_pairs)
        between = all_pairs**2 * variance(of_pairs) / read * (1 - read / all_pairs)
        weeks = fmean(len(pair.steps) for pair in self.pairs)
        within = fmean((one - other) ** 2 / 2 for one, other in twice) if twice else 0.0
        return between + all_pairs**2 / read * within * weeks * (weeks - 1)

    def _is_enough(self, exact: int) -> bool:
        pages, batches = exact + self.pages, self.batches
        return all(
            2 * of**0.5 <= _GOOD_ENOUGH * number
            for number, of in ((pages, self.pages_variance), (batches, self.batches_variance))
        )

    async def _read(self, pair: Pair, step: Window) -> Seen:
        before = self._requests()
        done = await self.rehearsal.rehearse_step(Due([pair.customer], [pair.metric], self.starts), step)
        asked = self._requests() - before
        self.size += 1
        deletions = sum(proposal.kind == "deletion" for proposal in done.written)
        batches = (len(done.written) - deletions) / self.batch_limit + REQUESTS_A_DELETION * deletions
        return Seen(_hours(step), 0.0 if self.totals is None else asked - self.totals(step), batches)

    def _requests(self) -> int:
        counts = self.http.counts()
        return counts.requests - counts.retries


def _hours(step: Window) -> int:
    return (step.end - step.start) // HOUR
