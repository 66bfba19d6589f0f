"""What events cost, and that asking for it stores nothing."""

from typing import Any

import pytest

from metronome_pipeline_tests.sandbox.solvimon_account import Account, Json, event, refusal

PRICE = {"quantity": "0.0301", "currency": "EUR"}


def subscribe(account: Account, **fields: Any) -> Json:
    answer = account.http.post("/_sandbox/subscriptions", json={"customer_reference": "customer-1", **fields})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def cost(account: Account, body: Json, **query: Any) -> Any:
    answer = account.http.post("/v1/events/calculate", json=body, params=query or {"cost_prediction": "true"})
    assert answer.status_code == 201, answer.text
    return answer.json()["cost_prediction"]


def test_a_calculation_gives_quantity_times_price_and_stores_nothing(account: Account) -> None:
    account.ready()
    assert subscribe(account, price=PRICE)["price"] == PRICE
    predicted = cost(account, event(number="1000.5"))
    [detail] = predicted["details"]
    assert predicted["response"] == "OK"
    assert detail["amount_excluding_tax"] == {"quantity": "30.11505", "currency": "EUR"}
    assert detail["customer_id"] == account.get("/v1/customers/customer-1")["id"]
    assert account.events() == []
    assert account.get("/_sandbox/events")["events"] == []
    assert account.taken(event(number="5"))[0]["processed_details"] is None
    assert account.counted() == "5"


def test_a_correction_costs_less_than_nothing(account: Account) -> None:
    subscribe(account.ready(), price=PRICE)
    assert cost(account, event(number="-1"))["details"][0]["amount_excluding_tax"]["quantity"] == "-0.0301"


def test_a_cost_is_given_to_whoever_asks_for_it(account: Account) -> None:
    subscribe(account.ready(), price=PRICE)
    for query in ({"cost_prediction": "false"}, {"meter_validation": "STATIC"}):
        assert cost(account, event(), **query) is None
    refusal(
        account.http.post("/v1/events/calculate", json=event(), params={"cost_prediction": "yes"}),
        400,
        "INVALID_FIELD",
        "cost_prediction",
    )
    taken = account.http.post("/v1/events/ingest", json=event(), params={"cost_prediction": "true"}).json()
    assert taken["cost_prediction"]["response"] == "OK"
    assert "cost_prediction" not in account.taken(event("event-00002"))[0]
    asked: Json = {"expand[]": ["meter_data_id", "customer_id"], "cost_prediction": "true"}
    trace = account.get(f"/v1/events/{taken['id']}/event_trace", **asked)
    assert (trace["customer"]["reference"], trace["meter_data"]["cost_prediction"]["response"]) == ("customer-1", "OK")


def test_what_has_no_price_or_no_subscription_has_no_cost(account: Account) -> None:
    account.ready()
    assert cost(account, event())["response"] == "FAILED"
    subscribe(account)
    assert cost(account, event())["response"] == "NOT_SUPPORTED"


@pytest.mark.parametrize("price", [{"quantity": "1"}, {"quantity": "x", "currency": "EUR"}, 3])
def test_a_price_is_an_amount_of_a_currency(account: Account, price: object) -> None:
    body = {"customer_reference": "customer-1", "price": price}
    assert account.http.post("/_sandbox/subscriptions", json=body).status_code == 400


def test_a_calculation_that_leaves_an_event_behind_can_be_played(account: Account) -> None:
    account.ready().set(calculate_stores=True)
    cost(account, event(number="5"))
    assert account.counted() == "5"
    assert account.events(reference="event-00001")[0]["type"] == "CALCULATION"


def test_a_refused_calculation_creates_nothing_either(account: Account) -> None:
    account.ready().set(dynamic_validation="supported")
    body = event(meter_reference="typo", number="x")
    answer = account.http.post("/v1/events/calculate", json=body, params={"meter_validation": "DYNAMIC"})
    assert answer.status_code == 400
    assert [meter["reference"] for meter in account.get("/v1/meters")["data"]] == ["meter-1"]
