import json
import random
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.errors import (
    AlreadyExists,
    CursorRepeated,
    Malformed,
    RateLimited,
    Refused,
    Unanswered,
    Unauthorised,
    Unavailable,
)
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.calls import idempotency_keys, path_segment
from metronome_pipeline.solvimon.records import Echo, Organization
from metronome_pipeline.solvimon.requests import (
    CustomerChange,
    NewCustomer,
    NewMeter,
    NewMeterLink,
    NewMeterProperty,
    NewMeterValue,
    NewMeterValueCalculation,
    NewProduct,
    NewProductCategory,
    NewProductItem,
    UsageBasedBy,
    UsageEvent,
    plain_instant,
    plain_number,
)
from metronome_pipeline_tests.loopback import Scripted, bad, ok, queries
from metronome_pipeline_tests.solvimon.client import call, error_of

ACME = NewCustomer(reference="c-1", organization=Organization(legal_name="Acme"))
EVENT = UsageEvent(
    reference="mn_0123456789",
    customer_reference="c-1",
    meter_reference="m-1",
    timestamp=datetime(2026, 11, 22, 5, tzinfo=UTC),
    value_reference="m-1_value",
    number=Decimal("1234.50"),
    properties=(("region", "eu"),),
)
STORED = {
    "object_type": "METER_DATA",
    "id": "metd_1",
    "reference": "mn_0123456789",
    "customer_reference": "c-1",
    "timestamp": "2026-11-22T05:00:00Z",
    "meter_values": [{"id": "metv_1", "reference": "m-1_value", "number": "1234.5"}],
    "meter_properties": [{"reference": "region", "value": "eu"}],
    "processed_details": None,
    "deleted": False,
}


# Looking up


def test_a_resource_is_found_by_its_reference() -> None:
    script = Scripted(
        ok({"id": "cust_1", "reference": "a/b ?#%", "status": "ACTIVE", "organization": {"legal_name": "Acme"}})
    )
    found = call(script, lambda api: api.find_customer("a/b ?#%"))
    assert (found.id, found.legal_name) == ("cust_1", "Acme")
    assert script.requests[0].url.raw_path == b"/v1/customers/a%2Fb%20%3F%23%25"


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("code", ["RESOURCE_NOT_FOUND", "RESOURCES_NOT_FOUND", "METER_NOT_FOUND"])
def test_not_found_is_told_by_the_code_whatever_the_status(status: int, code: str) -> None:
    script = Scripted(bad(status, {"code": code, "message": "", "resource_type": "METER"}))
    assert call(script, lambda api: api.find_meter("m-1")) is None


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, content=b"Page does not exist"),
        bad(404, {"message": "Page does not exist"}),
        bad(404, {"code": "PLATFORM_NOT_FOUND", "message": ""}),
        bad(404, {"code": "RESOURCE_NOT_FOUND", "message": "", "resource_type": "PLATFORM"}),
        bad(404, {"code": "CUSTOMER_NOT_FOUND", "message": ""}),
    ],
)
def test_a_wrong_route_or_platform_is_not_a_missing_resource(answer: httpx.Response) -> None:
    assert isinstance(error_of(Scripted(answer), lambda api: api.find_meter("m-1")), Refused)


def test_what_is_found_by_its_id_is_not_the_reference_asked_for() -> None:
    assert (
        call(Scripted(ok({"id": "metp_1", "reference": "region"})), lambda api: api.find_meter_property("metp_1"))
        is None
    )


@pytest.mark.parametrize("reference", ["", ".", ".."])
def test_a_reference_that_no_path_carries_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="cannot be looked up"):
        path_segment(reference)


@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip(".")))
def test_any_other_reference_is_one_segment(reference: str) -> None:
    segment = path_segment(reference)
    assert segment.isascii()
    assert not set(segment) & set("/?# ")


def test_a_refused_key_fails_at_once() -> None:
    assert isinstance(
        error_of(Scripted(bad(403, {"code": "USER_NOT_ALLOWED"})), lambda api: api.find_meter("m")), Unauthorised
    )


# Creating


def test_a_create_keeps_one_random_key_through_its_retries_and_the_next_has_another() -> None:
    script = Scripted(bad(503), httpx.ReadError("cut"), ok({"id": "cust_1"}, 201), ok({"id": "cust_2"}, 201))

    async def both(api: SolvimonApi) -> None:
        await api.create_customer(ACME)
        await api.create_customer(ACME)

    call(script, both)
    keys = [request.headers["Idempotency-Key"] for request in script.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(len(key) == 36 and key[14] == "4" for key in keys)


def test_keys_come_from_the_given_randomness() -> None:
    one, same = idempotency_keys(random.Random(5)), idempotency_keys(random.Random(5))
    assert [one(), one()] == [same(), same()]


@pytest.mark.parametrize("status", [400, 409])
def test_what_exists_is_named_by_its_id(status: int) -> None:
    script = Scripted(
        bad(status, {"code": "RESOURCE_ALREADY_EXISTS", "resource_id": "cust_9", "resource_type": "CUSTOMER"})
    )
    error = error_of(script, lambda api: api.create_customer(ACME))
    assert isinstance(error, AlreadyExists)
    assert error.resource_id == "cust_9"


def test_a_create_whose_first_answer_was_lost_says_that_it_may_be_its_own() -> None:
    script = Scripted(httpx.ReadError("cut"), bad(409, {"code": "RESOURCE_ALREADY_EXISTS"}))
    assert error_of(script, lambda api: api.create_customer(ACME)).may_have_arrived


def test_a_500_to_a_create_is_final() -> None:
    script = Scripted(bad(500))
    assert isinstance(error_of(script, lambda api: api.create_customer(ACME)), Unavailable)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("ask", "path", "body"),
    [
        (
            lambda api: api.create_customer(ACME),
            "customers",
            {"type": "ORGANIZATION", "reference": "c-1", "status": "ACTIVE", "organization": {"legal_name": "Acme"}},
        ),
        (
            lambda api: api.create_meter_value(NewMeterValue(reference="v", name="V")),
            "meter-values",
            {"reference": "v", "name": "V", "type": "NUMBER", "status": "ACTIVE"},
        ),
        (
            lambda api: api.create_meter_property(NewMeterProperty(reference="p", name="P")),
            "meter-properties",
            {"reference": "p", "name": "P", "type": "STRING", "status": "ACTIVE"},
        ),
        (
            lambda api: api.create_meter(
                NewMeter(
                    reference="m",
                    name="M",
                    meter_values=(NewMeterLink(id="metv_1", required=True),),
                    meter_properties=(NewMeterLink(id="metp_1", required=False),),
                )
            ),
            "meters",
            {
                "reference": "m",
                "name": "M",
                "status": "ACTIVE",
                "meter_values": [{"id": "metv_1", "required": True}],
                "meter_properties": [{"id": "metp_1", "required": False}],
            },
        ),
        (
            lambda api: api.create_meter_value_calculation(
                NewMeterValueCalculation(
                    reference="m_sum", name="M", calculation_type="SUM", meter_id="metr_1", meter_value_id="metv_1"
                )
            ),
            "meter-value-calculations",
            {
                "reference": "m_sum",
                "name": "M",
                "calculation_type": "SUM",
                "meter_id": "metr_1",
                "meter_value_id": "metv_1",
                "persist": False,
            },
        ),
        (
            lambda api: api.create_product_category(NewProductCategory(reference="k", name="K")),
            "product-categories",
            {"reference": "k", "name": "K"},
        ),
        (
            lambda api: api.create_product(NewProduct(reference="p", name="P", category_id="prca_1")),
            "products",
            {"reference": "p", "name": "P", "category_id": "prca_1", "product_type": "DEFAULT"},
        ),
        (
            lambda api: api.create_product_item(
                NewProductItem(
                    reference="i",
                    name="I",
                    product_id="prod_1",
                    model_type="USAGE_BASED",
                    usage_based=UsageBasedBy(meter_value_calculation_id="bmet_1"),
                )
            ),
            "product-items",
            {
                "reference": "i",
                "name": "I",
                "product_id": "prod_1",
                "model_type": "USAGE_BASED",
                "type": "REVENUE",
                "usage_based": {"meter_value_calculation_id": "bmet_1"},
            },
        ),
    ],
)
def test_what_is_created_is_sent_field_by_field(ask: Any, path: str, body: dict[str, Any]) -> None:
    script = Scripted(ok({"id": "x"}, 201))
    call(script, ask)
    [request] = script.requests
    assert (request.method, request.url.path) == ("POST", f"/v1/{path}")
    assert json.loads(request.content) == body
    assert request.headers["Content-Type"] == "application/json"


def test_a_change_sends_what_is_set_alone() -> None:
    script = Scripted(ok({"id": "cust_1"}))
    change = CustomerChange(organization=Organization(legal_name="New"))
    call(script, lambda api: api.update_customer("cust_1", change))
    [request] = script.requests
    assert (request.method, json.loads(request.content)) == ("PATCH", {"organization": {"legal_name": "New"}})
    assert "Idempotency-Key" not in request.headers


def test_a_product_is_activated_with_its_items() -> None:
    script = Scripted(ok({"id": "prod_1", "status": "ACTIVE"}))
    assert call(script, lambda api: api.activate_product("prod_1", with_items=True)).status == "ACTIVE"
    assert str(script.requests[0].url).endswith("/v1/products/prod_1/activate?align_product_item_status=true")


@pytest.mark.parametrize(
    "body", [{"usage_based": {"meter_value_calculation_id": "bmet_1"}}, {"meter_value_calculation_id": "bmet_1"}]
)
def test_an_item_s_calculation_is_read_from_either_place(body: dict[str, Any]) -> None:
    script = Scripted(ok({"id": "prit_1", "reference": "i", **body}))
    assert call(script, lambda api: api.find_product_item("i")).calculation_id == "bmet_1"


# Lists


def listed(*ids: str, total: int | None = None) -> httpx.Response:
    wrapper = (
        {} if total is None else {"page": 1, "limit": 50, "total_number_of_pages": total, "links": {"next": "/trap"}}
    )
    return ok({"data": [{"id": one} for one in ids], **wrapper})


def ids(script: Scripted) -> list[list[str]]:
    return [[one.id for one in page] for page in call(script, lambda api: api.list_meter_value_calculations())]


def test_a_list_with_a_number_of_pages_is_read_to_its_last_page() -> None:
    script = Scripted(listed("a", "b", total=3), listed("c", total=3), listed("d", total=3))
    assert ids(script) == [["a", "b"], ["c"], ["d"]]
    assert queries(script.requests) == [{"page": str(number), "limit": "50"} for number in (1, 2, 3)]


def test_a_list_without_a_number_of_pages_ends_at_an_empty_page_not_at_a_short_one() -> None:
    assert ids(Scripted(listed("a"), listed("b"), listed())) == [["a"], ["b"]]


def test_a_list_that_ignores_the_page_ends_at_its_repetition() -> None:
    script = Scripted(listed("a", "b"))
    assert ids(script) == [["a", "b"]]
    assert len(script.requests) == 2


def test_a_row_that_moved_to_the_next_page_is_given_once() -> None:
    assert ids(Scripted(listed("a", "b", total=2), listed("b", "c", total=2))) == [["a", "b"], ["c"]]


def test_a_list_that_promises_more_and_repeats_itself_fails() -> None:
    with pytest.raises(CursorRepeated, match="not complete"):
        ids(Scripted(listed("a", total=5)))


def test_an_empty_list_is_no_page() -> None:
    assert ids(Scripted(listed(total=0))) == []


def test_categories_are_searched_by_exact_name() -> None:
    script = Scripted(listed("prca_1", total=1))
    [[found]] = call(script, lambda api: api.search_product_categories(name="Metronome Products"))
    assert found.id == "prca_1"
    [field] = json.loads(script.requests[0].content)["search_fields"]
    assert (field["name"], field["value"], field["ignore_case"]) == ("name", "Metronome Products", False)


def test_a_row_without_an_id_fails_by_name() -> None:
    error = error_of(Scripted(ok({"data": [{"name": "x"}]})), lambda api: api.list_meters())
    assert isinstance(error, Malformed)
    assert error.field == "data[0]"


# Events


def test_a_batch_is_sent_as_solvimon_wants_it() -> None:
    script = Scripted(ok({"meter_datas": [STORED]}, 201))
    [found] = call(script, lambda api: api.ingest([EVENT], replay=True))
    [request] = script.requests
    assert request.url.path == "/v1/events/ingest-batch"
    assert "Idempotency-Key" not in request.headers
    assert json.loads(request.content) == {
        "meter_datas": [
            {
                "reference": "mn_0123456789",
                "customer_reference": "c-1",
                "meter_reference": "m-1",
                "timestamp": "2026-11-22T05:00:00Z",
                "meter_values": [{"reference": "m-1_value", "number": "1234.5"}],
                "meter_properties": [{"reference": "region", "value": "eu"}],
            }
        ]
    }
    assert isinstance(found, Echo)
    assert (found.id, found.is_duplicate) == ("metd_1", False)


def test_path_and_key_of_a_batch_are_settings() -> None:
    script = Scripted(ok({"events": []}, 201))
    call(
        script, lambda api: api.ingest([EVENT], replay=True), events_path="/v2/events/ingest-batch", events_key="events"
    )
    assert script.requests[0].url.path == "/v2/events/ingest-batch"
    assert list(json.loads(script.requests[0].content)) == ["events"]


@pytest.mark.parametrize(
    "failure", [httpx.ReadError("cut"), bad(500), bad(503), httpx.Response(201, content=b'{"meter_datas": [')]
)
def test_a_batch_is_repeated_only_when_that_is_safe(failure: httpx.Response | Exception) -> None:
    safe = Scripted(failure, ok({"meter_datas": [STORED]}, 201))
    assert len(call(safe, lambda api: api.ingest([EVENT], replay=True))) == 1
    assert safe.requests[0].content == safe.requests[1].content
    unsafe = Scripted(failure)
    assert isinstance(error_of(unsafe, lambda api: api.ingest([EVENT], replay=False)), Unanswered)
    assert len(unsafe.requests) == 1


def test_a_batch_that_is_limited_was_not_taken() -> None:
    error = error_of(Scripted(bad(429)), lambda api: api.ingest([EVENT], replay=False))
    assert isinstance(error, RateLimited)
    assert not error.may_have_arrived


@pytest.mark.parametrize("body", [{}, {"events": []}, {"meter_datas": None}, {"meter_datas": [{"reference": "x"}]}])
def test_a_201_that_does_not_say_what_was_taken_may_have_arrived(body: Any) -> None:
    error = error_of(Scripted(ok(body, 201)), lambda api: api.ingest([EVENT], replay=False))
    assert isinstance(error, Malformed)
    assert error.may_have_arrived


def test_a_short_201_is_given_as_it_is() -> None:
    assert call(Scripted(ok({"meter_datas": []}, 201)), lambda api: api.ingest([EVENT], replay=True)) == []


def test_events_are_looked_up_by_reference() -> None:
    script = Scripted(ok({"data": [STORED], "total_number_of_pages": 1}))
    [[found]] = call(script, lambda api: api.events(reference="mn_0123456789", deleted=False))
    assert found.reference == "mn_0123456789"
    assert queries(script.requests) == [{"reference": "mn_0123456789", "deleted": "false", "page": "1", "limit": "50"}]


def test_a_reference_filter_that_was_ignored_is_noticed() -> None:
    script = Scripted(ok({"data": [STORED], "total_number_of_pages": 400}))
    error = error_of(script, lambda api: api.events(reference="mn_another_one"))
    assert isinstance(error, Malformed)
    assert "filter was ignored" in str(error)


@pytest.mark.parametrize(
    "details",
    [{"duplicate": {"of_meter_data_id": "metd_0"}}, {"duplicate_of_meter_data_id": "metd_0", "duplicate": None}],
)
def test_a_duplicate_names_its_original(details: dict[str, Any]) -> None:
    script = Scripted(ok({**STORED, "processed_details": {"type": "DUPLICATE", **details}}))
    found = call(script, lambda api: api.event("metd_1"))
    assert (found.is_duplicate, found.duplicate_of) == (True, "metd_0")


@pytest.mark.parametrize(
    ("number", "quantity"),
    [
        ('"1234.50"', "1234.5"),
        ("1234.5", "1234.5"),
        ('"1e3"', "1000"),
        ("null", None),
        ('"many"', None),
        ('"1e999999999"', None),
    ],
)
def test_a_stored_number_is_read_exactly_or_not_at_all(number: str, quantity: str | None) -> None:
    body = json.dumps(STORED).replace('"1234.5"', number)
    found = call(Scripted(httpx.Response(200, content=body.encode())), lambda api: api.event("metd_1"))
    assert found.meter_values[0].quantity == (None if quantity is None else Decimal(quantity))


def test_nulls_in_a_stored_event_are_nothing() -> None:
    body = {"id": "metd_1", "meter_values": None, "meter_properties": None, "deleted": None, "timestamp": None}
    found = call(Scripted(ok(body)), lambda api: api.event("metd_1"))
    assert (found.meter_values, found.meter_properties, found.deleted, found.timestamp) == ((), (), False, None)


def test_an_event_is_deleted_by_reference_or_by_id() -> None:
    script = Scripted(ok({**STORED, "deleted": True}))
    assert call(script, lambda api: api.delete_event("mn_0123456789")).deleted
    assert call(script, lambda api: api.delete_event_by_id("metd_1")).deleted
    assert [request.url.path for request in script.requests] == ["/v1/events/delete", "/v1/events/metd_1/delete"]
    assert json.loads(script.requests[0].content) == {"reference": "mn_0123456789"}


def test_a_trace_tells_the_invoice() -> None:
    script = Scripted(ok({"meter_data_id": "metd_1", "links": [{"invoice_id": "inv_1"}]}))
    assert call(script, lambda api: api.event_trace("metd_1")).links[0].invoice_id == "inv_1"


# How numbers and moments are written


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None))
def test_a_number_is_written_plainly_and_read_back_the_same(number: Decimal) -> None:
    if abs(number.adjusted()) < 200:
        text = plain_number(number)
        assert Decimal(text) == number
        assert "E" not in text
        assert not text.startswith("-0") or Decimal(text) != 0
        assert "." not in text or not text.endswith(("0", "."))


@pytest.mark.parametrize(
    ("number", "text"),
    [("1E+3", "1000"), ("-0.0", "0"), ("100", "100"), ("1.500", "1.5"), ("-2.00", "-2"), ("1E-7", "0.0000001")],
)
def test_numbers_are_written_plainly(number: str, text: str) -> None:
    assert plain_number(Decimal(number)) == text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "sNaN"])
def test_what_is_not_finite_is_not_written(number: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        plain_number(Decimal(number))


def test_a_moment_is_written_in_utc_without_a_fraction() -> None:
    assert plain_instant(datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))) == "2025-12-31T23:30:00Z"
    for wrong in (datetime(2026, 1, 1), datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)):  # noqa: DTZ001
        with pytest.raises(ValueError, match="whole seconds"):
            plain_instant(wrong)
