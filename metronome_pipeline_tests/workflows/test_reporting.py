"""A range of hours is reported in batches, and every hour of it all the same."""

import dagster as dg

from metronome_pipeline_tests.world import World, dagsters_statements, partition, partitions_of

USAGE, EVENTS = ["metronome", "usage"], ["solvimon", "usage_events"]
_WEEK = 168


def test_a_week_of_hours_is_stored_in_a_few_statements(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 3, 10)
    with dagsters_statements() as statements:
        result = world.ingest(0, _WEEK - 1)
    assert result.success
    for key in (USAGE, EVENTS):
        assert partitions_of(result.all_events, key) == [partition(hour) for hour in range(_WEEK)]
        latest = world.instance.get_latest_materialization_event(dg.AssetKey(key))
        assert latest is not None
        assert latest.asset_materialization is not None
        assert latest.asset_materialization.partition == partition(_WEEK - 1), "of either asset"
    # The run's own events and its checks, and one of planned and one of reported hours for each asset.
    assert sum(statement.startswith("INSERT INTO event_logs") for statement in statements) <= 40


def test_a_check_of_a_range_is_noted_once_and_not_for_each_of_its_hours(world: World) -> None:
    world.customer(), world.metric()
    world.imported()
    assert world.ingest(0, 23).success
    noted = world.sql(
        "SELECT check_name, execution_status, partition FROM asset_check_executions WHERE check_name = 'nothing_late'"
    )
    assert noted == [("nothing_late", "SUCCEEDED", None)]


def test_a_run_asks_nothing_about_the_shape_of_dagsters_tables_once_that_is_known(world: World) -> None:
    world.customer(), world.metric()
    world.imports()
    with dagsters_statements() as statements:
        world.imports()
    assert len(statements) > 50
    assert not [statement for statement in statements if "pg_catalog" in statement]
