"""Lists without end: always another cursor, with new rows, the same rows or none. Each walk ends with a sentence.

The bounds are those of the product wherever they can be reached in a moment, and smaller ones where they cannot.
"""

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from metronome_pipeline.errors import ApiError, CursorRepeated, Malformed
from metronome_pipeline.metronome import api as metronome_api
from metronome_pipeline.metronome.api import MOST_IDLE_PAGES, MetronomeApi
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.solvimon import calls
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.calls import Endpoint
from metronome_pipeline_tests.hostile.adversary import MEGABYTE, peak_memory
from metronome_pipeline_tests.hostile.shapes import UUID
from metronome_pipeline_tests.loopback import Scripted, session

DAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
STATE = {"name": "Calls", "created_at": "2026-01-01T00:00:00Z", "created_by": "Bob"}
INSTANTS = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}


class Endless(Scripted):
    """A transport that makes each answer from the number of its request, from 1."""

    def __init__(self, page: Callable[[int], Any]) -> None:
        super().__init__(httpx.Response(200))
        self.page = page
        self.count = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        del request
        self.count += 1
        return httpx.Response(200, content=json.dumps(self.page(self.count)).encode())


def walked(script: Scripted, ask: Callable[[Any], AsyncIterator[Any]], system: str = "Metronome") -> tuple[int, Any]:
    """How many pages a walk gave, and the error that it ended with."""

    async def main() -> tuple[int, Any]:
        pages = 0
        async with (
            asyncio.timeout(60),
            session(script.transport(), system=system, policy=RetryPolicy(attempts=2)) as http,
        ):
            keys = calls.idempotency_keys(random.Random(1))
            api = MetronomeApi(http) if system == "Metronome" else SolvimonApi(http, new_idempotency_key=keys)
            try:
                async for _ in ask(api):
                    pages += 1
            except ApiError as error:
                return pages, error
            return pages, None

    return asyncio.run(main())


def a_customer(number: int) -> dict[str, Any]:
    of_it = {"name": "Acme", "ingest_aliases": [], "custom_fields": {}, **INSTANTS}
    return {"id": str(uuid.UUID(int=number)), **of_it}


def a_metric(number: int) -> dict[str, Any]:
    return {"id": str(uuid.UUID(int=number)), "name": "Calls"}


def a_product(number: int) -> dict[str, Any]:
    return {"id": str(uuid.UUID(int=number)), "type": "USAGE", "initial": STATE, "current": STATE, "updates": []}


LISTS: dict[str, tuple[Callable[[int], Any], Callable[[Any], AsyncIterator[Any]]]] = {
    "customers": (a_customer, lambda api: api.customers(archived=False)),
    "metrics": (a_metric, lambda api: api.billable_metrics()),
    "products": (a_product, lambda api: api.products()),
}


def an_hour(number: int) -> dict[str, Any]:
    start = DAY + number % 24 * HOUR
    bounds = {"start_timestamp": start.isoformat(), "end_timestamp": (start + HOUR).isoformat()}
    return {"customer_id": UUID, "billable_metric_id": UUID, "value": 1, **bounds}


def a_group(region: str) -> dict[str, Any]:
    bounds = {"starting_on": DAY.isoformat(), "ending_before": (DAY + HOUR).isoformat()}
    return {**bounds, "group": {"region": region}, "value": 1}


def usage(api: MetronomeApi) -> AsyncIterator[Any]:
    return api.usage(customer_id=UUID, metric_ids=[UUID], starting_on=DAY, ending_before=DAY + timedelta(days=1))


def groups(api: MetronomeApi) -> AsyncIterator[Any]:
    end = DAY + timedelta(days=1)
    return api.grouped_usage(customer_id=UUID, metric_id=UUID, group_key=["region"], starting_on=DAY, ending_before=end)


@pytest.mark.parametrize("name", ["products", "usage", "groups"])
def test_empty_pages_with_always_more_to_come_end(name: str) -> None:
    ask = {"usage": usage, "groups": groups}.get(name) or LISTS[name][1]
    script = Endless(lambda number: {"data": [], "next_page": f"cursor {number}"})
    _, error = walked(script, ask)
    assert isinstance(error, Malformed)
    assert f"gave {MOST_IDLE_PAGES:,} pages in a row with nothing new: the walk is not complete" in str(error)
    assert script.count == MOST_IDLE_PAGES


def test_the_same_records_under_always_another_cursor_end() -> None:
    row, ask = LISTS["metrics"]
    script = Endless(lambda number: {"data": [row(7), row(8)], "next_page": f"cursor {number}"})
    _, error = walked(script, ask)
    assert isinstance(error, Malformed)
    assert "with nothing new" in str(error)
    assert script.count == MOST_IDLE_PAGES + 1


def test_empty_pages_between_full_ones_end_no_walk() -> None:
    last = 3 * (MOST_IDLE_PAGES - 1) + 1

    def page(number: int) -> Any:
        rows = [a_customer(number)] if number % (MOST_IDLE_PAGES - 1) == 1 else []
        return {"data": rows, "next_page": f"cursor {number}" if number < last else None}

    pages, error = walked(Endless(page), LISTS["customers"][1])
    assert (pages, error) == (last, None)


@pytest.mark.parametrize("name", LISTS)
def test_always_new_records_end_at_the_bound_of_lists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metronome_api, "MOST_LIST_PAGES", 50)
    row, ask = LISTS[name]
    script = Endless(lambda number: {"data": [row(number)], "next_page": f"cursor {number}"})
    pages, error = walked(script, ask)
    assert isinstance(error, Malformed)
    assert "has more than 50 pages: the walk is not complete" in str(error)
    assert (pages, script.count) == (50, 50)


def test_records_of_a_megabyte_end_at_the_bound_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty thousand pages of one name each would be twenty gigabytes."""
    monkeypatch.setattr(metronome_api, "MOST_LIST_BYTES", 10 * MEGABYTE)
    row, ask = LISTS["customers"]
    name = "x" * MEGABYTE
    script = Endless(lambda number: {"data": [{**row(number), "name": name}], "next_page": f"cursor {number}"})
    with peak_memory() as peak:
        _, error = walked(script, ask)
    assert isinstance(error, Malformed)
    assert "10,000,000 bytes long, all pages together" in str(error)
    assert script.count == 10
    assert peak.bytes < 40 * MEGABYTE


def test_usage_ends_when_no_more_windows_can_come() -> None:
    """24 hours of one pair were asked for: the same ones again and again are no more than what was asked for."""
    script = Endless(lambda number: {"data": [an_hour(number)], "next_page": f"cursor {number}"})
    _, error = walked(script, usage)
    assert isinstance(error, Malformed)
    assert f"has more than {MOST_IDLE_PAGES + 24:,} pages" in str(error)
    assert script.count == MOST_IDLE_PAGES + 24


def test_usage_may_come_in_pages_of_one_window_each() -> None:
    script = Endless(lambda number: {"data": [an_hour(number)], "next_page": f"c{number}" if number < 24 else None})
    assert walked(script, usage) == (24, None)


@pytest.mark.parametrize("length", [16_385, 5_000_000])
def test_a_cursor_that_is_no_cursor_ends_the_walk(length: int) -> None:
    script = Endless(lambda number: {"data": [a_customer(number)], "next_page": "c" * length})
    _, error = walked(script, LISTS["customers"][1])
    assert isinstance(error, Malformed)
    assert "gave a cursor of over 16,384 characters" in str(error)
    assert script.count == 1


@pytest.mark.parametrize("cursor", ["\0", "\u202e\x1b[2J", "a&limit=1#?/../", " ", "\r\nX-Evil: 1", "💥" * 100])
def test_a_cursor_of_any_letters_goes_back_as_it_came(cursor: str) -> None:
    asked: list[str] = []

    class Keeping(Endless):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.params.get("next_page", ""))
            assert b"X-Evil" not in request.url.raw_path or b"\r" not in request.url.raw_path
            return await super().answer(request)

    script = Keeping(lambda number: {"data": [], "next_page": cursor if number == 1 else None})
    assert walked(script, LISTS["customers"][1]) == (2, None)
    assert asked == ["", cursor]


def test_a_group_value_that_no_property_can_have_is_refused_by_name_and_its_hour_is_left_to_the_rest() -> None:
    found: list[Any] = []

    async def keep(api: MetronomeApi) -> AsyncIterator[Any]:
        async for page in groups(api):
            found.append(page)
            yield page

    rows = [a_group("eu"), a_group("x" * 5_000), a_group("y" * 4_096)]
    walked(Endless(lambda _: {"data": rows, "next_page": None}), keep)
    [page] = found
    assert [row.group["region"][0] for row in page.rows] == ["e", "y"]
    [refusal] = page.refused
    assert (refusal.field, refusal.reason) == ("group.region", "is over 4,096 characters long")
    assert len(refusal.record_id) <= 201


# Solvimon's lists, by page number -------------------------------------------------------------------------------------


def stored(*ids: object, total: int | None = None) -> dict[str, Any]:
    return {
        "data": [{"id": f"cust_{one}"} for one in ids],
        **({} if total is None else {"total_number_of_pages": total}),
    }


def customers(api: SolvimonApi) -> AsyncIterator[Any]:
    return api.list_customers()


@pytest.fixture
def small_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoint, "most_pages", 40)


@pytest.mark.usefixtures("small_lists")
@pytest.mark.parametrize("total", [None, 10**9, 2**62])
def test_solvimon_s_list_of_always_new_records_ends(total: int | None) -> None:
    script = Endless(lambda number: stored(number, total=total))
    pages, error = walked(script, customers, "Solvimon")
    assert isinstance(error, Malformed)
    assert "has more than 40 pages: the walk is not complete" in str(error)
    assert (pages, script.count) == (40, 40)


@pytest.mark.parametrize("rows", [["a"], []])
def test_solvimon_s_list_that_promises_more_and_brings_nothing_is_not_complete(rows: list[str]) -> None:
    script = Endless(lambda number: stored(*(["first"] if number == 1 else rows[:number]), total=1_000_000))
    pages, error = walked(script, customers, "Solvimon")
    assert isinstance(error, CursorRepeated)
    assert "nothing new: it is not complete" in str(error)
    assert pages <= 2
    assert script.count <= 3


def test_solvimon_s_list_without_a_number_ends_where_it_repeats_itself() -> None:
    script = Endless(lambda _: stored("a", "b"))
    assert walked(script, customers, "Solvimon") == (1, None)
    assert script.count == 2


def test_the_events_of_a_platform_may_be_many_and_its_customers_a_million() -> None:
    from metronome_pipeline.solvimon.stored_events import StoredEvents  # noqa: PLC0415

    assert StoredEvents.most_pages * calls.PAGE_SIZE >= 50_000_000
    assert Endpoint.most_pages * calls.PAGE_SIZE >= 1_000_000
    assert metronome_api.MOST_LIST_PAGES * 100 >= 2_000_000
    assert metronome_api.MOST_LIST_BYTES >= 2_000 * MEGABYTE
