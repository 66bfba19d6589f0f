"""Group values by the hundred thousand, of one customer, metric and hour: billed exactly, in bounded memory."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest

from metronome_pipeline.ledger.read import UsageReader, Window
from metronome_pipeline.ledger.shelf import ReadReport
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.storage.database import Database
from metronome_pipeline_tests.hostile.adversary import MEGABYTE, peak_resident
from metronome_pipeline_tests.ledger.books import Books, at
from metronome_pipeline_tests.loopback import Scripted, session

GROUPS = 100_000
PAGE = 1_000
HOURS = Window(at(3), at(5))


class Account(Scripted):
    """A Metronome account of one customer and metric, whose third hour has very many groups of 0.5 each.

    ``spoil`` may change what a page of groups is, given its number from 0. Pages hold more rows than the real ones, so
    that the test is quick.
    """

    def __init__(self, books: Books, spoil: Callable[[int, bytes], bytes] = lambda _, body: body) -> None:
        super().__init__(httpx.Response(200))
        self.books, self.spoil = books, spoil
        self.group_pages = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/usage":
            return httpx.Response(200, content=self._total())
        number = int(request.url.params.get("next_page", "0"))
        self.group_pages += 1
        return httpx.Response(200, content=self.spoil(number, self._groups(number)))

    def _total(self) -> bytes:
        row = {
            "customer_id": self.books.customer,
            "billable_metric_id": self.books.metric.metric_id,
            "start_timestamp": at(3).isoformat(),
            "end_timestamp": at(4).isoformat(),
            "value": GROUPS / 2,
        }
        return json.dumps({"data": [row], "next_page": None}).encode()

    def _groups(self, number: int) -> bytes:
        bounds = {"starting_on": at(3).isoformat(), "ending_before": (at(3) + timedelta(hours=1)).isoformat()}
        first = number * PAGE
        rows = [
            {**bounds, "group": {"region": f"région {name:06}"}, "value": 0.5} for name in range(first, first + PAGE)
        ]
        return json.dumps({"data": rows, "next_page": str(number + 1) if first + PAGE < GROUPS else None}).encode()


@pytest.fixture
def sliced(books: Books) -> Books:
    return books.another().through('["region"]')


def read(account: Account, database_url: str, most_pages: int = 10_000) -> ReadReport:
    async def main() -> ReadReport:
        async with asyncio.timeout(120), session(account.transport(), policy=RetryPolicy(attempts=2)) as http:
            with Database(database_url) as database:
                api, books = MetronomeApi(http, most_pages=most_pages), account.books
                reader = UsageReader(api, database, books.pair_id, "test", in_flight=1)
                return await reader.read([books.customer], [books.metric], HOURS)

    return asyncio.run(main())


def stored(books: Books) -> list[tuple[int, Decimal | None]]:
    return books.sql(
        "SELECT count(*), sum(value) FROM metronome.grouped_usage WHERE metric_id = %s AND slice <> 'total'",
        books.metric.metric_id,
    )


def assert_nothing_left(books: Books) -> None:
    assert books.sql("SELECT count(*) FROM metronome.staged_usage") == [(0,)]
    assert books.sql("SELECT count(*) FROM metronome.walks") == [(0,)]


def test_a_hundred_thousand_groups_of_one_hour_are_billed_to_the_last(sliced: Books, shared_database_url: str) -> None:
    with peak_resident() as peak:
        report = read(Account(sliced), shared_database_url)
    assert (report.pairs, report.short_hours, report.unread) == (1, 0, ())
    assert peak.bytes < 60 * MEGABYTE, f"{peak.bytes:,} bytes: rows are put aside by the five thousand"
    assert stored(sliced) == [(GROUPS, Decimal(GROUPS) / 2)]
    assert_nothing_left(sliced)
    with peak_resident() as peak:
        planned = sliced.plan(0, 5)
    assert planned.events == GROUPS
    assert peak.bytes < 20 * MEGABYTE, f"{peak.bytes:,} bytes: plans are made in Postgres"
    assert sliced.sql(
        "SELECT count(DISTINCT reference), sum(number) FROM ledger.events WHERE metric_id = %s", sliced.metric.metric_id
    ) == [(GROUPS, Decimal(GROUPS) / 2)]


def broken(number: int, body: bytes) -> bytes:
    return body[:-100] if number == 6 else body


def repeated(number: int, body: bytes) -> bytes:
    """A row of the first page once more, in the middle of a later one."""
    return body.replace(json.dumps("région 006500").encode(), json.dumps("région 000500").encode())


def huge(number: int, body: bytes) -> bytes:
    return body.replace(b'"value": 0.5', b'"value": 1e999999999', 1) if number == 6 else body


def far(number: int, body: bytes) -> bytes:
    return body.replace(at(3).isoformat().encode(), b"0001-01-01T00:00:00+14:00", 1) if number == 6 else body


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (broken, "the body is not JSON or is cut short"),
        (repeated, "twice in one walk"),
        (huge, "has over 100 digits, written plainly"),
        (far, "is an instant before the year 1 or after 9999 in UTC"),
    ],
    ids=["broken", "repeated", "huge", "far"],
)
def test_of_groups_that_break_after_the_six_thousandth_nothing_is_kept_and_nothing_planned(
    sliced: Books, shared_database_url: str, spoil: Callable[[int, bytes], bytes], words: str
) -> None:
    report = read(Account(sliced, spoil), shared_database_url)
    assert report.pairs == 0
    [unread] = report.unread
    assert words in unread.reason
    assert unread.customer_id == sliced.customer
    assert stored(sliced) == [(0, None)]
    assert_nothing_left(sliced)
    assert sliced.plan(0, 5).events == 0


def test_groups_without_end_are_given_up_by_name_and_leave_nothing(sliced: Books, shared_database_url: str) -> None:
    account = Account(sliced)
    report = read(account, shared_database_url, most_pages=12)
    [unread] = report.unread
    assert "POST /v1/usage/groups has more than 12 pages: the walk is not complete" in unread.reason
    assert account.group_pages == 3 * 12, "three attempts, each to the bound"
    assert stored(sliced) == [(0, None)]
    assert_nothing_left(sliced)
    assert sliced.plan(0, 5).events == 0
