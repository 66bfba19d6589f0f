"""Runs that end between reading and planning: what was read is planned by a later run, whatever its hours."""

from datetime import timedelta

from metronome_pipeline_tests.world import START, World, failure

DAY = 24


def test_usage_of_a_new_customer_that_was_read_and_never_planned_is_still_billed(world: World) -> None:
    """A week is read while the one before it is sent. Where sending fails, it was read and not planned."""
    config = {"look_back_days": 8, "fill_gaps": True}
    world.at(START + timedelta(days=24, minutes=30))
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 3, 1)
    assert world.ingest(0, 24 * DAY - 1).success
    new = world.customer("New")
    world.use_hours(new, metric, {5: 10, 9 * DAY: 20, 16 * DAY: 30})
    world.imported()
    world.at(START + timedelta(days=24, hours=1, minutes=30))
    world.solvimon.faults({"path": "/v1/events*", "method": "POST", "kind": "status_401"})
    assert not world.ingest(24 * DAY, 24 * DAY, config=config).success
    read = "SELECT %s::timestamptz <@ covered FROM metronome.coverage WHERE customer_id = %s"
    assert world.sql(read, START + timedelta(days=9), new) == [(True,)]
    world.solvimon.faults()
    result = world.ingest(24 * DAY, 24 * DAY, config=config)
    assert result.success, failure(result)
    assert world.counted(new, metric) == {5: 10, 9 * DAY: 20, 16 * DAY: 30}
    world.metronome.forget_requests()
    assert world.ingest(24 * DAY, 24 * DAY, config=config).success
    assert world.metronome.requests()["POST /v1/usage"] == 2, "and it is not read once more"
