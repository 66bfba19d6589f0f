"""Several account pairs on one Dagster instance and in one database: each sees its own runs and assets only."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from metronome_pipeline.alerts.here import Here
from metronome_pipeline.alerts.of_dagster import failed_runs
from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.naming import asset_key, pool_of
from metronome_pipeline_tests.alerts.receivers import Hook, hook
from metronome_pipeline_tests.automation.test_findings import found
from metronome_pipeline_tests.world import START, Api, World, failure, partition

HOUR = timedelta(hours=1)
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
STATUS = dg.DagsterRunStatus


@dataclass(frozen=True)
class Two:
    """Two accounts that share an instance and a database, and nothing else."""

    acme: World
    umbrella: World


@pytest.fixture
def two(world: World) -> Two:
    """Acme is the world's own pair, umbrella another one, with servers' stores of its own."""
    metronome = Api(world.metronome.url, {"Authorization": f"Bearer token-{uuid.uuid4()}"})
    solvimon = Api(world.solvimon.url, {"X-API-KEY": f"key-{uuid.uuid4()}"})
    metronome.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
    solvimon.call("PUT", "/_sandbox/store", {})
    environment = {"ACCOUNT_NAME": "umbrella", "METRONOME_ENVIRONMENT": "umbrella"}
    other = replace(world, metronome=metronome, solvimon=solvimon, environment=environment)
    return Two(replace(world, environment={"ACCOUNT_NAME": "acme"}), other)


@pytest.fixture
def receiver() -> Iterator[Hook]:
    with hook() as opened:
        yield opened


def billed(world: World) -> tuple[str, str]:
    """A customer and a metric, imported."""
    world.solvimon.set(match_all=True)
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    return customer, metric


def requested(world: World, hour: int) -> list[tuple[int, int]]:
    """The ranges of hours, counted from START, that the tick after an hour requests."""
    at = START + (hour + 1) * HOUR + timedelta(minutes=15)
    context = dg.build_schedule_context(instance=world.instance, scheduled_execution_time=at)
    requests = world.definitions().resolve_schedule_def("hourly_usage").evaluate_tick(context).run_requests or []
    return [(counted(request.tags[FIRST]), counted(request.tags[LAST])) for request in requests]


def counted(key: str) -> int:
    return int((datetime.strptime(key, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC) - START) / HOUR)


def launched(
    world: World, job: str, status: STATUS, *assets: dg.AssetKey, location: str | None = None, **tags: str
) -> str:
    """A run that Dagster has launched for an account and that nobody executes: of a job, or of assets."""
    own = {} if assets else {"account": world.environment["ACCOUNT_NAME"]}
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location or "here"), "__repository__")
    run = create_run_for_test(
        world.instance,
        job_name=job,
        status=status,
        tags={**own, **tags},
        asset_selection=frozenset(assets) or None,
        remote_job_origin=RemoteJobOrigin(repository, job),
    )
    return str(run.run_id)


def tell(world: World, receiver: Hook) -> None:
    """A tick of an account's alerts."""
    definitions = world.definitions(ALERT_WEBHOOK_URL=receiver.url, ALERT_STALE_HOURS="1")
    repository = definitions.get_repository_def()
    context = dg.build_sensor_context(
        instance=world.instance, repository_def=repository, resources=definitions.resources
    )
    repository.get_sensor_def("alerts").evaluate_tick(context)


def told(world: World, receiver: Hook) -> list[str]:
    """The subjects that a tick of an account's alerts sends."""
    tell(world, receiver)
    return receiver.taken()


def changes(world: World) -> dg.RunRequest | str:
    """What a first tick of the account's sensor of changes requests, or why it does not."""
    definitions = world.definitions()
    context = dg.build_sensor_context(instance=world.instance, resources=definitions.resources)
    found = definitions.resolve_sensor_def("account_changes").evaluate_tick(context)
    return found.run_requests[0] if found.run_requests else str(found.skip_message)


# Names ---------------------------------------------------------------------------------------------------------------


def names(settings: Settings) -> tuple[set[str], set[str], dict[str, dict[str, str]]]:
    """Asset keys with those that checks, dependencies and lineage name; pools; the tags of everything that has some."""
    definitions = build_definitions(settings)
    repository = definitions.get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    specs = list(definitions.resolve_all_asset_specs())
    keys = {spec.key for spec in specs} | {dep.asset_key for spec in specs for dep in spec.deps}
    keys |= {check.asset_key for check in repository.asset_graph.asset_check_keys}
    lineages = [spec.metadata.get("dagster/column_lineage") for spec in specs]
    keys |= {dep.asset_key for one in lineages if one for deps in one.deps_by_column.values() for dep in deps}
    tags = {spec.key.to_user_string(): dict(spec.tags) for spec in specs}
    others: list[Any] = [*jobs, *repository.schedule_defs, *repository.sensor_defs]
    tags |= {one.name: dict(one.tags) for one in others}
    return {key.to_user_string() for key in keys}, {pool for job in jobs for pool in job.graph.pools}, tags


def test_an_account_is_part_of_every_key_and_pool_and_tags_everything(two: Two) -> None:
    plain_keys, plain_pools, plain_tags = names(two.acme.settings(ACCOUNT_NAME=""))
    keys, pools, tags = names(two.acme.settings())
    assert keys == {f"acme/{key}" for key in plain_keys}
    assert {key.count("/") for key in plain_keys} == {1}
    assert plain_pools == {"metronome_api", "solvimon_api"}
    assert pools == {"acme_metronome_api", "acme_solvimon_api"}
    assert {name.removeprefix("acme/") for name in tags} == set(plain_tags)
    for name, of_one in tags.items():
        assert (of_one["account"], of_one["environment"]) == ("acme", "sandbox"), name
        assert of_one == {**plain_tags[name.removeprefix("acme/")], "account": "acme"}, name


def test_names_of_an_account_are_these(two: Two) -> None:
    settings = two.acme.settings()
    assert asset_key(settings, "solvimon", "usage_events").to_user_string() == "acme/solvimon/usage_events"
    assert pool_of(settings, "solvimon") == "acme_solvimon_api"


# What an account's automation sees ------------------------------------------------------------------------------------


def test_a_tick_is_not_disturbed_by_the_hours_and_runs_of_another_account(two: Two) -> None:
    events = asset_key(two.acme.settings(), "solvimon", "usage_events")
    for hour in range(3):
        done = dg.AssetMaterialization(events, partition=partition(hour))
        two.acme.instance.report_runless_asset_event(done)
    launched(two.acme, "ingest_usage", STATUS.QUEUED, **{FIRST: partition(3), LAST: partition(4)})
    launched(two.acme, "__ASSET_JOB", STATUS.STARTED, events, **{"dagster/partition": partition(5)})
    assert requested(two.acme, 6) == [(6, 6)]
    assert requested(two.umbrella, 6) == [(0, 6)]
    nobody = replace(two.acme, environment={})
    assert requested(nobody, 6) == [(0, 6)], "an account without a name is one of its own"


def test_older_hours_whose_run_failed_wait_in_their_own_account_only(two: Two) -> None:
    days = 9 * 24
    for world in (two.acme, two.umbrella):
        world.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key(world.settings(), "solvimon", "usage_events"), partition=partition(1))
        )
    launched(two.acme, "ingest_usage", STATUS.FAILURE, **{FIRST: partition(0), LAST: partition(days - 1)})
    assert requested(two.acme, days) == [(48, days)]
    assert requested(two.umbrella, days) == [(2, days), (0, 0)]


def test_the_import_of_one_account_neither_holds_up_nor_replaces_that_of_another(two: Two) -> None:
    launched(two.acme, "import_everything", STATUS.STARTED)
    assert "comes first" in str(changes(two.acme))
    request = changes(two.umbrella)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["requested_by"] == "umbrella/account_changes"
    run_id = launched(two.umbrella, "import_everything", STATUS.STARTED, **request.tags)
    run = two.umbrella.instance.get_run_by_id(run_id)
    assert run is not None
    two.umbrella.instance.report_run_failed(run)
    assert "failed less than 15 minutes ago" in str(changes(two.umbrella))
    third = replace(two.acme, environment={"ACCOUNT_NAME": "third"})
    assert isinstance(changes(third), dg.RunRequest)


def test_a_sweep_of_another_account_with_the_same_number_is_another_one(two: Two) -> None:
    found(two.acme)
    launched(two.umbrella, "correct_usage", STATUS.QUEUED, sweep="1")
    definitions = two.acme.definitions()
    context = dg.build_sensor_context(instance=two.acme.instance, resources=definitions.resources)
    ticked = definitions.resolve_sensor_def("sweep_findings").evaluate_tick(context)
    (request,) = ticked.run_requests or []
    assert request.tags["attempt"] == "1"
    assert request.tags["range"] == "from 2026-01-06 06:00 UTC on"
    launched(two.acme, "correct_usage", STATUS.QUEUED, sweep="1")
    ticked = definitions.resolve_sensor_def("sweep_findings").evaluate_tick(context)
    assert "is planning what sweep 1 found" in str(ticked.skip_message)


def test_a_reconciliation_and_a_sweep_report_under_their_accounts_keys(two: Two) -> None:
    world = two.acme
    customer, metric = billed(world)
    world.use(customer, metric, 1, 3)
    assert world.ingest(0, 23).success
    assert world.run("reconcile", tags={"dagster/partition": "2026-01-05"}).success
    assert world.run("sweep_usage").success
    assert world.run("billing_health").success
    for side, name in (("solvimon", "reconciliation"), ("metronome", "usage_sweep"), ("solvimon", "billing_health")):
        assert world.instance.get_latest_materialization_event(dg.AssetKey(["acme", side, name])), name
    check = dg.AssetCheckKey(dg.AssetKey(["acme", "solvimon", "reconciliation"]), "complete")
    (latest,) = world.instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
    assert latest.evaluation is not None
    assert latest.evaluation.passed


# Alerts --------------------------------------------------------------------------------------------------------------


def test_people_are_told_of_their_own_account_only(two: Two, receiver: Hook) -> None:
    for world, value in ((two.acme, 3), (two.umbrella, 5)):
        customer, metric = billed(world)
        world.use(customer, metric, 1, value)
        assert world.ingest().success
        assert world.counted(customer, metric) == {1: value}
        done = world.instance.get_materialized_partitions(asset_key(world.settings(), "solvimon", "usage_events"))
        assert done == {partition(hour) for hour in range(8)}
    two.acme.at(START + 8.5 * HOUR)
    assert told(two.acme, receiver) == told(two.umbrella, receiver) == []

    two.acme.metric("UNIQUE", name="Seats")
    two.acme.imported()
    assert two.acme.ingest().success
    two.acme.solvimon.faults({"path": "*", "kind": "status_403", "rate": 1})
    two.acme.customer("New")
    failed = two.acme.run("import_customers")
    assert not failed.success
    never_began = launched(
        two.acme, "__ASSET_JOB", STATUS.FAILURE, asset_key(two.acme.settings(), "solvimon", "products")
    )
    two.acme.at(START + 12 * HOUR)
    events = "acme/solvimon/usage_events"
    assert told(two.acme, receiver) == [
        f"[sandbox acme] Stale usage: 2 closed hours of {events} are not ingested, 1 hour after closing.",
        f"[sandbox acme] Run failure: Run {never_began[:8]} of acme/solvimon/products failed.",
        f"[sandbox acme] Run failure: Run {failed.run_id[:8]} of import_customers failed.",
        "[sandbox acme] Red check: Every metric is billed: not so for acme/metronome/usage.",
    ]
    (stale,) = told(two.umbrella, receiver)
    assert stale.startswith("[sandbox umbrella] Stale usage: 2 closed hours of umbrella/solvimon/usage_events")
    # What is well in one account ends nothing in another.
    assert two.umbrella.run("import_customers").success
    assert two.umbrella.ingest(8, 9).success
    assert told(two.acme, receiver) == []
    (over,) = told(two.umbrella, receiver)
    assert over.startswith("[sandbox umbrella] Over: Stale usage")


def test_failures_of_others_however_many_hide_none_of_ones_own(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metronome_pipeline.alerts.of_dagster._MOST_FAILURES", 2)
    launched(two.acme, "import_customers", STATUS.FAILURE, location="here")
    for _ in range(3):
        launched(two.umbrella, "import_customers", STATUS.FAILURE, location="there")
    now = datetime.now(UTC)
    assert len(list(failed_runs(Here(two.acme.instance, two.acme.settings(), "here"), now))) == 1
    (problem,) = failed_runs(Here(two.acme.instance, two.umbrella.settings(), "there"), now)
    assert len(problem.records) == 2


def test_pages_that_alerts_link_to_are_the_accounts(two: Two, receiver: Hook) -> None:
    world = two.acme
    customer, metric = billed(world)
    for value in (1000, -400):
        world.use(customer, metric, 1, value)
        result = world.ingest()
        assert result.success, failure(result)
    world.environment["DAGSTER_UI_URL"] = "http://dagster.test"
    world.at(START + 8.5 * HOUR)
    tell(world, receiver)
    links = [line for text in receiver.texts for line in text.splitlines() if line.startswith("http")]
    assert links == ["http://dagster.test/assets/acme/solvimon/usage_events?view=checks"]
