"""Events once they are in: duplicates, deletion, matching, reading back."""

import pytest

from metronome_pipeline_tests.sandbox.solvimon_account import NOW, Account, Json, event, refusal


def details(one: Json) -> str | None:
    """The outcome that an event shows."""
    return None if one["processed_details"] is None else str(one["processed_details"]["type"])


def test_a_duplicate_is_answered_201_and_has_no_effect(account: Account) -> None:
    [first] = account.ready().taken(event(number="5"))
    [second] = account.taken(event(number="7"))
    assert second["id"] != first["id"]
    assert second["processed_details"] == {
        "type": "DUPLICATE",
        "duplicate_of_meter_data_id": first["id"],
        "duplicate": {"of_meter_data_id": first["id"]},
    }
    assert second["meter_values"][0]["number"] == "7"
    assert account.counted() == "5"
    assert len(account.events(reference="event-00001")) == 2


def test_duplicates_inside_of_one_batch_are_found_too(account: Account) -> None:
    first, second = account.ready().taken(event(number="5"), event(number="7"))
    assert (details(first), details(second)) == (None, "DUPLICATE")
    assert account.counted() == "5"


def test_without_deduplication_every_copy_counts(account: Account) -> None:
    account.ready().set(reference_idempotency="off")
    account.taken(event(number="5"))
    assert details(account.taken(event(number="5"))[0]) is None
    assert account.counted() == "10"
    assert account.truth()[0]["events"] == 2


@pytest.mark.parametrize(("mode", "status"), [("409", 409), ("400", 400)])
def test_a_duplicate_can_be_refused_with_its_whole_batch(account: Account, mode: str, status: int) -> None:
    [first] = account.ready().taken(event("event-00001"))
    account.set(duplicate_mode=mode)
    batch = [event("event-00002"), event("event-00001")]
    body = refusal(account.ingest(*batch), status, "RESOURCE_ALREADY_EXISTS", "meter_datas.1.reference")
    assert (body["resource_type"], body["resource_id"]) == ("METER_DATA", first["id"])
    assert account.counted() == "1"
    twice = account.ingest(event("event-00003"), event("event-00003"))
    refusal(twice, status, "RESOURCE_ALREADY_EXISTS", "meter_datas.1.reference")


def test_the_201_may_keep_quiet_about_a_duplicate(account: Account) -> None:
    account.ready().set(duplicate_flag_sync=False)
    account.taken(event())
    assert details(account.taken(event())[0]) is None
    assert [details(one) for one in account.events()] == ["DUPLICATE", "NOT_MATCHED"]


def test_a_refused_event_does_not_take_its_reference(account: Account) -> None:
    account.ready()
    assert account.ingest(event(number="x")).status_code == 400
    assert details(account.taken(event(number="5"))[0]) is None


def test_delete_by_reference_is_soft_and_takes_the_event_out_of_the_count(account: Account) -> None:
    [made] = account.ready().taken(event())
    deleted = account.act("events/delete", {"reference": "event-00001"})
    assert (deleted["id"], deleted["deleted"]) == (made["id"], True)
    assert account.truth() == []
    assert account.events(reference="event-00001")[0]["deleted"] is True
    refusal(account.http.post("/v1/events/delete", json={}), 400, "MISSING_FIELD", "reference")


@pytest.mark.parametrize("root", ["events", "ingest/meter-data"])
def test_delete_by_id_takes_no_body_and_hits_that_copy_alone(account: Account, root: str) -> None:
    account.ready().set(reference_idempotency="off")
    _, second = account.taken(event(number="5"), event(number="7"))
    assert account.act(f"{root}/{second['id']}/delete")["deleted"] is True
    assert account.counted() == "5"
    refusal(account.http.post(f"/v1/{root}/metd_none/delete"), 404, "RESOURCE_NOT_FOUND")


def test_delete_by_reference_hits_the_original_and_not_its_duplicate(account: Account) -> None:
    [first] = account.ready().taken(event())
    account.taken(event())
    assert account.act("ingest/meter-data/delete", {"reference": "event-00001"})["id"] == first["id"]
    assert account.truth() == []


@pytest.mark.parametrize("status", [404, 400])
def test_deleting_what_is_unknown_is_not_found(account: Account, status: int) -> None:
    account.set(not_found_status=status)
    refusal(account.http.post("/v1/events/delete", json={"reference": "event-00001"}), status, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize(
    ("status", "code"), [(400, "INVALID_OPERATION"), (404, "RESOURCE_NOT_FOUND"), (409, "INVALID_OPERATION")]
)
def test_a_second_delete_is_idempotent_or_refused(account: Account, status: int, code: str) -> None:
    [made] = account.ready().taken(event())
    account.act("events/delete", {"reference": "event-00001"})
    assert account.act("events/delete", {"reference": "event-00001"})["deleted"] is True
    account.set(delete_twice_status=status)
    refusal(account.http.post("/v1/events/delete", json={"reference": "event-00001"}), status, code)
    refusal(account.http.post(f"/v1/events/{made['id']}/delete"), status, code)


def test_a_deleted_reference_stays_taken(account: Account) -> None:
    [first] = account.ready().taken(event())
    account.act("events/delete", {"reference": "event-00001"})
    [second] = account.taken(event())
    assert second["processed_details"]["duplicate"]["of_meter_data_id"] == first["id"]
    assert account.truth() == []


def test_a_deleted_reference_may_be_free_again(account: Account) -> None:
    account.ready().set(deleted_reference_reuse="allowed")
    account.taken(event(number="5"))
    account.act("events/delete", {"reference": "event-00001"})
    assert details(account.taken(event(number="7"))[0]) is None
    assert account.counted() == "7"
    assert details(account.taken(event(number="9"))[0]) == "DUPLICATE"


def test_a_deleted_reference_may_be_a_conflict(account: Account) -> None:
    account.ready().set(deleted_reference_reuse="conflict")
    account.taken(event())
    account.act("events/delete", {"reference": "event-00001"})
    refusal(account.ingest(event()), 409, "RESOURCE_ALREADY_EXISTS", "meter_datas.0.reference")


def test_an_event_is_matched_only_through_a_subscription_that_covers_its_meter(account: Account) -> None:
    account.ready().meter("meter-2")
    account.http.post(
        "/_sandbox/subscriptions", json={"customer_reference": "customer-1", "meter_references": ["meter-1"]}
    )
    other = event(
        "event-00002", meter_reference="meter-2", meter_values=[{"reference": "meter-2_value", "number": "1"}]
    )
    account.taken(event("event-00001"), other)
    outcomes = {one["reference"]: details(one) for one in account.events()}
    assert outcomes == {"event-00001": "DEFAULT", "event-00002": "NOT_MATCHED"}
    assert len(account.truth()) == 2


def test_a_subscription_is_of_one_customer(account: Account) -> None:
    account.ready().customer("customer-2")
    account.http.post("/_sandbox/subscriptions", json={"customer_reference": "customer-2"})
    account.taken(event("event-00001"), event("event-00002", customer_reference="customer-2"))
    assert [details(one) for one in account.events()] == ["DEFAULT", "NOT_MATCHED"]
    assert len(account.get("/_sandbox/subscriptions")) == 1


def test_a_subscription_without_meters_covers_them_all(account: Account) -> None:
    account.ready()
    made = account.http.post("/_sandbox/subscriptions", json={"customer_reference": "customer-1"})
    assert (made.status_code, made.json()["meter_references"]) == (201, None)
    account.taken(event())
    assert details(account.events()[0]) == "DEFAULT"
    wrong = account.http.post("/_sandbox/subscriptions", json={"customer": "customer-1"})
    assert wrong.status_code == 400


def test_everything_matches_where_the_knob_says_so(account: Account) -> None:
    account.ready().set(match_all=True)
    account.taken(event())
    assert details(account.events()[0]) == "DEFAULT"


def test_matching_by_hand_happens_when_it_is_asked_for(account: Account) -> None:
    account.ready().set(matching="manual")
    account.taken(event("event-00001"), event("event-00002"))
    assert [details(one) for one in account.events()] == [None, None]
    assert account.http.post("/_sandbox/process").json() == {"processed": 2}
    assert [details(one) for one in account.events()] == ["NOT_MATCHED", "NOT_MATCHED"]
    assert account.http.post("/_sandbox/process").json() == {"processed": 0}


def test_an_event_can_be_pinned_to_a_subscription(account: Account) -> None:
    account.ready()
    body = {"customer_reference": "customer-1", "meter_references": ["meter-2"], "reference": "plan-b"}
    pinned = account.http.post("/_sandbox/subscriptions", json=body).json()
    account.http.post("/_sandbox/subscriptions", json={"customer_reference": "customer-1"})
    [echo] = account.taken(event("event-00001", pricing_plan_subscription_reference="plan-b"))
    assert echo["pricing_plan_subscription_id"] == pinned["id"]
    account.taken(event("event-00002"))
    assert [details(one) for one in account.events()] == ["DEFAULT", "NOT_MATCHED"]


@pytest.mark.parametrize("path", ["/v1/events", "/v1/ingest/meter-data"])
def test_events_are_filtered_by_everything_but_time(account: Account, path: str) -> None:
    account.ready().customer("customer-2")
    account.meter("meter-2")
    other = {"meter_reference": "meter-2", "meter_values": [{"reference": "meter-2_value", "number": "1"}]}
    account.taken(
        event("event-00001"), event("event-00002", customer_reference="customer-2"), event("event-00003", **other)
    )
    account.taken(event("event-00001"))
    account.act("events/delete", {"reference": "event-00003"})
    customer = account.get("/v1/customers/customer-2")["id"]
    meter = account.get("/v1/meters/meter-2")["id"]

    def found(**query: object) -> list[int]:
        return [int(row["reference"][-1]) for row in account.get(path, **query)["data"]]

    assert found() == [1, 3, 2, 1]
    assert found(reference="event-00001") == [1, 1]
    assert found(reference=["event-00002", "event-00003"]) == [3, 2]
    assert found(reference="Event-00001") == []
    assert found(customer_id=customer) == [2]
    assert found(meter_id=meter) == [3]
    assert found(reference="event-00001", customer_id=customer) == []
    assert found(deleted="true") == [3]
    assert found(deleted="false") == [1, 2, 1]
    assert found(processed_details_type="DUPLICATE") == [1]
    assert found(processed_details_type="NOT_MATCHED") == [3, 2, 1]
    assert found(timestamp="2020-01-01T00:00:00Z") == [1, 3, 2, 1]
    refusal(account.http.get(path, params={"deleted": "yes"}), 400, "INVALID_FIELD", "deleted")
    unknown = account.http.get(path, params={"processed_details_type": "LATE"})
    refusal(unknown, 400, "INVALID_FIELD", "processed_details_type")


def test_events_come_in_pages_that_follow_every_change(account: Account) -> None:
    account.ready()
    account.taken(*(event(f"event-{number:05}") for number in range(5)))
    pages = [account.get("/v1/events", limit=2, page=page) for page in (1, 2, 3, 4)]
    references = [[row["reference"][-1] for row in page["data"]] for page in pages]
    assert references == [["4", "3"], ["2", "1"], ["0"], []]
    assert {page["total_number_of_pages"] for page in pages} == {3}
    account.taken(event("event-00005"))
    assert account.events(limit=1)[0]["reference"] == "event-00005"
    account.act("events/delete", {"reference": "event-00005"})
    assert account.events(limit=1, deleted="false")[0]["reference"] == "event-00004"


def test_a_list_without_the_filter_may_hide_deleted_events(account: Account) -> None:
    account.ready().taken(event("event-00001"), event("event-00002"))
    account.act("events/delete", {"reference": "event-00001"})
    account.set(hide_deleted_events=True)
    assert [one["reference"] for one in account.events()] == ["event-00002"]
    assert [one["reference"] for one in account.events(deleted="true")] == ["event-00001"]


def test_two_lists_are_read_in_turn_page_by_page(account: Account) -> None:
    account.ready().customer("customer-2")
    account.taken(*(event(f"event-1{number:04}") for number in range(3)))
    account.taken(*(event(f"event-2{number:04}", customer_reference="customer-2") for number in range(3)))
    customers = [account.get(f"/v1/customers/customer-{number}")["id"] for number in (1, 2)]
    rows = [
        account.events(customer_id=customer, limit=2, page=page)[0]["reference"]
        for page in (1, 2)
        for customer in customers
    ]
    assert rows == ["event-10002", "event-20002", "event-10000", "event-20000"]


def test_an_event_is_read_by_id_with_its_customer_on_request(account: Account) -> None:
    [made] = account.ready().taken(event())
    assert account.get(f"/v1/events/{made['id']}")["reference"] == "event-00001"
    assert account.get(f"/v1/ingest/meter-data/{made['id']}")["id"] == made["id"]
    [listed] = account.events(**{"expand[]": "customer"})
    assert listed["customer"]["reference"] == "customer-1"
    refusal(account.http.get("/v1/events/event-00001"), 404, "RESOURCE_NOT_FOUND")


def test_a_trace_links_what_bills_an_event_once_it_is_matched(account: Account) -> None:
    account.ready()
    category = account.make("product-categories", {"name": "c", "reference": "c"})
    product = account.make("products", {"name": "p", "reference": "p", "category_id": category["id"]})
    calculation = account.get("/v1/meter-value-calculations")["data"][0]["id"]
    item = account.make(
        "product-items",
        {
            "product_id": product["id"],
            "name": "i",
            "reference": "i",
            "model_type": "USAGE_BASED",
            "usage_based": {"meter_value_calculation_id": calculation},
        },
    )
    [unmatched] = account.taken(event("event-00001"))
    trace = account.get(f"/v1/events/{unmatched['id']}/event_trace")
    assert (trace["meter_data_id"], trace["ingest_time"], trace["links"]) == (unmatched["id"], NOW, [])
    subscription = account.http.post("/_sandbox/subscriptions", json={"customer_reference": "customer-1"}).json()
    [matched] = account.taken(event("event-00002"))
    [link] = account.get(f"/v1/events/{matched['id']}/event_trace")["links"]
    assert link["meter_value_calculation_ids"] == [calculation]
    assert link["product_item_ids"] == [item["id"]]
    assert link["pricing_plan_subscription_id"] == subscription["id"]
    assert link["invoice_id"].startswith("invo_")


def test_all_events_are_shown_with_what_the_api_hides(account: Account) -> None:
    account.ready().set(matching="manual", duplicate_flag_sync=False)
    [first] = account.taken(event("event-00001"))
    account.taken(event("event-00001"), event("event-00002"))
    account.http.post("/_sandbox/events/delete-by-hand", json={"reference": "event-00002"})
    rows = account.get("/_sandbox/events")["events"]
    assert [(row["counts"], row["duplicate_of"], row["deleted"], row["processed"]) for row in rows] == [
        (True, None, False, False),
        (False, first["id"], False, False),
        (False, None, True, False),
    ]
    assert len(account.get("/_sandbox/events", reference="event-00001")["events"]) == 2


def test_a_deletion_by_hand_is_not_in_the_log(account: Account) -> None:
    [made] = account.ready().taken(event())
    account.http.delete("/_sandbox/requests")
    assert account.http.post("/_sandbox/events/delete-by-hand", json={"id": made["id"]}).json()["deleted"] is True
    assert account.truth() == []
    assert account.get("/_sandbox/requests")["total"] == 0
    assert account.http.post("/_sandbox/events/delete-by-hand", json={"id": "metd_none"}).status_code == 400
