"""Dagster's daemon, killed: a real one, with the project's own ``dagster.yaml`` and the hourly schedule on.

Here: starting it, the tick it waits for, and what must have come of it. The schedule is the real one; only the minute
at which an hour closes is set to the next one, so that nobody waits for an hour.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.chaos.account import HOURS, Account
from metronome_pipeline_tests.chaos.scenes import Outcome, Stage
from metronome_pipeline_tests.world import START

_PROJECT = Path(__file__).parents[2]
_UNDER_WAY = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
_PATIENCE = 240.0
_RUNS = "SELECT run_id, status FROM runs WHERE pipeline_name = 'ingest_usage' ORDER BY id"
_MATERIALIZED = """
SELECT partition, count(*) FROM event_logs
WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = '["solvimon", "usage_events"]' GROUP BY partition
"""


def daemon_killed(stage: Stage, outcome: Outcome) -> None:
    """The daemon alone is killed while the run that it has launched is under way, and started again."""
    account, environment = _account(stage)
    with _home(stage, environment) as home:
        with _daemon(home, environment) as daemon:
            _wait_for(account, lambda states: "STARTED" in states)
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.wait()
            with _daemon(home, environment):
                _wait_for(account, lambda states: bool(states) and not states & set(_UNDER_WAY))
                time.sleep(5)
        runs = [status for _, status in account.world.sql(_RUNS)]
    outcome.runs += len(runs)
    times = Counter(dict(account.world.sql(_MATERIALIZED)))
    if len(times) != HOURS or set(times.values()) != {1}:
        outcome.red.append(f"{HOURS} hours were to be filled once each; reported were: {dict(times)}.")
    outcome.tell(f"{len(times)} hours, each filled once by {', '.join(runs)}.")
    outcome.settle(account, run=False)


def all_of_dagster_killed(stage: Stage, outcome: Outcome) -> None:
    """The daemon and everything that it has started, the run too, as when a machine loses its power."""
    account, environment = _account(stage)
    with _home(stage, environment) as home, _daemon(home, environment) as daemon:
        _wait_for(account, lambda states: "STARTED" in states)
        while not account.world.solvimon.requests().get("POST /v1/events/ingest-batch", 0):
            time.sleep(0.002)
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
    claimed = account.world.sql("SELECT coalesce(sum(cardinality(event_ids)), 0) FROM ledger.claims")[0][0]
    outcome.runs += 1
    outcome.tell(f"{claimed} events were on their way.")
    outcome.settle(account)


def _account(stage: Stage) -> tuple[Account, dict[str, str]]:
    """An account whose hours are the last twelve before the next tick, and the environment of its Dagster."""
    tick = (datetime.now(UTC) + timedelta(seconds=100)).replace(second=0, microsecond=0)
    start = tick.replace(minute=0) - timedelta(hours=HOURS)
    account = stage.account(first_hour=int((start - START) / timedelta(hours=1)))
    account.slow_down(1)
    world = account.world
    blanks = {field.alias: "" for field in Settings.model_fields.values() if field.alias}
    return account, {
        **os.environ,
        **blanks,
        **world.environment,
        "METRONOME_BASE_URL": world.metronome.url,
        "METRONOME_BEARER_TOKEN": world.metronome.headers["Authorization"].removeprefix("Bearer "),
        "METRONOME_ENVIRONMENT": "sandbox",
        "SOLVIMON_BASE_URL": world.solvimon.url,
        "SOLVIMON_API_KEY": world.solvimon.headers["X-API-KEY"],
        "USAGE_CLOSE_MINUTES": str(tick.minute),
        "DAGSTER_POSTGRES_URL": world.database_url,
        # One request after the other, and slow ones: the run is to be met in the midst of sending.
        "SOLVIMON_REQUESTS_IN_FLIGHT": "2",
    }


@contextmanager
def _home(stage: Stage, environment: dict[str, str]) -> Iterator[Path]:
    home = stage.folder / f"home-{random.randrange(10**9)}"
    home.mkdir()
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(_PROJECT / name, home)
    environment["DAGSTER_HOME"] = str(home)
    yield home


@contextmanager
def _daemon(home: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon in a process group of its own, which ends with the block, with all that it has started."""
    with (home / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-w", str(home / "workspace.yaml")],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield daemon
    finally:
        with suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def _wait_for(account: Account, reached: Callable[[set[str]], bool]) -> None:
    """Until the states of the hourly runs are so."""
    patience = time.monotonic() + _PATIENCE
    while not reached({status for _, status in account.world.sql(_RUNS)}):
        if time.monotonic() > patience:
            raise RuntimeError(f"The daemon launched no run within {_PATIENCE:.0f} s, or it did not end.")
        time.sleep(0.05)
