"""Single scenes, each once: what else than a kill befalls a run, and the same books after one more run.

Here: Postgres restarted, runs started together, one event sent for ever, both APIs gone or standing still. Not here:
kills (``kills.py``), and what needs more around it (``full_disk.py``, ``daemon.py``).
"""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from metronome_pipeline_tests.chaos.account import Account
from metronome_pipeline_tests.chaos.books import differences
from metronome_pipeline_tests.chaos.gate import Gate, gates
from metronome_pipeline_tests.chaos.load import send_again_and_again
from metronome_pipeline_tests.chaos.servers import Postgres, Sandboxes
from metronome_pipeline_tests.chaos.watching import Facts, watching
from metronome_pipeline_tests.elsewhere import LONGEST, Run
from metronome_pipeline_tests.simulation.long_run import quiet_libraries
from metronome_pipeline_tests.simulation.postgres import Server

A_MINUTE = 60.0
_POLL = 0.01


@dataclass
class Outcome:
    """What a scene has shown. ``story``: how the runs took it. ``skipped``: why there was nothing to see."""

    scene: str
    story: str = ""
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    red: list[str] = field(default_factory=list)
    seconds: float = 0.0
    skipped: bool = False

    def settle(self, account: Account, *, run: bool = True) -> None:
        """One more run, unless there was one, and the books."""
        if run:
            failed = account.start().end()
            self.runs += 1
            if failed:
                self.red.append(f"The run after it failed: {failed}")
        found = differences(account)
        self.lost += found.lost
        self.doubled += found.doubled
        self.red += found.wrong

    def tell(self, sentence: str) -> None:
        self.story += (" " if self.story else "") + sentence

    def ended(self, run: Run, longest: float = LONGEST) -> str | None:
        """Waits for a run that trouble has met: it may fail, and says so; it must not hang."""
        failed = run.end(longest)
        self.runs += 1
        if failed and "still went on" in failed:
            self.red.append(f"A run hangs. {failed}")
        return failed


@dataclass(frozen=True)
class Stage:
    """What scenes are played on."""

    postgres: Postgres
    sandboxes: Sandboxes
    folder: Path
    seed: int
    _numbers: Iterator[int] = field(default_factory=count)

    def account(
        self, *, deduplicated: bool = False, through: tuple[str, str] | None = None, first_hour: int = 0
    ) -> Account:
        number = next(self._numbers)
        return Account.imported(
            self.postgres,
            (self.sandboxes.metronome, self.sandboxes.solvimon),
            self.folder / f"scene-{number}",
            random.Random(f"{self.seed}:scene:{number}"),
            deduplicated=deduplicated,
            through=through,
            first_hour=first_hour,
        )


Scene = Callable[[Stage, Outcome], None]
Reached = Callable[[Facts, Facts], bool]

MOMENTS: dict[str, Reached] = {
    "before it reads": lambda then, now: now.asked > then.asked,
    "once it has read": lambda then, now: now.readings > then.readings,
    "once it has planned": lambda then, now: now.events > then.events,
    "while it sends": lambda then, now: now.posts > then.posts + 1,
}


def postgres_restarted(stage: Stage, outcome: Outcome) -> None:
    """The server is cut off under a run, at several points of it, and started again."""
    failed = 0
    for number, reached in enumerate(MOMENTS.values()):
        account = stage.account(deduplicated=number % 2 == 0)
        account.start().end()
        for _ in range(2):
            account.change()
            run = until(account, reached, outcome)
            stage.postgres.stop_at_once()
            time.sleep(account.draw.choice((0.0, 1.0)))
            stage.postgres.start_again()
            failed += outcome.ended(run) is not None
            outcome.settle(account)
    outcome.tell(f"{2 * len(MOMENTS)} restarts, {failed} runs failed with a sentence.")


def until(account: Account, reached: Reached, outcome: Outcome) -> Run:
    """A run that has come to a moment. Nobody is connected when this returns but the run."""
    # Enough to send, and answers slow enough, for the moment to be met.
    account.use(200)
    account.slow_down(0.5)
    with watching(account) as watch:
        then = watch.facts()
        run = account.start()
        while run.goes_on and not reached(then, watch.facts()):
            time.sleep(_POLL)
    if not run.goes_on:
        outcome.red.append("A run ended before it was met: nothing was tried.")
    return run


def started_together(stage: Stage, outcome: Outcome) -> None:
    """Two runs of the same hours at the same time."""
    left = 0
    for number in range(6):
        if number % 3 == 0:
            account = stage.account(deduplicated=number == 0)
        account.change()
        runs = [account.start(), account.start()]
        for run in runs:
            failed = outcome.ended(run)
            if failed:
                outcome.red.append(f"Of two runs of the same hours one failed: {failed}")
        found = differences(account)
        outcome.doubled += found.doubled
        outcome.red += found.wrong if found.doubled else ()
        left += bool(found.wrong)
        # What one of them met while the other was sending it is listed, and settled by the next.
        outcome.settle(account)
    outcome.tell(f"6 pairs of runs; after {left} of them something was left for the next run.")


def one_id_sent_often(stage: Stage, outcome: Outcome) -> None:
    """One event is sent ten thousand times, by runs that never hear an answer, and counts once.

    On virtual time and without sockets: nobody waits for the pauses between attempts.
    """
    quiet_libraries()
    server = Server(stage.postgres.empty_database())
    try:
        sends, outcome.runs, wrong = send_again_and_again(server, 10_000)
    finally:
        server.close()
    outcome.doubled += any("of them count" in sentence for sentence in wrong)
    outcome.red += wrong
    outcome.tell(f"Sent {sends:,} times.")


def gone_for_a_minute(stage: Stage, outcome: Outcome) -> None:
    """Both APIs refuse connections for a real minute, from the midst of sending, and are back."""
    with _gated(stage) as (account, both):
        run = until(account, MOMENTS["while it sends"], outcome)
        for gate in both:
            gate.shut()
        time.sleep(A_MINUTE)
        outcome.tell("The run waits for all of the minute," if run.goes_on else "The run ends within the minute,")
        for gate in both:
            gate.open()
        outcome.tell("and fails." if outcome.ended(run) else "and comes to its end.")
        outcome.settle(account)


def gone_while_reading(stage: Stage, outcome: Outcome) -> None:
    """The same for ten seconds, from the first page on."""
    with _gated(stage) as (account, both):
        run = until(account, lambda then, now: now.reads > then.reads, outcome)
        for gate in both:
            gate.shut()
        time.sleep(10)
        for gate in both:
            gate.open()
        outcome.tell("The run failed." if outcome.ended(run) else "The run came to its end.")
        outcome.settle(account)


@contextmanager
def _gated(stage: Stage) -> Iterator[tuple[Account, Sequence[Gate]]]:
    """An account whose runs go through gates. What is looked at from outside goes round them."""
    with gates(stage.sandboxes.metronome, stage.sandboxes.solvimon) as both:
        account = stage.account(through=(both[0].url, both[1].url))
        account.start().end()
        account.change()
        yield account, both


def standing_still(stage: Stage, outcome: Outcome) -> None:
    """Both APIs are stopped for twelve seconds: connections stay open, and no answer comes."""
    account = stage.account()
    account.start().end()
    account.change()
    run = until(account, MOMENTS["while it sends"], outcome)
    stage.sandboxes.process.send_signal(signal.SIGSTOP)
    time.sleep(12)
    stage.sandboxes.process.send_signal(signal.SIGCONT)
    outcome.tell("The run failed." if outcome.ended(run) else "The run came to its end.")
    outcome.settle(account)
