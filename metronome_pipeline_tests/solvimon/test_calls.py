"""Replacing, deleting and changing the status of resources: what is repeated, and what an answer is taken for."""

import json
from typing import Any

import httpx
import pytest

from metronome_pipeline.errors import Malformed, Refused, Unauthorised, Unavailable
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import Organization
from metronome_pipeline.solvimon.requests import NewCustomer, NewProductItem, UsageBasedBy
from metronome_pipeline_tests.loopback import Scripted, bad, ok
from metronome_pipeline_tests.solvimon.client import call, error_of

ACME = NewCustomer(reference="acme", organization=Organization(legal_name="Acme"))
GONE = bad(404, {"code": "RESOURCE_NOT_FOUND", "message": "", "resource_type": "CUSTOMER"})


def deleting(api: SolvimonApi) -> Any:
    return api.delete_customer("a/b")


def test_a_deletion_gives_what_was_deleted() -> None:
    script = Scripted(ok({"id": "cust_1", "reference": "a/b"}))
    assert call(script, deleting).id == "cust_1"
    [request] = script.requests
    assert (request.method, request.url.raw_path, request.content) == ("DELETE", b"/v1/customers/a%2Fb", b"")
    assert "Idempotency-Key" not in request.headers


@pytest.mark.parametrize("status", [400, 404])
def test_deleting_what_is_not_there_gives_none(status: int) -> None:
    code = {"code": "CUSTOMER_NOT_FOUND", "message": ""}
    assert call(Scripted(bad(status, code)), deleting) is None


def test_a_deletion_whose_answer_was_lost_is_repeated_and_finds_nothing() -> None:
    script = Scripted(httpx.ReadError("cut"), GONE)
    assert call(script, deleting) is None
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (bad(404, {"message": "Page does not exist"}), Refused),
        (bad(400, {"code": "COULD_NOT_DELETE_RESOURCE", "message": ""}), Refused),
        (bad(404, {"code": "RESOURCE_NOT_FOUND", "message": "", "resource_type": "PLATFORM"}), Refused),
        (bad(403, {"code": "USER_NOT_ALLOWED", "message": ""}), Unauthorised),
        (bad(503), Unavailable),
    ],
)
def test_any_other_refusal_of_a_deletion_is_an_error(answer: httpx.Response, kind: type) -> None:
    assert isinstance(error_of(Scripted(answer), deleting), kind)


def test_a_deletion_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="cannot be looked up"):
        call(Scripted(ok({})), lambda api: api.delete_product(".."))


def test_a_replacement_carries_no_key_and_is_repeated() -> None:
    script = Scripted(httpx.ReadError("cut"), bad(500), ok({"id": "cust_1", "status": "ACTIVE"}, 201))
    assert call(script, lambda api: api.upsert_customer(ACME)).id == "cust_1"
    assert {request.method for request in script.requests} == {"PUT"}
    assert len({request.content for request in script.requests}) == 1
    assert not any("Idempotency-Key" in request.headers for request in script.requests)
    assert json.loads(script.requests[0].content)["organization"] == {"legal_name": "Acme"}


def test_a_replaced_item_is_sent_whole() -> None:
    script = Scripted(ok({"id": "prit_1"}, 201))
    item = NewProductItem(
        reference="i",
        name="I",
        product_id="prod_1",
        model_type="USAGE_BASED",
        usage_based=UsageBasedBy(meter_value_calculation_id="bmet_1"),
    )
    call(script, lambda api: api.upsert_product_item(item))
    assert json.loads(script.requests[0].content) == {
        "reference": "i",
        "name": "I",
        "product_id": "prod_1",
        "model_type": "USAGE_BASED",
        "type": "REVENUE",
        "usage_based": {"meter_value_calculation_id": "bmet_1"},
    }


@pytest.mark.parametrize(
    ("ask", "path"),
    [
        (lambda api: api.deprecate_customer("acme"), "/v1/customers/acme/deprecate"),
        (lambda api: api.forget_customer("acme"), "/v1/customers/acme/forget"),
        (lambda api: api.archive_product("p", with_items=False), "/v1/products/p/archive"),
        (lambda api: api.archive_product_item("i"), "/v1/product-items/i/archive"),
    ],
)
def test_a_status_is_set_without_a_body_or_a_key_and_repeated(ask: Any, path: str) -> None:
    script = Scripted(httpx.ReadError("cut"), ok({"id": "x", "status": "ARCHIVED"}))
    assert call(script, ask).status == "ARCHIVED"
    assert {(one.method, one.url.path, one.content) for one in script.requests} == {("POST", path, b"")}
    assert not any("Idempotency-Key" in one.headers for one in script.requests)


@pytest.mark.parametrize("verb", ["activate", "deprecate", "archive"])
@pytest.mark.parametrize("with_items", [True, False])
def test_a_product_s_items_follow_it_where_that_is_asked_for(verb: str, with_items: bool) -> None:
    script = Scripted(ok({"id": "prod_1"}))
    call(script, lambda api: getattr(api, f"{verb}_product")("prod_1", with_items=with_items))
    assert script.requests[0].url.params["align_product_item_status"] == str(with_items).lower()


def test_a_file_is_given_as_its_bytes() -> None:
    script = Scripted(httpx.Response(200, content="reference,né\r\n".encode()))
    assert call(script, lambda api: api.meter_data_file("calls")) == "reference,né\r\n".encode()
    assert script.requests[0].headers["Accept"] == "application/octet-stream"


def test_a_page_for_people_is_no_file() -> None:
    script = Scripted(httpx.Response(200, content=b"\n<!doctype html><p>Sorry"))
    assert isinstance(error_of(script, lambda api: api.meter_data_file("calls")), Malformed)
