"""Tags of runs: workflow, environment, account and range, whoever launched the run and however."""

from collections.abc import Mapping, Sequence

import dagster as dg
import pytest

from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.tags import environment_of, range_of_keys, tags_of
from metronome_pipeline_tests.world import World, failure, partition

REQUIRED = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-01"}
OURS = ("workflow", "environment", "account", "range")
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
EIGHT_HOURS = "2026-01-05 00:00 to 2026-01-05 08:00 UTC"


def tags(world: World, run_id: str) -> dict[str, str]:
    """Our tags of a run, as they are stored."""
    run = world.instance.get_run_by_id(run_id)
    assert run is not None
    return {name: run.tags[name] for name in OURS if name in run.tags}


def from_assets(
    world: World, assets: Sequence[str], asked: Mapping[str, str] | None = None, **variables: str
) -> dict[str, str]:
    """Our tags of a run that was launched from the assets' own pages, without a job of ours."""
    job = world.definitions(**variables).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=world.instance,
        asset_selection=[dg.AssetKey.from_user_string(asset) for asset in assets],
        tags=dict(asked or {}),
    )
    assert result.success
    assert result.dagster_run.job_name.startswith("__")
    return tags(world, result.run_id)


def test_a_run_of_a_job_has_its_tags_and_its_range(world: World) -> None:
    world.metric("SUM")
    imported = world.imports()
    assert tags(world, imported.run_id) == {"workflow": "import_everything", "environment": "sandbox"}
    ingested = world.ingest(ACCOUNT_NAME="acme")
    assert tags(world, ingested.run_id) == {
        "workflow": "usage", "environment": "sandbox", "account": "acme", "range": EIGHT_HOURS
    }  # fmt: skip
    one = world.run("ingest_usage", tags={"dagster/partition": partition(3)})
    assert tags(world, one.run_id)["range"] == "2026-01-05 03:00 to 2026-01-05 04:00 UTC"
    named = world.run("ingest_usage", tags={"dagster/partition": partition(3), "range": "that hour"})
    assert tags(world, named.run_id)["range"] == "that hour", "what somebody wrote is kept"
    assert world.ingest(0, 23).success
    days = world.run("reconcile", tags={"dagster/partition": "2026-01-05"})
    assert tags(world, days.run_id) == {"workflow": "reconciliation", "environment": "sandbox", "range": "2026-01-05"}
    retry = world.run("retry_quarantine", config={"ops": {"retry": {"config": {"asked_by": "Ana"}}}})
    assert tags(world, retry.run_id) == {"workflow": "retry_quarantine", "environment": "sandbox"}


def test_a_run_that_was_launched_from_assets_gets_the_same_tags_when_it_begins(world: World) -> None:
    customers = ["metronome/customers", "solvimon/customers"]
    assert from_assets(world, customers) == {"workflow": "import_customers", "environment": "sandbox"}
    several = from_assets(world, [*customers, "metronome/billable_metrics", "solvimon/meters", "metronome/products"])
    assert several["workflow"] == "import_customers, import_meters, import_products"
    usage = ["metronome/usage", "solvimon/usage_events"]
    asked = {FIRST: partition(0), LAST: partition(7)}
    expected = {"workflow": "usage", "environment": "sandbox", "range": EIGHT_HOURS}
    assert from_assets(world, usage, asked) == expected
    own = [f"acme/{asset}" for asset in usage]
    assert from_assets(world, own, asked, ACCOUNT_NAME="acme") == {**expected, "account": "acme"}
    others = {"metronome/usage_sweep": "sweep", "solvimon/billing_health": "billing_health"}
    for asset, workflow in others.items():
        assert from_assets(world, [asset]) == {"workflow": workflow, "environment": "sandbox"}


def test_a_run_that_fails_is_tagged_all_the_same(world: World) -> None:
    world.metronome.faults({"path": "*", "kind": "status_401", "rate": 1})
    job = world.definitions().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=world.instance, asset_selection=[dg.AssetKey(["metronome", "customers"])], raise_on_error=False
    )
    assert not result.success
    assert tags(world, result.run_id) == {"workflow": "import_customers", "environment": "sandbox"}


def test_a_run_says_where_it_went_whatever_the_tags_said_that_it_was_launched_with(world: World) -> None:
    world.metric("SUM")
    again = world.run("import_customers", tags={"environment": "live", "workflow": "import_customers"})
    assert again.success
    assert tags(world, again.run_id)["environment"] == "sandbox"


@pytest.mark.parametrize(
    ("job", "config"),
    [
        ("import_customers", {}),
        ("ingest_usage", {}),
        ("ingest_period_usage", {}),
        ("reconcile", {}),
        ("sweep_usage", {}),
        ("billing_health", {}),
        ("retire_usage", {}),
        ("retry_quarantine", {"ops": {"retry": {"config": {"asked_by": "Ana"}}}}),
    ],
)
def test_a_run_of_another_account_is_refused_before_anything_is_done(
    world: World, job: str, config: Mapping[str, object]
) -> None:
    days = {"dagster/partition": "2026-01-05"}
    asked = {"ingest_usage": {"dagster/partition": partition(0)}, "reconcile": days, "ingest_period_usage": days}
    for variables, here in (({"ACCOUNT_NAME": "umbrella"}, "those of umbrella"), ({}, "without ACCOUNT_NAME")):
        launched_for = {"account": "acme", **asked.get(job, {})}
        result = world.run(job, config=config, tags=launched_for, **variables)
        assert not result.success
        assert f"launched for the account acme, and the settings where it runs are {here}" in failure(result)
        assert tags(world, result.run_id)["account"] == "acme"
    assert world.metronome.requests() == world.solvimon.requests() == {}


@pytest.mark.parametrize(
    ("metronome", "solvimon", "live", "environment"),
    [
        ("https://api.metronome.com", "https://test.api.solvimon.com", "false", "test"),
        ("https://api.metronome.com", "https://api.solvimon.com", "true", "live"),
        ("https://api.metronome.com", "https://billing.example.com", "true", "live"),
        ("https://api.metronome.com", "http://127.0.0.1:8002", "false", "sandbox"),
        ("http://127.0.0.1:8001", "https://test.api.solvimon.com", "false", "test"),
        ("http://127.0.0.1:8001", "https://api.solvimon.com", "true", "live"),
    ],
)
def test_the_environment_is_where_events_go(metronome: str, solvimon: str, live: str, environment: str) -> None:
    settings = Settings.from_environment(
        {**REQUIRED, "METRONOME_BASE_URL": metronome, "SOLVIMON_BASE_URL": solvimon, "SOLVIMON_LIVE": live}
    )
    assert environment_of(settings) == environment


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ("2026-01-05-00:00", "2026-01-05-00:00", "2026-01-05 00:00 to 2026-01-05 01:00 UTC"),
        ("2025-12-31-22:00", "2025-12-31-23:00", "2025-12-31 22:00 to 2026-01-01 00:00 UTC"),
        ("2026-01-05", "2026-01-05", "2026-01-05"),
        ("2026-01-05", "2026-02-01", "2026-01-05 to 2026-02-01"),
    ],
)
def test_a_range_is_told_in_words(first: str, last: str, words: str) -> None:
    assert range_of_keys(first, last) == words
    assert words.isascii()
    assert len(words) <= 63


def test_tags_are_what_dagster_takes_for_an_asset() -> None:
    settings = Settings.from_environment({**REQUIRED, "ACCOUNT_NAME": "a" * 50})
    assert dg.AssetSpec("one", tags=tags_of(settings, "usage")).tags["account"] == "a" * 50
