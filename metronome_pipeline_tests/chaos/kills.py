"""SIGKILL at random moments: a change of usage, a run that is killed, a run that is left alone, and the books.

Here: when a run is killed, and what is looked at afterwards. Not here: what shows of a run (``watching.py``), and
trouble other than kills (``scenes.py``).

A seed draws the account, what happens to it, and the moments. What a moment interrupts is the machine's to say, so a
replay meets the same history, not the same instruction.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qs

from metronome_pipeline_tests.chaos.account import Account
from metronome_pipeline_tests.chaos.books import differences
from metronome_pipeline_tests.chaos.servers import Postgres
from metronome_pipeline_tests.chaos.watching import LOOKS, POSTS, Facts, Watch, phase, watching
from metronome_pipeline_tests.elsewhere import Run

_POLL = 0.01


@dataclass
class Tally:
    """What kills have shown."""

    kills: Counter[str] = field(default_factory=Counter)
    in_doubt: int = 0
    looked_up: int = 0
    too_late: int = 0
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    red: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: "Tally") -> None:
        """Take in what another has shown."""
        self.kills += other.kills
        self.red += other.red
        for name in ("in_doubt", "looked_up", "too_late", "runs", "lost", "doubled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class Point:
    """A point of a run that can be seen from outside: in the tables, or only by asking the APIs' counters too."""

    reached: Callable[[Facts, Facts], bool]
    by_requests: bool = False


_POINTS = (
    Point(lambda then, now: now.asked > then.asked, by_requests=True),
    Point(lambda then, now: now.reads > then.reads, by_requests=True),
    Point(lambda then, now: now.readings > then.readings),
    Point(lambda then, now: now.events > then.events),
    Point(lambda then, now: now.claims > 0),
    Point(lambda then, now: now.claims > 0),
    Point(lambda then, now: now.posts > then.posts, by_requests=True),
    Point(lambda then, now: now.posts > then.posts + 2, by_requests=True),
    Point(lambda then, now: now.receipts > then.receipts),
)
"""A kill follows soon after one."""


@dataclass
class Rounds:
    """Kills in one world, one after the other."""

    account: Account
    watch: Watch
    tally: Tally
    usual: float = 3.0

    def warm_up(self) -> bool:
        """A first run that nobody hurts: how long it takes is the range of the moments."""
        run = self.account.start()
        fine = self._settles(run, "the first run")
        self.usual = time.monotonic() - run.began
        return fine

    def kill_once(self) -> bool:
        """One change and one kill, and one more run; whether the books are right. A run may end before its moment."""
        self.account.change()
        # The sandbox remembers so many requests only.
        self.account.world.solvimon.forget_requests()
        then = self.watch.facts()
        killed = self._run_and_kill(then)
        self.tally.runs += 1
        now = self.watch.facts()
        if not killed:
            self.tally.too_late += 1
            return self._settles(None, "a run that ended before its moment")
        at = phase(then, now)
        self.tally.kills[at] += 1
        doubtful, before = self.watch.doubtful(), len(self.watch.requests())
        fine = self._settles(self.account.start(), f"a run that was killed while {at}")
        return self._looked(doubtful, before) and fine

    def _run_and_kill(self, then: Facts) -> bool:
        draw, run = self.account.draw, self.account.start()
        if draw.random() < 0.35:
            moment = run.began + draw.uniform(0, self.usual)
            while run.goes_on and time.monotonic() < moment:
                time.sleep(_POLL)
        else:
            point, wait = draw.choice(_POINTS), draw.choice((0.0, draw.uniform(0, 0.02), draw.uniform(0, 0.2)))
            while run.goes_on and not point.reached(then, self.watch.facts(by_requests=point.by_requests)):
                time.sleep(_POLL if point.by_requests else _POLL / 5)
            time.sleep(wait)
        if run.goes_on:
            return run.kill()
        failed = run.end()
        if failed:
            self._blame(f"A run that nobody hurt failed: {failed}")
        return False

    def _settles(self, run: Run | None, after: str) -> bool:
        """One more run to its end, and the books."""
        failed = None
        if run is not None:
            failed = run.end()
            self.tally.runs += 1
        found = differences(self.account)
        self.tally.lost += found.lost
        self.tally.doubled += found.doubled
        if failed:
            self._blame(f"The run after {after} failed: {failed}")
        for sentence in found.wrong:
            self._blame(f"After {after}: {sentence}")
        return not (failed or found.wrong)

    def _looked(self, doubtful: Sequence[str], before: int) -> bool:
        """Where nothing is deduplicated, everything in doubt was looked up by its reference before it was sent again.

        Args:
            doubtful: The references that the killed run had claimed.
            before: Requests that Solvimon had been asked until then.
        """
        self.tally.in_doubt += len(doubtful)
        if self.account.deduplicated:
            return True
        seen, blind = set[str](), list[str]()
        requests = self.watch.requests()[before:]
        for request in requests:
            # What the killed run had under way is logged once it is answered, to nobody.
            if request["headers"]["user-agent"] != requests[-1]["headers"]["user-agent"]:
                continue
            if request["endpoint"] == LOOKS:
                seen.update(parse_qs(request["query"]).get("reference", ()))
            elif request["endpoint"] == POSTS:
                sent = {event["reference"] for event in request["body"]["meter_datas"]}
                blind += sorted(sent.intersection(doubtful) - seen)
        self.tally.looked_up += len(seen.intersection(doubtful))
        if blind:
            self._blame(f"{len(blind)} events in doubt were sent again without a look, the first under {blind[0]}.")
        return not blind

    def _blame(self, sentence: str) -> None:
        self.tally.red.append(sentence)


@dataclass
class Lanes:
    """Several worlds at a time, each with at most ``a_world`` kills of its own, until there were enough."""

    postgres: Postgres
    urls: tuple[str, str]
    folder: Path
    seed: int
    kills: int
    tell: Callable[[Tally], None] = lambda _: None
    a_world: int = 10
    tally: Tally = field(default_factory=Tally)
    _guard: Lock = field(default_factory=Lock)
    _numbers: Iterator[int] = field(default_factory=count)

    def run(self, lanes: int) -> Tally:
        """All kills. Worlds are numbered; each draws from the seed and its number alone."""
        began = time.monotonic()
        shares = [min(self.a_world, self.kills - first) for first in range(0, self.kills, self.a_world)]
        with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as threads:
            for future in [threads.submit(self._world, number, share) for number, share in enumerate(shares)]:
                future.result()
        self.tally.seconds = time.monotonic() - began
        return self.tally

    def _world(self, number: int, kills: int) -> None:
        """One world's kills; where the books are wrong, the rest of them in another world."""
        while kills > 0:
            kills -= self._rounds(number, kills)

    def _rounds(self, number: int, kills: int) -> int:
        draw = random.Random(f"{self.seed}:{number}")
        folder = self.folder / f"world-{number}-{next(self._numbers)}"
        # Deduplication is off in every other world, and two of four are billed with properties.
        account = Account.imported(
            self.postgres, self.urls, folder, draw, deduplicated=number % 2 == 0, grouped=number % 4 in {1, 2}
        )
        done, fine = 0, True
        try:
            with watching(account) as watch:
                before = Tally()
                rounds = Rounds(account, watch, before)
                fine = rounds.warm_up()
                self._take(before)
                while fine and done < kills:
                    tally = Tally()
                    rounds.tally = tally
                    fine = rounds.kill_once()
                    done += tally.kills.total()
                    self._take(tally)
        finally:
            self.postgres.drop(account.world.database_url)
        # A world that is wrong from the start stays so: it must not be tried for ever.
        return done if fine else max(done, kills)

    def _take(self, tally: Tally) -> None:
        with self._guard:
            before = self.tally.kills.total()
            self.tally.add(tally)
            if self.tally.kills.total() // 10 > before // 10 or tally.red:
                self.tell(self.tally)
