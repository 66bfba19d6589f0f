"""Events one by one, under both of their paths; costs; reprocessing; what customers own."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest

from metronome_pipeline.errors import Malformed, Unanswered
from metronome_pipeline.solvimon.records import Organization
from metronome_pipeline.solvimon.requests import NewCustomer, NewPersistData, UsageEvent
from metronome_pipeline_tests.loopback import Scripted, bad, ok, queries
from metronome_pipeline_tests.solvimon.client import call, error_of

EVENT = UsageEvent(
    reference="mn_0123456789",
    customer_reference="acme",
    meter_reference="calls",
    timestamp=datetime(2026, 11, 22, 5, tzinfo=UTC),
    value_reference="calls_value",
    number=Decimal("1234.50"),
)
STORED = {"id": "metd_1", "reference": "mn_0123456789", "meter_values": [{"number": "1234.5"}]}
PERSISTED = NewPersistData(
    customer_id="cust_1",
    pricing_id="a",
    pricing_item_id="b",
    pricing_item_config_id="c",
    pricing_plan_subscription_id="d",
)
START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ask", "path", "body"),
    [
        (lambda api, replay: api.ingest_one(EVENT, replay=replay), "/v1/events/ingest", STORED),
        (lambda api, replay: api.ingest_meter_data(EVENT, replay=replay), "/v1/ingest/meter-data", STORED),
        (
            lambda api, replay: api.ingest_list([EVENT], replay=replay),
            "/v1/events/ingest-list",
            {"meter_datas": [STORED]},
        ),
        (
            lambda api, replay: api.ingest_meter_datas([EVENT], replay=replay),
            "/v1/ingest/meter-datas",
            {"meter_datas": [STORED]},
        ),
        (
            lambda api, replay: api.ingest_persist_data(PERSISTED, replay=replay),
            "/v1/ingest/persist-data",
            {"id": "pers_1"},
        ),
    ],
)
@pytest.mark.parametrize("failure", [httpx.ReadError("cut"), bad(503), httpx.Response(201, content=b"{")])
def test_what_is_ingested_is_repeated_only_when_that_is_safe(
    ask: Any, path: str, body: Any, failure: httpx.Response | Exception
) -> None:
    safe = Scripted(failure, ok(body, 201))
    call(safe, lambda api: ask(api, True))
    assert {request.url.path for request in safe.requests} == {path}
    assert len({request.content for request in safe.requests}) == 1
    assert not any("Idempotency-Key" in request.headers for request in safe.requests)
    unsafe = Scripted(failure)
    assert isinstance(error_of(unsafe, lambda api: ask(api, False)), Unanswered)
    assert len(unsafe.requests) == 1


def test_the_endpoints_of_the_schema_do_not_follow_the_settings() -> None:
    script = Scripted(ok({"meter_datas": []}, 201))
    call(script, lambda api: api.ingest_list([EVENT], replay=True), events_path="/v2/x", events_key="events")
    assert script.requests[0].url.path == "/v1/events/ingest-list"
    assert list(json.loads(script.requests[0].content)) == ["meter_datas"]


def test_one_event_is_the_body_itself() -> None:
    script = Scripted(ok(STORED, 201))
    found = call(script, lambda api: api.ingest_one(EVENT, replay=True))
    assert json.loads(script.requests[0].content)["reference"] == "mn_0123456789"
    assert (found.id, found.meter_values[0].quantity, found.cost_prediction) == ("metd_1", Decimal("1234.5"), None)


def test_meter_data_is_read_like_events() -> None:
    script = Scripted(ok({"data": [STORED], "total_number_of_pages": 1}))
    [[found]] = call(script, lambda api: api.meter_datas(reference="mn_0123456789", deleted=True))
    assert found.meter_values[0].quantity == Decimal("1234.5")
    assert queries(script.requests) == [{"reference": "mn_0123456789", "deleted": "true", "page": "1", "limit": "50"}]
    error = error_of(script, lambda api: api.meter_datas(reference="mn_another_one"))
    assert "filter was ignored" in str(error)


def test_unmatched_and_duplicate_events_are_asked_for_by_that_name() -> None:
    script = Scripted(ok({"data": [], "total_number_of_pages": 0}))
    call(script, lambda api: api.events(processed_details_type="NOT_MATCHED", meter_id="metr_1"))
    assert queries(script.requests) == [
        {"meter_id": "metr_1", "processed_details_type": "NOT_MATCHED", "page": "1", "limit": "50"}
    ]


# Costs


PREDICTED = {
    "response": "OK",
    "details": [
        {
            "customer_id": "cust_1",
            "invoice_id": "invo_1",
            "amount_excluding_tax": {"quantity": "30.11505", "currency": "EUR"},
            "amount_including_tax": {"quantity": "36.43921", "currency": "EUR"},
            "periods": [{"anything": 1}],
        }
    ],
    "used_change_rates": None,
}


def test_a_cost_is_calculated_for_the_body_of_an_ingest() -> None:
    script = Scripted(ok({**STORED, "cost_prediction": PREDICTED}, 201))
    found = call(script, lambda api: api.calculate(EVENT, cost_prediction=True))
    assert json.loads(script.requests[0].content)["meter_values"] == [{"reference": "calls_value", "number": "1234.5"}]
    assert queries(script.requests) == [{"cost_prediction": "true"}]
    [detail] = found.cost_prediction.details
    assert (detail.amount_excluding_tax.quantity, detail.amount_excluding_tax.currency) == ("30.11505", "EUR")
    assert (found.id, detail.invoice_id) == ("metd_1", "invo_1")


@pytest.mark.parametrize("predicted", [None, {"response": "FAILED", "details": None}])
def test_a_calculation_may_come_without_a_cost(predicted: Any) -> None:
    script = Scripted(ok({**STORED, "cost_prediction": predicted}, 201))
    found = call(script, lambda api: api.calculate(EVENT))
    assert queries(script.requests) == [{}]
    assert found.cost_prediction is None or found.cost_prediction.details is None


def test_a_cost_of_the_wrong_shape_fails_by_name() -> None:
    script = Scripted(ok({**STORED, "cost_prediction": {"response": "OK", "details": 3}}, 201))
    error = error_of(script, lambda api: api.calculate(EVENT))
    assert isinstance(error, Malformed)
    assert error.field == "cost_prediction.details"


def test_a_cost_that_was_not_asked_for_spoils_no_ingest() -> None:
    script = Scripted(ok({**STORED, "cost_prediction": 3}, 201))
    assert call(script, lambda api: api.ingest_one(EVENT, replay=True)).id == "metd_1"


# Reprocessing


@pytest.mark.parametrize(
    ("ask", "body"),
    [
        (
            lambda api: api.reprocess_not_matched("cust_1", start_at=START),
            {"type": "NOT_MATCHED", "not_matched": {"customer_id": "cust_1", "start_at": "2026-11-01T00:00:00Z"}},
        ),
        (
            lambda api: api.reprocess_customer("cust_1", end_at=START),
            {"type": "CUSTOMER", "customer": {"customer_id": "cust_1", "end_at": "2026-11-01T00:00:00Z"}},
        ),
        (
            lambda api: api.reprocess_invoice("invo_1"),
            {"type": "INVOICE", "invoice": {"invoice_id": "invo_1"}},
        ),
    ],
)
def test_a_reprocess_is_asked_for_under_one_key(ask: Any, body: Any) -> None:
    script = Scripted(httpx.ReadError("cut"), ok({"id": "repr_1", **body, "percentage": 0}, 201))
    assert call(script, ask).type == body["type"]
    assert [json.loads(request.content) for request in script.requests] == [body, body]
    assert len({request.headers["Idempotency-Key"] for request in script.requests}) == 1


def test_reprocesses_are_listed_by_type_and_status() -> None:
    row = {"id": "repr_1", "type": "NOT_MATCHED", "status": "DONE", "not_matched": {"customer_id": "cust_1"}}
    script = Scripted(ok({"data": [row], "total_number_of_pages": 1}))
    [[found]] = call(script, lambda api: api.reprocesses(kind="NOT_MATCHED", status="DONE"))
    assert found.not_matched.customer_id == "cust_1"
    assert queries(script.requests) == [{"type": "NOT_MATCHED", "status": "DONE", "page": "1", "limit": "50"}]


# What customers own


def test_wallets_and_entitlements_may_be_null() -> None:
    nothing = {"wallet_balances": None, "balance_at": None, "entitlements": None}
    assert call(Scripted(ok(nothing)), lambda api: api.wallet_balances("acme")).wallet_balances is None
    assert call(Scripted(ok(nothing)), lambda api: api.entitlements("acme")).entitlements is None


def test_a_balance_is_read_with_its_credits() -> None:
    balance = {"balance": {"credits": {"quantity": "12.5", "credit_type_id": "x"}, "amount": None}}
    script = Scripted(ok({"wallet_balances": [{"wallet_id": "w", "wallet_balance": balance}]}))
    [wallet] = call(script, lambda api: api.wallet_balances("acme", balance_at=START)).wallet_balances
    assert wallet.wallet_balance.balance.credits.quantity == "12.5"
    assert json.loads(script.requests[0].content) == {"balance_at": "2026-11-01T00:00:00Z"}


def test_tax_ids_are_validated_without_creating_anything() -> None:
    customer = NewCustomer(reference="acme", organization=Organization(legal_name="Acme", tax_id=msgspec.Raw(b'"NL1"')))
    script = Scripted(ok({"data": [{"id": "NL1", "valid": "NOT_VALID", "source": "VIES"}]}))
    [checked] = call(script, lambda api: api.validate_tax_ids(customer))
    assert (checked.id, checked.valid) == ("NL1", "NOT_VALID")
    assert "Idempotency-Key" not in script.requests[0].headers
    error = error_of(Scripted(ok({})), lambda api: api.validate_tax_ids(customer))
    assert (type(error), error.field) == (Malformed, "data")


def test_what_people_entered_of_an_organization_goes_back_as_it_came() -> None:
    entered = b'{"legal_name":"Acme","registered_address":{"point": [-0.0, 1.10, 12345678901234567890.5]}}'
    organization = msgspec.json.decode(entered, type=Organization)
    sent = json.loads(msgspec.json.encode(organization), parse_float=str)
    assert sent["registered_address"] == {"point": ["-0.0", "1.10", "12345678901234567890.5"]}
