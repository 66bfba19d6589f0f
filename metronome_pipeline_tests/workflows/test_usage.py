"""Ingest usage, through real runs: what Solvimon counts is what Metronome reports."""

from decimal import Decimal

from metronome_pipeline_tests.world import World, failure, partitions_of


def test_usage_of_a_day_arrives_to_the_last_digit(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imports()
    world.use(customer, metric, 1, "0.1")
    world.use(customer, metric, 1, "0.2")
    world.use(customer, metric, 5, "12345678901234567890.123456789")
    result = world.ingest(0, 23)
    assert result.success, failure(result)
    assert world.counted(customer, metric) == {1: Decimal("0.3"), 5: Decimal("12345678901234567890.123456789")}
    assert len(partitions_of(result.all_events, ["solvimon", "usage_events"])) == 24


def test_a_second_run_of_the_same_hours_sends_nothing(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imports()
    world.use(customer, metric, 1, 5)
    assert world.ingest().success
    world.solvimon.forget_requests()
    assert world.ingest().success
    assert not [endpoint for endpoint in world.solvimon.requests() if endpoint.startswith("POST")]
