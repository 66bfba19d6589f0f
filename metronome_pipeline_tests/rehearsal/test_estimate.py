"""Estimates held against what a backfill then takes, counted by the sandbox."""

import asyncio
import random
import uuid
from datetime import timedelta
from typing import Any

import pytest

from metronome_pipeline.cli.session import command_session
from metronome_pipeline.definitions import metronome_resource, solvimon_resource
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.rehearsal.estimate import Estimate, Pages, estimate_usage
from metronome_pipeline.rehearsal.session import Chosen, read_all_due, rehearsing_on
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.synchronising import synchroniser_of
from metronome_pipeline_tests.cli.commands import variables
from metronome_pipeline_tests.world import START, World

MONTH = Window(START, START + timedelta(days=31))
CUSTOMERS, PLAIN, GROUPED = 20, 7, 3


def settings_of(world: World, **more: str) -> Settings:
    """Without a database URL of the environment, and without the pace of a real account."""
    return Settings.from_environment(
        {**variables(world), "METRONOME_REQUESTS_PER_SECOND": "1000", **world.environment, **more}
    )


def estimated(world: World, window: Window = MONTH) -> Estimate:
    settings = settings_of(world)

    async def ask() -> Estimate:
        async with command_session(settings) as session:
            rehearsing = rehearsing_on(session, metronome_resource(settings), solvimon_resource(settings), settings)
            due = await read_all_due(rehearsing, Chosen())
            return await estimate_usage(rehearsing, due, window, say=lambda _: None)

    return asyncio.run(ask())


def backfill(world: World, window: Window = MONTH) -> tuple[int, int]:
    """Requests to Metronome and to Solvimon of a backfill by the core that runs drive; without Dagster, for speed."""
    settings = settings_of(world)
    metronome, solvimon = metronome_resource(settings), solvimon_resource(settings)

    async def run() -> None:
        async with command_session(settings) as session:
            rehearsing = rehearsing_on(session, metronome, solvimon, settings)
            due = await read_all_due(rehearsing, Chosen())
            for part in due.parts:
                if part.workflow.grouped:
                    await read_all_due(rehearsing, Chosen())
                async for step in synchroniser_of(session, metronome, solvimon, settings).run(part.due, window):
                    assert step.complete

    world.metronome.forget_requests()
    world.solvimon.forget_requests()
    asyncio.run(run())
    return sum(world.metronome.requests().values()), sum(world.solvimon.requests().values())


def _id(ids: random.Random) -> str:
    return str(uuid.UUID(int=ids.getrandbits(128)))


def a_month_of_usage(world: World) -> None:
    """Pairs of all sizes: from an hour a day in one group to three in twelve. The same ones each time, by id too."""
    source, ids = random.Random(7), random.Random(8)
    customers = [world.customer(f"Customer {number}", id=_id(ids)) for number in range(CUSTOMERS)]
    metrics = [(world.metric("SUM", name=f"Plain {number}", id=_id(ids)), False) for number in range(PLAIN)]
    metrics += [
        (world.metric("SUM", name=f"Grouped {number}", id=_id(ids), group_keys=[["region"]]), True)
        for number in range(GROUPED)
    ]
    world.imported()
    for customer in customers:
        events: list[dict[str, Any]] = []
        for metric, grouped in metrics:
            hours, groups = source.randint(1, 3), source.randint(1, 12) if grouped else 1
            for day in range(31):
                events += [
                    {
                        "transaction_id": str(uuid.UUID(int=source.getrandbits(128))),
                        "customer_id": customer,
                        "event_type": metric,
                        "timestamp": (START + timedelta(days=day, hours=hour, minutes=7)).isoformat(),
                        "properties": {"value": "1", "region": f"r{group}"},
                    }
                    for hour in source.sample(range(24), hours)
                    for group in range(groups)
                ]
        world.metronome.call("POST", "/_sandbox/events", events)


def test_the_estimate_of_a_month_is_within_two_percent_of_what_it_takes_for_both_workflows(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    a_month_of_usage(world)
    world.metronome.forget_requests()
    told = estimated(world)
    asked = sum(world.metronome.requests().values())
    metronome, solvimon = backfill(world)
    assert told.pairs == CUSTOMERS * (PLAIN + GROUPED)
    assert abs(told.requests.metronome - metronome) <= 0.02 * metronome
    assert abs(told.requests.solvimon - solvimon) <= 0.02 * solvimon
    assert asked < 0.25 * metronome
    assert told.pages == {"usage": Pages(200), "grouped_usage": Pages(200)}


@pytest.mark.parametrize(
    ("knobs", "pages"),
    [
        ({"rows_per_page": 100}, Pages(100)),
        ({"rows_per_page": 100, "empty_windows": "omit"}, Pages(100)),
        ({"rows_per_page": 300, "pages_cross_pairs": True}, Pages(300, crossing=True)),
        ({"rows_per_page": 5000}, Pages(None)),
    ],
)
def test_pages_of_other_sizes_are_noticed(world: World, knobs: dict[str, Any], pages: Pages) -> None:
    world.metronome.set(**knobs)
    customers, metrics = [world.customer(f"{n}") for n in range(3)], [world.metric(name=f"{n}") for n in range(2)]
    world.imported()
    for customer in customers:
        for metric in metrics:
            world.use_hours(customer, metric, dict.fromkeys(range(24 * 31), 1))
    told = estimated(world)
    assert told.pages == {"usage": pages}
    assert told.requests.metronome == backfill(world)[0]


def test_an_estimate_of_what_is_done_already_sends_nothing(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, dict.fromkeys(range(48), 1))
    days = Window(START, START + timedelta(days=2))
    assert estimated(world, days).requests.solvimon == 1
    backfill(world, days)
    told = estimated(world, days).requests
    assert (told.metronome, told.solvimon) == (backfill(world, days)[0], 0)
