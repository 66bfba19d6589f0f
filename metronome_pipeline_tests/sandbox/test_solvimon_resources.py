"""Customers, meter values, meter properties, meters and calculations."""

from typing import Any

import pytest

from metronome_pipeline_tests.sandbox.solvimon_account import NOW, Account, refusal

CUSTOMER = {"type": "ORGANIZATION", "reference": "acme", "organization": {"legal_name": "Acme"}}
VALUE = {"reference": "calls", "name": "Calls", "type": "NUMBER"}


def test_a_customer_is_created_as_a_draft_unless_it_says_otherwise(account: Account) -> None:
    made = account.make("customers", CUSTOMER)
    assert made == {**CUSTOMER, "object_type": "CUSTOMER", "id": made["id"], "status": "DRAFT", "created_at": NOW}
    assert made["id"].startswith("cust_")
    assert len(made["id"]) == 25
    assert account.make("customers", {**CUSTOMER, "reference": "b", "status": "ACTIVE"})["status"] == "ACTIVE"


def test_a_customer_goes_through_its_statuses_and_not_back(account: Account) -> None:
    account.make("customers", CUSTOMER)
    steps = ["activate", "activate", "deprecate", "activate", "archive"]
    statuses = [account.act(f"customers/acme/{step}")["status"] for step in steps]
    assert statuses == ["ACTIVE", "ACTIVE", "DEPRECATED", "ACTIVE", "ARCHIVED"]
    refusal(account.http.post("/v1/customers/acme/activate"), 400, "INVALID_OPERATION")


def test_a_forgotten_customer_loses_its_name_and_keeps_its_reference(account: Account) -> None:
    account.make("customers", CUSTOMER)
    assert account.act("customers/acme/forget")["status"] == "CLOSED"
    assert "organization" not in account.get("/v1/customers/acme")
    refusal(account.http.post("/v1/customers", json=CUSTOMER), 409, "RESOURCE_ALREADY_EXISTS", "reference")


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"type": None}, "MISSING_FIELD", "type"),
        ({"type": "COMPANY"}, "INVALID_FIELD", "type"),
        ({"reference": "a b"}, "INVALID_FIELD", "reference"),
        ({"reference": "x" * 257}, "INVALID_FIELD", "reference"),
        ({"reference": ""}, "INVALID_FIELD", "reference"),
        ({"reference": None}, "INVALID_FIELD", "reference"),
        ({"email": None}, "INVALID_FIELD", "email"),
        ({"organization": {"legal_name": "a\nb"}}, "INVALID_FIELD", "organization.legal_name"),
        ({"organization": {"legal_name": "a\u2028b"}}, "INVALID_FIELD", "organization.legal_name"),
        ({"organization": {"legal_name": "x" * 257}}, "INVALID_FIELD", "organization.legal_name"),
        ({"organization": {"name": "x"}}, "INVALID_FIELD", "organization.name"),
        ({"organization": []}, "INVALID_FIELD", "organization"),
        ({"roles": ["KING"]}, "INVALID_FIELD", "roles.0"),
        ({"status": "SLEEPING"}, "INVALID_FIELD", "status"),
        ({"processing_only": 1}, "INVALID_FIELD", "processing_only"),
    ],
)
def test_a_wrong_field_is_named(account: Account, fields: dict[str, Any], code: str, field: str) -> None:
    refusal(account.http.post("/v1/customers", json={**CUSTOMER, **fields}), 400, code, field)


def test_an_email_is_needed_where_the_knob_says_so(account: Account) -> None:
    account.set(email_required=True)
    refusal(account.http.post("/v1/customers", json=CUSTOMER), 400, "MISSING_FIELD", "email")
    account.make("customers", {**CUSTOMER, "email": "a@example.org"})


def test_names_in_any_script_survive(account: Account) -> None:
    name = "株式会社 \u202eสวัสดี\u202c 🛫 \x00"
    made = account.make("customers", {**CUSTOMER, "organization": {"legal_name": name}})
    assert account.get(f"/v1/customers/{made['id']}")["organization"]["legal_name"] == name


@pytest.mark.parametrize("status", [404, 400])
def test_what_is_not_found_says_so_in_its_code(account: Account, status: int) -> None:
    account.set(not_found_status=status)
    body = refusal(account.http.get("/v1/customers/nobody"), status, "RESOURCE_NOT_FOUND")
    assert body["message"] == "The requested CUSTOMER could not be found"
    assert body["resource_type"] == "CUSTOMER"


def test_references_are_exact_and_case_sensitive(account: Account) -> None:
    made = account.make("customers", CUSTOMER)
    assert account.get("/v1/customers/acme") == account.get(f"/v1/customers/{made['id']}") == made
    refusal(account.http.get("/v1/customers/Acme"), 404, "RESOURCE_NOT_FOUND")
    assert account.get("/v1/customers", reference="Acme")["data"] == []
    assert account.get("/v1/customers", reference="acme")["data"] == [made]


def test_an_existing_reference_is_refused_and_names_what_exists(account: Account) -> None:
    made = account.make("meter-values", VALUE)
    body = refusal(account.http.post("/v1/meter-values", json=VALUE), 409, "RESOURCE_ALREADY_EXISTS", "reference")
    assert (body["resource_id"], body["resource_type"]) == (made["id"], "METER_VALUE")
    account.set(conflict_status=400, conflict_includes_resource_id=False)
    body = refusal(account.http.post("/v1/meter-values", json=VALUE), 400, "RESOURCE_ALREADY_EXISTS", "reference")
    assert "resource_id" not in body


def test_customers_have_a_conflict_status_of_their_own(account: Account) -> None:
    account.make("customers", CUSTOMER)
    refusal(account.http.post("/v1/customers", json=CUSTOMER), 409, "RESOURCE_ALREADY_EXISTS", "reference")
    account.set(customers_conflict_status=400)
    refusal(account.http.post("/v1/customers", json=CUSTOMER), 400, "RESOURCE_ALREADY_EXISTS", "reference")


def test_patch_changes_what_it_names_and_nothing_else(account: Account) -> None:
    made = account.make("customers", {**CUSTOMER, "email": "a@example.org"})
    answer = account.http.patch("/v1/customers/acme", json={"organization": {"legal_name": "Acme 2"}})
    assert answer.status_code == 200
    assert answer.json() == {**made, "organization": {"legal_name": "Acme 2"}}
    account.make("customers", {**CUSTOMER, "reference": "other"})
    taken = account.http.patch("/v1/customers/acme", json={"reference": "other"})
    refusal(taken, 409, "RESOURCE_ALREADY_EXISTS", "reference")


def test_put_answers_201_both_ways_and_replaces(account: Account) -> None:
    first = account.http.put("/v1/customers", json={**CUSTOMER, "email": "a@example.org", "status": "ACTIVE"})
    second = account.http.put("/v1/customers", json=CUSTOMER)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] == second.json()["id"]
    assert "email" not in second.json()
    assert second.json()["status"] == "ACTIVE"


def test_put_keeps_what_it_omits_where_the_knob_says_so(account: Account) -> None:
    account.set(put_merge=True)
    account.http.put("/v1/customers", json={**CUSTOMER, "email": "a@example.org"})
    assert account.http.put("/v1/customers", json=CUSTOMER).json()["email"] == "a@example.org"


def test_put_by_id_needs_what_it_names(account: Account) -> None:
    put = {"params": {"identifier_field": "id"}, "json": {**CUSTOMER, "id": "cust_unknown"}}
    refusal(account.http.put("/v1/customers", **put), 404, "RESOURCE_NOT_FOUND")  # type: ignore[arg-type]
    made = account.make("customers", CUSTOMER)
    put["json"] = {**CUSTOMER, "id": made["id"], "reference": "renamed"}
    assert account.http.put("/v1/customers", **put).json()["id"] == made["id"]  # type: ignore[arg-type]
    refusal(account.http.get("/v1/customers/acme"), 404, "RESOURCE_NOT_FOUND")


def test_what_is_deleted_is_gone_and_its_reference_free(account: Account) -> None:
    made = account.make("meter-values", VALUE)
    assert account.http.delete("/v1/meter-values/calls").json() == made
    refusal(account.http.get("/v1/meter-values/calls"), 404, "RESOURCE_NOT_FOUND")
    assert account.make("meter-values", VALUE)["id"] != made["id"]


def test_the_type_of_a_meter_value_never_changes(account: Account) -> None:
    account.make("meter-values", VALUE)
    answer = account.http.patch("/v1/meter-values/calls", json={"type": "AMOUNT"})
    refusal(answer, 400, "COULD_NOT_UPDATE_RESOURCE", "type")
    assert account.http.patch("/v1/meter-values/calls", json={"status": "ACTIVE"}).json()["status"] == "ACTIVE"
    refusal(account.http.patch("/v1/meter-values/calls", json={"status": "DRAFT"}), 400, "INVALID_OPERATION")
    assert account.http.post("/v1/meter-values/calls/activate").json()["message"] == "Page does not exist"


def test_an_active_enum_takes_more_values_and_loses_none(account: Account) -> None:
    account.property("country", "ENUM", enum_values=["DE", "NL"])
    more = account.http.patch("/v1/meter-properties/country", json={"enum_values": ["DE", "NL", "FR"]})
    assert more.json()["enum_values"] == ["DE", "NL", "FR"]
    fewer = account.http.patch("/v1/meter-properties/country", json={"enum_values": ["DE"]})
    refusal(fewer, 400, "INVALID_OPERATION")
    empty = {"reference": "c", "name": "c", "type": "ENUM"}
    refusal(account.http.post("/v1/meter-properties", json=empty), 400, "MISSING_FIELD", "enum_values")


def test_a_meter_links_values_and_properties_by_id_or_reference(account: Account) -> None:
    value, region = account.value("v"), account.property()
    body = {"reference": "m", "meter_values": [{"id": value["id"]}], "meter_properties": [{"reference": "region"}]}
    meter = account.make("meters", body)
    assert meter["meter_values"] == [{"id": value["id"], "reference": "v", "required": False}]
    assert meter["meter_properties"] == [{"id": region["id"], "reference": "region", "required": False}]
    assert account.get("/v1/meters/m", **{"expand[]": "meter_values"})["meter_values"][0]["object"] == value
    unknown = account.http.post("/v1/meters", json={"reference": "n", "meter_values": [{"id": "metv_none"}]})
    refusal(unknown, 400, "METER_VALUE_NOT_FOUND", "meter_values.0.id")


def test_patching_a_meters_links_replaces_or_merges(account: Account) -> None:
    region, tier = account.property("region"), account.property("tier")
    account.meter(properties=[region])

    def patched() -> list[str]:
        body = {"meter_properties": [{"id": tier["id"]}]}
        answer = account.http.patch("/v1/meters/meter-1", json=body).json()
        return [link["reference"] for link in answer["meter_properties"]]

    account.set(meter_links="merge")
    assert patched() == ["region", "tier"]
    account.set(meter_links="replace")
    assert patched() == ["tier"]


def test_a_calculation_is_found_by_id_alone(account: Account) -> None:
    made = account.calculation(account.meter(calculation=None))
    assert made["id"].startswith("bmet_")
    assert "status" not in made
    assert account.get(f"/v1/meter-value-calculations/{made['id']}") == made
    refusal(account.http.get("/v1/meter-value-calculations/meter-1_sum"), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"calculation_type": "LATEST"}, "INVALID_FIELD", "calculation_type"),
        ({"calculation_type": "COUNT"}, "INVALID_FIELD", "calculation_type"),
        ({"meter_id": "metr_none"}, "METER_NOT_FOUND", "meter_id"),
        ({"meter_id": None}, "MISSING_FIELD", "meter_id"),
        ({"meter_value_id": None}, "MISSING_FIELD", "meter_value_id"),
        ({"meter_value_id": "metv_none"}, "METER_VALUE_NOT_FOUND", "meter_value_id"),
        ({"calculation_type": "UNIQUE"}, "MISSING_FIELD", "meter_property_id"),
        ({"meter_property_id": "metp_none"}, "METER_PROPERTY_NOT_FOUND", "meter_property_id"),
    ],
)
def test_a_calculation_needs_its_meter(account: Account, fields: dict[str, Any], code: str, field: str) -> None:
    meter = account.meter(calculation=None)
    body = {
        "reference": "sum",
        "calculation_type": "SUM",
        "meter_id": meter["id"],
        "meter_value_id": meter["meter_values"][0]["id"],
    }
    refusal(account.http.post("/v1/meter-value-calculations", json={**body, **fields}), 400, code, field)


def test_a_calculations_type_never_changes(account: Account) -> None:
    made = account.calculation(account.meter(calculation=None))
    patch = account.http.patch(f"/v1/meter-value-calculations/{made['id']}", json={"calculation_type": "MAX"})
    refusal(patch, 400, "COULD_NOT_UPDATE_RESOURCE", "calculation_type")


def test_customers_come_in_pages_newest_first(account: Account) -> None:
    for number in range(5):
        account.customer(f"c{number}")
    first = account.get("/v1/customers", limit=2)
    assert [row["reference"] for row in first["data"]] == ["c4", "c3"]
    assert (first["page"], first["limit"], first["total_number_of_pages"]) == (1, 2, 3)
    assert first["links"]["previous"] is None
    last = account.get("/v1/customers", limit=2, page=3)
    assert [row["reference"] for row in last["data"]] == ["c0"]
    assert last["links"]["next"] is None
    assert account.get(first["links"]["next"])["data"] == account.get("/v1/customers", limit=2, page=2)["data"]
    assert account.get("/v1/customers", limit=2, page=4)["data"] == []
    named = account.get("/v1/customers", order_by="reference", order_direction="asc")["data"]
    assert [row["reference"] for row in named] == ["c0", "c1", "c2", "c3", "c4"]


def test_a_limit_over_the_maximum_is_cut(account: Account) -> None:
    assert account.get("/v1/customers")["limit"] == 50
    assert account.get("/v1/customers", limit=1000)["limit"] == 100
    account.set(max_limit=7)
    assert account.get("/v1/customers", limit=1000)["limit"] == 7


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"page": "-1"}, {"order_direction": "up"}])
def test_a_wrong_page_is_refused(account: Account, query: dict[str, str]) -> None:
    refusal(account.http.get("/v1/customers", params=query), 400, "INVALID_FIELD", next(iter(query)))


@pytest.mark.parametrize("path", ["meters", "meter-values", "meter-properties"])
def test_meter_lists_hold_data_alone_and_everything(account: Account, path: str) -> None:
    region = account.property()
    account.meter("m1", properties=[region])
    account.meter("m2", properties=[region])
    assert set(account.get(f"/v1/{path}", limit=1)) == {"data"}
    assert len(account.get(f"/v1/{path}", limit=1, reference="m1")["data"]) == {"meter-properties": 1}.get(path, 2)


def test_meter_values_are_filtered_by_status(account: Account) -> None:
    account.value("a")
    account.value("d", status="DRAFT")
    rows = account.get("/v1/meter-values", **{"statuses[]": ["DRAFT", "ARCHIVED"]})["data"]
    assert [row["reference"] for row in rows] == ["d"]


def test_calculations_come_in_pages_that_do_not_say_so(account: Account) -> None:
    meter = account.meter(calculation=None)
    for number in range(3):
        account.calculation(meter, reference=f"calculation-{number}")
    pages = [account.get("/v1/meter-value-calculations", limit=2, page=page) for page in (1, 2, 3)]
    assert [len(page["data"]) for page in pages] == [2, 1, 0]
    assert set(pages[0]) == {"data"}
    account.set(calculations_ignore_page=True)
    assert [len(account.get("/v1/meter-value-calculations", limit=2, page=page)["data"]) for page in (1, 2)] == [3, 3]


def test_drafts_can_be_hidden_in_lists_and_found_by_reference(account: Account) -> None:
    account.make("customers", CUSTOMER)
    assert len(account.get("/v1/customers", reference="acme")["data"]) == 1
    account.set(hide_drafts_in_lists=True)
    assert account.get("/v1/customers", reference="acme")["data"] == []
    assert account.act("customers/search", {})["data"] == []
    assert account.get("/v1/customers/acme")["status"] == "DRAFT"


def test_wallets_entitlements_and_tax_ids_have_the_form_of_the_schema(account: Account) -> None:
    account.make("customers", CUSTOMER)
    subscription = account.http.post("/_sandbox/subscriptions", json={"customer_reference": "acme"}).json()["id"]
    assert account.get("/v1/customers/acme/entitlements") == {
        "entitlements": [],
        "pricing_plan_subscription_entitlements": [{"pricing_plan_subscription_id": subscription, "entitlements": []}],
    }
    balances = account.act("customers/acme/wallets/balance", {"balance_at": "2026-11-01T01:00:00+01:00"})
    assert balances == {"wallet_balances": [], "balance_at": "2026-11-01T00:00:00Z"}
    assert account.act("customers/acme/wallets/balance", {})["balance_at"] == NOW
    wrong = account.http.post("/v1/customers/acme/wallets/balance", json={"balance_at": "today"})
    refusal(wrong, 400, "INVALID_FIELD", "balance_at")
    checked = account.act("customers/validate-tax-id", {**CUSTOMER, "organization": {"tax_id": "NL1"}})["data"]
    assert [(row["id"], row["valid"]) for row in checked] == [("NL1", "UNKNOWN")]
    refusal(account.http.get("/v1/customers/nobody/entitlements"), 404, "RESOURCE_NOT_FOUND")
    refusal(account.http.post("/v1/customers/nobody/wallets/balance", json={}), 404, "RESOURCE_NOT_FOUND")
    refusal(account.http.post("/v1/customers/validate-tax-id", json={}), 400, "MISSING_FIELD", "type")


def test_a_meter_has_a_file_template_with_its_columns(account: Account) -> None:
    account.meter("calls", properties=[account.property("a,b")])
    answer = account.http.get("/v1/meters/calls/meter-data-file")
    assert answer.headers["content-type"] == "application/octet-stream"
    line = 'customer_reference,pricing_plan_subscription_reference,reference,timestamp,calls_value,"a,b"'
    assert answer.text.splitlines() == [line]
    refusal(account.http.get("/v1/meters/none/meter-data-file"), 404, "RESOURCE_NOT_FOUND")
