"""This project's core without Dagster: read, plan, deliver and settle, on a real Postgres."""

import asyncio
import random
from datetime import timedelta

from metronome_pipeline.clock import SYSTEM_CLOCK
from metronome_pipeline.http import Unpaced
from metronome_pipeline.ledger.brakes import BrakeLimits
from metronome_pipeline.ledger.deliver import Delivery
from metronome_pipeline.ledger.read import UsageReader, Window
from metronome_pipeline.ledger.synchronise import Due, Synchroniser
from metronome_pipeline.mapping.usage import UNGROUPED, BilledMetric, slicing_of
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.accounts import Pair, known_customers
from metronome_pipeline.storage.database import Database
from metronome_pipeline.storage.pace import SharedPacer
from metronome_pipeline_tests.benchmark.contestants.setting import Mark, Setting, mark, run
from metronome_pipeline_tests.benchmark.imported import prepare
from metronome_pipeline_tests.benchmark.workload import START

_UNLIMITED = 100_000.0


async def _work(setting: Setting, database: Database, pair: Pair) -> None:
    workload, source = setting.workload, random.Random(1)
    metronome = MetronomeResource(
        base_url=setting.metronome,
        bearer_token="token",
        environment="bench",
        requests_per_second=setting.per_second or _UNLIMITED,
    )
    solvimon = SolvimonResource(base_url=setting.solvimon, api_key="key")
    pacer = (
        SharedPacer(database, SYSTEM_CLOCK, "bench", setting.per_second)
        if setting.per_second
        else Unpaced(SYSTEM_CLOCK)
    )
    async with (
        metronome.open(pacer=pacer, clock=SYSTEM_CLOCK, random=source, run_id="bench") as reading,
        solvimon.open(pacer=Unpaced(SYSTEM_CLOCK), clock=SYSTEM_CLOCK, random=source, run_id="bench") as writing,
    ):
        synchroniser = Synchroniser(
            reader=UsageReader(reading, database, pair.pair_id, "bench"),
            delivery=Delivery(
                writing,
                database,
                SYSTEM_CLOCK,
                pair.pair_id,
                "bench",
                deduplicated=True,
                request_timeout=timedelta(seconds=60),
            ),
            database=database,
            pair_id=pair.pair_id,
            run_id="bench",
            brake=BrakeLimits(),
            ensure_customers=_nobody,
        )
        customers = await database.run(lambda connection: known_customers(connection, pair.pair_id))
        slicing = slicing_of(["region"]) if workload.groups else UNGROUPED
        metrics = [BilledMetric(metric_id, "Metric", "SUM", slicing) for metric_id in workload.metric_ids()]
        own = customers[setting.part :: setting.parts]
        async for _ in synchroniser.run(Due(own, metrics), Window(START, workload.end)):
            pass


async def _nobody() -> None:
    """Every customer stands in Solvimon already."""


def _main(setting: Setting) -> Mark:
    with Database(setting.database_url) as database:
        pair = prepare(database, setting)
        began = mark()
        asyncio.run(_work(setting, database, pair))
        return began


if __name__ == "__main__":
    run(_main)
