"""Windows of sweeps, and walks by day: pure functions, and a Metronome that the test makes up."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.errors import Malformed, PipelineError, Unauthorised, Unavailable
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.shelf import Unread
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.metronome.records import Usage
from metronome_pipeline.sweeps.days import DayReader, DayTotal
from metronome_pipeline.sweeps.sweeps import Sweep, SweepKind, Swept, stretch_of, window_of
from metronome_pipeline_tests.ledger.books import START

DAY = timedelta(days=1)


def day(number: int) -> datetime:
    return START + number * DAY


# Windows -------------------------------------------------------------------------------------------------------------


def window(
    kind: SweepKind, now: float, *, cut_over: float = 0, swept_until: int | None = None
) -> tuple[int, int] | None:
    found = window_of(
        kind,
        START + now * DAY,
        START + cut_over * DAY,
        days=35,
        swept_until=None if swept_until is None else day(swept_until),
    )
    return None if found is None else ((found.start - START).days, (found.end - START).days)


def test_the_daily_sweep_looks_at_whole_closed_days_from_the_cut_over_on() -> None:
    assert window(SweepKind.usage, 0.9) is None
    assert window(SweepKind.usage, 1.01) == (0, 1)
    assert window(SweepKind.usage, 100.5) == (65, 100)
    assert window(SweepKind.usage, 100.5, cut_over=70.5) == (70, 100)


def test_the_deep_sweep_ends_where_the_daily_one_begins() -> None:
    assert window(SweepKind.closed_periods, 35.9) is None
    assert window(SweepKind.closed_periods, 100.5) == (0, 65)


@given(gaps=st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_every_day_is_read_by_hour_once_it_is_35_days_old_however_seldom_that_happens(gaps: list[int]) -> None:
    now, until = 0, None
    ages: dict[int, int] = {}
    for gap in gaps:
        now += gap
        found = window(SweepKind.usage_by_hour, now, swept_until=until)
        assert found is not None
        ages.update({number: now - number for number in range(*found)})
        until = found[1]
    assert set(ages) == set(range(now))
    assert all(age >= 35 for number, age in ages.items() if number < now - 35)


def test_a_stretch_holds_8_days_of_the_window_and_nothing_from_before_the_cut_over() -> None:
    swept = Swept(1, [], {}, cut_over=START + 0.5 * DAY)
    sweep = Sweep(1, SweepKind.usage, Window(day(0), day(35)), 1)
    assert stretch_of(swept, sweep, day(0)) == Window(START + 0.5 * DAY, day(8))
    assert stretch_of(swept, sweep, day(7)) == Window(START + 0.5 * DAY, day(8))
    assert stretch_of(swept, sweep, day(8)) == Window(day(8), day(16))
    assert stretch_of(swept, sweep, day(34)) == Window(day(32), day(35))


# Walks by day --------------------------------------------------------------------------------------------------------

Answer = Sequence[tuple[str, int, Any]] | PipelineError


def unavailable() -> Unavailable:
    return Unavailable("Metronome is down.", system="Metronome", endpoint="POST /v1/usage")


def malformed() -> Malformed:
    return Malformed("It is not as promised.", system="Metronome", endpoint="POST /v1/usage")


@dataclass
class Account:
    """A Metronome that gives each walk the answer that is next for its customer: rows (metric, day, value)."""

    answers: dict[str, list[Answer]]
    asked: list[tuple[str, list[str]]] = field(default_factory=list)

    async def usage(
        self, *, customer_id: str, metric_ids: Sequence[str], window_size: str, **_: Any
    ) -> AsyncIterator[list[Usage]]:
        assert window_size == "DAY"
        self.asked.append((customer_id, list(metric_ids)))
        answer = self.answers[customer_id].pop(0)
        if isinstance(answer, PipelineError):
            raise answer
        for metric_id, number, value in answer:
            number_or_none = None if value is None else Decimal(value)
            yield [Usage(customer_id, metric_id, day(number), day(number + 1), number_or_none)]


def read(account: Account, *walks: tuple[str, list[str]]) -> tuple[list[DayTotal], tuple[Unread, ...]]:
    taken: list[DayTotal] = []

    async def take(customer_id: str, metric_ids: Sequence[str], totals: Sequence[DayTotal]) -> None:
        assert {total.customer_id for total in totals} == {customer_id}
        assert {total.metric_id for total in totals} == set(metric_ids)
        taken.extend(totals)

    reader = DayReader(cast("MetronomeApi", account), in_flight=1)
    unread = asyncio.run(reader.read(walks, day(0), day(2), take))
    return taken, unread


def test_a_walk_gives_every_day_of_every_metric_whether_metronome_lists_it_or_not() -> None:
    account = Account({"c": [[("m", 1, "0.10"), ("n", 0, None)]]})
    taken, unread = read(account, ("c", ["m", "n"]))
    assert [(total.metric_id, (total.day - START).days, total.value) for total in taken] == [
        ("m", 0, None),
        ("m", 1, Decimal("0.10")),
        ("n", 0, None),
        ("n", 1, None),
    ]
    assert unread == ()


def test_a_walk_that_is_not_complete_is_begun_anew_each_metric_alone_and_the_bad_one_is_named() -> None:
    twice = [("m", 0, 1), ("m", 0, 1)]
    good = [("n", 0, 2)]
    account = Account({"c": [[*twice, *good], twice, malformed(), good], "d": [[("m", 0, 3)]]})
    taken, unread = read(account, ("c", ["m", "n"]), ("d", ["m"]))
    assert {(total.customer_id, total.metric_id) for total in taken} == {("c", "n"), ("d", "m")}
    assert unread == (Unread("c", ("m",), "It is not as promised."),)
    assert account.asked == [("c", ["m", "n"]), ("c", ["m"]), ("c", ["m"]), ("c", ["n"]), ("d", ["m"])]


def test_what_passes_when_it_is_begun_anew_is_taken_once() -> None:
    account = Account({"c": [malformed(), [("m", 0, 1)]]})
    taken, unread = read(account, ("c", ["m"]))
    assert [total.value for total in taken] == [Decimal(1), None]
    assert unread == ()


def test_a_walk_without_an_answer_is_left_and_several_after_each_other_end_the_read() -> None:
    good: Answer = [("m", 0, 1)]
    walks = [(str(number), ["m"]) for number in range(6)]
    some = Account(
        {"0": [unavailable()], "1": [unavailable()], "2": [unavailable()], "3": [good], "4": [unavailable()]}
    )
    _, unread = read(some, *walks[:5])
    assert [each.customer_id for each in unread] == ["0", "1", "2", "4"]
    with pytest.raises(Unavailable):
        read(Account({str(number): [unavailable()] for number in range(6)}), *walks)


def test_a_refused_credential_ends_the_read_at_once() -> None:
    refused = Unauthorised("Check the token.", system="Metronome", endpoint="POST /v1/usage")
    account = Account({"c": [refused], "d": [[("m", 0, 1)]]})
    with pytest.raises(Unauthorised):
        read(account, ("c", ["m"]), ("d", ["m"]))
    assert len(account.asked) == 1
