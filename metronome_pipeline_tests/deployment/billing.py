"""An account for a deployment's tests: its usage, what must be billed of it, and one run that is killed while it sends.

Here: what is arranged in the emulators and counted there. Not here: the services (``services.py``).
"""

import os
import re
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from metronome_pipeline_tests.deployment.services import UNDER_WAY, Deployment, Run
from metronome_pipeline_tests.world import World, partition

BUDGET = 8
"""Requests a second that Metronome's sandbox allows, as Metronome does."""
WEEK = 168
HOURS = 4 * WEEK
_CUSTOMERS = 10

Used = dict[tuple[str, str], dict[int, Decimal]]
"""By customer and metric, and then by hour from the start."""


def account(world: World) -> Used:
    """Customers with usage of two sums every few hours; what each of them used."""
    metrics = [world.metric("SUM", "Calls"), world.metric("SUM", "Miles")]
    used: Used = {}
    for number in range(_CUSTOMERS):
        customer = world.customer(f"Customer {number}")
        for metric in metrics:
            hours = {hour: Decimal(f"{1 + hour}.{number}5") for hour in range(number, HOURS, 11)}
            world.use_hours(customer, metric, hours)
            used[customer, metric] = hours
    return used


def bill_and_lose_a_worker(running: Deployment, world: World) -> None:
    """Imports, and two ranges at once, of which one loses its worker while its events are on their way."""
    assert running.end_of(running.launch("import_everything")) == "SUCCESS", running.last_words()
    world.prove_deduplication()
    # Solvimon takes its time, so that a worker can be met in the midst of sending.
    world.solvimon.faults({"kind": "slow", "path": "/v1/events*", "rate": 1, "seconds": 0.5})
    halves = [(0, HOURS // 2 - 1), (HOURS // 2, HOURS - 1)]
    ranges = [running.launch_range(partition(first), partition(last)) for first, last in halves]
    running.wait_for("both runs at once", lambda: _states(running, ranges) == {"STARTED"})
    killed = _kill_one_that_sends(running, world)
    assert killed in ranges
    world.solvimon.faults()
    running.wait_for("a new worker for the killed run", lambda: _replacement(running, killed) is not None)
    replacement = _replacement(running, killed)
    assert replacement is not None
    for run_id in [*ranges, replacement.run_id]:
        assert running.end_of(run_id) == ("FAILURE" if run_id == killed else "SUCCESS"), running.last_words()


def assert_billed(world: World, used: Used) -> None:
    """Solvimon counts what was used, hour by hour, and no event twice: a second one under one reference is ignored."""
    assert {pair: world.counted(*pair) for pair in used} == used
    counted = Counter(event["reference"] for event in world.stored_events() if event["counts"])
    assert set(counted.values()) == {1}


def assert_paced(world: World) -> None:
    """No request was one too many, and all workers together stayed within the budget."""
    statuses = world.metronome.call("GET", "/_sandbox/requests")["by_endpoint"]
    assert not [endpoint for endpoint, counts in statuses.items() if "429" in counts], statuses
    log = world.metronome.call("GET", "/_sandbox/requests/log")["requests"]
    at = sorted(datetime.fromisoformat(one["at"]) for one in log if not one["path"].startswith("/_sandbox"))
    busiest = max(sum(1 for other in at if 0 <= (other - first).total_seconds() < 5) for first in at)
    assert busiest <= 5 * BUDGET + BUDGET // 2


def _states(running: Deployment, run_ids: Sequence[str]) -> set[str]:
    runs = running.runs()
    return {runs[run_id].status for run_id in run_ids}


def _kill_one_that_sends(running: Deployment, world: World) -> str:
    """SIGKILL for a worker whose events are on their way; its run."""
    claimed: list[tuple[Any, ...]] = []

    def claims() -> bool:
        claimed[:] = world.sql("SELECT run_id FROM ledger.claims LIMIT 1")
        return bool(claimed)

    running.wait_for("events on their way", claims, every=0.01)
    run_id = str(claimed[0][0])
    os.kill(_process(world, run_id), signal.SIGKILL)
    assert running.runs()[run_id].status in UNDER_WAY
    return run_id


def _process(world: World, run_id: str) -> int:
    """The process that a run lives in, as its log says: a launcher may have put it anywhere."""
    said = [
        re.search(r"Started process for run \(pid: (\d+)\)", one.message) for one in world.instance.all_logs(run_id)
    ]
    return next(int(found[1]) for found in said if found)


def _replacement(running: Deployment, killed: str) -> Run | None:
    """The run that Dagster launched in place of another one."""
    return next((run for run in running.runs().values() if run.tags.get("dagster/parent_run_id") == killed), None)
