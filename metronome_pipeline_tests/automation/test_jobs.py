"""The jobs, and a backfill as Dagster's UI makes it, which has no job of ours."""

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import dagster as dg
import pytest
from dagster._core.execution.api import execute_run
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._utils.hosted_user_process import recon_job_from_origin

from metronome_pipeline.automation.runs import hours_of
from metronome_pipeline_tests.world import START, World, partition

SOURCES = {"customers": "customers", "meters": "billable_metrics", "products": "products"}
HOURS = 72
WORKFLOWS = {
    **{f"{verb}_{usage}": usage for verb in ("ingest", "correct") for usage in ("usage", "grouped_usage")},
    "ingest_period_usage": "period_usage",
    **dict.fromkeys(("sweep_usage", "sweep_usage_by_hour", "sweep_closed_periods"), "sweep"),
    "reconcile": "reconciliation",
    "retire_usage": "retention",
}
"""Jobs whose workflow has another name than they have."""


def test_each_job_does_its_workflow_and_says_so(world: World) -> None:
    definitions = world.definitions(RESOURCE_OWNERS="team:data")
    expected = {
        "import_customers": {"metronome/customers", "solvimon/customers"},
        "import_meters": {"metronome/billable_metrics", "solvimon/meters"},
        "import_products": {"metronome/products", "solvimon/products"},
        "import_everything": {f"metronome/{source}" for source in SOURCES.values()}
        | {f"solvimon/{it}" for it in SOURCES},
        "ingest_usage": {"metronome/usage", "solvimon/usage_events"},
        "ingest_grouped_usage": {"metronome/grouped_usage", "solvimon/grouped_usage_events"},
        "ingest_period_usage": {"metronome/period_usage", "solvimon/period_usage_events"},
        "sweep_usage": {"metronome/usage_sweep"},
        "sweep_usage_by_hour": {"metronome/usage_sweep"},
        "sweep_closed_periods": {"metronome/usage_sweep"},
        "correct_usage": {"solvimon/usage_events"},
        "correct_grouped_usage": {"solvimon/grouped_usage_events"},
        "reconcile": {"solvimon/reconciliation"},
        "billing_health": {"solvimon/billing_health"},
        "retry_quarantine": set(),
        "retire_usage": set(),
    }
    jobs = {job.name: job for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")}
    found = {
        name: {key.to_user_string() for key in job.asset_layer.executable_asset_keys} for name, job in jobs.items()
    }
    assert found == expected
    for name, job in jobs.items():
        assert job.description
        assert job.tags["workflow"] == WORKFLOWS.get(name, name)
        assert job.metadata["owners"].value == "team:data"


def test_the_imports_run_in_the_order_of_their_dependencies(world: World) -> None:
    result = world.run("import_everything")
    ended = [event.step_key for event in result.all_events if event.is_step_success]
    for source, destination in [(f"metronome__{there}", f"solvimon__{here}") for here, there in SOURCES.items()]:
        assert ended.index(source) < ended.index(destination)
    assert ended.index("solvimon__meters") < ended.index("solvimon__products")


@pytest.fixture
def instance(world: World) -> Iterator[dg.DagsterInstance]:
    """The instance of this world, as the daemon has it. What it launches waits until the test executes it."""
    url = world.database_url.replace("postgresql://", "postgresql+psycopg2://")
    launcher = {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"}
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    overrides = {
        "storage": {"postgres": {"postgres_url": url}},
        "run_launcher": launcher,
        "run_coordinator": coordinator,
    }
    with dg.DagsterInstance.local_temp(overrides=overrides) as made:
        yield made


@pytest.fixture
def code_location(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[WorkspaceProcessContext]:
    """The code location as Dagster loads it: from the environment alone."""
    settings = world.settings()
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "DAGSTER_POSTGRES_URL": world.database_url,
        "METRONOME_BASE_URL": settings.metronome_base_url,
        "METRONOME_BEARER_TOKEN": settings.metronome_bearer_token.get_secret_value(),
        "METRONOME_ENVIRONMENT": settings.metronome_environment,
        "METRONOME_REQUESTS_PER_SECOND": "1000",
        "SOLVIMON_BASE_URL": settings.solvimon_base_url,
        "SOLVIMON_API_KEY": settings.solvimon_api_key.get_secret_value(),
        "USAGE_START": settings.usage_start.isoformat(),
    }.items():
        monkeypatch.setenv(name, value)
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name="metronome_pipeline.definitions"), location_name="metronome_pipeline"
    )
    with create_test_daemon_workspace_context(InProcessWorkspaceLoadTarget(origin), instance) as context:
        yield context


def test_a_backfill_from_the_ui_is_one_run_for_its_range_and_does_it(
    world: World, instance: dg.DagsterInstance, code_location: WorkspaceProcessContext
) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imports()
    for hour in (0, 30, HOURS - 1, HOURS):
        world.use(customer, metric, hour, 1)
    assets = [dg.AssetKey(["metronome", "usage"]), dg.AssetKey(["solvimon", "usage_events"])]
    instance.add_backfill(
        PartitionBackfill.from_asset_partitions(
            backfill_id="january",
            asset_graph=code_location.create_request_context().asset_graph,
            partition_names=[partition(hour) for hour in range(HOURS)],
            asset_selection=assets,
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
    )
    world.metronome.forget_requests()

    def iterate() -> BulkActionStatus:
        errors = [error for error in execute_backfill_iteration(code_location, logging.getLogger("backfill")) if error]
        assert errors == []
        found = instance.get_backfill("january")
        assert found
        return found.status

    assert iterate() == BulkActionStatus.REQUESTED
    (run,) = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": "january"}))
    assert run.job_name == "__ASSET_JOB"
    assert len(hours_of(run)) == HOURS
    # While it is under way, the schedule leaves its hours alone.
    schedule = world.definitions().resolve_schedule_def("hourly_usage")
    at = START + (HOURS + 1) * timedelta(hours=1) + timedelta(minutes=15)
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=at)
    (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.tags["dagster/asset_partition_range_start"] == partition(HOURS)

    execute_run(recon_job_from_origin(cast("JobPythonOrigin", run.job_code_origin)), run, instance)
    assert iterate() == BulkActionStatus.COMPLETED_SUCCESS
    assert world.counted(customer, metric) == {0: 1, 30: 1, HOURS - 1: 1}
    assert instance.get_materialized_partitions(assets[1]) == {partition(hour) for hour in range(HOURS)}
    assert world.metronome.requests()["POST /v1/usage"] == 1
    done = instance.get_run_by_id(run.run_id)
    assert done is not None
    assert (done.tags["workflow"], done.tags["environment"]) == ("usage", "sandbox")
    assert done.tags["range"] == "2026-01-05 00:00 to 2026-01-08 00:00 UTC"
