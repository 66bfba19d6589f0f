"""The launchpad: what Dagster fills in is a valid configuration, explained, and holds nothing that settings decide."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap
from dagster._serdes import serialize_value

from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.world import World, failure

VARIABLES = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-05T00:00:00Z"}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def jobs() -> list[dg.JobDefinition]:
    """Every job; among them Dagster's own, for assets that are launched from the graph."""
    return list(build_definitions(Settings.from_environment(VARIABLES)).get_repository_def().get_all_jobs())


def filled_in(job: dg.JobDefinition) -> dict[str, Any]:
    """What the launchpad holds when it is opened."""
    snapshot = job.get_job_snapshot()
    schema = snapshot.config_schema_snapshot
    root = snapshot.mode_def_snaps[0].root_config_key
    assert root is not None
    return dict(yaml.safe_load(default_values_yaml_from_type_snap(schema, schema.get_config_snap(root))) or {})


def test_what_the_launchpad_fills_in_can_be_launched(jobs: list[dg.JobDefinition]) -> None:
    for job in jobs:
        if job.name != "retry_quarantine":
            dg.validate_run_config(job, filled_in(job))


def test_only_a_release_from_quarantine_asks_for_more_and_that_is_who_wants_it(jobs: list[dg.JobDefinition]) -> None:
    (retry,) = (job for job in jobs if job.name == "retry_quarantine")
    config = filled_in(retry)
    with pytest.raises(dg.DagsterInvalidConfigError, match='required config entry "asked_by"') as refused:
        dg.validate_run_config(retry, config)
    assert len(refused.value.errors) == 1
    config["ops"]["retry"]["config"]["asked_by"] = "somebody@example.com"
    dg.validate_run_config(retry, config)


def test_each_sweep_starts_with_its_own_kind(jobs: list[dg.JobDefinition]) -> None:
    kinds = {
        job.name: filled_in(job)["ops"]["metronome__usage_sweep"]["config"]["kind"]
        for job in jobs
        if job.name.startswith("sweep_")
    }
    assert kinds
    assert all(name == f"sweep_{kind}" for name, kind in kinds.items())


def test_every_field_of_every_configuration_is_explained(jobs: list[dg.JobDefinition]) -> None:
    explained = {path: text for job in jobs for path, text in _fields_of_ops(job)}
    assert {"usage.look_back_days", "period_usage.fill_gaps", "reconciliation.deep", "retry.asked_by"} <= set(explained)
    for path, text in explained.items():
        assert (text or "").endswith("."), path


def test_no_launchpad_offers_what_the_settings_decide(jobs: list[dg.JobDefinition]) -> None:
    for job in jobs:
        assert not filled_in(job).get("resources"), job.name


@pytest.mark.filterwarnings("ignore:Property .ScheduleDefinition:DeprecationWarning")  # Dagster's own, of itself
def test_no_credential_is_in_what_dagster_keeps_of_the_definitions() -> None:
    secret = {**VARIABLES, "METRONOME_BEARER_TOKEN": "hush-token", "SOLVIMON_API_KEY": "hush-key"}
    repository = build_definitions(Settings.from_environment(secret)).get_repository_def()
    kept = serialize_value(RepositorySnap.from_def(repository))
    assert "test.api.solvimon.com" in kept, "people see which account it is"
    assert "hush" not in kept


def test_no_run_can_be_sent_to_another_address(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = world.settings()
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", world.database_url)
    monkeypatch.setenv("METRONOME_BEARER_TOKEN", settings.metronome_bearer_token.get_secret_value())
    monkeypatch.setenv("SOLVIMON_API_KEY", settings.solvimon_api_key.get_secret_value())
    customer = world.customer()
    definitions = build_definitions(settings)
    job = definitions.resolve_job_def("import_customers")

    for resource, config in (
        ("solvimon", {"base_url": "https://elsewhere.example.com"}),
        ("metronome", {"base_url": "https://elsewhere.example.com"}),
        ("store", {"solvimon_platform_id": "plat_of_somebody_else"}),
    ):
        with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
            job.execute_in_process(instance=world.instance, run_config={"resources": {resource: {"config": config}}})

    result = job.execute_in_process(instance=world.instance, raise_on_error=False)
    assert result.success, failure(result)
    assert world.outcomes("customers") == {customer: ("created", None)}
    sensor = definitions.get_repository_def().get_sensor_def("account_changes")
    with dg.build_sensor_context(instance=world.instance, resources=definitions.resources) as context:
        assert sensor.evaluate_tick(context).skip_message is None, "it reads through the same resources"


def _fields_of_ops(job: dg.JobDefinition) -> Iterator[tuple[str, str | None]]:
    """Each field that an op's configuration has, with its description."""
    for node in job.nodes_in_topological_order:
        schema = node.definition.config_field
        if schema is not None:
            for name, field in getattr(schema.config_type, "fields", {}).items():
                yield f"{node.name}.{name}", field.description
