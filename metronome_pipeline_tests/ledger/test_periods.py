"""Reading billing periods: which values are asked for, when a walk counts, and that a period is always one walk's."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import psycopg.sql
import pytest

from metronome_pipeline.ledger.periods import Billing, PeriodReader
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.shelf import ReadReport
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE, BilledMetric
from metronome_pipeline.metronome.records import Usage
from metronome_pipeline.storage.database import Database
from metronome_pipeline_tests.ledger.books import Books

SEATS = BilledMetric("222796fd-d29c-429e-89b2-549fabda4ed6", "Seats", "SUM", PERIOD_TO_DATE)
JANUARY, FEBRUARY = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2))
DAY = timedelta(days=1)


@dataclass
class Metronome:
    """What ``POST /v1/usage`` answers: by default a value that is the day of the month at which the range ends."""

    value: Callable[[datetime], Any] = lambda end: (end - JANUARY) // DAY
    rows: Callable[[Usage], list[Usage]] = lambda usage: [usage]
    meanwhile: Callable[[], Any] | None = None
    asked: list[tuple[datetime, datetime, str]] = field(default_factory=list)

    async def usage(
        self, *, customer_id: str, metric_ids: Sequence[str], starting_on: Any, ending_before: Any, window_size: str
    ) -> AsyncIterator[list[Usage]]:
        if self.meanwhile:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        self.asked.append((starting_on, ending_before, window_size))
        for metric_id in metric_ids:
            value = self.value(ending_before)
            number = None if value is None else Decimal(value)
            yield self.rows(Usage(customer_id, metric_id, starting_on, ending_before, number))


@dataclass
class Reading:
    """An account pair on Postgres, whose time the test sets, and one (customer, metric) of it."""

    books: Books
    url: str
    metric: BilledMetric = SEATS

    def at(self, moment: datetime) -> None:
        """The time of whoever opens the database from now on."""
        ahead = psycopg.sql.Literal(f"{int((moment - datetime.now(UTC)).total_seconds())} seconds")
        name = psycopg.sql.Identifier(self.books.connection.info.dbname)
        self.books.connection.execute(psycopg.sql.SQL("ALTER DATABASE {} SET ledger.ahead = {}").format(name, ahead))

    def read(self, api: Metronome, **billing: Any) -> ReadReport:
        return asyncio.run(self.reading(api, **billing))

    async def reading(self, api: Any, **billing: Any) -> ReadReport:
        rules = Billing(**{"anchor_day": 1, "start": JANUARY, "closes_after": timedelta(minutes=15), **billing})
        with Database(self.url) as database:
            reader = PeriodReader(api, database, self.books.pair_id, "test", in_flight=1, billing=rules)
            return await reader.read([self.books.customer], [self.metric], Window(JANUARY, FEBRUARY))

    def days(self) -> dict[int, Decimal]:
        """What is stored of January, by the day of the month."""
        rows = self.books.sql(
            "SELECT start_at, end_at, value FROM metronome.usage WHERE pair_id = %s ORDER BY start_at",
            self.books.pair_id,
        )
        assert all(end - start == DAY for start, end, _ in rows)
        return {(start - JANUARY) // DAY + 1: value for start, _, value in rows}

    def covered(self) -> list[tuple[datetime, datetime]]:
        return self.books.sql(
            "SELECT lower(covered), upper(covered) FROM metronome.coverage WHERE pair_id = %s", self.books.pair_id
        )

    def left(self) -> int:
        ((left,),) = self.books.sql("SELECT count(*) FROM metronome.walks")
        return int(left)


@pytest.fixture
def reading(books: Books, shared_database_url: str) -> Reading:
    made = Reading(books, shared_database_url)
    made.at(JANUARY + 4 * DAY + timedelta(hours=3))
    return made


def test_each_closed_midnight_is_one_request_over_the_whole_period_so_far(reading: Reading) -> None:
    api = Metronome(value=lambda end: [None, 5, 5, 3][(end - JANUARY) // DAY - 1])
    report = reading.read(api)
    assert (report.pairs, report.unread) == (1, ())
    assert api.asked == [(JANUARY, JANUARY + number * DAY, "NONE") for number in (1, 2, 3, 4)]
    assert reading.days() == {2: 5, 3: 0, 4: -2}, "two days without a value have no row; one that stays has"
    assert reading.covered() == [(JANUARY, JANUARY + 4 * DAY)]
    assert reading.left() == 0


@pytest.mark.parametrize(
    ("cut_over", "first"), [(JANUARY + 2 * DAY, 2), (JANUARY + 1.5 * DAY, 2), (JANUARY - DAY, 0), (JANUARY, 0)]
)
def test_the_first_value_is_that_of_the_first_midnight_after_the_cut_over(
    reading: Reading, cut_over: datetime, first: int
) -> None:
    for billing in ({"start": cut_over}, {"starts": {reading.books.customer: cut_over}}):
        api = Metronome()
        reading.read(api, **billing)
        assert [(end - JANUARY) // DAY for _, end, _ in api.asked] == [n for n in (first, *range(first + 1, 5)) if n]
    assert reading.covered() == [(max(cut_over, JANUARY), JANUARY + 4 * DAY)]
    assert sum(reading.days().values()) == 4 - first


def test_a_period_of_which_no_day_is_billed_yet_asks_nothing(reading: Reading) -> None:
    later = reading.books.another()
    for moment in (JANUARY + 3.5 * DAY, JANUARY + 5 * DAY):
        other = Reading(later, reading.url)
        api = Metronome()
        assert other.read(api, starts={later.customer: moment}).unread == ()
        assert api.asked == []
    assert reading.left() == 0
    rows = reading.books.sql("SELECT lower(covered) FROM metronome.coverage WHERE customer_id = %s", later.customer)
    assert rows == [(JANUARY + 3.5 * DAY,)], "the rest of the cut-over's day is read: there is nothing in it to bill"


def test_a_walk_reads_what_is_closed_when_it_begins_and_ends_with_its_period(reading: Reading) -> None:
    reading.at(JANUARY + 5 * DAY + timedelta(minutes=14))
    reading.read(Metronome())
    assert reading.covered() == [(JANUARY, JANUARY + 4 * DAY)]
    reading.at(JANUARY + 5 * DAY + timedelta(minutes=16))
    reading.read(Metronome())
    assert reading.covered() == [(JANUARY, JANUARY + 5 * DAY)]
    reading.at(FEBRUARY + 10 * DAY)
    reading.read(Metronome())
    assert reading.covered() == [(JANUARY, FEBRUARY)]
    assert sum(reading.days().values()) == 31


def test_a_walk_that_began_earlier_and_ends_later_leaves_all_days_as_the_later_one_read_them(reading: Reading) -> None:
    """Days 1 to 4 of one walk and day 5 of another would not add up to the value of any midnight."""

    async def later() -> None:
        reading.at(JANUARY + 5 * DAY + timedelta(minutes=16))
        await reading.reading(Metronome(value=lambda end: 100 * ((end - JANUARY) // DAY)))

    reading.at(JANUARY + 5 * DAY - timedelta(minutes=1))
    reading.read(Metronome(meanwhile=later))
    assert reading.days() == dict.fromkeys(range(1, 6), Decimal(100))
    assert reading.covered() == [(JANUARY, JANUARY + 5 * DAY)]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (lambda usage: [usage, usage], "two values"),
        (
            lambda usage: [Usage(usage.customer_id, usage.metric_id, usage.start + DAY, usage.end, Decimal(1))],
            "what the",
        ),
        (
            lambda usage: [Usage(usage.customer_id, usage.metric_id, usage.start, usage.end - DAY, Decimal(1))],
            "what the",
        ),
    ],
)
def test_an_answer_that_is_not_one_value_over_the_range_ends_the_walk_by_name(
    reading: Reading, rows: Callable[[Usage], list[Usage]], why: str
) -> None:
    reading.read(Metronome())
    before = reading.days()

    def at_the_last_midnight(usage: Usage) -> list[Usage]:
        return rows(usage) if usage.end == JANUARY + 4 * DAY else [usage]

    report = reading.read(Metronome(value=lambda end: 9, rows=at_the_last_midnight))
    ((unread,)) = report.unread
    assert unread.metric_ids == (SEATS.metric_id,)
    assert why in unread.reason
    assert reading.days() == before
    assert reading.left() == 0


def test_an_absent_value_is_nothing(reading: Reading) -> None:
    reading.read(Metronome(rows=lambda usage: [] if usage.end <= JANUARY + 2 * DAY else [usage]))
    assert reading.days() == {3: 3, 4: 1}


def test_windows_are_whole_periods_from_the_cut_over_on() -> None:
    billing = Billing(anchor_day=15, start=JANUARY + 20 * DAY)
    middle = datetime(2026, 1, 15, tzinfo=UTC)
    assert billing.windows(JANUARY, middle + DAY) == []
    assert billing.windows(JANUARY, FEBRUARY) == [Window(JANUARY + 20 * DAY, middle + 31 * DAY)]
    assert billing.windows(middle + 31 * DAY, middle + 32 * DAY) == [Window(middle + 31 * DAY, middle + 59 * DAY)]
    assert len(billing.windows(JANUARY, middle + 60 * DAY)) == 3
