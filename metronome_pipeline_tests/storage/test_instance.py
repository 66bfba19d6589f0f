"""Dagster's own instance from the project's ``dagster.yaml``: stored here, read by another process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import serialize_value

from metronome_pipeline.settings import SettingsError
from metronome_pipeline.storage.embedded import EmbeddedPostgres, embedded_postgres
from metronome_pipeline.storage.instance import EmbeddedOrPostgresStorage

ROOT = Path(__file__).parent.parent.parent

# What Dagster's daemon, code server and run workers do: open the instance from its description.
READ = """
import os, sys
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import deserialize_value
with DagsterInstance.from_ref(deserialize_value(sys.argv[1], InstanceRef)) as instance:
    run = instance.get_run_by_id(sys.argv[2])
    print(run.status.value, len(instance.all_logs(run.run_id)) > 0, os.environ["DAGSTER_EVENT_BATCH_SIZE"])
"""


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]), backfill_policy=None)
def letters() -> None:
    """An asset that does nothing."""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # Set first, so that what the storage sets by itself is taken back after the test.
    for name in ("DAGSTER_POSTGRES_URL", "METRONOME_PIPELINE_HOME", "DAGSTER_EVENT_BATCH_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@contextmanager
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path), config_dir=str(ROOT))) as found:
        yield found


def stored_run(found: dg.DagsterInstance) -> dg.DagsterRun:
    result = dg.materialize([letters], instance=found, partition_key="a")
    assert result.success
    run = found.get_run_by_id(result.run_id)
    assert run is not None
    assert found.get_materialized_partitions(letters.key) == {"a"}
    return run


def read_by_another_process(found: dg.DagsterInstance, run_id: str) -> str:
    program = (sys.executable, "-c", READ, serialize_value(found.get_ref()), run_id)
    return subprocess.run(program, check=True, capture_output=True, text=True, env={**os.environ}).stdout.strip()


def test_without_any_setting_runs_are_kept_in_the_embedded_server(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = postgres.folder / "of-its-own"
    monkeypatch.setenv("METRONOME_PIPELINE_HOME", str(home))
    try:
        with instance(tmp_path) as found:
            run = stored_run(found)
            assert read_by_another_process(found, run.run_id) == "SUCCESS True 1000"
        with instance(tmp_path) as again:
            assert again.get_run_by_id(run.run_id) is not None
    finally:
        embedded_postgres(home).stop()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_with_a_url_of_any_spelling_runs_are_kept_there(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database_url.replace("postgresql", scheme, 1))
    with instance(tmp_path) as found:
        run = stored_run(found)
    assert not (tmp_path / ".metronome_pipeline").exists()
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT status FROM runs WHERE run_id = %s", [run.run_id]).fetchone() == ("SUCCESS",)


def test_another_process_finds_the_database_without_being_told_the_password(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database_url)
    with instance(tmp_path) as found:
        assert "postgresql" not in serialize_value(found.get_ref())
        run = stored_run(found)
        assert read_by_another_process(found, run.run_id) == "SUCCESS True 1000"


def test_a_batch_size_that_is_set_stays(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database_url)
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "7")
    with instance(tmp_path) as found:
        stored_run(found)
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == "7"


def test_the_instance_queues_monitors_and_retries_crashes_only(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database_url)
    with instance(tmp_path) as found:
        assert found.run_monitoring_enabled
        assert found.run_retries_enabled
        assert found.run_retries_max_retries == 2
        assert not found.run_retries_retry_on_asset_or_op_failure
        assert not found.telemetry_enabled
        queue = found.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 10
        assert isinstance(found.get_ref().storage, EmbeddedOrPostgresStorage)


def test_a_wrong_url_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "sqlite:///hush")
    with pytest.raises(SettingsError, match="DAGSTER_POSTGRES_URL is not a Postgres URL"), instance(tmp_path):
        pytest.fail("opened")


def test_a_pool_has_the_default_limit_whoever_meets_it_and_however_it_changes(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database_url)
    with instance(tmp_path) as found, ThreadPoolExecutor(4) as runs:
        pools = [f"pool_{number}" for number in range(5)]
        list(runs.map(found.event_log_storage.initialize_concurrency_limit_to_default, pools * 4))
        assert limits(found) == dict.fromkeys(pools, (4, 4))
        found.event_log_storage.set_concurrency_slots("pool_0", 1)

    changed = tmp_path / "changed"
    changed.mkdir()
    written = (ROOT / "dagster.yaml").read_text()
    (changed / "dagster.yaml").write_text(written.replace("default_limit: 4", "default_limit: 2"))
    with dg.DagsterInstance.from_config(str(changed)) as found:
        for pool in pools:
            found.event_log_storage.initialize_concurrency_limit_to_default(pool)
        assert limits(found) == {"pool_0": (1, 1), **dict.fromkeys(pools[1:], (2, 2))}


def limits(found: dg.DagsterInstance) -> dict[str, tuple[int | None, int]]:
    """Each pool's limit, and how many places it has."""
    storage = found.event_log_storage
    return {
        pool.name: (pool.limit, storage.get_concurrency_info(pool.name).slot_count)
        for pool in storage.get_pool_limits()
    }
