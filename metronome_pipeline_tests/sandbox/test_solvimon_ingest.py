"""Taking events in: endpoints, sizes, atomicity, and every reason to refuse one."""

from typing import Any

import pytest

from metronome_pipeline_tests.sandbox.solvimon_account import NOW, Account, Json, event, of_region, refusal

LISTS = ("/v1/events/ingest-list", "/v1/ingest/meter-datas", "/v1/events/ingest-batch")
SINGLES = ("/v1/events/ingest", "/v1/ingest/meter-data")


def test_an_event_is_echoed_with_ids_and_as_not_yet_processed(account: Account) -> None:
    account.ready()
    [echo] = account.taken(event(number="1234.50"))
    meter, customer = account.get("/v1/meters/meter-1"), account.get("/v1/customers/customer-1")
    assert echo == {
        "object_type": "METER_DATA",
        "id": echo["id"],
        "reference": "event-00001",
        "type": "INGEST",
        "customer_id": customer["id"],
        "customer_reference": "customer-1",
        "meter_id": meter["id"],
        "meter_reference": "meter-1",
        "pricing_plan_subscription_id": None,
        "timestamp": "2026-11-22T05:00:00Z",
        "created_at": NOW,
        "meter_properties": [],
        "meter_values": [{"id": meter["meter_values"][0]["id"], "reference": "meter-1_value", "number": "1234.50"}],
        "processed_details": None,
        "deleted": False,
    }


@pytest.mark.parametrize("path", LISTS)
def test_every_list_endpoint_takes_up_to_the_limit_and_words_its_refusal(account: Account, path: str) -> None:
    account.ready()
    events = [event(f"event-{number:05}") for number in range(51)]
    body = refusal(account.ingest(*events, path=path), 400, "INVALID_FIELD", "meter_datas")
    assert body["message"] == "value holds too many items (51, maximum allowed: 50)"
    assert account.truth() == []
    assert len(account.ingest(*events[:50], path=path).json()["meter_datas"]) == 50
    account.set(batch_max=1)
    assert "(2, maximum allowed: 1)" in account.ingest(*events[:2], path=path).json()["message"]


@pytest.mark.parametrize("path", SINGLES)
def test_every_single_endpoint_takes_one_event(account: Account, path: str) -> None:
    account.ready()
    answer = account.http.post(path, json=event())
    assert (answer.status_code, answer.json()["reference"]) == (201, "event-00001")
    refusal(account.http.post(path, json=event("short")), 400, "INVALID_FIELD", "reference")


def test_the_v2_endpoint_does_not_exist_unless_switched_on(account: Account) -> None:
    account.ready()
    path = "/v2/events/ingest-batch"
    answer = account.ingest(event(), path=path, key="events")
    assert (answer.status_code, answer.json()["message"]) == (404, "Page does not exist")
    account.set(v2_enabled=True)
    events = [event(f"event-{number:05}") for number in range(1001)]
    refusal(account.ingest(*events, path=path, key="events"), 400, "INVALID_FIELD", "events")
    assert len(account.ingest(*events[:1000], path=path, key="events").json()["events"]) == 1000


@pytest.mark.parametrize("body", [{"meter_datas": []}, {"meter_datas": None}, {}])
def test_an_empty_list_is_a_missing_field(account: Account, body: Json) -> None:
    refusal(account.http.post(LISTS[0], json=body), 400, "MISSING_FIELD", "meter_datas")


def test_one_bad_event_refuses_the_whole_batch(account: Account) -> None:
    account.ready()
    good, bad = event("event-00001"), event("event-00002", customer_reference="nobody")
    body = refusal(account.ingest(good, bad), 400, "RESOURCES_NOT_FOUND")
    assert body["message"] == "The requested CUSTOMER could not be found"
    assert account.truth() == []
    assert account.taken(good)[0]["processed_details"] is None


def test_good_events_of_a_bad_batch_are_stored_where_the_knob_says_so(account: Account) -> None:
    account.ready().set(partial_ok=True)
    echoed = account.taken(event("event-00001"), event("event-00002", meter_reference="none"), event("event-00003"))
    assert [one["reference"] for one in echoed] == ["event-00001", "event-00003"]
    assert account.counted() == "2"


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"reference": None}, "MISSING_FIELD", "reference"),
        ({"reference": "x" * 9}, "INVALID_FIELD", "reference"),
        ({"reference": "x" * 257}, "INVALID_FIELD", "reference"),
        ({"reference": "0123456789\n"}, "INVALID_FIELD", "reference"),
        ({"reference": 1234567890}, "INVALID_FIELD", "reference"),
        ({"customer_reference": None}, "RESOURCES_NOT_FOUND", None),
        ({"customer_reference": "Customer-1"}, "RESOURCES_NOT_FOUND", None),
        ({"customer_reference": ["customer-1"]}, "RESOURCES_NOT_FOUND", None),
        ({"customer_id": "cust_none"}, "RESOURCES_NOT_FOUND", None),
        ({"meter_reference": "none"}, "RESOURCE_NOT_FOUND", "meter_reference"),
        ({"meter_reference": None}, "RESOURCE_NOT_FOUND", "meter_reference"),
        ({"timestamp": "2026-11-22T05:00:00.000Z"}, "INVALID_FIELD", "timestamp"),
        ({"timestamp": "2026-11-22T05:00:00"}, "INVALID_FIELD", "timestamp"),
        ({"timestamp": "2026-11-22 05:00:00Z"}, "INVALID_FIELD", "timestamp"),
        ({"timestamp": "2026-11-22"}, "INVALID_FIELD", "timestamp"),
        ({"timestamp": "2026-02-30T05:00:00Z"}, "INVALID_FIELD", "timestamp"),
        ({"timestamp": 1763787600}, "INVALID_FIELD", "timestamp"),
        ({"timestamp": "2026-11-22T06:40:04Z"}, "INVALID_FIELD", "timestamp"),
        ({"meter_values": []}, "INVALID_FIELD", "meter_values"),
        ({"meter_values": None}, "INVALID_FIELD", "meter_values"),
        ({"meter_values": "1"}, "INVALID_FIELD", "meter_values"),
        ({"meter_values": [{"reference": "none", "number": "1"}]}, "INVALID_FIELD", "meter_values.0.reference"),
        ({"meter_values": [{"reference": "meter-1_value"}]}, "INVALID_FIELD", "meter_values.0.number"),
        ({"meter_values": [{"reference": "meter-1_value", "nr": "1"}]}, "INVALID_FIELD", "meter_values.0.nr"),
        (
            {"meter_values": [{"reference": "meter-1_value", "number": "1"}] * 2},
            "INVALID_FIELD",
            "meter_values.1.reference",
        ),
        ({"meter_properties": [{"reference": "x", "value": "1"}]}, "INVALID_FIELD", "meter_properties.0.value"),
        ({"pricing_plan_subscription_id": "ppsu_none"}, "RESOURCES_NOT_FOUND", "pricing_plan_subscription_id"),
        ({"quantity": "1"}, "INVALID_FIELD", "quantity"),
    ],
)
def test_a_wrong_event_is_refused_by_its_place_in_the_batch(
    account: Account, fields: dict[str, Any], code: str, field: str | None
) -> None:
    account.ready()
    bad = {**event("event-00002"), **fields}
    refusal(account.ingest(event(), bad), 400, code, None if field is None else f"meter_datas.1.{field}")
    account.set(error_field_index=False)
    refusal(account.ingest(event(), bad), 400, code, field)
    assert account.truth() == []


@pytest.mark.parametrize(
    "number", ["1e3", "1E3", "+1", ".5", "5.", "", " 1", "1,5", "NaN", "Infinity", "٣", 5, 1.5, True]
)
def test_a_number_is_a_plain_decimal_in_a_string(account: Account, number: object) -> None:
    account.ready()
    refusal(account.ingest(event(number=number)), 400, "INVALID_FIELD", "meter_datas.0.meter_values.0.number")


@pytest.mark.parametrize("number", ["0", "-0", "-12.5", "007", "0.1", "123456789012345678901234567890.123456789"])
def test_plain_decimals_are_taken_and_repeated_as_they_were_sent(account: Account, number: str) -> None:
    account.ready()
    assert account.taken(event(number=number))[0]["meter_values"][0]["number"] == number


def test_json_numbers_are_taken_exactly_where_the_knob_says_so(account: Account) -> None:
    account.ready().set(lenient_numbers=True)
    text = str(event(number=0)).replace("'", '"').replace('"number": 0', '"number": 0.12345678901234567890123')
    body = '{"meter_datas":[' + text + "]}"
    answer = account.http.post(LISTS[0], content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201
    assert account.counted() == "0.12345678901234567890123"
    refusal(account.ingest(event(number=True)), 400, "INVALID_FIELD", "meter_datas.0.meter_values.0.number")


def test_a_timestamp_may_have_an_offset_and_lie_half_an_hour_ahead(account: Account) -> None:
    account.ready()
    [one] = account.taken(event("event-00001", timestamp="2026-11-22T07:40:03+01:00"))
    assert one["timestamp"] == "2026-11-22T06:40:03Z"
    account.set(future_limit_s=0)
    refusal(
        account.ingest(event("event-00002", timestamp="2026-11-22T06:10:04Z")),
        400,
        "INVALID_FIELD",
        "meter_datas.0.timestamp",
    )


def test_an_event_without_a_timestamp_is_booked_to_now(account: Account) -> None:
    account.ready()
    assert account.taken(event(timestamp=None))[0]["timestamp"] == NOW


def test_fractions_of_a_second_are_taken_where_the_knob_says_so(account: Account) -> None:
    account.ready().set(allow_millis=True)
    assert account.taken(event(timestamp="2026-11-22T05:00:00.157Z"))[0]["timestamp"] == "2026-11-22T05:00:00Z"


@pytest.mark.parametrize("status", ["DRAFT", "DEPRECATED", "ARCHIVED"])
def test_a_meter_that_is_not_active_takes_nothing(account: Account, status: str) -> None:
    account.customer()
    account.meter(status=status)
    refusal(account.ingest(event()), 400, "RESOURCE_NOT_FOUND", "meter_datas.0.meter_reference")


def test_a_draft_value_is_as_good_as_unknown(account: Account) -> None:
    account.customer()
    value = account.value(status="DRAFT")
    account.make("meters", {"reference": "meter-1", "status": "ACTIVE", "meter_values": [{"id": value["id"]}]})
    refusal(account.ingest(event()), 400, "INVALID_FIELD", "meter_datas.0.meter_values.0.reference")


def test_a_draft_customer_takes_nothing_unless_the_knob_says_otherwise(account: Account) -> None:
    account.customer(status="DRAFT")
    account.meter()
    refusal(account.ingest(event()), 400, "RESOURCES_NOT_FOUND")
    account.set(accept_draft_customers=True)
    account.taken(event())


@pytest.mark.parametrize(("step", "taken"), [("deprecate", True), ("archive", False), ("forget", False)])
def test_what_a_customers_status_does_to_its_events(account: Account, step: str, *, taken: bool) -> None:
    account.ready().act(f"customers/customer-1/{step}")
    assert (account.ingest(event()).status_code == 201) is taken


def test_the_status_of_an_unknown_customer_or_meter_is_a_knob(account: Account) -> None:
    account.ready().set(ingest_not_found_status=404)
    refusal(account.ingest(event(customer_reference="none")), 404, "RESOURCES_NOT_FOUND")
    refusal(account.ingest(event(meter_reference="none")), 404, "RESOURCE_NOT_FOUND", "meter_datas.0.meter_reference")


def test_ids_do_as_well_as_references_and_must_agree(account: Account) -> None:
    account.ready()
    customer, meter = account.get("/v1/customers/customer-1"), account.get("/v1/meters/meter-1")
    ids = {"customer_id": customer["id"], "meter_id": meter["id"]}
    account.taken(event("event-00001", **ids, customer_reference=None, meter_reference=None))
    account.customer("customer-2")
    refusal(account.ingest(event("event-00002", **ids, customer_reference="customer-2")), 400, "RESOURCES_NOT_FOUND")


def test_properties_are_checked_by_their_type(account: Account) -> None:
    account.customer()
    country = account.property("region", "ENUM", enum_values=["DE"])
    account.meter(properties=[country])
    refusal(account.ingest(of_region("NL")), 400, "INVALID_FIELD", "meter_datas.0.meter_properties.0.value")
    assert account.taken(of_region("DE"))[0]["meter_properties"][0] == {
        "id": country["id"],
        "reference": "region",
        "value": "DE",
    }


@pytest.mark.parametrize(("value", "taken"), [("1.5", True), ("x", False), (5, False)])
def test_a_number_property_is_a_number_in_a_string(account: Account, value: object, *, taken: bool) -> None:
    account.customer()
    account.meter(properties=[account.property("region", "NUMBER")])
    assert (account.ingest(of_region(value)).status_code == 201) is taken


def test_any_text_is_a_value_of_a_string_property(account: Account) -> None:
    account.customer()
    account.meter(properties=[account.property()])
    values = ["", "a\nb", "日本", "x" * 5000, None]
    echoed = account.taken(*(of_region(value, reference=f"event-{at:05}") for at, value in enumerate(values)))
    assert [one["meter_properties"][0]["value"] for one in echoed] == values
    twice = event("event-00009", meter_properties=[{"reference": "region", "value": "a"}] * 2)
    refusal(account.ingest(twice), 400, "INVALID_FIELD", "meter_datas.0.meter_properties.1.value")


@pytest.mark.parametrize("properties", [[], [{"reference": "region"}], [{"reference": "region", "value": None}]])
def test_a_required_property_may_not_be_missing(account: Account, properties: list[Json]) -> None:
    account.customer()
    account.meter(properties=[account.property()], required=True)
    answer = account.ingest(event(meter_properties=properties))
    refusal(answer, 400, "INVALID_FIELD", "meter_datas.0.meter_properties.0.value")


def test_an_amount_has_a_quantity_and_a_currency(account: Account) -> None:
    account.customer()
    account.meter(kind="AMOUNT")

    def amount(value: object) -> Json:
        return event(meter_values=[{"reference": "meter-1_value", "amount": value}])

    refusal(account.ingest(event()), 400, "INVALID_FIELD", "meter_datas.0.meter_values.0.amount")
    wrong = account.ingest(amount({"quantity": 5, "currency": "EUR"}))
    refusal(wrong, 400, "INVALID_FIELD", "meter_datas.0.meter_values.0.amount.quantity")
    account.taken(amount({"quantity": "5.25", "currency": "EUR"}))
    assert account.counted() == "5.25"


def test_a_poisoned_reference_is_refused_until_it_is_cured(account: Account) -> None:
    account.ready().set(refuse_reference=["event-00002"])
    events = [event("event-00001"), event("event-00002")]
    refusal(account.ingest(*events), 400, "INVALID_FIELD", "meter_datas.1.reference")
    account.set(refuse_reference=[])
    account.taken(*events)


def test_dynamic_validation_is_refused_unless_switched_on(account: Account) -> None:
    account.customer()
    path = f"{LISTS[2]}?meter_validation=DYNAMIC"
    named = of_region("eu", meter_reference="typo")
    refusal(account.ingest(named, path=path), 400, "INVALID_FIELD", "meter_validation")
    refusal(account.ingest(named, path=f"{LISTS[2]}?meter_validation=LOOSE"), 400, "INVALID_FIELD", "meter_validation")
    account.set(dynamic_validation="supported")
    assert account.ingest(named, path=path).status_code == 201
    assert account.get("/v1/meters/typo")["status"] == "ACTIVE"
    assert account.get("/v1/meter-properties/region")["type"] == "STRING"
    assert account.get("/v1/meter-value-calculations")["data"] == []
    [row] = account.get("/_sandbox/totals")["rows"]
    assert (row["meter_reference"], row["calculation_type"], row["value"], row["events"]) == ("typo", None, None, 1)


def test_a_refused_dynamic_batch_creates_nothing(account: Account) -> None:
    account.customer()
    account.set(dynamic_validation="supported")
    batch = [event("event-00001", meter_reference="typo"), event("event-00002", customer_reference="none")]
    refusal(account.ingest(*batch, path=f"{LISTS[2]}?meter_validation=DYNAMIC"), 400, "RESOURCES_NOT_FOUND")
    assert account.get("/v1/meters")["data"] == []


def test_dynamic_validation_teaches_an_enum_new_values(account: Account) -> None:
    account.customer()
    account.meter(properties=[account.property("region", "ENUM", enum_values=["DE"])])
    account.set(dynamic_validation="supported")
    assert account.ingest(of_region("NL"), path=f"{LISTS[2]}?meter_validation=DYNAMIC").status_code == 201
    assert account.get("/v1/meter-properties/region")["enum_values"] == ["DE", "NL"]


def test_calculate_checks_and_stores_nothing(account: Account) -> None:
    account.ready()
    answer = account.http.post("/v1/events/calculate", json=event())
    assert (answer.status_code, answer.json()["type"]) == (201, "CALCULATION")
    refusal(account.http.post("/v1/events/calculate", json=event("short")), 400, "INVALID_FIELD", "reference")
    assert account.events() == []
    assert account.taken(event())[0]["processed_details"] is None


def test_an_idempotency_key_means_nothing_on_events(account: Account) -> None:
    account.ready()
    headers = {"Idempotency-Key": "one"}
    for reference in ("event-00001", "event-00002"):
        answer = account.http.post(LISTS[2], json={"meter_datas": [event(reference)]}, headers=headers)
        assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False)
    assert account.counted() == "2"


@pytest.mark.parametrize("path", ["/v1/files", "/v1/webhooks"])
def test_files_and_webhooks_are_out_of_scope(account: Account, path: str) -> None:
    assert account.http.post(path, json={}).json() == {"status": 404, "message": "Page does not exist"}


def test_persist_data_is_stored_as_it_is_sent(account: Account) -> None:
    customer = account.ready().get("/v1/customers/customer-1")["id"]
    body = {
        "customer_id": customer,
        "pricing_id": "a",
        "pricing_item_id": "b",
        "pricing_item_config_id": "c",
        "pricing_plan_subscription_id": "d",
        "reference": "carried_over-1",
    }
    made = account.make("ingest/persist-data", body)
    assert made == {**body, "object_type": "PERSIST_DATA", "id": made["id"]}
    path = "/v1/ingest/persist-data"
    refusal(account.http.post(path, json={**body, "pricing_id": None}), 400, "MISSING_FIELD", "pricing_id")
    refusal(account.http.post(path, json={**body, "reference": "a b"}), 400, "INVALID_FIELD", "reference")
    refusal(account.http.post(path, json={**body, "customer_id": "x"}), 400, "RESOURCES_NOT_FOUND")
