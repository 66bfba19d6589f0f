"""A load of the synchronising core on virtual time: so many hours of so many pairs, and one kind of trouble throughout.

Here: the two accounts, the runs, and what they cost, which is the same each time. Not here: schedules of trouble drawn
from seeds (``metronome_pipeline_tests.simulation``), on whose network, clock and processes this stands.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import httpx

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.sandbox.metronome import ingest
from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.settings import changed
from metronome_pipeline_tests.simulation import core, totals, world
from metronome_pipeline_tests.simulation.account import CUSTOMERS, HOUR, Account
from metronome_pipeline_tests.simulation.history import Exchange
from metronome_pipeline_tests.simulation.metrics import METRICS, MetricDefinition
from metronome_pipeline_tests.simulation.network import INGEST, Network, Told
from metronome_pipeline_tests.simulation.postgres import Server
from metronome_pipeline_tests.simulation.process import Crashed, Process
from metronome_pipeline_tests.simulation.trouble import Chances, Scenario
from metronome_pipeline_tests.simulation.virtual_time import VirtualLoop, instant

UNGROUPED = METRICS[:3]
_BATCH = 50


@dataclass
class Load:
    """Customers with metrics, each with usage in every one of some hours; and runs of all of it."""

    server: Server
    hours: int
    deduplicated: bool = True
    customers: int = 5
    metrics: Sequence[MetricDefinition] = UNGROUPED
    trouble: Mapping[str, float] = field(default_factory=dict)
    loop: VirtualLoop = field(default_factory=lambda: VirtualLoop(world.LATEST))
    memory: core.Memory = field(default_factory=core.Memory)
    runs: int = 0

    def __post_init__(self) -> None:
        self.start = core.START + self.hours * HOUR + timedelta(minutes=core.CLOSE_MINUTES)
        self.both = world.sandboxes(self.now)
        scenario = Scenario(1, only=frozenset())
        resources, meters = world.meter_template(self.server)
        self.both.solvimon.restore(resources)
        self.server.empty()
        self.server.observer.execute(world._PAIR)
        self.server.observer.execute(world._METERS, [meters])
        idempotency = {"reference_idempotency": "on" if self.deduplicated else "off"}
        self.both.solvimon.settings = changed(self.both.solvimon.settings, idempotency)
        self.account = Account(
            self.both.metronome, self.both.solvimon, random.Random(1), core.START, self.now, lambda _: None
        )
        self.account.fill(self.customers, self.metrics, 0)
        self.network: Network = world.network_between(self.both, self.loop, scenario, lambda _: None)
        for kind, rate in self.trouble.items():
            self.network.chances[kind] = Chances(random.Random(kind), rate, left=10**9)

    def now(self) -> datetime:
        return instant(self.start, self.loop.time())

    def use_every_hour(self) -> int:
        """One raw event in every hour of every pair; how many events that gives."""
        values = [str(Decimal(number) / 8) for number in range(1, 98)]
        events = [
            {
                "transaction_id": f"{customer}-{metric.metric_id}-{hour}",
                "customer_id": customer,
                "event_type": metric.metric_id,
                "timestamp": (core.START + hour * HOUR + timedelta(minutes=7)).isoformat(),
                "properties": {"value": values[hour % len(values)]},
            }
            for customer in self.account.customers
            for metric in self.metrics
            for hour in range(self.hours)
        ]
        store = self.both.metronome
        ingest.keep(store, [ingest.read_event(store, event, self.now()) for event in events])
        return len(events)

    def run(self, *, dies_sending: int | None = None) -> bool:
        """A run in a process of its own; whether it came to its end. Gives up or dies: it did not."""
        self.runs += 1
        name = f"run-{self.runs}"
        process = Process(name, self.server, self.loop, self.start, random.Random(name), dies_sending=dies_sending)
        duty = core.Duty(
            closed=core.START + self.hours * HOUR,
            metrics=tuple(self.account.metrics),
            deduplicated=self.deduplicated,
            look_back_days=self.hours // 24 + 1,
            in_flight=8,
            imports_meters=False,
            batch_limit=_BATCH,
        )

        async def course() -> None:
            process.task = self.loop.create_task(core.run(process, self.network, duty, self.memory))
            await process.task

        try:
            self.loop.run_until_complete(course())
        except (PipelineError, Crashed, asyncio.CancelledError):
            return False
        finally:
            process.die()
        return True

    def requests(self, system: str = "solvimon") -> int:
        return sum(exchange.system == system for exchange in self.network.history)

    @property
    def sends(self) -> int:
        """Requests with events that have left."""
        return sum(exchange.path == INGEST for exchange in self.network.history)

    def events_of(self, reference: str) -> list[Event]:
        return list(self.both.solvimon.events.by_reference.get(reference, ()))

    def differences(self, *, exact: bool = True) -> list[str]:
        """Where both sides disagree, or anything is left to do. Not ``exact``: where nothing in the ledger says so."""
        closed = core.START + self.hours * HOUR
        both = self.both
        return totals.violations(
            self.server.observer, both.metronome, both.solvimon, self.metrics, core.START, closed, exact=exact
        )

    def states(self) -> dict[str, int]:
        rows = self.server.observer.execute("SELECT state, count(*) FROM ledger.events_v1 GROUP BY state")
        return dict(rows.fetchall())


def send_again_and_again(server: Server, times: int) -> tuple[int, int, list[str]]:
    """One event, of whose requests no answer ever comes back, until it was sent so often; then one run that hears.

    Runs are killed in the midst, or give up; the next one sends it again under its reference.

    Returns:
        How often it was sent, how many runs that took, and what is wrong afterwards.
    """
    load = Load(server, hours=1, customers=1, metrics=UNGROUPED[:1])
    load.use_every_hour()
    heard = load.network._back
    load.network._back = _hears_nothing  # type: ignore[method-assign]
    draw = random.Random(1)
    while load.sends < times:
        load.run(dies_sending=draw.choice((None, draw.randint(1, 12))))
    load.network._back = heard  # type: ignore[method-assign]
    wrong = [] if load.run() else ["The run that was answered did not come to its end."]
    copies = load.events_of(reference_of(CUSTOMERS[0], UNGROUPED[0].metric_id, 0))
    counting = sum(event.counts for event in copies)
    if counting != 1:
        wrong.append(f"{len(copies)} copies arrived, and {counting} of them count.")
    if load.states() != {"delivered": 1}:
        wrong.append(f"The ledger says {load.states()}.")
    return load.sends, load.runs, wrong + load.differences()


def _hears_nothing(exchange: Exchange, told: Told) -> Told:
    if exchange.path == INGEST:
        raise httpx.ReadError("reset")
    return told


def reference_of(customer: str, metric: str, hour: int) -> str:
    """The reference of a slot's first event, as it is documented."""
    start = core.START + hour * HOUR
    return f"{customer}_{metric}_{start:%Y%m%dT%H%M%SZ}_{start + HOUR:%Y%m%dT%H%M%SZ}_total"
