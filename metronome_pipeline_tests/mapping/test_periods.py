"""Billing periods and their increases: whatever the midnights' values are, the days add up to the last of them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.mapping.periods import (
    DAY,
    Period,
    first_midnight,
    increases,
    last_midnight,
    midnights,
    period_of,
    periods_within,
)
from metronome_pipeline.storage.migrations import migrate

# Hypothesis takes bounds without a zone only.
_FIRST, _LAST = datetime(2000, 1, 1), datetime(2099, 1, 1)  # noqa: DTZ001
instants = st.datetimes(_FIRST, _LAST, timezones=st.just(UTC))
anchors = st.integers(1, 28)
values = st.none() | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40, places=40
)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(st.lists(values | st.just(Decimal("1e99")) | st.just(Decimal("1e-99")), min_size=1, max_size=32))
def test_the_increases_add_up_to_what_the_value_rose_by_on_every_day(at_midnights: list[Decimal | None]) -> None:
    days = increases(at_midnights)
    first = Fraction(at_midnights[0] or 0)
    total = Fraction(0)
    for increase, value in zip(days, at_midnights[1:], strict=True):
        total += Fraction(increase or 0)
        assert total == Fraction(value or 0) - first


def test_a_day_without_any_value_is_no_row_and_a_value_that_ends_is_taken_back() -> None:
    assert increases([None, None, Decimal(5), Decimal(3), None, None]) == [None, 5, -2, -3, None]
    assert increases([Decimal(5), Decimal(5)]) == [0]
    assert increases([Decimal(5)]) == []


@given(instants, anchors)
def test_every_instant_lies_in_one_period_that_begins_and_ends_on_the_anchor_day(moment: datetime, anchor: int) -> None:
    period = period_of(moment, anchor)
    assert period.start <= moment < period.end
    assert period_of(period.start, anchor) == period_of(period.end - timedelta(microseconds=1), anchor) == period
    assert period_of(period.end, anchor).start == period.end
    for bound in (period.start, period.end):
        assert bound.day == anchor
        assert bound == last_midnight(bound)
    assert 28 * DAY <= period.end - period.start <= 31 * DAY


@pytest.mark.parametrize(
    ("moment", "anchor", "start", "end"),
    [
        ("2026-01-05", 1, "2026-01-01", "2026-02-01"),
        ("2026-01-10", 28, "2025-12-28", "2026-01-28"),
        ("2024-02-29", 28, "2024-02-28", "2024-03-28"),
        ("2026-03-15", 15, "2026-03-15", "2026-04-15"),
        ("2026-03-14", 15, "2026-02-15", "2026-03-15"),
    ],
)
def test_periods_are_these(moment: str, anchor: int, start: str, end: str) -> None:
    assert period_of(day(moment), anchor) == Period(day(start), day(end))


def test_the_database_ends_periods_at_the_same_instants(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        migrate(connection)
        rows = connection.execute(
            "SELECT moment, anchor, ledger.period_end(moment, anchor) FROM generate_series("
            "'2023-11-27T00:00Z'::timestamptz, '2024-04-02T00:00Z', '7 hours') AS moment, generate_series(1, 28) anchor"
        )
        for moment, anchor, end in rows:
            assert period_of(moment, anchor).end == end, (moment, anchor)


@given(instants, st.integers(1, 100 * 24), anchors)
def test_the_periods_of_a_range_follow_each_other_and_cover_it(start: datetime, hours: int, anchor: int) -> None:
    end = start + timedelta(hours=hours)
    found = list(periods_within(start, end, anchor))
    assert found[0].start <= start
    assert found[-1].start < end <= found[-1].end
    assert all(one.end == other.start for one, other in pairwise(found))
    assert list(periods_within(end, start, anchor)) == []


@given(instants)
def test_the_first_midnight_is_at_or_after_and_the_last_at_or_before(moment: datetime) -> None:
    assert last_midnight(moment) <= moment <= first_midnight(moment)
    assert first_midnight(moment) - last_midnight(moment) in (timedelta(0), DAY)


def test_midnights_have_both_ends_and_none_where_the_end_comes_first() -> None:
    assert midnights(day("2026-01-30"), day("2026-02-01")) == [day("2026-01-30"), day("2026-01-31"), day("2026-02-01")]
    assert midnights(day("2026-01-30"), day("2026-01-30")) == [day("2026-01-30")]
    assert midnights(day("2026-01-30"), day("2026-01-29")) == []
