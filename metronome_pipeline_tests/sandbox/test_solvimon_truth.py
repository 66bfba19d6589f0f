"""What Solvimon counts, by row and by calculation, to the last digit."""

from fractions import Fraction

from metronome_pipeline_tests.sandbox.solvimon_account import Account, event, of_region


def test_truth_has_a_row_per_customer_meter_hour_and_properties(account: Account) -> None:
    account.customer()
    account.meter(properties=[account.property()])
    account.taken(
        of_region("eu", reference="event-00001", number="1.10"),
        of_region("eu", reference="event-00002", number="-0.3"),
        of_region("us", reference="event-00003", number="5"),
        of_region(None, reference="event-00004", number="6"),
        event("event-00005", "7"),
        of_region("eu", reference="event-00006", number="9", timestamp="2026-11-22T06:00:00Z"),
    )
    rows = account.truth(**{"from": "2026-11-22T05:00:00Z", "to": "2026-11-22T06:00:00Z"})
    assert rows[0] == {
        "customer_reference": "customer-1",
        "meter_reference": "meter-1",
        "meter_value_reference": "meter-1_value",
        "timestamp": "2026-11-22T05:00:00Z",
        "properties": {"region": "eu"},
        "sum": "0.8",
        "max": "1.1",
        "events": 2,
    }
    others = [(row["properties"], row["sum"]) for row in rows[1:]]
    assert others == [({"region": "us"}, "5"), ({"region": None}, "6"), ({}, "7")]
    assert len(account.truth(customer_reference="customer-1", meter_reference="meter-1")) == 5
    assert account.truth(customer_reference="customer-2") == account.truth(meter_reference="meter-2") == []
    assert account.truth(to="2026-11-22") == []
    assert account.http.get("/_sandbox/truth", params={"from": "yesterday"}).status_code == 400


def test_totals_go_by_each_meters_own_calculation(account: Account) -> None:
    account.customer()
    kinds = ["SUM", "MAX", "MIN", "AVERAGE"]
    for kind in kinds:
        account.meter(kind, calculation=kind)
    numbers = ["-5", "10", "0.000000000000000000000000000001"]
    account.taken(
        *(
            event(
                f"{kind}-event-{at}",
                meter_reference=kind,
                meter_values=[{"reference": f"{kind}_value", "number": number}],
            )
            for kind in kinds
            for at, number in enumerate(numbers)
        )
    )
    rows = account.get("/_sandbox/totals", **{"from": "2026-11-22", "to": "2026-11-23"})["rows"]
    by_kind = {row["calculation_type"]: row["value"] for row in rows}
    assert by_kind["SUM"] == "5.000000000000000000000000000001"
    assert (by_kind["MAX"], by_kind["MIN"]) == ("10", "-5")
    assert by_kind["AVERAGE"] == str(Fraction("5.000000000000000000000000000001") / 3)
    assert account.get("/_sandbox/totals", **{"from": "2026-11-23"})["rows"] == []


def test_unique_counts_the_values_of_a_property(account: Account) -> None:
    account.customer()
    region = account.property()
    meter = account.meter(properties=[region], calculation=None)
    account.calculation(meter, "UNIQUE", meter_property_id=region["id"], meter_value_id=None)
    account.taken(*(of_region(value, reference=f"event-{at:05}") for at, value in enumerate(["a", "b", "a"])))
    assert account.get("/_sandbox/totals")["rows"][0]["value"] == "2"


def test_huge_and_tiny_numbers_add_up_exactly(account: Account) -> None:
    account.ready()
    account.taken(event("event-00001", "9" * 100), event("event-00002", "0." + "0" * 99 + "1"))
    assert account.counted() == "9" * 100 + "." + "0" * 99 + "1"
