"""Plan: after it, what is committed equals what was observed, slot by slot; a second plan has nothing to do."""

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metronome_pipeline.ledger import readings
from metronome_pipeline.ledger.brakes import BrakeLimits
from metronome_pipeline.ledger.readings import Reading, UsageRow
from metronome_pipeline.ledger.slicings import note_slicings, slicings, switch_slicing
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE, UNGROUPED, exact_sum
from metronome_pipeline_tests.ledger.books import Books, Groups, at

REGION, TEAM = '["region"]', '["region","team"]'
REFERENCE = re.compile(
    r"[0-9a-f-]{36}_[0-9a-f-]{36}_[0-9]{8}T[0-9]{6}Z_[0-9]{8}T[0-9]{6}Z_(total|rest|g[0-9a-f]{32})(_r[1-9][0-9]*)?"
)


def switch(books: Books, slicing: str) -> Books:
    with books.connection.transaction():
        switch_slicing(books.connection, books.pair_id, books.metric.metric_id, slicing, by="a test")
    return books.through(slicing)


def test_the_form_of_a_reference_is_pinned(books: Books) -> None:
    pair = "3b241101-e2bb-4255-8caf-4136c566a962_9c9a4a71-171e-41f9-b8da-d982baf1a388"
    books.observe({1: 5})
    books.settle()
    for value in (7, 6):
        books.observe({1: value})
        books.settle()
    assert books.references() == [
        f"{pair}_20260105T010000Z_20260105T020000Z_total",
        f"{pair}_20260105T010000Z_20260105T020000Z_total_r1",
        f"{pair}_20260105T010000Z_20260105T020000Z_total_r2",
    ]
    grouped = switch(books, REGION)
    grouped.observe({2: 10}, {2: {"eu west": 1, None: 2, "": 3}})
    grouped.settle()
    assert sorted(grouped.references()[3:]) == [
        f"{pair}_20260105T010000Z_20260105T020000Z_total_r3",
        f"{pair}_20260105T020000Z_20260105T030000Z_g0801f3d57b7cf8e68f45b8d9c43212ac",  # {"region":null}
        f"{pair}_20260105T020000Z_20260105T030000Z_g4f19a921bb821017784bc2779fb04478",  # {"region":""}
        f"{pair}_20260105T020000Z_20260105T030000Z_g800562e59a0959a3197f2d46e9e98f35",  # {"region":"eu west"}
        f"{pair}_20260105T020000Z_20260105T030000Z_rest",
    ]


# Groups --------------------------------------------------------------------------------------------------------------


def test_null_empty_and_the_rest_are_slots_of_their_own(books: Books) -> None:
    account = books.another(slicing=REGION)
    account.observe({1: 10}, {1: {None: 1, "": 2, "eu": 3}})
    account.settle()
    assert account.counted() == {(1, None): 1, (1, ""): 2, (1, "eu"): 3, (1, "rest"): 4}


def test_no_group_is_lowered_while_groups_fall_short_and_the_total_stays_exact(books: Books) -> None:
    account = books.another(slicing=REGION)
    account.observe_groups({1: {"eu": 10, "us": 20, "back": -5}, 2: {"eu": 1}})
    account.settle()
    account.observe({1: 28, 2: 1}, {1: {"eu": 7, "asia": 2}, 2: {"eu": 1}})
    account.settle()
    assert account.counted() == {
        (1, "eu"): 10,
        (1, "us"): 20,
        (1, "back"): -5,
        (1, "asia"): 2,
        (1, "rest"): 1,
        (2, "eu"): 1,
    }
    assert account.sql(
        "SELECT start_at, total, grouped FROM metronome.short_groups WHERE pair_id = %s", books.pair_id
    ) == [(at(1), 28, 9)]
    account.observe_groups({1: {"eu": 8, "us": 20}, 2: {"eu": 1}})
    account.settle()
    assert account.counted() == {(1, "eu"): 8, (1, "us"): 20, (2, "eu"): 1}
    assert account.sql("SELECT * FROM metronome.short_groups WHERE pair_id = %s", books.pair_id) == []


def test_a_maximum_whose_groups_fall_short_is_completed_by_the_rest_and_only_where_needed(books: Books) -> None:
    account = books.another("MAX", REGION)
    account.observe_groups({1: {"eu": 9, "us": 4}, 2: {"eu": 3}})
    account.settle()
    account.observe({1: 9, 2: 8}, {1: {"us": 4}, 2: {"eu": 3}})
    account.settle()
    assert account.counted() == {(1, "eu"): 9, (1, "us"): 4, (2, "eu"): 3, (2, "rest"): 8}
    # A group above the total cannot be right any more, short or not.
    account.observe({1: 5, 2: 8}, {1: {"us": 4}, 2: {"eu": 3}})
    account.settle()
    assert account.counted() == {(1, "us"): 4, (1, "rest"): 5, (2, "eu"): 3, (2, "rest"): 8}
    account.observe_groups({1: {"us": 4}, 2: {"eu": 3}})
    account.settle()
    assert account.counted() == {(1, "us"): 4, (2, "eu"): 3}


@pytest.mark.parametrize("total", [6, None])
def test_a_maximum_above_its_own_total_leaves_that_hour_alone_and_lists_it(books: Books, total: int | None) -> None:
    account = books.another("MAX", REGION)
    account.observe_groups({1: {"eu": 5}, 2: {"eu": 5}})
    account.settle()
    account.observe({1: total, 2: 6}, {1: {"eu": 7}, 2: {"eu": 6}})
    account.settle()
    assert account.counted() == {(1, "eu"): 5, (2, "eu"): 6}
    assert account.sql(
        "SELECT start_at, total, grouped FROM metronome.short_groups WHERE pair_id = %s", books.pair_id
    ) == [(at(1), total, 7)]


# The switch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calculation", ["SUM", "MAX"])
def test_a_switch_of_slicing_changes_no_total_and_is_not_braked(books: Books, calculation: str) -> None:
    account = books.another(calculation)
    brake = BrakeLimits(Decimal("0.01"), Decimal(1))
    whole = {1: 1000, 2: 500} if calculation == "MAX" else {1: 1400, 2: 500}
    account.observe(whole)
    account.settle(brake=brake)
    for slicing in (REGION, TEAM, UNGROUPED, REGION):
        account = switch(account, slicing)
        if slicing == UNGROUPED:
            account.observe(whole)
        else:
            account.observe_groups({1: {f"eu {slicing}": 1000, "us": 400}, 2: {None: 500}})
        assert account.settle(brake=brake).brakes == []
        by_hour = {hour: [v for (h, _), v in account.counted().items() if h == hour] for hour in whole}
        assert {hour: (max if calculation == "MAX" else sum)(values) for hour, values in by_hour.items()} == whole
    assert set(account.counted()) == {(1, f"eu {REGION}"), (1, "us"), (2, None)}


def test_hours_that_a_switch_did_not_read_again_stay_as_they_were(books: Books) -> None:
    account = books.another()
    account.observe({0: 1, 1: 2, 2: 3})
    account.settle()
    account = switch(account, REGION)
    assert account.plan().events == 0
    account.observe_groups({1: {"eu": 2}}, first=1, last=1)
    account.settle()
    assert account.counted() == {(0, "total"): 1, (1, "eu"): 2, (2, "total"): 3}
    account.observe_groups({0: {"eu": 1}, 2: {"eu": 3}})
    account.settle()
    assert account.counted() == {(0, "eu"): 1, (2, "eu"): 3}


def test_a_run_that_began_before_the_switch_plans_nothing_after_it(books: Books) -> None:
    before = books.another()
    with books.connection.transaction():
        note_slicings(books.connection, books.pair_id, {before.metric.metric_id: UNGROUPED})
    before.observe({1: 5})
    walk = before.begin()
    after = switch(before, REGION)
    assert [reading.slicing for reading in before.observe({1: 6}, walk=walk)] == [UNGROUPED]
    assert before.plan().events == 0
    after.observe_groups({1: {"eu": 6}})
    after.settle()
    assert before.plan().events == 0
    assert after.counted() == {(1, "eu"): 6}


def test_a_slicing_is_noted_once_and_changes_only_when_asked_for(books: Books) -> None:
    metric = books.metric.metric_id
    with books.connection.transaction():
        assert note_slicings(books.connection, books.pair_id, {metric: REGION}) == {metric: REGION}
        assert note_slicings(books.connection, books.pair_id, {metric: UNGROUPED}) == {metric: REGION}
    switch(books, TEAM)
    assert slicings(books.connection, books.pair_id) == {metric: TEAM}


@pytest.mark.parametrize("calculation", ["SUM", "MAX"])
def test_usage_is_not_billed_anew_while_what_was_billed_of_it_cannot_be_taken_back(
    books: Books, calculation: str
) -> None:
    account = books.another(calculation)
    account.observe({1: 5})
    account.settle()
    account.observe({1: 8, 2: 3})
    account.plan()
    account.sql("UPDATE ledger.open_events SET state = 'quarantined'")
    account = switch(account, REGION)
    account.observe_groups({1: {"eu": 8}, 2: {"eu": 3}})
    account.plan()
    assert (1, "eu") not in account.counted(), "its hour was billed in part"
    assert account.counted()[2, "eu"] == 3, "of this hour Solvimon has nothing"
    account.deliver()
    account.settle()
    assert account.counted() == {(1, "eu"): 8, (2, "eu"): 3}


def test_hours_wait_with_the_day_that_they_are_part_of(books: Books) -> None:
    account = books.another()
    account.observe(dict.fromkeys(range(24), 1), last=23)
    account.settle(last=23)
    account.sql(
        "INSERT INTO ledger.reverted_slots (pair_id, metric_id, customer_id, start_at, end_at, slice, run_id, "
        "asked_by) VALUES (%s, %s, %s, %s, %s, 'total', 'a run', 'a test')",
        *(books.pair_id, account.metric.metric_id, account.customer, at(5), at(6)),
    )
    account = switch(account, PERIOD_TO_DATE)
    walk, ids = account.begin(), (account.customer, account.metric.metric_id)
    with books.connection.transaction():
        days = [UsageRow(*ids, at(24 * day), at(24 * day + 24), Decimal(24 - day)) for day in range(2)]
        readings.stage(books.connection, walk, days)
        whole = Reading(walk, *ids, PERIOD_TO_DATE, at(0), at(48))
        readings.store(books.connection, books.pair_id, [whole], grouped=False, run_id="test")
    account.settle(last=47)
    assert account.counted() == {**{(hour, "total"): 1 for hour in range(24)}, (24, "total"): 23}
    account.sql("DELETE FROM ledger.reverted_slots WHERE metric_id = %s", account.metric.metric_id)
    account.settle(last=47)
    assert account.counted() == {(0, "total"): 24, (24, "total"): 23}


# Slots ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["planned", "quarantined", "held"])
@pytest.mark.parametrize("calculation", ["SUM", "MAX"])
def test_a_slot_with_an_open_event_gets_no_other(books: Books, calculation: str, state: str) -> None:
    account = books.another(calculation)
    account.observe({1: 5, 2: 5})
    account.plan()
    account.sql(
        "DELETE FROM ledger.open_events o USING ledger.events e WHERE o.event_id = e.event_id AND start_at = %s", at(2)
    )
    account.sql("UPDATE ledger.open_events SET state = %s", state)
    account.observe({1: 7, 2: 7})
    assert account.plan().events == 1
    account.deliver()
    account.settle()
    assert account.counted() == {(1, "total"): 7, (2, "total"): 7}


def test_only_hours_that_were_read_and_lie_in_the_plans_range_are_planned(books: Books) -> None:
    account = books.another()
    account.observe({0: 1, 1: 2, 2: 3, 3: 4}, first=1, last=2)
    account.plan(first=2)
    account.deliver()
    assert account.counted() == {(2, "total"): 3}


# Histories -----------------------------------------------------------------------------------------------------------

HOURS = range(3)
NUMBERS = st.one_of(
    st.integers(-5, 5).map(Decimal), st.decimals(allow_nan=False, allow_infinity=False, places=3).map(abs), st.none()
)
REGIONS = st.sampled_from([None, "", "eu", "us", "a b"])
# One observation: the hours that it covers, its slicing, and for each hour its groups, those of them that are shown,
# and by how much the stated total departs from them.
OBSERVATIONS = st.tuples(
    st.sampled_from([(0, 2), (0, 2), (1, 2), (0, 0)]),
    st.sampled_from([UNGROUPED, REGION, REGION, TEAM]),
    st.lists(
        st.tuples(
            st.dictionaries(REGIONS, NUMBERS, max_size=4),
            st.one_of(st.none(), st.frozensets(REGIONS)),
            st.sampled_from([Decimal(0), Decimal(0), Decimal("0.5"), Decimal(-2)]),
        ),
        min_size=3,
        max_size=3,
    ),
)


def aggregate(calculation: str, values: Any) -> Decimal | None:
    present = [value for value in values if value is not None]
    if calculation == "MAX":
        return max(present, default=None)
    return exact_sum(present)


def expect_hour(
    calculation: str, total: Decimal | None, shown: Groups, before: dict[Any, Decimal], after: dict[Any, Decimal]
) -> None:
    seen = {region: value for region, value in shown.items() if value is not None}
    grouped = aggregate(calculation, seen.values())
    if calculation == "MAX" and grouped is not None and (total is None or grouped > total):
        assert after == before, "a contradiction changes nothing"
        return
    assert aggregate(calculation, after.values()) == (total if calculation == "MAX" else total or 0)
    if grouped == (total if calculation == "MAX" else total or 0):
        assert after == {region: value for region, value in seen.items() if value or calculation == "MAX"}
        return
    for region, value in before.items():
        believable = calculation == "SUM" or (total is not None and value <= total)
        if region not in ("total", "rest") and believable:
            assert after.get(region, 0) >= value, "no group is lowered"


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(calculation=st.sampled_from(["SUM", "MAX"]), history=st.lists(OBSERVATIONS, min_size=1, max_size=5))
def test_after_any_history_what_is_committed_is_what_was_last_observed(
    books: Books, calculation: str, history: list[Any]
) -> None:
    account = books.another(calculation)
    for (first, last), slicing, hours in history:
        if slicing != account.metric.slicing:
            account = switch(account, slicing)
        before = account.counted()
        covered = {hour: hours[hour] for hour in range(first, last + 1)}
        totals: dict[int, Decimal | None] = {}
        shown: dict[int, Groups] = {}
        for hour, (groups, visible, departs) in covered.items():
            total = aggregate(calculation, groups.values())
            totals[hour] = None if total is None else total + departs
            shown[hour] = {r: v for r, v in groups.items() if visible is None or r in visible}
        account.observe(totals, None if slicing == UNGROUPED else shown, first=first, last=last)
        account.settle(first=0, last=2)
        after = account.counted()
        for hour in HOURS:
            was = {region: value for (h, region), value in before.items() if h == hour}
            now = {region: value for (h, region), value in after.items() if h == hour}
            if hour not in covered:
                assert now == was
            elif slicing == UNGROUPED:
                expected = totals[hour]
                there = expected is not None and (expected or calculation == "MAX")
                assert now == ({"total": expected} if there else {})
            else:
                expect_hour(calculation, totals[hour], shown[hour], was, now)
    references = account.references()
    assert len(set(references)) == len(references)
    assert all(REFERENCE.fullmatch(reference) and len(reference) <= 256 for reference in references)
    assert account.sql("SELECT count(*) FROM metronome.staged_usage") == [(0,)]
