"""Reprocessing: which events are matched anew, when, and what is refused."""

import pytest

from metronome_pipeline_tests.sandbox.solvimon_account import Account, Json, event, refusal


def outcomes(account: Account) -> list[str | None]:
    """What became of the events, the oldest first."""
    return [one["processed_details"] and one["processed_details"]["type"] for one in reversed(account.events())]


def subscribe(account: Account) -> Json:
    made: Json = account.http.post("/_sandbox/subscriptions", json={"customer_reference": "customer-1"}).json()
    return made


def unmatched(account: Account) -> Json:
    """The body that has a customer's unmatched events matched anew."""
    return {"type": "NOT_MATCHED", "not_matched": {"customer_id": account.get("/v1/customers/customer-1")["id"]}}


@pytest.mark.parametrize("kind", ["NOT_MATCHED", "CUSTOMER"])
def test_reprocessing_matches_a_customers_events_anew(account: Account, kind: str) -> None:
    account.ready()
    account.taken(event("event-00001", timestamp="2026-11-21T23:00:00Z"), event("event-00002"))
    subscribe(account)
    assert outcomes(account) == ["NOT_MATCHED", "NOT_MATCHED"]
    customer = account.get("/v1/customers/customer-1")["id"]
    scope = {"customer_id": customer, "start_at": "2026-11-22T00:00:00Z", "end_at": "2026-11-23T00:00:00Z"}
    made = account.make("reprocess", {"type": kind, kind.lower(): scope})
    assert (made["status"], made["percentage"]) == ("DONE", 100)
    assert outcomes(account) == ["NOT_MATCHED", "DEFAULT"]
    assert account.get(f"/v1/reprocess/{made['id']}") == made
    assert account.get("/v1/reprocess", type=kind)["data"] == [made]
    assert account.get("/v1/reprocess", status="OPEN")["data"] == []


def test_bounds_are_of_the_timestamp_the_first_inside_and_the_last_outside(account: Account) -> None:
    account.ready()
    account.taken(event("event-00001", timestamp="2026-11-22T04:00:00Z"), event("event-00002"))
    subscribe(account)
    body = unmatched(account)
    body["not_matched"] |= {"start_at": "2026-11-22T04:00:00Z", "end_at": "2026-11-22T05:00:00Z"}
    account.make("reprocess", body)
    assert outcomes(account) == ["DEFAULT", "NOT_MATCHED"]


def test_without_a_subscription_nothing_is_matched(account: Account) -> None:
    account.ready().taken(event())
    assert account.make("reprocess", unmatched(account))["status"] == "DONE"
    assert outcomes(account) == ["NOT_MATCHED"]


def test_deleted_events_and_duplicates_stay_what_they_are(account: Account) -> None:
    account.ready().taken(event("event-00001"), event("event-00002"), event("event-00002"))
    account.act("events/delete", {"reference": "event-00001"})
    subscribe(account)
    account.make("reprocess", unmatched(account))
    assert outcomes(account) == ["NOT_MATCHED", "DEFAULT", "DUPLICATE"]
    assert account.counted() == "1"


def test_a_matched_event_shows_its_invoice_and_leaves_the_list_of_unmatched_ones(account: Account) -> None:
    [taken] = account.ready().taken(event())
    trace = f"/v1/events/{taken['id']}/event_trace"
    assert [one["id"] for one in account.events(processed_details_type="NOT_MATCHED")] == [taken["id"]]
    assert account.get(trace)["links"] == []
    subscribe(account)
    account.make("reprocess", unmatched(account))
    assert account.events(processed_details_type="NOT_MATCHED") == []
    assert account.get(trace)["links"][0]["invoice_id"].startswith("invo_")


def test_a_reprocess_may_take_its_time(account: Account) -> None:
    account.ready().set(reprocessing="manual")
    account.taken(event())
    subscribe(account)
    made = account.make("reprocess", unmatched(account))
    assert (made["status"], made["percentage"]) == ("CREATED", 0)
    account.taken(event("event-00002"))
    assert outcomes(account) == ["NOT_MATCHED", "DEFAULT"]
    assert account.get(f"/v1/reprocess/{made['id']}") == made
    assert account.http.post("/_sandbox/process").json() == {"processed": 1}
    assert account.get(f"/v1/reprocess/{made['id']}")["status"] == "DONE"
    assert outcomes(account) == ["DEFAULT", "DEFAULT"]
    assert account.http.post("/_sandbox/process").json() == {"processed": 0}


def test_an_invoice_is_reprocessed_by_the_id_that_a_trace_names(account: Account) -> None:
    account.ready()
    subscribe(account)
    [taken] = account.taken(event())
    invoice = account.get(f"/v1/events/{taken['id']}/event_trace")["links"][0]["invoice_id"]
    made = account.make("reprocess", {"type": "INVOICE", "invoice": {"invoice_id": invoice}})
    assert (made["status"], made["invoice"]) == ("DONE", {"invoice_id": invoice})
    assert outcomes(account) == ["DEFAULT"]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "MISSING_FIELD", "type"),
        ({"type": "ALL"}, "INVALID_FIELD", "type"),
        ({"type": "NOT_MATCHED"}, "MISSING_FIELD", "not_matched"),
        ({"type": "NOT_MATCHED", "not_matched": {}}, "CUSTOMER_NOT_FOUND", "not_matched.customer_id"),
        ({"type": "INVOICE", "invoice": {"id": "x"}}, "RESOURCE_NOT_FOUND", "invoice.invoice_id"),
        ({"type": "INVOICE", "invoice": {}}, "RESOURCE_NOT_FOUND", "invoice.invoice_id"),
    ],
)
def test_a_wrong_reprocess_is_refused(account: Account, body: Json, code: str, field: str) -> None:
    refusal(account.http.post("/v1/reprocess", json=body), 400, code, field)
    refusal(account.http.get("/v1/reprocess/repr_none"), 404, "RESOURCE_NOT_FOUND")
    assert account.get("/v1/reprocess")["data"] == []
