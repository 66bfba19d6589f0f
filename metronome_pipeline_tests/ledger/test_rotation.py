"""Turns: which pairs a run reads where an hour has too few requests for all. Real Postgres, simulated clock."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.ledger import rotation
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.rotation import Overdue, Turns, cycle, part_of
from metronome_pipeline.ledger.synchronise import gaps
from metronome_pipeline.mapping.usage import BilledMetric
from metronome_pipeline_tests.ledger.books import Books, Groups
from metronome_pipeline_tests.ledger.rotating import HOUR, START, Account, Pair, account


@pytest.fixture
def books(books: Books) -> Iterator[Books]:
    """With the database's time as it was afterwards."""
    yield books
    books.connection.execute("RESET ledger.moment")


def small(books: Books, *, pairs: int = 40, active: float = 0.1, requests: int = 10) -> Account:
    return account(books.connection, books.pair_id, customers=pairs // 2, metrics=2, active=active, requests=requests)


def chosen(turns: Turns) -> list[Pair]:
    return [(customer, metric.metric_id) for part in turns.parts for customer, metrics in part for metric in metrics]


def overdue(books: Books, world: Account) -> Overdue:
    with books.connection.transaction():
        return rotation.overdue(books.connection, books.pair_id, world.due)


# Arithmetic ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(0, 100_000), st.integers(1, 20_000))
def test_everything_is_read_within_the_cycle(active: int, others: int, requests: int) -> None:
    hours = cycle(active, others, requests) / HOUR
    rounds = max(1.0, hours / 24)  # how often an active pair is read: each hour, or less where there is too little
    assert requests * hours * 1.000001 >= (active * hours / rounds if others else active) + others


def test_a_workflow_has_a_part_only_where_both_need_more_than_there_is() -> None:
    assert part_of(100, 60, 40) is None
    assert part_of(100, 150, 0) == 100
    assert (part_of(100, 150, 50), part_of(100, 50, 150)) == (75, 25)
    assert part_of(0, 1, 1) == 1, "one pair is always read"


# The choice ----------------------------------------------------------------------------------------------------------


def test_active_pairs_are_delivered_in_their_own_hour_and_all_others_are_read_within_eight(books: Books) -> None:
    """100,000 pairs at a hundredth: a twentieth has usage, and 17,280 requests an hour are for these runs."""
    world = account(books.connection, books.pair_id, customers=250, metrics=4, active=0.05, requests=173)
    sleeping = [pair for pair in world.pairs if pair not in world.begins]
    for hour in range(28):
        if hour == 12:
            world.begins.update(dict.fromkeys(sleeping[::97], 12))
        tick = world.tick(hour)
        assert tick.turns.chosen == world.requests
        assert tick.turns.longest <= timedelta(hours=8)
        # Also while most are new, and wait to be read for the first time.
        assert not tick.turns.active or tick.turns.active == sum(len(metrics) for _, metrics in tick.turns.parts[0])
        if 6 < hour < 12:
            assert tick.turns.cycle < timedelta(hours=8)
            assert tick.late == {0: 50}, "active pairs are delivered by the run of the very hour"
        assert all(hours <= 8 for hours in tick.late)
    assert world.owed(27) == {}
    assert sum(world.planned.values()) == 50 * 28 + len(sleeping[::97]) * 16


def test_active_pairs_come_first_and_then_the_longest_unread(books: Books) -> None:
    world = small(books)
    for hour in range(6):
        tick = world.tick(hour)
    assert tick.turns.active == 4
    active, others = tick.turns.parts
    assert set(chosen(tick.turns)[:4]) == set(world.begins)
    assert sum(len(metrics) for _, metrics in active) == 4
    assert sum(len(metrics) for _, metrics in others) == 6
    # 36 others, six an hour.
    assert tick.turns.cycle == timedelta(hours=6)
    assert tick.turns.longest <= tick.turns.cycle
    assert set(chosen(world.tick(6).turns)).isdisjoint(pair for pair in chosen(tick.turns) if pair not in world.begins)


def test_a_new_pair_comes_behind_the_active_ones_and_before_the_others(books: Books) -> None:
    world = small(books, active=0.15)
    for hour in range(7):
        world.tick(hour)
    newcomer = "ffffffff-ffff-4fff-8fff-ffffffffffff"
    world.customers = [*world.customers, newcomer]
    turns = world.tick(7).turns
    assert set(chosen(turns)[:6]) == set(world.begins)
    assert {(newcomer, metric.metric_id) for metric in world.metrics} <= set(chosen(turns)[6:])


def test_more_active_pairs_than_requests_share_them_and_starve_nobody(books: Books) -> None:
    world = small(books, active=0.5, requests=18)
    seen: dict[Pair, list[int]] = {pair: [] for pair in world.pairs}
    for hour in range(72):
        for pair in chosen(world.tick(hour, plans=hour % 6 == 0).turns):
            seen[pair].append(hour)
    settled = {pair: [hour for hour in hours if hour > 12] for pair, hours in seen.items()}
    waits = {pair: max(b - a for a, b in pairwise(hours)) for pair, hours in settled.items()}
    # 24 * 20 + 20 looks in 18 requests an hour: 28 hours for idle pairs, a 24th of it for the active ones.
    assert max(wait for pair, wait in waits.items() if pair in world.begins) == 2
    assert 24 < max(wait for pair, wait in waits.items() if pair not in world.begins) <= 30


def test_an_account_that_is_too_large_is_said_and_its_pairs_are_listed_after_a_day(books: Books) -> None:
    world = small(books, active=0, requests=1)
    turns = world.tick(0).turns
    assert turns.cycle == timedelta(hours=40)
    for hour in range(1, 24):
        turns = world.tick(hour).turns
    assert overdue(books, world).pairs == 0
    for hour in range(24, 27):
        world.tick(hour)
    late = overdue(books, world)
    assert late.pairs > 0
    assert all(hours > 24 for *_, hours in late.listed)


def test_where_all_fit_again_nobody_waits(books: Books) -> None:
    world = small(books)
    world.tick(0)
    assert rotation.taking_turns(books.connection, books.pair_id, grouped=False) == START + HOUR
    assert rotation.waiting_from(books.connection, books.pair_id, world.due) == START - 23 * HOUR
    rotation.end_all(books.connection, books.pair_id, grouped=False)
    assert rotation.waiting_from(books.connection, books.pair_id, world.due) is None
    assert overdue(books, world).pairs == 0


# Trouble -------------------------------------------------------------------------------------------------------------


def test_pairs_that_cannot_be_read_keep_no_other_from_its_turn(books: Books) -> None:
    world = small(books, active=0)
    world.unreadable = set(list(world.pairs)[:15])
    reads: dict[Pair, int] = {}
    for hour in range(16):
        for pair in chosen(world.tick(hour).turns):
            reads[pair] = reads.get(pair, 0) + 1
    assert {reads[pair] for pair in world.pairs} == {4}, "each has its turn every four hours, whatever becomes of it"
    for hour in range(16, 26):
        world.tick(hour)
    late = overdue(books, world)
    assert late.pairs == 15
    assert {(row[0], row[1]) for row in late.listed} == world.unreadable


def test_an_active_pair_that_cannot_be_read_is_tried_thrice_and_then_at_its_turn(books: Books) -> None:
    world = small(books, active=0.5, requests=22)
    for hour in range(3):
        world.tick(hour)
    broken = next(iter(world.begins))
    world.unreadable = {broken}
    tried = [hour for hour in range(3, 20) if broken in chosen(world.tick(hour).turns)]
    assert tried[:3] == [3, 4, 5]
    assert 1 <= len(tried[3:]) <= 3
    world.unreadable = set()
    for hour in range(20, 33):
        world.tick(hour)
    assert world.owed(32) == {}
    assert broken in chosen(world.tick(33).turns)
    assert broken in chosen(world.tick(34).turns), "read once, it is active again"


def test_a_killed_run_delays_its_pairs_by_one_round_and_loses_nothing(books: Books) -> None:
    world = small(books)
    for hour in range(8):
        world.tick(hour)
    lost = set(chosen(world.tick(8, dies=True).turns)) - set(world.begins)
    waits = []
    for hour in range(9, 20):
        tick = world.tick(hour)
        waits.append(tick.turns.longest / HOUR)
        lost -= set(chosen(tick.turns))
    assert not lost
    assert max(waits) <= 12
    assert world.owed(19) == {}


def test_two_runs_at_once_share_out_the_idle_pairs(books: Books) -> None:
    world = small(books)
    for hour in range(7):
        world.tick(hour)
    first = set(chosen(world.tick(7, dies=True).turns)) - set(world.begins)
    second = set(chosen(world.tick(8).turns)) - set(world.begins)
    assert first
    assert second
    assert not first & second


def test_a_run_that_ends_early_gives_its_turns_back(books: Books) -> None:
    world = small(books)
    for hour in range(7):
        world.tick(hour)
    given_up = world.tick(7, dies=True).turns
    rotation.end(books.connection, books.pair_id, "tick 7", [])
    assert set(chosen(given_up)) == set(chosen(world.tick(8).turns))
    assert books.sql("SELECT count(*) FROM metronome.turns WHERE pair_id = %s", books.pair_id) == [(0,)]


def test_missed_ticks_and_a_lower_pace_lose_nothing(books: Books) -> None:
    world = small(books)
    for hour in [*range(6), *range(15, 30)]:
        if hour == 20:
            world.requests = 7
        world.tick(hour)
    assert world.owed(29) == {}
    sleeper = next(pair for pair in world.pairs if pair not in world.begins)
    world.begins[sleeper] = 30
    for hour in range(30, 44):
        world.tick(hour)
    assert world.owed(43) == {}


def test_a_pair_is_read_from_the_day_on_at_which_it_was_last_read(books: Books) -> None:
    world = small(books)
    for hour in range(24):
        world.tick(hour)
    end = START + 25 * HOUR
    books.connection.execute("SELECT set_config('ledger.moment', %s, false)", [str(end)])
    today = Window(START + 24 * HOUR, end)
    with books.connection.transaction():
        turns = rotation.choose(books.connection, books.pair_id, world.due, today, 10, run_id="now")
    assert turns.window == Window(START, end), "yesterday's hours of those that wait since yesterday, on the same page"


# Gaps ----------------------------------------------------------------------------------------------------------------


def test_an_hour_that_waits_for_its_turn_is_no_gap_and_a_hole_is_one(books: Books) -> None:
    another = books.another()
    due = Account(books.connection, books.pair_id, [another.customer], [another.metric], 1).due
    hours = [Window(START, START + 20 * HOUR)]
    for first, last in ((0, 3), (6, 9)):
        another.observe({}, first=first, last=last)

    def found(waiting_from: int | None) -> list[Window]:
        moment = None if waiting_from is None else START + waiting_from * HOUR
        return [gap.window for gap in gaps(books.connection, books.pair_id, due, hours, waiting_from=moment)]

    assert found(None) == [Window(START + 4 * HOUR, START + 20 * HOUR)]
    assert found(0) == [Window(START + 4 * HOUR, START + 6 * HOUR)], "the hole alone"
    assert found(15) == [Window(START + 4 * HOUR, START + 15 * HOUR)], "it has waited for too long since hour 10"


# With properties -----------------------------------------------------------------------------------------------------


def test_with_properties_a_pair_costs_a_request_for_each_100_rows_as_well(books: Books) -> None:
    another = books.another(slicing='["region"]')
    groups: dict[int, Groups] = {hour: {f"region-{number}": 1 for number in range(60)} for hour in range(4)}
    another.observe_groups(groups)
    world = Account(books.connection, books.pair_id, [another.customer, *small(books).customers], [another.metric], 1)
    window = Window(START, START + 4 * HOUR)
    assert rotation.requests_of(books.connection, books.pair_id, world.due, window) == 21 + 3
    plain = BilledMetric(another.metric.metric_id, "", "SUM", "ungrouped")
    world.metrics = [plain]
    assert rotation.requests_of(books.connection, books.pair_id, world.due, window) == 21
    long = Window(START, START + 35 * 24 * HOUR)
    assert rotation.requests_of(books.connection, books.pair_id, world.due, long) == 21 * 5
