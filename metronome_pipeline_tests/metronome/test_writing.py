"""Writes to Metronome: never under a key, once where a repetition would do harm, and field by field."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from metronome_pipeline.errors import Malformed, Refused, Unanswered
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.metronome.records import QuantityRounding
from metronome_pipeline.metronome.requests import (
    Conversion,
    EventTypes,
    NewBillableMetric,
    NewCustomer,
    NewEvent,
    NewLegacyBillableMetric,
    NewProduct,
    ProductChange,
    PropertyRule,
)
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline_tests.loopback import Scripted, bad, ok, session

C1 = "d7abd0cd-4ae9-4db7-8676-e986a4ebd8dc"
M1 = "9570e4f3-d1da-4b95-ba81-bd40ee002727"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DONE = ok({"data": {"id": C1}})
NOTHING = httpx.Response(200)
EVENT = NewEvent(transaction_id="t-1", customer_id="acme", event_type="use", timestamp=NOON, properties={"n": "0.10"})


def ask(script: Scripted, call: Callable[[MetronomeApi], Any]) -> Any:
    async def main() -> Any:
        async with session(script.transport(), system="Metronome", policy=RetryPolicy(attempts=2)) as http:
            return await call(MetronomeApi(http))

    return asyncio.run(main())


SENT_ONCE = [
    lambda api: api.create_customer(NewCustomer(name="Acme")),
    lambda api: api.create_billable_metric(NewBillableMetric(name="Calls", sql="SELECT 1 AS value")),
    lambda api: api.create_legacy_billable_metric(NewLegacyBillableMetric(name="Calls", aggregate="COUNT", filter={})),
    lambda api: api.create_product(NewProduct(name="API", type="FIXED")),
    lambda api: api.update_product(ProductChange(product_id=C1, starting_at=NOON, name="New")),
]
REPEATED = [
    (lambda api: api.archive_customer(C1), DONE),
    (lambda api: api.archive_billable_metric(C1), DONE),
    (lambda api: api.archive_product(C1), DONE),
    (lambda api: api.rename_billable_metric(M1, "New"), DONE),
    (lambda api: api.set_ingest_aliases(C1, ["acme"]), NOTHING),
    (lambda api: api.ingest([EVENT]), NOTHING),
]


@pytest.mark.parametrize("write", SENT_ONCE)
@pytest.mark.parametrize("failure", [httpx.ReadError("cut"), bad(500), httpx.Response(200, content=b"{")])
def test_what_would_be_there_twice_is_sent_once(write: Any, failure: httpx.Response | Exception) -> None:
    script = Scripted(failure)
    with pytest.raises(Unanswered, match="may have arrived"):
        ask(script, write)
    assert len(script.requests) == 1
    assert "Idempotency-Key" not in script.requests[0].headers


@pytest.mark.parametrize("write", SENT_ONCE)
def test_what_was_surely_not_done_is_sent_again(write: Any) -> None:
    script = Scripted(bad(429), httpx.Response(400, content=b'{"message": "no"}'))
    with pytest.raises(Refused):
        ask(script, write)
    assert len(script.requests) == 2


@pytest.mark.parametrize(("write", "answer"), REPEATED)
def test_what_leaves_the_same_state_is_sent_again(write: Any, answer: httpx.Response) -> None:
    script = Scripted(httpx.ReadError("cut"), answer)
    assert ask(script, write) in {C1, None}
    assert len({request.content for request in script.requests}) == 1
    assert len(script.requests) == 2
    assert not any("Idempotency-Key" in request.headers for request in script.requests)


def test_an_archive_that_finds_its_work_done_says_that_it_may_have_been_its_own() -> None:
    script = Scripted(httpx.ReadError("cut"), bad(400, {"message": "already archived"}))
    with pytest.raises(Refused) as raised:
        ask(script, lambda api: api.archive_customer(C1))
    assert raised.value.may_have_arrived


def test_a_created_customer_is_read_in_its_small_form() -> None:
    told = {"id": C1, "external_id": "acme", "ingest_aliases": ["acme"], "name": "Acme", "new_field": 1}
    script = Scripted(ok({"data": told}))
    made = ask(script, lambda api: api.create_customer(NewCustomer(name="Acme", ingest_aliases=("acme",))))
    assert (made.id, made.ingest_aliases, made.custom_fields) == (C1, ("acme",), {})
    assert json.loads(script.requests[0].content) == {"name": "Acme", "ingest_aliases": ["acme"]}


@pytest.mark.parametrize(("body", "field"), [({}, "data"), ({"data": {}}, "data.id"), ({"data": {"id": 3}}, "data.id")])
def test_an_answer_without_an_id_fails_by_name(body: Any, field: str) -> None:
    with pytest.raises(Malformed) as raised:
        ask(Scripted(ok(body)), lambda api: api.archive_product(C1))
    assert raised.value.field == field


def test_a_metric_is_sent_without_what_it_does_not_have() -> None:
    script = Scripted(DONE)
    metric = NewBillableMetric(
        name="Calls",
        aggregation_type="SUM",
        aggregation_key="n",
        event_type_filter=EventTypes(in_values=("use",)),
        property_filters=(PropertyRule(name="n", exists=True), PropertyRule(name="region", in_values=("eu",))),
        group_keys=(("region",),),
    )
    assert ask(script, lambda api: api.create_billable_metric(metric)) == C1
    assert json.loads(script.requests[0].content) == {
        "name": "Calls",
        "aggregation_type": "SUM",
        "aggregation_key": "n",
        "event_type_filter": {"in_values": ["use"]},
        "property_filters": [{"name": "n", "exists": True}, {"name": "region", "in_values": ["eu"]}],
        "group_keys": [["region"]],
    }


def test_a_factor_is_sent_as_the_number_that_it_is() -> None:
    script = Scripted(DONE)
    product = NewProduct(
        name="API",
        type="USAGE",
        billable_metric_id=M1,
        quantity_conversion=Conversion(conversion_factor=Decimal("0.1000000000000000000000001"), operation="DIVIDE"),
        quantity_rounding=QuantityRounding("ROUND_UP", 2),
    )
    ask(script, lambda api: api.create_product(product))
    assert b'"conversion_factor":0.1000000000000000000000001,' in script.requests[0].content


def test_a_product_changes_on_a_full_hour_with_an_offset() -> None:
    for wrong in (NOON.replace(minute=30), NOON.replace(tzinfo=None), NOON.replace(microsecond=1)):
        with pytest.raises(ValueError, match="starting_at"):
            ProductChange(product_id=C1, starting_at=wrong)
    script = Scripted(DONE)
    ask(script, lambda api: api.update_product(ProductChange(product_id=C1, starting_at=NOON, name="New")))
    assert json.loads(script.requests[0].content) == {
        "product_id": C1,
        "starting_at": "2026-11-22T12:00:00Z",
        "name": "New",
    }


def test_events_are_a_bare_list() -> None:
    script = Scripted(NOTHING)
    ask(script, lambda api: api.ingest([EVENT]))
    [sent] = json.loads(script.requests[0].content)
    assert sent == {
        "transaction_id": "t-1",
        "customer_id": "acme",
        "event_type": "use",
        "timestamp": "2026-11-22T12:00:00Z",
        "properties": {"n": "0.10"},
    }


@pytest.mark.parametrize("count", [0, 101])
def test_a_request_holds_between_one_and_a_hundred_events(count: int) -> None:
    script = Scripted(NOTHING)
    with pytest.raises(ValueError, match=f"not {count}"):
        ask(script, lambda api: api.ingest([EVENT] * count))
    assert script.requests == []


def test_an_event_has_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        NewEvent(transaction_id="t", customer_id="c", event_type="e", timestamp=NOON.replace(tzinfo=None))


def test_a_page_for_people_is_no_answer_and_json_is() -> None:
    script = Scripted(httpx.Response(200, content=b"<html>"), ok({}))
    ask(script, lambda api: api.ingest([EVENT]))
    assert len(script.requests) == 2
