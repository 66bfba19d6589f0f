"""Readings: what is stored is what the latest complete walk said, in whatever order walks begin, end and are stored."""

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from metronome_pipeline.ledger import readings
from metronome_pipeline.ledger.readings import RepeatedRow, ShortHour, WalkLost
from metronome_pipeline.ledger.slicings import note_slicings, switch_slicing
from metronome_pipeline.mapping.usage import UNGROUPED
from metronome_pipeline_tests.ledger.books import Books, at

REGION = '["region"]'


def usage(account: Books) -> dict[int, Decimal]:
    rows = account.sql(
        "SELECT extract(hour FROM start_at)::int, value FROM metronome.usage WHERE pair_id = %s AND metric_id = %s",
        account.pair_id,
        account.metric.metric_id,
    )
    return dict(rows)


def groups(account: Books) -> dict[tuple[int, str], Decimal]:
    rows = account.sql(
        "SELECT extract(hour FROM start_at)::int, coalesce(properties::jsonb ->> 'region', slice), value "
        "FROM metronome.grouped_usage WHERE pair_id = %s AND metric_id = %s",
        account.pair_id,
        account.metric.metric_id,
    )
    return {(hour, region): value for hour, region, value in rows}


def staged(account: Books) -> int:
    return int(account.sql("SELECT count(*) FROM metronome.staged_usage")[0][0])


def while_uncommitted(books: Books, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> None:
    """Does ``first``, then ``second`` at the same time in another session, and only then commits the first."""
    errors: list[BaseException] = []
    with psycopg.connect(books.connection.info.dsn) as one, psycopg.connect(books.connection.info.dsn) as two:

        def follow() -> None:
            try:
                second(two)
                two.commit()
            except BaseException as error:  # noqa: BLE001 - raised again by the test's own thread
                errors.append(error)

        for session in (one, two):
            session.execute("SELECT")  # a transaction that only these two end
        first(one)
        follower = threading.Thread(target=follow)
        follower.start()
        while not books.sql(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", two.info.backend_pid
        ):
            assert follower.is_alive(), errors or "the second session did not wait for the first"
        one.commit()
        follower.join()
    assert errors == []


# One walk -------------------------------------------------------------------------------------------------------------


def test_a_reading_replaces_its_hours_and_no_others(books: Books) -> None:
    account, other = books.another(), books.another()
    account.observe({0: 1, 1: 2, 2: 3})
    other.observe({1: 7})
    account.observe({1: 5, 2: 0}, first=1, last=2)
    assert usage(account) == {0: 1, 1: 5, 2: 0}, "0 is usage, absent and null are none"
    account.observe({}, first=2, last=2)
    assert usage(account) == {0: 1, 1: 5}
    assert usage(other) == {1: 7}
    assert staged(account) == 0


def test_a_grouped_reading_keeps_null_groups_and_leaves_out_null_values(books: Books) -> None:
    account = books.another(slicing=REGION)
    account.observe_groups({1: {None: 2, "": 3}})
    account.observe({1: 2, 2: 4}, {1: {None: 2, "": None}, 2: {"eu": 4}})
    assert groups(account) == {
        (1, "total"): 2,
        (1, "g" + account.rows({}, {1: {None: 2}})[0].slice[1:]): 2,
        (2, "total"): 4,
        (2, "eu"): 4,
    }
    assert staged(account) == 0


@pytest.mark.parametrize("value", [5, None])
def test_a_group_that_a_walk_was_given_twice_is_refused_null_or_not(books: Books, value: int | None) -> None:
    account = books.another(slicing=REGION)
    walk = account.begin()
    readings.stage(books.connection, walk, account.rows({1: 10}, {1: {"eu": value, "us": 5}, 2: {"eu": 5}}))
    with pytest.raises(RepeatedRow, match=r'{"region":"eu"} of 2026-01-05T01:00Z'):
        readings.stage(books.connection, walk, account.rows({}, {3: {"eu": 5}, 1: {"ap": 5, "eu": value}}))
    with pytest.raises(RepeatedRow, match="total of 2026-01-05T01:00Z"):
        readings.stage(books.connection, walk, account.rows({1: 10}, {}))
    other = account.begin()
    readings.stage(books.connection, other, account.rows({1: 10}, {1: {"eu": value}}))
    readings.discard(books.connection, [walk, other])
    assert staged(account) == 0


def test_groups_are_held_against_their_total_to_the_last_digit(books: Books) -> None:
    account = books.another(slicing=REGION)
    long = Decimal("1234567890" * 9 + ".0000000001")
    totals = {0: long + 1, 1: Decimal("0.3"), 2: 0, 3: None, 4: 7, 5: None}
    shown: Any = {
        0: {"a": long, "b": 1},
        1: {"a": "0.1", "b": "0.2000000000000000000000000000000000000000000001"},
        2: {"a": 5, "b": -5},
        3: {"a": 1, "b": -1},
        5: {"a": 1},
    }
    walk = account.begin()
    totals[0] = account.sql("SELECT %s::numeric + 1", long)[0][0]
    readings.stage(books.connection, walk, account.rows(totals, shown))
    short = readings.short_hours(books.connection, walk, maximum=False)
    assert [(hour.start, hour.total) for hour in short] == [(at(1), Decimal("0.3")), (at(4), 7), (at(5), None)]
    highest = readings.short_hours(books.connection, walk, maximum=True)
    assert [hour.start for hour in highest] == [at(hour) for hour in (0, 1, 2, 3, 4, 5)]
    readings.discard(books.connection, [walk])


def test_what_was_staged_before_a_crash_of_postgres_is_missed(books: Books) -> None:
    account = books.another()
    account.observe({0: 1, 1: 2})
    walk, later = account.begin(), account.begin()
    # A crash or a failover empties unlogged tables, and the numbers of walks start anew.
    readings.discard(books.connection, [walk])
    with pytest.raises(WalkLost, match="run again"):
        account.observe({0: 1}, walk=walk)
    readings.discard(books.connection, [later])
    books.sql("INSERT INTO metronome.walks (walk_id) OVERRIDING SYSTEM VALUE VALUES (%s)", later.walk_id)
    with pytest.raises(WalkLost):
        account.observe({0: 1}, walk=later)
    assert usage(account) == {0: 1, 1: 2}
    assert staged(account) == 0


def test_rows_of_dead_runs_and_old_readings_are_cleared_and_young_ones_kept(books: Books) -> None:
    account = books.another()
    account.observe({0: 1})
    dead, alive = account.begin(), account.begin()
    for walk in (dead, alive):
        readings.stage(books.connection, walk, account.rows({0: 1}, {}))
    books.sql("UPDATE metronome.walks SET began_at = began_at - interval '3 days' WHERE walk_id = %s", dead.walk_id)
    readings.forget_old_walks(books.connection)
    kept = books.sql("SELECT walk_id FROM metronome.staged_usage")
    assert kept == [(alive.walk_id,)]
    assert books.sql("SELECT count(*) FROM metronome.readings WHERE pair_id = %s", books.pair_id) == [(1,)]
    books.sql("UPDATE metronome.readings SET completed_at = completed_at - interval '3 days'")
    readings.forget_old_walks(books.connection)
    assert books.sql("SELECT count(*) FROM metronome.readings WHERE pair_id = %s", books.pair_id) == [(0,)]
    readings.discard(books.connection, [alive])


# Several walks --------------------------------------------------------------------------------------------------------


def test_an_older_walk_stored_after_a_newer_one_changes_only_what_that_did_not_cover(books: Books) -> None:
    account = books.another()
    older, newer = account.begin(), account.begin()
    account.observe({1: 7}, first=1, last=2, walk=newer)
    account.observe({0: 1, 1: 2, 2: 3, 3: 4}, walk=older)
    assert usage(account) == {0: 1, 1: 7, 3: 4}, "also where the newer one said that there is nothing"
    account.settle()
    assert account.counted() == {(0, "total"): 1, (1, "total"): 7, (3, "total"): 4}


def test_an_older_grouped_walk_changes_neither_groups_nor_the_list_of_short_hours(books: Books) -> None:
    account = books.another(slicing=REGION)
    older, newer = account.begin(), account.begin()
    account.observe({0: 3, 1: 5}, {0: {"eu": 3}, 1: {"eu": 4}}, first=0, last=1, walk=newer)
    account.observe({0: 9, 1: 4, 2: 6}, {0: {"us": 8}, 1: {"eu": 4}, 2: {"us": 5}}, walk=older)
    assert groups(account) == {
        (0, "total"): 3,
        (0, "eu"): 3,
        (1, "total"): 5,
        (1, "eu"): 4,
        (2, "total"): 6,
        (2, "us"): 5,
    }
    short = books.sql(
        "SELECT start_at, total, grouped FROM metronome.short_groups WHERE pair_id = %s ORDER BY start_at",
        books.pair_id,
    )
    assert [ShortHour(*row) for row in short] == [
        ShortHour(at(1), Decimal(5), Decimal(4)),
        ShortHour(at(2), Decimal(6), Decimal(5)),
    ]


@pytest.mark.parametrize("stored_first", ["older", "newer"])
def test_of_two_walks_stored_at_once_the_later_begun_wins(books: Books, stored_first: str) -> None:
    account = books.another()
    older, newer = account.begin(), account.begin()

    def store_older(connection: Any) -> None:
        account.observe({0: 1, 1: 2}, walk=older, connection=connection)

    def store_newer(connection: Any) -> None:
        account.observe({1: 7, 2: 8}, walk=newer, connection=connection)

    if stored_first == "older":
        while_uncommitted(books, store_older, store_newer)
    else:
        while_uncommitted(books, store_newer, store_older)
    assert usage(account) == {1: 7, 2: 8}
    assert staged(account) == 0


def test_a_switch_waits_for_what_is_being_stored_and_forgets_it(books: Books) -> None:
    account = books.another()
    metric = account.metric.metric_id
    with books.connection.transaction():
        note_slicings(books.connection, books.pair_id, {metric: UNGROUPED})
    walk = account.begin()
    while_uncommitted(
        books,
        lambda connection: account.observe({0: 1}, walk=walk, connection=connection),
        lambda connection: switch_slicing(connection, books.pair_id, metric, REGION, by="a test"),
    )
    assert usage(account) == {}
    assert books.sql("SELECT 1 FROM metronome.coverage WHERE pair_id = %s", books.pair_id) == []


def test_a_walk_that_a_switch_overtook_is_not_stored_and_the_others_are(books: Books) -> None:
    switched, other = books.another(slicing=REGION), books.another(slicing=REGION)
    with books.connection.transaction():
        note_slicings(books.connection, books.pair_id, {switched.metric.metric_id: REGION})
    walks = [switched.begin(), other.begin()]
    complete = []
    for account, walk in zip((switched, other), walks, strict=True):
        readings.stage(books.connection, walk, account.rows({0: 1}, {0: {"eu": 1}}))
        complete.append(readings.Reading(walk, account.customer, account.metric.metric_id, REGION, at(0), at(1)))
    with books.connection.transaction():
        switch_slicing(books.connection, books.pair_id, switched.metric.metric_id, '["region","team"]', by="a test")
    with books.connection.transaction():
        left = readings.store(books.connection, books.pair_id, complete, grouped=True, run_id="test")
    assert left == complete[:1]
    assert groups(switched) == {}
    assert groups(other) == {(0, "total"): 1, (0, "eu"): 1}
    assert staged(books) == 0


def test_a_walk_from_before_two_switches_does_not_state_that_usage_is_gone(books: Books) -> None:
    account = books.another()
    metric = account.metric.metric_id
    older, newer = account.begin(), account.begin()
    account.observe({0: 1}, walk=newer)
    for slicing in (REGION, UNGROUPED):
        with books.connection.transaction():
            switch_slicing(books.connection, books.pair_id, metric, slicing, by="a test")
    account.observe({0: 1}, walk=older)
    assert usage(account) == {0: 1}
