"""One seed: an account, a load, runs under trouble, then quiet runs until everything agrees, and the checker's verdict.

Here: the order of things. Not here: how the world is made (``world.py``), and the rules (``checker.py``).
"""

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.ledger import brakes, waiting
from metronome_pipeline_tests.simulation import core
from metronome_pipeline_tests.simulation.account import HAPPENINGS
from metronome_pipeline_tests.simulation.checker import Checker
from metronome_pipeline_tests.simulation.history import Exchange
from metronome_pipeline_tests.simulation.metrics import METRICS
from metronome_pipeline_tests.simulation.network import INGEST
from metronome_pipeline_tests.simulation.postgres import Server
from metronome_pipeline_tests.simulation.process import Crashed, Process
from metronome_pipeline_tests.simulation.trouble import Scenario
from metronome_pipeline_tests.simulation.virtual_time import NothingLeftToDo, VirtualLoop, instant
from metronome_pipeline_tests.simulation.world import LATEST, account_of, network_between, sandboxes

_QUIET_RUNS = 4
_MOST_RUNS = 25
_NOT_WITH = {
    # Who sends under a reference of ours, and is not told of at once, is found by the daily reconciliation only; where
    # nothing is deduplicated, both would count.
    "taken_reference": frozenset({"late_duplicate_flags", "deduplication_off"}),
    # An import refuses such a meter by name, and its usage is then nobody's to list in the ledger.
    "inactive_meter": frozenset({"new_metric"}),
}
_WAITING = """
SELECT (SELECT count(*) FROM ledger.open_events WHERE state = 'quarantined'),
       array(SELECT digest FROM ledger.brakes WHERE released_at IS NULL)
"""


@dataclass
class Tally:
    """What simulations did, for the summary."""

    seeds: int = 0
    runs: int = 0
    requests: int = 0
    crashes: int = 0
    events: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Verdict:
    """What a seed has shown. No violation: it is green."""

    scenario: Scenario
    violations: tuple[str, ...]
    story: tuple[str, ...]
    tally: Tally


class Simulation:
    """One seed from its beginning to its end."""

    def __init__(self, scenario: Scenario, server: Server) -> None:
        draw = scenario.stream("account")
        self.scenario = scenario
        self.trouble = scenario.trouble
        self.server = server
        self.loop = VirtualLoop(LATEST)
        self.start = core.START + timedelta(hours=draw.choice((3, 6, 10, 22, 27)), minutes=draw.randrange(60))
        self.story: list[str] = []
        self.tally = Tally(seeds=1)
        self.memory = core.Memory()
        self.quiet = False
        self.closed = core.START
        self.look_back = draw.choice((1, 8, 8))
        self.in_flight = draw.choice((1, 2, 4))
        self.batch_limit = draw.choice((2, 5, 50))
        both = sandboxes(self.now)
        self.account = account_of(scenario, both, server, self.now, self.story.append)
        self.network = network_between(both, self.loop, scenario, self._departing)
        self.checker = Checker(
            server.observer, both.metronome, both.solvimon, start=core.START, origin=self.start, pace=core.PACE
        )

    def now(self) -> datetime:
        """The true time."""
        return instant(self.start, self.loop.time())

    def run(self) -> Verdict:
        """Runs it to its end."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._course())
        except NothingLeftToDo as error:
            self.checker.violations.append(f"It does not end: {error}")
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
        self.tally.requests = len(self.network.history)
        self.tally.events = self.checker.planned_events
        return Verdict(self.scenario, tuple(self.checker.violations), tuple(self.story), self.tally)

    async def _course(self) -> None:
        draw = self.scenario.stream("course")
        ticks = draw.choice((1, 2, 2, 3))
        for number in range(ticks if self.scenario.ticks is None else self.scenario.ticks):
            await self._tick(number)
            await asyncio.sleep(draw.choice((1.0, 20.0, 120.0, 900.0, 3_600.0, 7_200.0)))
        self.quiet = True
        self.network.chances.clear()
        self.network.outage_until = 0.0
        self.story.append("The trouble ends.")
        await asyncio.sleep(5)
        await self._until_nothing_changes()
        self.checker.at_rest(self.closed, self.account.metrics, exact=False)
        # What was in quarantine may be for the brake once it is out.
        while self._people_help() and self.tally.runs < _MOST_RUNS:
            await self._until_nothing_changes()
        self.checker.at_rest(self.closed, self.account.metrics, exact=True)
        self.checker.at_last(self.network.history, interleaved="second_process" in self.trouble)

    # Under trouble ---------------------------------------------------------------------------------------------------

    async def _tick(self, number: int) -> None:
        """One process or two at once, while things happen to the accounts."""
        draw = self.scenario.stream(f"tick {number}")
        happenings = [
            self.loop.call_later(stream.choice((0.0, stream.uniform(0, 3), stream.uniform(0, 60))), self._happens, kind)
            for kind in sorted(self.trouble & HAPPENINGS)
            for stream in [self.scenario.stream(f"{kind} {number}")]
            for _ in range(stream.choice((0, 1, 2, 3)))
        ]
        two = "second_process" in self.trouble and draw.random() < 0.8
        later = draw.choice((0.0, 0.1, draw.uniform(0, 5), draw.uniform(0, 80)))
        runs = [self._run(self._process(number, 0, interleaved=two))]
        if two:
            runs.append(self._run(self._process(number, 1, interleaved=True), later))
        await asyncio.gather(*runs)
        for happening in happenings:
            happening.cancel()
        self._look(interleaved=two)

    def _happens(self, kind: str) -> None:
        if not self.trouble & _NOT_WITH.get(kind, frozenset()):
            self.account.happens(kind)

    def _process(self, number: int, place: int, *, interleaved: bool) -> Process:
        """A process with the trouble that is drawn for it."""
        name, draw = f"run-{number}-{place}", self.scenario.stream(f"process {number} {place}")
        process = Process(name, self.server, self.loop, self.start, draw, interleaved=interleaved)
        if self.quiet:
            return process
        dying, losing, unlocking, skewed = (
            self.scenario.stream(f"{kind} {number} {place}")
            for kind in ("crash", "database_lost", "lock_lost", "clock_skew")
        )
        if "crash" in self.trouble and dying.random() < 0.8:
            if dying.random() < 0.6:
                process.dies_at = int(2 ** dying.uniform(0, 10))
            else:
                process.dies_sending = dying.choice((1, 1, 2, 3))
        if "database_lost" in self.trouble and losing.random() < 0.6:
            process.loses_at = int(2 ** losing.uniform(0, 8))
        if "lock_lost" in self.trouble and unlocking.random() < 0.6:
            process.lock_lost_after = unlocking.choice((0.001, 0.05, unlocking.uniform(0, 3), unlocking.uniform(0, 90)))
        if "clock_skew" in self.trouble:
            process.skew = timedelta(seconds=skewed.uniform(-7_200, 7_200))
        return process

    def _duty(self) -> core.Duty:
        known = {metric.metric_id for metric in METRICS}
        late = self.now() - timedelta(minutes=core.CLOSE_MINUTES)
        return core.Duty(
            closed=late.replace(minute=0, second=0, microsecond=0),
            metrics=tuple(self.account.metrics),
            deduplicated=not self.trouble & {"deduplication_off", "deduplication_unproved"},
            look_back_days=8 if self.quiet else self.look_back,
            in_flight=self.in_flight,
            imports_meters=any(metric.metric_id not in known for metric in self.account.metrics),
            batch_limit=self.batch_limit,
        )

    async def _run(self, process: Process, delay: float = 0.0) -> bool:
        """One process to its end; whether it ended well."""
        await asyncio.sleep(delay)
        self.tally.runs += 1
        began, duty = self.loop.time(), self._duty()
        self.closed = duty.closed
        try:
            process.task = self.loop.create_task(core.run(process, self.network, duty, self.memory))
            await process.task
        except NothingLeftToDo:
            raise
        except (Exception, Crashed, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it is, it is a finding
            ending = self._ending(process, error)
        else:
            ending = "done"
        process.die()
        took = self.loop.time() - began
        self.story.append(f"{process.name} ({began:.0f} s, took {took:.1f} s, {process.points} points): {ending}")
        return ending == "done"

    def _ending(self, process: Process, error: BaseException) -> str:
        """How a process ended that did not end well; blamed where nothing excuses it."""
        # Libraries may say anything while they clear up after a death that they do not know.
        if process.dead:
            self.tally.crashes += 1
            return f"killed {process.died_where} (point {process.points})"
        if not isinstance(error, PipelineError):
            where = traceback.extract_tb(error.__traceback__)[-1]
            ending = f"failed by {type(error).__name__} in {where.name}, line {where.lineno}: {error}"
            self.checker.violations.append(f"{process.name} ended with an error that nobody foresaw: {ending}")
            return ending
        if self.quiet:
            self.checker.violations.append(f"A quiet run failed: {type(error).__name__}: {error}")
        return f"gave up: {error}"

    def _departing(self, exchange: Exchange) -> None:
        self.checker.departing(exchange)
        if exchange.path == INGEST and "late_duplicate_flags" in self.trouble:
            self.loop.call_later(self.network.draw.uniform(1, 90), self.account.solvimon.process)

    def _look(self, *, interleaved: bool) -> None:
        self.checker.after_runs(self.account.metrics, self.network.history, interleaved=interleaved)

    # Once the trouble has ended --------------------------------------------------------------------------------------

    async def _until_nothing_changes(self) -> None:
        """Quiet runs, until one of them finds nothing to do."""
        for _ in range(_QUIET_RUNS):
            before, requests = self.checker.counts(), len(self.network.history)
            done = await self._run(self._process(self.tally.runs, 9, interleaved=False))
            self._look(interleaved=False)
            hours = int((self.now() - core.START).total_seconds() // 3600)
            made = self.network.history[requests:]
            self.checker.quiet_run(made, self.account.metrics, hours)
            if done and self.checker.counts() == before and not self.network.under_way:
                self.checker.last_run(made)
                return
            await asyncio.sleep(1_800)
        self.checker.violations.append(f"After {_QUIET_RUNS} quiet runs there is still something to do.")

    def _people_help(self) -> bool:
        """What people would do about what is listed: end the poison, retry the quarantine, release the brake."""
        healed, observer = self.account.heal(), self.server.observer
        row = observer.execute(_WAITING).fetchone()
        assert row is not None
        quarantined, digests = row
        if not quarantined and not digests:
            return healed
        with observer.transaction():
            observer.execute("SELECT set_config('ledger.moment', %s, true)", [self.now().isoformat()])
            waiting.retry(observer, 1, None, run_id="people", by="people", reason="a test")
            for digest in digests:
                brakes.release(observer, 1, digest, by="people")
        self.story.append(f"People retry {quarantined} quarantined events and release {len(digests)} brakes.")
        return True


def simulate(scenario: Scenario, server: Server, watch: Callable[[Simulation], None] = lambda _: None) -> Verdict:
    """Runs one scenario. ``watch`` is given all of it at the end, for a closer look."""
    simulation = Simulation(scenario, server)
    verdict = simulation.run()
    watch(simulation)
    return verdict
