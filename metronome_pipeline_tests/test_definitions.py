"""What Dagster loads: every asset, job, schedule, sensor and check, and that it says what it is."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from syrupy.assertion import SnapshotAssertion

from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.migrations import migrate

SETTINGS = {
    "METRONOME_BEARER_TOKEN": "a-token",
    "SOLVIMON_API_KEY": "a-key",
    "USAGE_START": "2026-01-05T00:00:00Z",
}
_LOAD = """
import dagster as dg
from metronome_pipeline.definitions import defs
found = defs() if callable(defs) else defs
dg.Definitions.validate_loadable(found)
print("loaded")
"""


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(Settings.from_environment(SETTINGS))


def test_the_definitions_are_these(definitions: dg.Definitions, snapshot: SnapshotAssertion) -> None:
    repository = definitions.get_repository_def()
    assert {
        "assets": {spec.key.to_user_string(): _asset(spec) for spec in definitions.resolve_all_asset_specs()},
        "checks": {
            f"{check.asset_key.to_user_string()}:{check.name}": _first_line(check.description)
            for check in _checks(definitions)
        },
        "jobs": {
            job.name: {
                "description": _first_line(job.description),
                "assets": sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys),
                "tags": dict(job.tags),
            }
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "schedules": {
            schedule.name: {
                "job": schedule.job_name,
                "cron": schedule.cron_schedule,
                "timezone": schedule.execution_timezone,
                "status": schedule.default_status.value,
                "tags": dict(schedule.tags),
                "description": _first_line(schedule.description),
            }
            for schedule in repository.schedule_defs
        },
        "sensors": {
            sensor.name: {
                "jobs": sorted(target.job_name for target in sensor.targets),
                "seconds": sensor.minimum_interval_seconds,
                "status": sensor.default_status.value,
                "tags": dict(sensor.tags),
                "description": _first_line(sensor.description),
            }
            for sensor in repository.sensor_defs
        },
    } == snapshot


def test_every_asset_says_what_it_is_whose_it_is_and_what_it_holds(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        name = spec.key.to_user_string()
        assert spec.description, name
        assert spec.owners, name
        assert spec.group_name in {"metronome", "solvimon"}, name
        assert spec.kinds, name
        schema = spec.metadata["dagster/column_schema"]
        assert schema.columns, name
        assert all(column.description for column in schema.columns), name
    for check in _checks(definitions):
        assert check.description, check.name


def test_column_schemas_are_those_of_the_tables_in_postgres(definitions: dg.Definitions, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        migrate(connection)
        for spec in definitions.resolve_all_asset_specs():
            told = [(column.name, column.type) for column in spec.metadata["dagster/column_schema"].columns]
            table = str(spec.metadata["dagster/table_name"])
            assert told == _columns(connection, table), f"{spec.key.to_user_string()} is the table {table}"


def test_every_job_schedule_and_sensor_says_what_it_does(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    everything: list[Any] = [*jobs, *repository.schedule_defs, *repository.sensor_defs]
    for defined in everything:
        assert defined.description, defined.name


def test_the_definitions_load_without_any_warning(tmp_path: Path) -> None:
    environment = {**os.environ, **SETTINGS, "METRONOME_PIPELINE_HOME": str(tmp_path)}
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", _LOAD],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout == "loaded\n"
    assert "Warning" not in loaded.stderr


def test_a_missing_setting_is_one_sentence_at_load(tmp_path: Path) -> None:
    environment = {**os.environ, **SETTINGS, "SOLVIMON_API_KEY": ""}
    loaded = subprocess.run(
        [sys.executable, "-c", _LOAD],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert loaded.returncode == 1
    assert "SOLVIMON_API_KEY" in loaded.stderr.splitlines()[-1]
    assert "metronome-pipeline dev" in loaded.stderr.splitlines()[-1]
    assert SETTINGS["METRONOME_BEARER_TOKEN"] not in loaded.stderr


def _asset(spec: dg.AssetSpec) -> dict[str, Any]:
    return {
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "group": spec.group_name,
        "kinds": sorted(spec.kinds),
        "owners": list(spec.owners),
        "tags": {name: value for name, value in spec.tags.items() if not name.startswith("dagster/kind/")},
        "partitions": str(spec.partitions_def) if spec.partitions_def else None,
        "table": spec.metadata["dagster/table_name"],
        "description": _first_line(spec.description),
    }


def _checks(definitions: dg.Definitions) -> list[dg.AssetCheckSpec]:
    graph = definitions.resolve_asset_graph()
    return [graph.get_check_spec(key) for key in sorted(graph.asset_check_keys, key=lambda key: key.to_user_string())]


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _columns(connection: psycopg.Connection[Any], table: str) -> list[tuple[str, str]]:
    rows = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    )
    short = {"integer": "int", "timestamp with time zone": "timestamptz"}
    return [(name, short.get(kind, kind)) for name, kind in rows]
