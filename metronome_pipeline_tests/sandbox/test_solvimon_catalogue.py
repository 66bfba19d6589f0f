"""Product categories, products and product items: links, statuses, upserts and searches."""

from typing import Any

import pytest

from metronome_pipeline_tests.sandbox.solvimon_account import Account, Json, refusal

CATEGORY = {"name": "Metronome Products", "reference": "metronome_products"}


def product(account: Account, reference: str = "p", **fields: object) -> Json:
    """A product in the one category."""
    category = account.http.put("/v1/product-categories", json=CATEGORY).json()
    return account.make(
        "products", {"name": reference, "reference": reference, "category_id": category["id"], **fields}
    )


def item_body(account: Account, **fields: object) -> Json:
    """The body of a usage item of product ``p``, linked to the calculation of ``meter-1``."""
    account.meter()
    calculation = account.get("/v1/meter-value-calculations")["data"][0]
    return {
        "product_id": product(account)["id"],
        "name": "Usage",
        "reference": "p_usage",
        "type": "REVENUE",
        "model_type": "USAGE_BASED",
        "usage_based": {"meter_value_calculation_id": calculation["id"]},
        **fields,
    }


def test_a_category_has_no_status_and_is_upserted(account: Account) -> None:
    made = account.make("product-categories", CATEGORY)
    assert made == {**CATEGORY, "object_type": "PRODUCT_CATEGORY", "id": made["id"]}
    again = account.http.put("/v1/product-categories", json={**CATEGORY, "name": "Renamed"})
    assert (again.status_code, again.json()["id"], again.json()["name"]) == (201, made["id"], "Renamed")
    refusal(account.http.post("/v1/product-categories", json=CATEGORY), 409, "RESOURCE_ALREADY_EXISTS", "reference")
    refusal(account.http.post("/v1/product-categories", json={"name": "x"}), 400, "MISSING_FIELD", "reference")


def test_a_product_needs_an_existing_category(account: Account) -> None:
    body = {"name": "p", "reference": "p", "category_id": "prca_none"}
    refusal(account.http.post("/v1/products", json=body), 400, "RESOURCE_NOT_FOUND", "category_id")
    assert product(account)["status"] == "DRAFT"


def test_activating_a_product_aligns_its_items_only_where_asked(account: Account) -> None:
    account.make("product-items", item_body(account))
    account.act("products/p/activate")
    assert account.get("/v1/product-items/p_usage")["status"] == "DRAFT"
    account.act("products/p/activate?align_product_item_status=true")
    assert account.get("/v1/product-items/p_usage")["status"] == "ACTIVE"


def test_a_patch_of_the_status_aligns_items_too(account: Account) -> None:
    account.make("product-items", item_body(account))
    account.http.patch("/v1/products/p", json={"status": "ACTIVE"}, params={"align_product_item_status": "true"})
    assert account.get("/v1/product-items/p_usage")["status"] == "ACTIVE"


def test_only_a_draft_product_can_be_deleted(account: Account) -> None:
    product(account, "draft")
    product(account, "live", status="ACTIVE")
    assert account.http.delete("/v1/products/draft").status_code == 200
    refusal(account.http.delete("/v1/products/live"), 400, "INVALID_OPERATION")


def test_an_archived_product_is_hidden_from_lists_and_does_not_come_back(account: Account) -> None:
    product(account)
    assert account.act("products/p/archive")["status"] == "ARCHIVED"
    assert account.get("/v1/products")["data"] == []
    assert len(account.get("/v1/products", **{"statuses[]": "ARCHIVED"})["data"]) == 1
    assert account.get("/v1/products/p")["status"] == "ARCHIVED"
    refusal(account.http.post("/v1/products/p/activate"), 400, "INVALID_OPERATION")


def test_a_deprecated_product_takes_no_new_items(account: Account) -> None:
    body = item_body(account)
    account.act("products/p/deprecate")
    refusal(account.http.post("/v1/product-items", json=body), 400, "INVALID_OPERATION")


def test_an_items_status_is_read_only_unless_the_knob_says_otherwise(account: Account) -> None:
    body = item_body(account, status="ACTIVE")
    assert account.make("product-items", body)["status"] == "DRAFT"
    patched = account.http.patch("/v1/product-items/p_usage", json={"status": "ACTIVE"})
    assert patched.json()["status"] == "DRAFT"
    account.set(item_status_readonly=False)
    assert account.make("product-items", {**body, "reference": "other"})["status"] == "ACTIVE"


def test_an_item_is_activated_deprecated_and_archived(account: Account) -> None:
    account.make("product-items", item_body(account))
    steps = [account.act(f"product-items/p_usage/{step}")["status"] for step in ("activate", "deprecate", "archive")]
    assert steps == ["ACTIVE", "DEPRECATED", "ARCHIVED"]
    refusal(account.http.post("/v1/product-items/p_usage/activate"), 400, "INVALID_OPERATION")


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"product_id": "prod_none"}, "PRODUCT_NOT_FOUND", "product_id"),
        ({"model_type": "FIXED"}, "INVALID_FIELD", "model_type"),
        ({"model_type": None}, "MISSING_FIELD", "model_type"),
        ({"name": "a\nb"}, "INVALID_FIELD", "name"),
        ({"name": "x" * 257}, "INVALID_FIELD", "name"),
        ({"usage_based": {}}, "MISSING_FIELD", "usage_based.meter_value_calculation_id"),
        (
            {"usage_based": {"meter_value_calculation_id": "bmet_none"}},
            "RESOURCE_NOT_FOUND",
            "usage_based.meter_value_calculation_id",
        ),
        ({"meter_value_calculation_id": "bmet_none"}, "RESOURCE_NOT_FOUND", "meter_value_calculation_id"),
        ({"model_type": "CREDITS"}, "MISSING_FIELD", "credits.credit_type_id"),
    ],
)
def test_an_item_needs_its_links(account: Account, fields: dict[str, Any], code: str, field: str) -> None:
    refusal(account.http.post("/v1/product-items", json=item_body(account, **fields)), 400, code, field)


def test_a_recurring_item_needs_no_calculation(account: Account) -> None:
    body = {"product_id": product(account)["id"], "name": "Fee", "reference": "p_recurring", "model_type": "RECURRING"}
    assert account.make("product-items", body)["model_type"] == "RECURRING"


def test_the_link_to_a_calculation_may_be_nested_or_at_the_top(account: Account) -> None:
    body = item_body(account)
    nested = body.pop("usage_based")
    top = {"meter_value_calculation_id": "meter-1_sum"}
    made = account.make("product-items", {**body, "reference": "top", **top})
    assert made["meter_value_calculation_id"] == nested["meter_value_calculation_id"]
    account.set(calculation_link="nested")
    refused = account.http.post("/v1/product-items", json={**body, **top})
    refusal(refused, 400, "INVALID_FIELD", "meter_value_calculation_id")
    account.set(calculation_link="top_level")
    refused = account.http.post("/v1/product-items", json={**body, "usage_based": nested})
    refusal(refused, 400, "INVALID_FIELD", "usage_based.meter_value_calculation_id")
    account.make("product-items", {**body, **top})


def test_put_of_an_item_is_an_upsert_that_keeps_its_status(account: Account) -> None:
    body = item_body(account)
    first = account.http.put("/v1/product-items", json=body)
    account.act("product-items/p_usage/activate")
    second = account.http.put("/v1/product-items", json={**body, "name": "Renamed"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert (second.json()["id"], second.json()["name"]) == (first.json()["id"], "Renamed")
    assert second.json()["status"] == "ACTIVE"
    other = account.http.put("/v1/product-items", json={**body, "model_type": "RECURRING"})
    refusal(other, 400, "COULD_NOT_UPDATE_RESOURCE", "model_type")


def test_products_and_items_are_listed_by_what_they_belong_to(account: Account) -> None:
    account.make("product-items", item_body(account))
    one, other = account.get("/v1/products/p"), product(account, "q")
    assert [row["reference"] for row in account.get("/v1/product-items", product_id=one["id"])["data"]] == ["p_usage"]
    assert account.get("/v1/product-items", product_id=other["id"])["data"] == []
    assert len(account.get("/v1/products", product_category_id=one["category_id"])["data"]) == 2
    assert account.get("/v1/products", product_category_id="prca_none")["data"] == []
    assert account.get("/v1/products", limit=1)["total_number_of_pages"] == 2


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ({"name": "name", "value": "Alpha"}, ["a"]),
        ({"name": "name", "value": "alpha"}, []),
        ({"name": "name", "value": "alpha", "ignore_case": True}, ["a"]),
        ({"name": "name", "value": "Alph", "wildcard_end": True}, ["a", "aa"]),
        ({"name": "name", "value": "s", "wildcard_start": True}, ["aa"]),
        ({"name": "name", "value": "et", "wildcard_start": True, "wildcard_end": True}, ["b"]),
        ({"name": "reference", "value": "b"}, ["b"]),
    ],
)
def test_search_finds_exactly_or_by_wildcards_in_order_of_name(account: Account, field: Json, found: list[str]) -> None:
    for reference, name in (("aa", "Alphas"), ("b", "Beta"), ("a", "Alpha")):
        account.make("product-categories", {"reference": reference, "name": name})
    page = account.act("product-categories/search", {"search_fields": [field]})
    assert [row["reference"] for row in page["data"]] == found
    assert page["page"] == 1


def test_search_filters_by_values_and_refuses_a_nameless_field(account: Account) -> None:
    product(account, "p")
    product(account, "q", status="ACTIVE")
    body = {"filter_fields": [{"name": "status", "values": ["ACTIVE", "ARCHIVED"]}]}
    assert [row["reference"] for row in account.act("products/search", body)["data"]] == ["q"]
    nameless = account.http.post("/v1/products/search", json={"search_fields": [{"value": "x"}]})
    refusal(nameless, 400, "INVALID_FIELD", "search_fields.0.name")
