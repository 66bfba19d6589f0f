"""Real runs against hostile answers amid good ones: a sentence, nothing planned, nothing lost, nothing doubled."""

import json
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from metronome_pipeline_tests.hostile.adversary import MEGABYTE
from metronome_pipeline_tests.world import START, World, failure

BATCH = "/v1/events/ingest-batch"


def usage_row(customer: str, metric: str, hour: int, value: str) -> str:
    """One row as it stands in the bytes."""
    start, end = (START.replace(hour=each).isoformat() for each in (hour, hour + 1))
    row = {"customer_id": customer, "billable_metric_id": metric, "start_timestamp": start, "end_timestamp": end}
    return json.dumps(row)[:-1] + f', "value": {value}}}'


def page(*rows: str, next_page: str = "null") -> str:
    return '{"data": [' + ", ".join(rows) + f'], "next_page": {next_page}}}'


def sentence(result: dg.ExecuteInProcessResult) -> str:
    """The one line with which a run failed, for a person."""
    [said] = [
        data.description or ""
        for event in result.all_events
        if event.is_step_failure and (data := event.step_failure_data.user_failure_data)
    ]
    assert said.isprintable()
    assert len(said) < 2_000
    return said


def answers(world: World, *bodies: str, path: str = "/v1/usage") -> None:
    """The first bodies once each, the last from then on."""
    told: list[dict[str, Any]] = [{"path": path, "body": body, "times": 1} for body in bodies]
    told[-1]["times"] = None
    world.metronome.call("PUT", "/_sandbox/answers", told)


HOSTILE_ROWS = {
    "an exponent": ('"value": 9', '"value": 1e999999999', 'value, "has over 100 digits'),
    "ten thousand digits": ('"value": 9', f'"value": {"9" * 10_000}', "over 100 digits"),
    "an hour before all time": ("2026-01-05T02:00:00+00:00", "0001-01-01T00:00:00+14:00", "before the year 1"),
    "an hour of another day": ("2026-01-05T02:00:00+00:00", "2026-01-09T02:00:00+00:00", "outside of what was asked"),
    "another's customer": ("customer_id", 'customer_id": "\\u0000\\u202e<b>", "x', "not asked for"),
    "a nested id": ('"customer_id": "', '"customer_id": [[[]]], "x": "', "customer_id"),
    "the first hour again": ("2026-01-05T02:00:00+00:00", "2026-01-05T01:00:00+00:00", "not a window of one hour"),
}


def test_of_a_read_that_turns_hostile_on_its_second_page_nothing_is_planned(hostile: World) -> None:
    world = hostile
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    assert world.ingest(0, 3).success
    first = page(usage_row(customer, metric, 1, "7"), next_page='"second"')
    second = page(usage_row(customer, metric, 2, "9"))
    for name, (good, bad, words) in HOSTILE_ROWS.items():
        spoiled = second.replace(good, bad, 1)
        assert spoiled != second
        answers(world, first, spoiled)
        result = world.ingest(0, 3)
        assert not result.success, name
        said = sentence(result)
        assert customer in said, name
        assert "Metronome answered 200 to POST /v1/usage" in said, name
        assert words in said, said
        assert world.events() == [("usage", 0, Decimal(5), "delivered")], name
    world.metronome.call("PUT", "/_sandbox/answers", [])
    world.use(customer, metric, 1, 2)
    assert world.ingest(0, 3).success
    assert world.counted(customer, metric) == {1: 7}


@pytest.fixture
def hostile(world: World) -> World:
    """A world that has proved that its Solvimon ignores a reference's second event."""
    world.solvimon.set(match_all=True)
    return world


# A batch's answer, which never says what it should. None of these events was stored.
HOSTILE_ECHOES: dict[str, Any] = {
    "nothing": {"meter_datas": []},
    "a number": {"meter_datas": 5},
    "another key": {"data": [{"id": "metd_1"}]},
    "others' references": {"meter_datas": [{"id": "metd_1", "reference": "x"}, {"id": "metd_2", "reference": None}]},
    "NUL": {"meter_datas": [{"id": "a\0b", "reference": "a\0b", "processed_details": {"type": "\0"}}]},
    "a megabyte": {"meter_datas": [{"id": "x" * MEGABYTE, "reference": "y" * MEGABYTE}]},
    "a list": [[[]]],
}


def test_an_answer_to_events_that_says_nonsense_leaves_each_counted_once(hostile: World) -> None:
    world = hostile
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.prove_deduplication()
    for hour, (name, body) in enumerate(HOSTILE_ECHOES.items()):
        world.use(customer, metric, hour, hour + 1)
        answer = {"method": "POST", "path": BATCH, "status": 201, "body": body, "times": 1}
        world.solvimon.call("PUT", "/_sandbox/answers", [answer])
        result = world.ingest(0, 7)
        if not result.success:
            assert f"Solvimon answered 201 to POST {BATCH}" in sentence(result), name
            assert world.ingest(0, 7).success, f"{name}: the next run ends what was begun"
        assert world.counted(customer, metric) == {each: each + 1 for each in range(hour + 1)}, name
        assert {state for *_, state in world.events()} == {"delivered"}, name


def test_an_id_that_postgres_cannot_hold_is_kept_spelled_out(hostile: World) -> None:
    """The event was taken: that must be written down, whatever it was called."""
    world = hostile
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    ends = (START.replace(hour=hour) for hour in (1, 2))
    ((reference,),) = world.sql("SELECT ledger.event_reference(%s, %s, %s, %s, 'total', 0)", customer, metric, *ends)
    body = {"meter_datas": [{"id": "metd_\0\x1b", "reference": reference}]}
    answer = {"method": "POST", "path": BATCH, "status": 201, "body": body, "times": 1}
    world.solvimon.call("PUT", "/_sandbox/answers", [answer])
    result = world.ingest(0, 3)
    assert result.success, failure(result)
    assert world.sql("SELECT outcome, solvimon_id FROM ledger.receipts") == [("delivered", "metd_\\u0000\x1b")]


def test_an_id_of_solvimon_s_that_is_none_is_refused_or_kept_and_breaks_nothing(hostile: World) -> None:
    world = hostile
    customer = world.customer("New name")
    for identifier in ("a\0b", "..", "x" * MEGABYTE, "a/../../b?c#d\u202e\x1b[2J"):
        told = {"id": identifier, "reference": customer, "type": "ORGANIZATION", "status": "ACTIVE"}
        organization = {"organization": {"legal_name": "Old \0 name"}}
        body = {"data": [told | organization], "page": 1, "limit": 50, "total_number_of_pages": 1}
        answer = {"method": "GET", "path": "/v1/customers", "status": 200, "body": body, "times": 1}
        world.solvimon.call("PUT", "/_sandbox/answers", [answer])
        result = world.run("import_customers")
        if not result.success:
            assert "Solvimon answered 200 to GET /v1/customers (field data[0].id" in sentence(result)
        assert world.run("import_customers").success
    assert world.made("customers", customer)["organization"]["legal_name"] == "New name"


def test_what_solvimon_says_of_a_clash_is_quoted(hostile: World) -> None:
    world = hostile
    customer = world.customer()
    evil = "\0\x1b[2J<img src=x onerror=alert(1)>" + "x" * MEGABYTE
    body = {
        "data": [{"id": "cust_1", "reference": customer, "type": evil, "status": evil}],
        "page": 1,
        "limit": 50,
        "total_number_of_pages": 1,
    }
    answer = {"method": "GET", "path": "/v1/customers", "status": 200, "body": body, "times": 1}
    world.solvimon.call("PUT", "/_sandbox/answers", [answer])
    assert world.run("import_customers").success
    outcome, reason = world.outcomes("customers")[customer]
    assert outcome == "refused"
    assert reason is not None
    assert reason.isprintable()
    assert len(reason) < 1_000


def test_a_refusal_of_an_event_in_any_words_is_in_quarantine_and_quoted(hostile: World) -> None:
    world = hostile
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    evil = "\0\x1b[2J\u202e| a |\n|---|" + "x" * 5_000
    refusal = {"type": evil, "code": evil, "field": evil, "message": evil, "resource_type": evil, "resource_id": evil}
    answer = {"method": "POST", "path": BATCH, "status": 400, "body": refusal, "times": None}
    world.solvimon.call("PUT", "/_sandbox/answers", [answer])
    result = world.ingest(0, 3)
    assert result.success, failure(result)
    ((code, field, message),) = world.sql("SELECT code, field, message FROM ledger.quarantine_v1")
    for text in (code, field, message):
        assert text.isprintable()
        assert len(text) <= 600
