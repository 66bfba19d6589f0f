"""Raw usage that is too old goes, the ledger stays, and what is gone is never taken for usage that fell."""

from datetime import UTC, timedelta
from decimal import Decimal

import pytest

from metronome_pipeline.ledger.brakes import BrakeLimits
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.synchronise import Due, gaps
from metronome_pipeline.settings import Settings, SettingsError
from metronome_pipeline.storage.accounts import KnownCustomer
from metronome_pipeline.upkeep import retention
from metronome_pipeline.upkeep.retention import Retired
from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.ledger.books import Books, at
from metronome_pipeline_tests.world import START, World, failure

INGEST = "POST /v1/events/ingest-batch"


@pytest.fixture
def books(books: Books) -> Books:
    """A customer and a metric of the test's own."""
    return books.another()


def retire(books: Books, hour: int) -> Retired:
    """Retires everything before an hour of START's day, as a run of a later day would."""
    books.sql("DELETE FROM metronome.readings")
    with books.connection.transaction():
        return retention.retire(books.connection, books.pair_id, books.metric.metric_id, at(hour))


def billed(books: Books, values: dict[int, int]) -> None:
    books.observe(values, first=0, last=47)
    books.settle(last=47)


def missing(books: Books) -> list[Window]:
    customer = KnownCustomer(books.customer, "Acme", None)
    found = gaps(books.connection, books.pair_id, Due([customer], [books.metric]), [Window(at(0), at(48))])
    return [gap.window for gap in found]


def test_what_is_gone_is_not_taken_back(books: Books) -> None:
    billed(books, {0: 5, 1: 7, 25: 9})
    assert retire(books, 24) == Retired(usage=2)
    assert books.plan(last=47, brake=BrakeLimits()).events == 0
    assert books.plan(last=47, brake=None).events == 0
    assert books.counted() == {(0, "total"): 5, (1, "total"): 7, (25, "total"): 9}


def test_what_was_read_and_never_planned_stays(books: Books) -> None:
    books.observe({0: 5, 1: 7}, first=0, last=47)
    assert retire(books, 24) == Retired(usage=0)
    books.settle(last=47)
    assert retire(books, 24) == Retired(usage=2)
    assert books.counted() == {(0, "total"): 5, (1, "total"): 7}


def test_cutting_the_rows_without_the_coverage_would_take_everything_back(books: Books) -> None:
    # What the test above guards against is real.
    billed(books, {0: 5, 1: 7})
    books.sql("DELETE FROM metronome.usage WHERE customer_id = %s", books.customer)
    assert books.plan(last=47, brake=None).events == 2


def test_hours_that_went_are_no_gap_and_are_not_read_again(books: Books) -> None:
    billed(books, {0: 5, 25: 9})
    assert missing(books) == []
    retire(books, 24)
    assert missing(books) == []


def test_hours_that_went_are_read_again_once_something_is_to_be_planned_for_them(books: Books) -> None:
    billed(books, {0: 5, 3: 4, 25: 9})
    retire(books, 24)
    books.sql(
        "INSERT INTO ledger.unsettled_hours (pair_id, metric_id, customer_id, start_at) VALUES (%s, %s, %s, %s)",
        books.pair_id,
        books.metric.metric_id,
        books.customer,
        at(3),
    )
    assert missing(books) == [Window(at(3), at(4))]
    books.observe({3: 6}, first=3, last=3)
    assert books.plan(first=3, last=3).by_kind == {"correction": 1}
    assert missing(books) == []
    assert books.sql("SELECT count(*) FROM ledger.unsettled_hours WHERE customer_id = %s", books.customer) == [(0,)]


def test_read_again_it_is_corrected_by_the_difference_alone(books: Books) -> None:
    billed(books, {0: 5, 1: 7, 25: 9})
    retire(books, 24)
    books.observe({0: 5, 1: 8}, first=0, last=23)
    assert books.settle(last=47).by_kind == {"correction": 1}
    assert books.counted() == {(0, "total"): 5, (1, "total"): 8, (25, "total"): 9}


def test_groups_and_hours_that_fell_short_go_with_their_totals(books: Books) -> None:
    grouped = books.through('["region"]')
    grouped.observe({0: 10}, {0: {"eu": 4, "us": 5}}, last=47)
    grouped.settle(last=47)
    before = grouped.counted()
    assert retire(grouped, 24) == Retired(grouped_usage=3, short_groups=1)
    assert grouped.plan(last=47).events == 0
    assert grouped.counted() == before


WAITING = {
    "an event under way": "INSERT INTO ledger.open_events (event_id, pair_id) "
    "SELECT event_id, pair_id FROM ledger.events WHERE customer_id = %(customer)s AND start_at = %(hour)s",
    "an unsettled hour": "INSERT INTO ledger.unsettled_hours (pair_id, metric_id, customer_id, start_at) "
    "VALUES (%(pair)s, %(metric)s, %(customer)s, %(hour)s)",
    "a reverted hour": "INSERT INTO ledger.reverted_slots (pair_id, metric_id, customer_id, start_at, end_at, slice, "
    "run_id, asked_by) VALUES (%(pair)s, %(metric)s, %(customer)s, %(hour)s, %(end)s, 'total', 'r', 'me')",
    "a held plan": "INSERT INTO ledger.brakes (pair_id, digest, metric_id, from_at, to_at, billed, observed, run_id) "
    "VALUES (%(pair)s, %(customer)s, %(metric)s, %(hour)s, %(end)s, 1, 0, 'r')",
    "a finding": "WITH s AS (INSERT INTO ledger.sweeps (pair_id, kind, start_at, end_at, run_id, ended_at, outcome) "
    "VALUES (%(pair)s, 'usage', %(hour)s, %(end)s, 'r', now(), 'complete') RETURNING sweep_id) "
    "INSERT INTO ledger.findings (pair_id, sweep_id, customer_id, metric_id, slicing, from_at, to_at, hours) "
    "SELECT %(pair)s, sweep_id, %(customer)s, %(metric)s, 'ungrouped', %(hour)s, %(end)s, '{}' FROM s",
    "a reading of late": "INSERT INTO metronome.readings (pair_id, customer_id, metric_id, slicing, hours, began_at, "
    "run_id) VALUES (%(pair)s, %(customer)s, %(metric)s, 'ungrouped', tstzrange(%(hour)s, %(end)s), now(), 'r')",
}


@pytest.mark.parametrize("waiting", WAITING)
def test_nothing_goes_from_the_day_of_what_waits_on(books: Books, waiting: str) -> None:
    books.observe(dict.fromkeys(range(96), 1), last=95)
    books.settle(last=95)
    books.sql("DELETE FROM metronome.readings")
    parameters = {
        "pair": books.pair_id,
        "metric": books.metric.metric_id,
        "customer": books.customer,
        "hour": at(30),
        "end": at(31),
    }
    books.connection.execute(WAITING[waiting], parameters)
    with books.connection.transaction():
        retired = retention.retire(books.connection, books.pair_id, books.metric.metric_id, at(72))
    assert retired == Retired(usage=24), "the day before the one of what waits"
    left = books.sql("SELECT min(start_at), count(*) FROM metronome.usage WHERE customer_id = %s", books.customer)
    assert left == [(at(24), 72)]


def test_another_customer_metric_or_pair_is_left_alone(books: Books) -> None:
    other = books.another()
    for each in (books, other):
        billed(each, {0: 5})
    retire(books, 24)
    assert other.sql("SELECT count(*) FROM metronome.usage WHERE customer_id = %s", other.customer) == [(1,)]
    assert other.plan(last=47).events == 0


# The setting ---------------------------------------------------------------------------------------------------------

MUST = {"METRONOME_BEARER_TOKEN": "t", "SOLVIMON_API_KEY": "k", "USAGE_START": "2026-01-01"}


def test_by_default_everything_is_kept() -> None:
    assert Settings.from_environment(MUST).usage_retention_days is None


@pytest.mark.parametrize(("days", "sweep"), [("69", "1"), ("70", "36"), ("none", "35")])
def test_what_sweeps_look_at_can_not_be_removed(days: str, sweep: str) -> None:
    with pytest.raises(SettingsError, match="USAGE_RETENTION_DAYS"):
        Settings.from_environment({**MUST, "USAGE_RETENTION_DAYS": days, "SWEEP_DAYS": sweep})


# Runs ----------------------------------------------------------------------------------------------------------------


def months_later(world: World) -> None:
    world.at(START + timedelta(days=100))
    # Two days on, readings are nobody's any more.
    world.sql("DELETE FROM metronome.readings")


@pytest.fixture
def old(world: World) -> tuple[World, str, str]:
    """An account whose first day was billed a hundred days ago."""
    customer, metric = world.customer(), world.metric()
    world.use_hours(customer, metric, {hour: 10 + hour for hour in range(24)})
    world.imported()
    result = world.ingest(0, 23)
    assert result.success, failure(result)
    months_later(world)
    return world, customer, metric


def test_the_daily_job_removes_what_is_old_and_later_runs_bill_nothing_for_it(old: tuple[World, str, str]) -> None:
    world, customer, metric = old
    before = world.counted(customer, metric)
    assert world.run("retire_usage").success
    assert world.sql("SELECT count(*) FROM metronome.usage") == [(24,)], "unset: nothing is removed"
    result = world.run("retire_usage", USAGE_RETENTION_DAYS="70")
    assert result.success
    assert world.sql("SELECT count(*) FROM metronome.usage") == [(0,)]
    world.solvimon.forget_requests()
    world.metronome.forget_requests()
    again = world.ingest(100 * 24 - 2, 100 * 24 - 2, config={"look_back_days": 1, "fill_gaps": True})
    assert again.success, failure(again)
    assert world.solvimon.requests().get(INGEST, 0) == 0
    assert world.counted(customer, metric) == before
    assert sum(count for each, count in world.metronome.requests().items() if "usage" in each) == 1, "today alone"


def test_a_sweep_over_what_was_removed_finds_and_corrects_late_usage(old: tuple[World, str, str]) -> None:
    world, customer, metric = old
    assert world.run("retire_usage", USAGE_RETENTION_DAYS="70").success
    world.use(customer, metric, 5, 1000)
    swept = world.run("sweep_closed_periods")
    assert swept.success, failure(swept)
    result = world.run("correct_usage", tags=corrections(world))
    assert result.success, failure(result)
    assert world.counted(customer, metric)[5] == Decimal(1015)
    assert len(world.stored_events()) == 25


def corrections(world: World) -> dict[str, str]:
    """The partitions of the findings."""
    ((first, last),) = world.sql("SELECT min(from_at), max(to_at) FROM ledger.findings")
    key = "%Y-%m-%d-%H:%M"
    return {
        "dagster/asset_partition_range_start": first.astimezone(UTC).strftime(key),
        "dagster/asset_partition_range_end": (last - timedelta(hours=1)).astimezone(UTC).strftime(key),
    }


def test_the_command_counts_first_and_then_removes(old: tuple[World, str, str]) -> None:
    world = old[0]
    environment = {**variables(world), "USAGE_RETENTION_DAYS": "70"}
    counted = command("retention", "--dry-run", env=environment)
    assert (counted.status, "24" in counted.out) == (0, True)
    assert world.sql("SELECT count(*) FROM metronome.usage") == [(24,)]
    assert command("retention", env=environment).status == 0
    assert world.sql("SELECT count(*) FROM metronome.usage") == [(0,)]
    assert command("retention", env=variables(world)).status == 2
