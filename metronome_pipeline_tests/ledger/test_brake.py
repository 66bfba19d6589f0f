"""A plan that would take back an implausible share of what was billed stops and asks."""

from datetime import timedelta
from decimal import Decimal

from metronome_pipeline.ledger.brakes import BrakeLimits
from metronome_pipeline_tests.ledger.books import Books
from metronome_pipeline_tests.world import START, World, failure


def _move(world: World, alias: str, source: str, target: str) -> None:
    world.metronome.call("POST", f"/v1/customers/{source}/setIngestAliases", {"ingest_aliases": []})
    world.metronome.call("POST", f"/v1/customers/{target}/setIngestAliases", {"ingest_aliases": [alias]})


def _held(world: World) -> set[tuple[str | None, str]]:
    rows = world.sql("SELECT customer_id::text, digest FROM ledger.brakes WHERE released_at IS NULL")
    return {(customer, digest) for customer, digest in rows}


def test_a_moved_alias_holds_its_two_customers_until_a_person_lets_it_through(world: World) -> None:
    source, target = world.customer("Source", ingest_aliases=["moving"]), world.customer("Target")
    other = world.customer("Other")
    metric = world.metric("SUM")
    world.imported()
    world.use("moving", metric, 1, 1000)
    for customer in (target, other):
        world.use(customer, metric, 1, 1000)
    assert world.ingest().success

    _move(world, "moving", source, target)
    world.use(other, metric, 1, 50)
    world.use(other, metric, 2, -3)
    result = world.ingest()
    assert result.success, failure(result)
    assert world.counted(source, metric) == {1: 1000}
    assert world.counted(target, metric) == {1: 1000}, "sent alone, the moved usage would be billed twice"
    assert world.counted(other, metric) == {1: 1050, 2: -3}, "ordinary late usage is not held"
    assert {customer for customer, _ in _held(world)} == {source, target}
    check = next(c for c in result.get_asset_check_evaluations() if c.check_name == "nothing_held_by_the_brake")
    assert not check.passed

    world.sql("UPDATE ledger.brakes SET released_at = now()")
    assert world.ingest().success
    assert world.counted(source, metric) == {}
    assert world.counted(target, metric) == {1: 2000}


def test_a_released_plan_lets_no_other_plan_through(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 1000)
    assert world.ingest().success
    world.use(customer, metric, 1, -500)
    assert world.ingest().success
    assert world.counted(customer, metric) == {1: 1000}
    world.sql("UPDATE ledger.brakes SET released_at = now()")
    world.use(customer, metric, 1, -400)
    assert world.ingest().success
    assert world.counted(customer, metric) == {1: 500}, "what was released went through, and nothing else"
    assert _held(world)


def test_what_is_held_stays_held_when_later_runs_are_about_other_hours(world: World) -> None:
    world.at(START + timedelta(days=2))
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 1000)
    assert world.ingest().success
    world.use(customer, metric, 1, -500)
    assert world.ingest().success
    result = world.ingest(2, 7)
    assert result.success, failure(result)
    assert _held(world)
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert not checks["nothing_held_by_the_brake"]
    assert not checks["nothing_left_unsettled"]
    world.sql("UPDATE ledger.brakes SET released_at = now()")
    result = world.ingest(2, 7)
    assert world.counted(customer, metric) == {1: 500}, "the next run plans what was released, whatever its hours"
    assert all(check.passed for check in result.get_asset_check_evaluations())


def test_a_held_plan_is_void_once_usage_is_back(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 1000)
    assert world.ingest().success
    world.use(customer, metric, 1, -500)
    assert world.ingest().success
    assert _held(world)
    world.use(customer, metric, 1, 500)
    result = world.ingest()
    assert not _held(world)
    check = next(c for c in result.get_asset_check_evaluations() if c.check_name == "nothing_held_by_the_brake")
    assert check.passed


def test_a_small_decrease_passes_whatever_its_share(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 90)
    assert world.ingest().success
    world.use(customer, metric, 1, -90)
    assert world.ingest().success
    assert world.counted(customer, metric) == {}


def test_a_token_of_another_environment_plans_nothing_and_creates_nobody(world: World) -> None:
    customers = [world.customer(f"Customer {number}") for number in range(3)]
    metric = world.metric("SUM")
    world.imported()
    world.use(customers[0], metric, 1, 10)
    assert world.ingest().success
    before = world.events()
    world.metronome.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
    stranger = world.customer("Stranger")
    world.metric("SUM", id=metric)
    world.use(stranger, metric, 1, 99)
    world.solvimon.forget_requests()
    result = world.ingest()
    assert not result.success
    assert "METRONOME_BEARER_TOKEN" in failure(result)
    assert world.events() == before
    assert world.solvimon.requests() == {}
    assert world.counted(customers[0], metric) == {1: Decimal(10)}


def test_a_held_plan_is_void_once_all_of_it_was_settled_part_by_part(books: Books) -> None:
    account, brake = books.another(), BrakeLimits()
    account.observe({0: 1000, 190: 1000}, last=191)
    account.settle(last=191)
    account.observe({}, last=191)
    assert account.plan(last=191, brake=brake).brakes
    account.observe({0: 1000, 190: 1000}, last=191)
    held = "SELECT count(*) FROM ledger.brakes WHERE metric_id = %s"
    account.plan(0, 0, brake=brake)
    assert account.sql(held, account.metric.metric_id) != [(0,)], "an hour of it still waits"
    account.plan(190, 190, brake=brake)
    assert account.sql(held, account.metric.metric_id) == [(0,)]
