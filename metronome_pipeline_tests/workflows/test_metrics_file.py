"""The metrics file in real runs: it decides what is billed and how, and a metric that it leaves out is left alone."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from metronome_pipeline_tests.automation.test_sensors import Watch
from metronome_pipeline_tests.workflows.periods import close, days_billed
from metronome_pipeline_tests.world import START, World, failure

KEYS = [["region"], ["region", "tier"]]
GROUPED = {"GROUPED_USAGE_ENABLED": "true"}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def use_file(world: World, text: str) -> None:
    Path("metrics.yaml").write_text(text, encoding="utf-8")
    world.environment["METRICS_FILE"] = "metrics.yaml"


def test_the_file_decides_slicing_calculation_and_what_is_billed(world: World) -> None:
    world.at(START)
    customer = world.customer()
    by_tier, plain = world.metric(name="By tier", group_keys=KEYS), world.metric(name="Plain", group_keys=KEYS)
    users, left_out = world.metric("UNIQUE", name="Users"), world.metric(name="Left out", group_keys=KEYS)
    use_file(
        world,
        f"""
metrics:
  {by_tier}: {{name: By tier, slicing: [region, tier]}}
  {plain}: {{slicing: ungrouped}}
  {users}: {{calculation: PERIOD_TO_DATE}}
  {left_out}: {{billed: false}}
""",
    )
    world.environment |= GROUPED
    world.imports()
    assert set(world.outcomes("meters")) == {by_tier, plain, users}
    for metric in (by_tier, plain, left_out):
        world.use(customer, metric, 1, 3, region="eu", tier="gold")
        world.use(customer, metric, 1, 4, region="eu", tier="free")
    world.use(customer, users, 1, "ann")
    world.use(customer, users, 2, "bob")
    daily = close(world, 0)
    assert daily.success, failure(daily)
    for job in ("ingest_usage", "ingest_grouped_usage"):
        hourly = world.ingest(0, 3, job=job)
        assert hourly.success, failure(hourly)
        assert all(check.passed for check in hourly.get_asset_check_evaluations() if check.check_name != "complete")
    assert world.slices(customer, by_tier, 1) == {
        (("region", "eu"), ("tier", "free")): 4,
        (("region", "eu"), ("tier", "gold")): 3,
    }
    assert world.slices(customer, plain, 1) == {(): 7}
    assert days_billed(world, customer, users) == {0: Decimal(2)}
    assert not [event for event in world.stored_events() if event["meter_reference"] == left_out]
    assert world.sql("SELECT count(*) FROM metronome.usage WHERE metric_id = %s", left_out) == [(0,)]


def by_variable(world: World, billed: str, left_out: str) -> None:
    del left_out
    world.environment["USAGE_METRICS"] = billed


def by_file(world: World, billed: str, left_out: str) -> None:
    use_file(world, f"metrics:\n  {billed}: {{name: Billed}}\n  {left_out}: {{billed: false}}\n")


def by_file_alone(world: World, billed: str, left_out: str) -> None:
    del left_out
    use_file(world, f"others: {{billed: false}}\nmetrics:\n  {billed}: {{name: Billed}}\n")


@pytest.mark.parametrize("leave_out", [by_variable, by_file, by_file_alone])
def test_a_metric_that_is_switched_off_is_left_as_it_stands_whichever_setting_says_so(
    world: World, leave_out: Callable[[World, str, str], None]
) -> None:
    customer = world.customer()
    billed, left_out = world.metric(name="Billed"), world.metric(name="Switched off")
    world.product(type="USAGE", initial={"name": "Billed", "billable_metric_id": billed})
    world.imports()
    for metric in (billed, left_out):
        world.use(customer, metric, 1, 500)
    assert world.ingest(0, 3).success
    leave_out(world, billed, left_out)
    # What would be corrected, held by the brake, and imported again.
    for metric in (billed, left_out):
        world.use(customer, metric, 1, 7)
    world.use(customer, left_out, 2, -400)
    world.metric(name="Renamed", id=left_out)
    assert world.run("import_meters").success
    again = world.ingest(0, 3)
    assert again.success, failure(again)
    checks = {check.check_name: check for check in again.get_asset_check_evaluations()}
    assert checks["every_metric_is_billed"].passed
    assert checks["nothing_held_by_the_brake"].passed
    assert world.counted(customer, billed) == {1: 507}
    assert world.counted(customer, left_out) == {1: 500}
    assert world.made("meters", left_out)["name"] == "Switched off"
    assert "Nothing to import" in Watch(world).skips()


def test_another_slicing_in_the_file_is_refused_until_it_is_switched(world: World) -> None:
    customer, metric = world.customer(), world.metric(name="Calls", group_keys=KEYS)
    world.environment |= GROUPED
    world.environment["METRIC_SLICINGS"] = json.dumps({metric: ["region"]})
    world.imports()
    world.use(customer, metric, 1, 3, region="eu", tier="gold")
    assert world.ingest(0, 3, job="ingest_grouped_usage").success
    del world.environment["METRIC_SLICINGS"]
    use_file(world, f"metrics:\n  {metric}: {{slicing: [region, tier]}}\n")
    result = world.ingest(0, 3, job="ingest_grouped_usage")
    (check,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "every_metric_is_billed")
    assert not check.passed
    assert world.slices(customer, metric, 1) == {(("region", "eu"),): 3}
