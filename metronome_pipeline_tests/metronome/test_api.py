import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import httpx
import pytest
from msgspec import UNSET

from metronome_pipeline.errors import ApiError, CursorRepeated, Malformed, Refused, Unavailable
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.metronome.reading import read_usage
from metronome_pipeline.metronome.records import Bounds, Usage
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline_tests.loopback import Scripted, bad, collected, ok, queries, session

C1, C2 = "d7abd0cd-4ae9-4db7-8676-e986a4ebd8dc", "04ca7e72-4229-4a6e-ab11-9f7376fccbcb"
M1, M2 = "9570e4f3-d1da-4b95-ba81-bd40ee002727", "222796fd-d29c-429e-89b2-549fabda4ed6"
DAY = datetime(2026, 10, 1, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)

CUSTOMER = {
    "id": C1,
    "external_id": "team@example.com",
    "created_at": "2024-01-01T00:00:00.000Z",
    "updated_at": "2024-10-01T02:00:00+02:00",
    "ingest_aliases": ["team@example.com"],
    "name": "Example, Inc.",
    "customer_config": {"salesforce_account_id": None},
    "custom_fields": {"x": "y"},
    "archived_at": None,
}
STATE = {"name": "API calls", "created_at": "2019-12-30T04:24:55.123Z", "created_by": "Bob", "billable_metric_id": M1}


def walk(script: Scripted, call: Callable[[MetronomeApi], AsyncIterator[Any]], **options: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with session(script.transport(), system="Metronome", policy=RetryPolicy(attempts=2)) as http:
            return await collected(call(MetronomeApi(http, **options)))

    return asyncio.run(main())


def ask(script: Scripted, call: Callable[[MetronomeApi], Any]) -> Any:
    async def main() -> Any:
        async with session(script.transport(), system="Metronome", policy=RetryPolicy(attempts=2)) as http:
            return await call(MetronomeApi(http))

    return asyncio.run(main())


def page(*rows: Any, next_page: str | None = None) -> httpx.Response:
    return ok({"data": list(rows), "next_page": next_page})


def raw(text: str) -> httpx.Response:
    return httpx.Response(200, content=text.encode())


def active(api: MetronomeApi) -> AsyncIterator[Any]:
    return api.customers(archived=False)


# Walks


def test_a_walk_follows_cursors_to_null_past_empty_pages() -> None:
    script = Scripted(page(CUSTOMER, next_page="a+b="), page(next_page="c"), page({**CUSTOMER, "id": C2}))
    pages = walk(script, active)
    assert [[customer.id for customer in found.records] for found in pages] == [[C1], [], [C2]]
    assert queries(script.requests) == [
        {"limit": "100"},
        {"limit": "100", "next_page": "a+b="},
        {"limit": "100", "next_page": "c"},
    ]


@pytest.mark.parametrize("end", ['{"data": []}', '{"data": [], "next_page": ""}', '{"data": [], "next_page": null}'])
def test_a_walk_ends_at_a_cursor_that_is_null_absent_or_empty(end: str) -> None:
    assert len(walk(Scripted(raw(end)), active)) == 1


def test_a_repeated_cursor_fails_the_walk() -> None:
    script = Scripted(page(next_page="a"), page(next_page="b"), page(next_page="a"))
    with pytest.raises(CursorRepeated, match="not complete"):
        walk(script, active)
    assert len(script.requests) == 3


def test_a_list_without_end_fails() -> None:
    class Endless(Scripted):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return page(next_page=str(len(self.requests)))

    script = Endless(page())
    with pytest.raises(Malformed, match="more than 30 pages"):
        walk(script, active, most_pages=30)
    assert len(script.requests) == 30


def test_a_page_that_breaks_in_the_middle_of_a_walk_is_asked_again_with_the_same_cursor() -> None:
    script = Scripted(page(CUSTOMER, next_page="a"), raw('{"data": [{"id": "'), page())
    assert len(walk(script, active)) == 2
    assert queries(script.requests)[1] == queries(script.requests)[2]


# Customers, metrics, products


def test_customers_are_read() -> None:
    [found] = walk(Scripted(page({**CUSTOMER, "new_field": {"a": [1]}})), active)
    [customer] = found.records
    assert (customer.id, customer.name, customer.ingest_aliases) == (C1, "Example, Inc.", ("team@example.com",))
    assert customer.updated_at == datetime(2024, 10, 1, tzinfo=UTC)
    assert customer.archived_at is None


def test_archived_customers_are_another_walk() -> None:
    script = Scripted(page())
    walk(script, lambda api: api.customers(archived=True))
    assert queries(script.requests) == [{"limit": "100", "only_archived": "true"}]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "a\0b"}, "name"),
        ({"name": "a\ud800b"}, "name"),
        ({"custom_fields": {"k": "\udfff"}}, "custom_fields.k"),
        ({"ingest_aliases": ["a", "\0"]}, "ingest_aliases[1]"),
        ({"name": 5}, "name"),
        ({"name": None}, "name"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"created_at": "2024-01-01T00:00:00"}, "created_at"),
        ({"id": C1.upper()}, "id"),
        ({"id": "customer-1"}, "id"),
    ],
)
def test_one_bad_customer_is_refused_by_name_and_the_others_pass(change: dict[str, Any], field: str) -> None:
    [found] = walk(Scripted(page({**CUSTOMER, **change}, {**CUSTOMER, "id": C2})), active)
    assert [customer.id for customer in found.records] == [C2]
    [refusal] = found.refused
    assert (refusal.record_id, refusal.field) == ((change.get("id") or C1), field)
    assert refusal.reason


def test_a_missing_field_is_refused_by_name() -> None:
    short = {name: value for name, value in CUSTOMER.items() if name != "name"}
    [found] = walk(Scripted(page(short)), active)
    assert [(refusal.record_id, refusal.field, refusal.reason) for refusal in found.refused] == [
        (C1, "name", "is missing")
    ]


@pytest.mark.parametrize("row", [{}, {"id": None}, {"id": 5}, 5, None, []])
def test_a_row_without_an_id_fails_the_page(row: Any) -> None:
    with pytest.raises(Malformed, match=r"data\[1\]"):
        walk(Scripted(page(CUSTOMER, row)), active)


@pytest.mark.parametrize(
    ("body", "field"),
    [("{}", "data"), ('{"data": null}', "data"), ("[]", "body"), ('{"data": [], "next_page": 5}', "next_page")],
)
def test_an_envelope_that_is_not_one_fails_by_name(body: str, field: str) -> None:
    with pytest.raises(Malformed) as raised:
        walk(Scripted(raw(body)), active)
    assert raised.value.field == field


def test_one_customer_is_read_by_id() -> None:
    script = Scripted(ok({"data": CUSTOMER}))
    assert ask(script, lambda api: api.customer(C1)).name == "Example, Inc."
    assert script.requests[0].url.path == f"/v1/customers/{C1}"


def test_another_customer_than_the_one_asked_for_is_malformed() -> None:
    with pytest.raises(Malformed, match="which was asked for"):
        ask(Scripted(ok({"data": CUSTOMER})), lambda api: api.customer(C2))


def test_a_customer_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refused) as raised:
        ask(Scripted(bad(404, {"message": "Not found"})), lambda api: api.customer(C2))
    assert raised.value.status == 404


def test_metrics_are_read_with_archived_ones_and_one_spelling() -> None:
    metric = {
        "id": M1,
        "name": "data transfer (GB)",
        "aggregation_type": "Sum",
        "aggregation_key": "bytes",
        "property_filters": [{"name": "region", "exists": True, "in_values": ["EU"]}],
        "group_keys": [["region"], ["region", "team"]],
    }
    script = Scripted(
        page(metric, {"id": M2, "name": "sql", "sql": "SELECT 1", "group_keys": None, "aggregation_type": None})
    )
    [found] = walk(script, lambda api: api.billable_metrics())
    assert queries(script.requests) == [{"limit": "100", "include_archived": "true"}]
    assert found.records[0].aggregation_type == "SUM"
    assert found.records[0].group_keys == (("region",), ("region", "team"))
    assert found.records[0].property_filters[0].in_values == ("EU",)
    assert (found.records[1].aggregation_type, found.records[1].sql, found.records[1].group_keys) == (
        None,
        "SELECT 1",
        (),
    )


def test_products_are_read_with_their_history() -> None:
    product = {
        "id": C2,
        "type": "usage",
        "archived_at": None,
        "initial": {**STATE, "quantity_conversion": {"conversion_factor": 1000.1, "operation": "divide"}},
        "current": STATE,
        "updates": [
            {
                "created_at": "2020-01-01T00:00:00Z",
                "created_by": "A",
                "starting_at": "2020-02-01T00:00:00Z",
                "name": "v2",
            },
            {"created_at": "2020-01-01T00:00:00Z", "created_by": "A", "quantity_rounding": None},
        ],
    }
    script = Scripted(page(product))
    [found] = walk(script, lambda api: api.products())
    assert json.loads(script.requests[0].content) == {"archive_filter": "ALL"}
    [read] = found.records
    assert (read.type, read.initial.billable_metric_id) == ("USAGE", M1)
    assert read.initial.quantity_conversion is not None
    assert read.initial.quantity_conversion.conversion_factor == Decimal("1000.1")
    assert read.initial.quantity_conversion.operation == "DIVIDE"
    assert (read.updates[0].name, read.updates[0].billable_metric_id) == ("v2", UNSET)
    assert (read.updates[1].quantity_rounding, read.updates[1].quantity_conversion) == (None, UNSET)


def test_a_product_with_a_monstrous_factor_is_refused() -> None:
    text = json.dumps({"id": C2, "type": "USAGE", "initial": STATE, "current": STATE, "updates": []})
    text = text.replace(
        '"name": "API calls"',
        '"name": "a", "quantity_conversion": {"conversion_factor": 1e999999999, "operation": "DIVIDE"}',
    )
    [found] = walk(Scripted(raw(f'{{"data": [{text}]}}')), lambda api: api.products())
    assert [refusal.record_id for refusal in found.refused] == [C2]


def test_no_read_carries_an_idempotency_key() -> None:
    script = Scripted(page())
    walk(script, lambda api: api.products())
    walk(script, usage)
    assert not any("idempotency-key" in request.headers for request in script.requests)


# Usage


def usage(api: MetronomeApi, **change: Any) -> AsyncIterator[list[Usage]]:
    asked = {"customer_id": C1, "metric_ids": [M1], "starting_on": DAY, "ending_before": NEXT, **change}
    return api.usage(**asked)


def row(value: str = "1", hour: int = 0, **change: Any) -> str:
    start, end = DAY + timedelta(hours=hour), DAY + timedelta(hours=hour + 1)
    fields = {
        "customer_id": C1,
        "billable_metric_id": M1,
        "billable_metric_name": "CPU hours",
        "start_timestamp": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "end_timestamp": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **change,
    }
    return json.dumps(fields)[:-1] + f', "value": {value}}}'


def rows(*texts: str, next_page: str = "null") -> httpx.Response:
    return raw(f'{{"data": [{", ".join(texts)}], "next_page": {next_page}}}')


def test_usage_is_read_exactly() -> None:
    big, fine = "123456789012345678901234567890", "0.00000000000000000000000000000000000000000000000001"
    script = Scripted(
        rows(row(big), row(fine, 1), next_page='"x"'), rows(row("null", 2), row("-5.50", 3), row("1.5e3", 4))
    )
    pages = walk(script, usage)
    assert [found.value for found in pages[0]] == [Decimal(big), Decimal(fine)]
    assert [found.value for found in pages[1]] == [None, Decimal("-5.50"), Decimal(1500)]
    assert pages[0][0] == Usage(C1, M1, DAY, DAY + timedelta(hours=1), Decimal(big))
    assert [json.loads(request.content) for request in script.requests] == [
        {
            "window_size": "HOUR",
            "starting_on": "2026-10-01T00:00:00Z",
            "ending_before": "2026-10-02T00:00:00Z",
            "customer_ids": [C1],
            "billable_metrics": [{"id": M1}],
        }
    ] * 2
    assert queries(script.requests) == [{}, {"next_page": "x"}]


def test_usage_never_sends_a_limit() -> None:
    script = Scripted(rows())
    walk(script, usage)
    assert "limit" not in script.requests[0].url.params


@pytest.mark.parametrize("value", ['"5"', "true", "[1]", "{}", "1e999999999", "1e101"])
def test_a_value_that_is_no_plain_number_fails_the_walk_by_name(value: str) -> None:
    with pytest.raises(Malformed) as raised:
        walk(Scripted(rows(row(), row(value, 1))), usage)
    assert raised.value.field == "data[1].value"
    assert C1 in str(raised.value)
    assert M1 in str(raised.value)
    assert "2026-10-01T01:00:00" in str(raised.value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "01"])
def test_a_body_with_nan_is_not_json(value: str) -> None:
    with pytest.raises(Unavailable, match="is not JSON"):
        walk(Scripted(rows(row(value))), usage)


@pytest.mark.parametrize(
    "change",
    [
        {"customer_id": C2},
        {"billable_metric_id": M2},
        {"start_timestamp": "2026-09-30T23:00:00Z", "end_timestamp": "2026-10-01T00:00:00Z"},
        {"start_timestamp": "2026-10-02T00:00:00Z", "end_timestamp": "2026-10-02T01:00:00Z"},
        {"end_timestamp": "2026-10-01T02:00:00Z"},
        {"start_timestamp": "2026-10-01T00:30:00Z", "end_timestamp": "2026-10-01T01:30:00Z"},
        {"end_timestamp": "2026-10-01T00:00:00Z"},
        {"start_timestamp": "2026-10-01T00:00:00"},
    ],
)
def test_a_row_that_was_not_asked_for_fails_the_walk(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match=r"data\[0\]"):
        walk(Scripted(rows(row(**change))), usage)


def test_a_metric_name_that_cannot_be_stored_costs_no_usage() -> None:
    bad_name = row("7").replace('"CPU hours"', '"\\ud800\\u0000"')
    [[found]] = walk(Scripted(rows(bad_name)), usage)
    assert found.value == 7


def test_timestamps_of_any_form_are_the_same_hour() -> None:
    change: dict[str, Any] = {
        "start_timestamp": "2026-10-01T02:00:00.000+02:00",
        "end_timestamp": "2026-10-01T01:00:00+00:00",
    }
    [[found]] = walk(Scripted(rows(row(**change))), usage)
    assert found.start == DAY
    assert found.start.tzinfo is UTC


@pytest.mark.parametrize(
    ("bounds", "name"),
    [
        ({"starting_on": DAY + timedelta(hours=1)}, "starting_on"),
        ({"starting_on": DAY.replace(tzinfo=None)}, "starting_on"),
        ({"starting_on": datetime(2026, 10, 1, tzinfo=timezone(timedelta(hours=2)))}, "starting_on"),
        ({"ending_before": NEXT + timedelta(microseconds=1)}, "ending_before"),
        ({"ending_before": DAY}, "ending_before"),
    ],
)
def test_bounds_that_are_not_utc_midnights_a_day_apart_are_not_asked_for(
    bounds: dict[str, datetime], name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        walk(Scripted(rows()), lambda api: usage(api, **bounds))


def test_usage_by_day_has_rows_of_days() -> None:
    change: dict[str, Any] = {"end_timestamp": "2026-10-02T00:00:00Z"}
    [[found]] = walk(Scripted(rows(row(**change))), lambda api: usage(api, window_size="DAY"))
    assert found.end == NEXT


def test_a_page_of_usage_is_read_in_well_under_two_milliseconds() -> None:
    texts = [row(f"{n}.{n}", n) for n in range(192)]
    content = rows(*texts).content
    bounds = Bounds(DAY, DAY + timedelta(days=8))
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        found, _next = read_usage(content, bounds, C1, frozenset([M1]))
        best = min(best, time.perf_counter() - began)
    assert len(found) == 192
    assert best < 0.002


# Grouped usage


def grouped(api: MetronomeApi, **change: Any) -> AsyncIterator[Any]:
    asked = {"customer_id": C1, "metric_id": M1, "group_key": ["region"], "starting_on": DAY, "ending_before": NEXT}
    return api.grouped_usage(**{**asked, **change})


def group_row(value: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"starting_on": "2026-10-01T00:00:00Z", "ending_before": "2026-10-01T01:00:00Z", "value": value, **fields}


def test_grouped_usage_is_read_in_every_form_that_a_null_takes() -> None:
    script = Scripted(
        page(
            group_row(1, group={"region": "eu"}, group_key="region", group_value="eu"),
            group_row(2, group={"region": None}),
            group_row(3, group={}),
            group_row(4, group_key="region", group_value="us"),
            group_row(5, group_key=None, group_value=None),
            group_row(None, group={"region": ""}),
        )
    )
    [found] = walk(script, grouped)
    assert [(read.group, read.value) for read in found.rows] == [
        ({"region": "eu"}, 1),
        ({"region": None}, 2),
        ({"region": None}, 3),
        ({"region": "us"}, 4),
        ({"region": None}, 5),
        ({"region": ""}, None),
    ]
    assert queries(script.requests) == [{"limit": "100"}]
    assert "group_filters" not in json.loads(script.requests[0].content)


def test_compound_groups_carry_every_asked_key_and_filters_are_sent() -> None:
    script = Scripted(
        page(group_row(1, group={"team": "ui", "region": "eu"}, group_key=None, group_value=None), group_row(2))
    )
    [found] = walk(script, lambda api: grouped(api, group_key=["region", "team"], group_filters={"region": ["eu"]}))
    assert [read.group for read in found.rows] == [{"region": "eu", "team": "ui"}, {"region": None, "team": None}]
    body = json.loads(script.requests[0].content)
    assert (body["group_key"], body["group_filters"]) == (["region", "team"], {"region": ["eu"]})


@pytest.mark.parametrize("value", ["a\0", "a\ud800"])
def test_a_group_that_cannot_be_stored_is_refused_and_the_rest_is_read(value: str) -> None:
    [found] = walk(Scripted(page(group_row(1, group={"region": value}), group_row(2, group={"region": "eu"}))), grouped)
    assert [read.value for read in found.rows] == [2]
    [refusal] = found.refused
    assert refusal.field == "group.region"
    assert "\\x00" in refusal.record_id


def test_a_group_of_another_key_fails_the_walk() -> None:
    with pytest.raises(Malformed, match="team"):
        walk(Scripted(page(group_row(1, group={"region": "eu", "team": "x"}))), grouped)


def test_a_grouped_value_that_is_a_text_fails_the_walk_by_name() -> None:
    with pytest.raises(Malformed) as raised:
        walk(Scripted(page(group_row("5", group={"region": "eu"}))), grouped)
    assert raised.value.field == "data[0].value"
    assert "eu" in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"group_key": []},
        {"group_filters": {"team": ["x"]}},
        {"group_filters": {"region": [str(n) for n in range(201)]}},
    ],
)
def test_a_grouped_query_that_would_be_rejected_is_not_sent(change: dict[str, Any]) -> None:
    script = Scripted(page())
    with pytest.raises(ValueError, match="group_"):
        walk(script, lambda api: grouped(api, **change))
    assert not script.requests


# The others


def test_events_are_searched_by_transaction_id() -> None:
    event = {
        "id": "e",
        "transaction_id": "t",
        "customer_id": "c",
        "event_type": "x",
        "timestamp": "2026-10-01T00:00:00Z",
        "is_duplicate": True,
    }
    script = Scripted(ok([event]))
    [found] = ask(script, lambda api: api.search_events(["t"]))
    assert found.is_duplicate
    assert json.loads(script.requests[0].content) == {"transactionIds": ["t"]}


def test_the_audit_log_ends_at_an_empty_page_and_keeps_its_cursor() -> None:
    entry = {"id": "1", "timestamp": "2026-10-01T00:00:00Z", "request": {"id": "r"}}
    script = Scripted(page(entry, next_page="a"), page(next_page="a"))
    pages = walk(script, lambda api: api.audit_logs(starting_on=DAY))
    assert [(len(found.records), cursor) for found, cursor in pages] == [(1, "a"), (0, "a")]
    assert "starting_on" in script.requests[0].url.params
    assert "starting_on" not in script.requests[1].url.params


def test_an_audit_log_that_repeats_a_page_with_entries_fails() -> None:
    entry = {"id": "1", "timestamp": "2026-10-01T00:00:00Z", "request": {"id": "r"}}
    with pytest.raises(CursorRepeated):
        walk(Scripted(page(entry, next_page="a"), page(entry, next_page="a")), lambda api: api.audit_logs())


def test_every_failure_of_the_client_is_one_of_ours() -> None:
    for body in ("null", "5", '"x"', '{"data": {}}', '{"data": [[[]]]}'):
        with pytest.raises(ApiError):
            walk(Scripted(raw(body)), usage)
