"""Freshness policies: which assets have one, and that Dagster's own daemon turns them, on a real instance."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.freshness import FreshnessDaemon

from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.world import World

HOUR = timedelta(hours=1)
USAGE, EVENTS = dg.AssetKey(["metronome", "usage"]), dg.AssetKey(["solvimon", "usage_events"])
HEALTH, CUSTOMERS = dg.AssetKey(["solvimon", "billing_health"]), dg.AssetKey(["solvimon", "customers"])
VARIABLES = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-05T00:00:00Z"}
ROOT = Path(__file__).parents[2]


def windows(**variables: str) -> dict[str, tuple[float, float | None]]:
    """Hours until an asset is red, and until it warns, by asset."""
    definitions = build_definitions(Settings.from_environment({**VARIABLES, **variables}))
    found: dict[str, tuple[float, float | None]] = {}
    for spec in definitions.resolve_all_asset_specs():
        policy = spec.freshness_policy
        if policy is not None:
            assert isinstance(policy, type(dg.FreshnessPolicy.time_window(HOUR)))
            warn = policy.warn_window.to_timedelta() / HOUR if policy.warn_window else None
            found[spec.key.to_user_string()] = (policy.fail_window.to_timedelta() / HOUR, warn)
    return found


def test_what_a_schedule_refreshes_has_its_interval_and_what_may_be_late() -> None:
    assert windows() == {
        "metronome/usage": (4, 2),
        "solvimon/usage_events": (4, 2),
        "metronome/usage_sweep": (33, 31),
        "solvimon/reconciliation": (27, 25),
        "solvimon/billing_health": (27, 25),
    }


def test_a_workflow_has_policies_only_where_it_is_on() -> None:
    grouped = windows(USAGE_ENABLED="false", GROUPED_USAGE_ENABLED="true", ALERT_STALE_HOURS="1")
    assert grouped["solvimon/grouped_usage_events"] == (2, None)
    assert "solvimon/usage_events" not in grouped
    metric = "3f0c0000-0000-4000-8000-000000000000"
    assert windows(METRIC_CALCULATIONS=f'{{"{metric}": "PERIOD_TO_DATE"}}')["metronome/period_usage"] == (27, 25)
    assert "metronome/usage_sweep" not in windows(USAGE_ENABLED="false")


def test_every_asset_with_a_policy_is_refreshed_by_a_schedule_that_runs() -> None:
    definitions = build_definitions(Settings.from_environment(VARIABLES))
    repository = definitions.get_repository_def()
    refreshed = {
        key.to_user_string()
        for schedule in repository.schedule_defs
        if schedule.default_status == dg.DefaultScheduleStatus.RUNNING
        for key in repository.get_job(schedule.job_name).asset_layer.selected_asset_keys
    }
    assert set(windows()) <= refreshed


def test_the_instance_has_freshness_on() -> None:
    assert yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))["freshness"] == {"enabled": True}


@pytest.mark.filterwarnings("ignore:Property .ScheduleDefinition:DeprecationWarning")  # Dagster's own, of itself
def test_the_daemon_turns_assets_red_when_nothing_refreshes_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.run("billing_health").success
    world.instance.report_runless_asset_event(dg.AssetMaterialization(EVENTS, partition="2026-01-05-00:00"))
    assert world.instance.freshness_enabled
    now = datetime.now(UTC)
    with daemon(world, monkeypatch) as evaluate:
        fresh = evaluate(now)
        assert (fresh[EVENTS], fresh[HEALTH]) == (FreshnessState.PASS, FreshnessState.PASS)
        assert fresh[USAGE] == FreshnessState.UNKNOWN, "it was never materialized"
        assert fresh[CUSTOMERS] == FreshnessState.NOT_APPLICABLE

        assert evaluate(now + 3 * HOUR)[EVENTS] == FreshnessState.WARN
        stale = evaluate(now + 5 * HOUR)
        assert (stale[EVENTS], stale[HEALTH]) == (FreshnessState.FAIL, FreshnessState.PASS)
        assert evaluate(now + 28 * HOUR)[HEALTH] == FreshnessState.FAIL

        # What the daemon can't tell, and the alert on stale usage can: this hour is months old.
        world.instance.report_runless_asset_event(dg.AssetMaterialization(EVENTS, partition="2026-01-05-01:00"))
        assert evaluate(datetime.now(UTC))[EVENTS] == FreshnessState.PASS


class Evaluate:
    """An iteration of Dagster's daemon at some moment, and the states that it leaves in the instance."""

    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        self.workspace = workspace

    def __call__(self, at: datetime) -> dict[dg.AssetKey, FreshnessState]:
        with freeze_time(at):
            list(FreshnessDaemon().run_iteration(self.workspace))
        records = self.workspace.instance.get_freshness_state_records([USAGE, EVENTS, HEALTH, CUSTOMERS])
        return {key: record.freshness_state for key, record in records.items()}


@contextmanager
def daemon(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Evaluate]:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    target = LoadableTargetOrigin(module_name="metronome_pipeline.definitions", attribute="defs")
    origin = InProcessCodeLocationOrigin(target, location_name="metronome_pipeline")
    with WorkspaceProcessContext(world.instance, InProcessWorkspaceLoadTarget(origin)) as workspace:
        yield Evaluate(workspace)
