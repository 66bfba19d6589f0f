"""Beyond one process: code server, webserver, daemon and run workers that share nothing but Postgres.

Run by ``make deployment-test``, not by the ordinary suite: the services take a while to start.
"""

import subprocess
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from metronome_pipeline_tests.deployment.billing import (
    BUDGET,
    HOURS,
    WEEK,
    account,
    assert_billed,
    assert_paced,
    bill_and_lose_a_worker,
)
from metronome_pipeline_tests.deployment.services import DAGSTER, ROOT, deployment, process_for_each_run
from metronome_pipeline_tests.world import World, partition


def test_two_workers_keep_one_pace_and_a_killed_one_is_replaced(world: World, folder: Path) -> None:
    used = account(world)
    world.metronome.set(rate_limit=BUDGET)
    launcher = process_for_each_run(folder)
    with deployment(folder, world, launcher, METRONOME_REQUESTS_PER_SECOND=str(BUDGET)) as running:
        bill_and_lose_a_worker(running, world)
        homes = {path.name for path in (folder / "workers").iterdir() if path.is_dir()}
        assert homes >= set(running.runs())
    assert_billed(world, used)
    assert_paced(world)


def test_a_code_server_runs_what_the_webserver_is_asked_for(world: World, folder: Path) -> None:
    used = account(world)
    with deployment(folder, world, None, METRONOME_REQUESTS_PER_SECOND="1000") as running:
        assert running.end_of(running.launch("import_everything")) == "SUCCESS", running.last_words()
        runs = [running.launch_range(partition(0), partition(WEEK - 1))]
        runs.append(running.launch_range(partition(WEEK), partition(HOURS - 1)))
        assert [running.end_of(run_id) for run_id in runs] == ["SUCCESS", "SUCCESS"], running.last_words()
    assert_billed(world, used)


def test_dagsters_own_storage_is_enough_as_its_chart_sets_it_up(world: World, folder: Path) -> None:
    """As on Kubernetes: the chart's storage, pools set by hand, and a home of its own for each run."""
    used = account(world)
    values = yaml.safe_load((ROOT / "deploy" / "helm-values.yaml").read_text(encoding="utf-8"))
    scheme = values["postgresql"]["postgresqlScheme"]
    storage = {"postgres": {"postgres_url": scheme + world.database_url.removeprefix("postgresql")}}
    launcher = process_for_each_run(folder, storage)
    with deployment(folder, world, launcher, storage, METRONOME_REQUESTS_PER_SECOND="1000") as running:
        for pool in ("metronome_api", "solvimon_api"):
            command = (*DAGSTER, "instance", "concurrency", "set", pool, "4")
            environment = {**running.environment, "DAGSTER_HOME": str(folder / "daemon")}
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        assert running.end_of(running.launch("import_everything")) == "SUCCESS", running.last_words()
        runs = [running.launch_range(partition(0), partition(2 * WEEK - 1))]
        runs.append(running.launch_range(partition(2 * WEEK), partition(HOURS - 1)))
        assert [running.end_of(run_id) for run_id in runs] == ["SUCCESS", "SUCCESS"], running.last_words()
    assert_billed(world, used)
