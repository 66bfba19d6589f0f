"""One run of the core in one simulated process, as the two usage workflows put it together.

Here: sessions over the simulated network, and the order: what the account has, what is due, then the synchroniser. Not
here: Dagster, and anything that a process does not know.
"""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast

from metronome_pipeline.http import Unpaced
from metronome_pipeline.ledger import synchronise
from metronome_pipeline.ledger.read import Window, midnight
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import accounts
from metronome_pipeline.storage.accounts import Pair
from metronome_pipeline.storage.database import Database
from metronome_pipeline.storage.pace import SharedPacer
from metronome_pipeline.workflows.customers import read_customers
from metronome_pipeline.workflows.due import due_usage
from metronome_pipeline.workflows.hours import hour_windows, hours_in
from metronome_pipeline.workflows.meters import import_meters, read_metrics
from metronome_pipeline.workflows.session import Session
from metronome_pipeline.workflows.synchronising import synchroniser_of
from metronome_pipeline_tests.simulation.metrics import METRICS, MetricDefinition
from metronome_pipeline_tests.simulation.network import TIMEOUT, Network, Wire
from metronome_pipeline_tests.simulation.process import Process

START = datetime.fromisoformat("2026-01-05T00:00:00+00:00")
PACE = 8.0
TOKEN, KEY = "simulated-token", "simulated-key"
CLOSE_MINUTES = 15


@cache
def _resources(in_flight: int, batch_limit: int) -> tuple[MetronomeResource, SolvimonResource]:
    metronome = MetronomeResource(
        base_url="http://metronome.simulated",
        bearer_token=TOKEN,
        requests_per_second=PACE,
        requests_in_flight=in_flight,
        timeout_seconds=TIMEOUT,
    )
    solvimon = SolvimonResource(
        base_url="http://solvimon.simulated",
        api_key=KEY,
        timeout_seconds=TIMEOUT,
        requests_in_flight=in_flight,
        batch_limit=batch_limit,
    )
    return metronome, solvimon


@dataclass
class Memory:
    """What outlives a process beside the database: hours that were reported as done, as Dagster keeps them."""

    done: dict[bool, set[datetime]] = field(default_factory=lambda: {False: set(), True: set()})


@dataclass(frozen=True)
class Duty:
    """What a run is asked for: hours up to ``closed``, looking back so many days, with these metrics."""

    closed: datetime
    metrics: tuple[MetricDefinition, ...]
    deduplicated: bool
    look_back_days: int
    in_flight: int
    imports_meters: bool
    batch_limit: int


@cache
def _base_settings() -> Settings:
    return Settings.from_environment(
        {
            "METRONOME_BASE_URL": "http://127.0.0.1:1",
            "METRONOME_BEARER_TOKEN": TOKEN,
            "METRONOME_ENVIRONMENT": "simulated",
            "SOLVIMON_BASE_URL": "http://127.0.0.1:1",
            "SOLVIMON_API_KEY": KEY,
            "USAGE_START": START.isoformat(),
        }
    )


@cache
def settings_of(grouped: bool) -> Settings:
    """The settings of a seed: with properties where any metric is billed by them."""
    slicings: dict[str, Any] = {metric.metric_id: metric.slicing or "ungrouped" for metric in METRICS}
    return _base_settings().model_copy(update={"grouped_usage_enabled": grouped, "metric_slicings": slicings})


async def run(process: Process, network: Network, duty: Duty, memory: Memory) -> None:
    """One process from its start to its end.

    Raises:
        PipelineError: It gave up, with a sentence.
        Crashed: It was killed.
    """
    randomness = random.Random(process.draw.random())
    database = cast("Database", process.database)
    pacer = SharedPacer(database, process.clock, "simulated", PACE)
    metronome, solvimon = _resources(duty.in_flight, duty.batch_limit)
    own: dict[str, Any] = {"clock": process.clock, "random": randomness, "run_id": process.name}
    async with (
        metronome.open(pacer=pacer, transport=Wire(network, process, "metronome"), **own) as source,
        solvimon.open(pacer=Unpaced(process.clock), transport=Wire(network, process, "solvimon"), **own) as destination,
    ):
        pair = Pair(1, "proved" if duty.deduplicated else "unknown")
        session = Session(source, destination, database, pair, process.name, process.clock, duty.in_flight)
        await read_customers(session)
        await read_metrics(session)
        if duty.imports_meters:
            known = await database.run(lambda c: accounts.known_metrics(c, 1))
            await import_meters(session, known, {})
        for grouped in (False, True):
            if any((metric.slicing is not None) == grouped for metric in duty.metrics):
                await _synchronise(session, duty, memory, grouped=grouped)


async def _synchronise(session: Session, duty: Duty, memory: Memory, *, grouped: bool) -> None:
    settings = settings_of(any(metric.slicing for metric in duty.metrics))
    due, _ = await due_usage(session, settings, grouped=grouped)
    synchroniser = synchroniser_of(session, *_resources(duty.in_flight, duty.batch_limit), settings)
    first_day = midnight(duty.closed - timedelta(hours=1)) - timedelta(days=duty.look_back_days - 1)
    window = Window(max(START, first_day), duty.closed)
    done = memory.done[grouped]
    async for step in synchroniser.run(due, window, days=8):
        if step.complete and not step.revisited:
            done.update(hours_in(step.window))
    gaps = await session.database.run(lambda c: synchronise.gaps(c, 1, due, hour_windows(done)))
    for gap in gaps:
        some = synchronise.Due(
            [customer for customer in due.customers if customer.customer_id in gap.customer_ids],
            [metric for metric in due.metrics if metric.metric_id in gap.metric_ids],
            due.starts,
        )
        async for _ in synchroniser.run(some, gap.window):
            pass
