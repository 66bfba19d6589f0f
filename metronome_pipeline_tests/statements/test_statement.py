"""Which windows a statement asks Metronome for, how sides are compared, and files that hold what was written."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.ledger.readings import RepeatedRow
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE
from metronome_pipeline.metronome.records import Usage
from metronome_pipeline.statements.files import (
    FORMATS,
    Columns,
    Format,
    Lines,
    NotAStatement,
    statement_file,
    verify,
)
from metronome_pipeline.statements.lines import EVENT, FOREIGN, SLOT, Line
from metronome_pipeline.statements.metered import Span, StatedMetric, metered
from metronome_pipeline.statements.returned import ReturnedEvent, returned_events
from metronome_pipeline.statements.totals import Tally, Total

PERIOD = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
CALLS = StatedMetric("calls", "Calls", "SUM", "SUM", "ungrouped")
PEAK = StatedMetric("peak", "Peak", "MAX", "MAX", "ungrouped")
SEATS = StatedMetric("seats", "Seats", "UNIQUE", "SUM", PERIOD_TO_DATE)
LEVEL = StatedMetric("level", "Level", "LATEST", "SUM", "ungrouped")
REFUSED = StatedMetric("refused", "Refused", "LATEST", None, None, "it has no exact calculation")

Asked = tuple[tuple[str, ...], datetime, datetime, str]


@dataclass
class _Metronome:
    """One unit in every hour since 2026; a window's value is how many hours it has."""

    asked: list[Asked] = field(default_factory=list)
    repeat: int = 0

    async def usage(
        self,
        *,
        customer_id: str,
        metric_ids: Sequence[str],
        starting_on: datetime,
        ending_before: datetime,
        window_size: str,
    ) -> AsyncIterator[list[Usage]]:
        self.asked.append((tuple(metric_ids), starting_on, ending_before, window_size))
        step = ending_before - starting_on if window_size == "NONE" else HOUR
        for metric_id in metric_ids:
            starts = [starting_on + number * step for number in range((ending_before - starting_on) // step)]
            rows = [
                Usage(
                    customer_id=customer_id, metric_id=metric_id, start=at, end=at + step, value=Decimal(step // HOUR)
                )
                for at in starts
            ]
            if self.repeat > 0:
                self.repeat -= 1
                rows.append(rows[0])
            yield rows


def _metered(api: Any, metrics: Sequence[StatedMetric], start: datetime, end: datetime) -> dict[str, Decimal | None]:
    return asyncio.run(metered(api, "customer", metrics, Span(PERIOD, start, end)))


def test_a_whole_period_is_one_window_a_metric() -> None:
    api = _Metronome()
    end = PERIOD + 31 * DAY
    assert _metered(api, [CALLS, PEAK, SEATS, REFUSED], PERIOD, end) == {
        "calls": 744,
        "peak": 744,
        "seats": 744,
        "refused": 744,
    }
    assert api.asked == [(("calls", "peak", "seats", "refused"), PERIOD, end, "NONE")]


def test_hours_that_are_no_whole_days_or_do_not_add_up_are_read_by_hour() -> None:
    api = _Metronome()
    assert _metered(api, [CALLS, PEAK], PERIOD + 5 * HOUR, PERIOD + 2 * DAY + HOUR) == {"calls": 44, "peak": 1}
    assert _metered(api, [LEVEL], PERIOD, PERIOD + DAY) == {"level": 24}
    assert [size for *_, size in api.asked] == ["HOUR", "HOUR"]
    assert api.asked[0][1:3] == (PERIOD, PERIOD + 3 * DAY)


def test_period_to_date_is_the_period_less_what_was_before_the_first_midnight_since_the_cut_over() -> None:
    start, end = PERIOD + 2 * DAY + 5 * HOUR, PERIOD + 4 * DAY + 7 * HOUR
    assert _metered(_Metronome(), [SEATS], start, end) == {"seats": 24}
    assert _metered(_Metronome(), [SEATS], PERIOD + 3 * DAY + HOUR, PERIOD + 4 * DAY) == {}
    assert _metered(_Metronome(), [SEATS], PERIOD, PERIOD + 4 * DAY) == {"seats": 96}


def test_a_walk_that_returns_a_window_twice_is_begun_anew_and_then_given_up() -> None:
    assert _metered(_Metronome(repeat=2), [CALLS], PERIOD, PERIOD + DAY) == {"calls": 24}
    with pytest.raises(RepeatedRow):
        _metered(_Metronome(repeat=3), [CALLS], PERIOD, PERIOD + DAY)


def _total(metric: StatedMetric, metronome: str | None, *lines: Line) -> Total | None:
    tally = Tally()
    for line in lines:
        tally.add(line)
    totals = tally.totals([metric], {metric.metric_id: None if metronome is None else Decimal(metronome)})
    return totals[0] if totals else None


def _slot(metric: StatedMetric, quantity: str, *, returned: str | None = None, state: str = "counted") -> list[Line]:
    own = (metric.metric_id, metric.name, PERIOD)
    number = Decimal(quantity)
    back = Decimal(returned if returned is not None else quantity)
    return [
        Line(SLOT, "c", *own, quantity=number),
        Line(EVENT, "c", *own, kind="usage", counted=number, number=number, solvimon_number=back, solvimon_state=state),
    ]


def test_sums_are_added_and_maxima_are_not() -> None:
    calls = _total(CALLS, "0.3", *_slot(CALLS, "0.1"), *_slot(CALLS, "0.2"))
    assert calls is not None
    assert (calls.ledger, calls.solvimon, calls.difference, calls.agrees) == (
        Decimal("0.3"),
        Decimal("0.3"),
        Decimal(0),
        "yes",
    )
    peak = _total(PEAK, "7", *_slot(PEAK, "7"), *_slot(PEAK, "3"))
    assert peak is not None
    assert (peak.ledger, peak.solvimon, peak.agrees) == (Decimal(7), Decimal(7), "yes")


def test_a_number_that_differs_is_told_and_nothing_at_all_is_no_line() -> None:
    changed = _total(CALLS, "5", *_slot(CALLS, "5", returned="4"))
    assert changed is not None
    assert (changed.difference, changed.agrees) == (Decimal(-1), "no")
    assert changed.remarks == "1 with another number in Solvimon"
    missing = _total(PEAK, "5")
    assert missing is not None
    assert (missing.difference, missing.agrees) == (None, "no")
    beside = _total(CALLS, None, Line(FOREIGN, "c", "calls", "Calls", PERIOD, solvimon_state="duplicate"))
    assert beside is not None
    assert (beside.agrees, beside.remarks) == ("yes", "1 second copy not counted")
    assert _total(CALLS, None) is None
    assert _total(REFUSED, "0") is None


def test_of_several_copies_the_one_that_counts_is_taken_and_each_only_once() -> None:
    def copy(event_id: str, state: str) -> ReturnedEvent:
        return ReturnedEvent(event_id, "reference", "calls", "2026-01-01T00:00:00Z", "1", None, state, None)

    with returned_events() as returned:
        returned.put([copy("a", "duplicate"), copy("b", "deleted"), copy("c", "counted")])
        returned.put([copy("c", "deleted")])
        returned.expect([("reference",), ("other",)])
        assert returned.lacking() == ["other"]
        returned.looked_up("other")
        assert returned.lacking() == []
        # Neither duplicates nor unmatched events are on an invoice.
        assert returned.untraced() == ["b", "c"]
        returned.traced("b", [])
        returned.traced("c", ["invo_2", "invo_1", "invo_2"])
        assert returned.untraced() == []
        taken = returned.take("reference")
        assert taken is not None
        assert (taken.id, taken.invoices) == ("c", "invo_1 invo_2")
        assert [event.id for event in returned.rest()] == ["a", "b"]
        assert returned.take("nothing") is None


_COLUMNS: Columns = MappingProxyType(
    {"name": "text", "value": "number", "at": "instant", "revision": "whole", "late": "switch"}
)
_INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants it naive
_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
_FORMULAS = st.sampled_from(["=1+1", "'=1", "''", "-5", "+", "@x", "\t", "\r\n", '"', "a,b"])
_NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=20, min_value=-(10**60), max_value=10**60)
_LINES = st.tuples(
    st.none() | _TEXTS | _FORMULAS,
    st.none() | _NUMBERS,
    st.none() | _INSTANTS,
    st.none() | st.integers(0, 9),
    st.booleans(),
)


@pytest.mark.parametrize("format_", FORMATS)
@given(lines=st.lists(_LINES, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_holds_what_was_written(tmp_path: Path, format_: Format, lines: list[tuple[Any, ...]]) -> None:
    path = tmp_path / f"file.{format_}"
    with statement_file(path, _COLUMNS, format_) as file:
        for line in lines:
            file.write(line)
        digest = file.finish({"whose": "=x"}, made_at=PERIOD)
    found = verify(path, _COLUMNS)
    assert found.unchanged
    assert (found.recorded, found.lines, found.facts) == (digest, len(lines), {"whose": "=x"})
    read = list(Lines(path, _COLUMNS))
    assert [texts[0] for texts in read] == [line[0] or None for line in lines]
    assert [None if texts[1] is None else Decimal(texts[1]) for texts in read] == [line[1] for line in lines]
    assert [texts[4] for texts in read] == ["true" if line[4] else "false" for line in lines]


def test_the_digest_is_the_same_in_both_formats_and_of_a_form_that_stays(tmp_path: Path) -> None:
    line = ("Größe", Decimal("1.50"), PERIOD, 2, False)
    digests = set()
    for format_ in FORMATS:
        with statement_file(tmp_path / f"one.{format_}", _COLUMNS, format_) as file:
            file.write(line)
            digests.add(file.finish({"b": 1, "a": None}, made_at=PERIOD))
    # Written out, for somebody who checks a digest without this code.
    text = (
        '["statement 1","name","value","at","revision","late"]\n'
        '["Gr\\u00f6\\u00dfe","1.5","2026-01-01T00:00:00Z","2","false"]\n'
        '{"a":null,"b":1}\n'
    )
    assert digests == {hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / f"file.{format_}"
    path.write_text("an earlier one")

    def fail() -> None:
        with statement_file(path, _COLUMNS, format_) as file:
            file.write(("x", None, None, None, None))
            raise PipelineError("The database is gone.")

    with pytest.raises(PipelineError):
        fail()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "an earlier one"
    with pytest.raises(NotAStatement):
        verify(path, _COLUMNS)


@pytest.mark.parametrize("format_", FORMATS)
def test_lines_that_were_taken_away_or_moved_are_noticed(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / f"file.{format_}"
    digests = set()
    for names in ("ab", "ba", "a"):
        with statement_file(path, _COLUMNS, format_) as file:
            for name in names:
                file.write((name, None, None, None, None))
            digests.add(file.finish({}, made_at=PERIOD))
    assert len(digests) == 3
