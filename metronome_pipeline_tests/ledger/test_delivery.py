"""What became of each event is known, whatever happens to processes, requests and answers."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from metronome_pipeline.ledger import claims
from metronome_pipeline.ledger.shelf import Shelf
from metronome_pipeline.ledger.waiting import retry
from metronome_pipeline_tests.dying_run import Moment, ingest_and_die, ingest_elsewhere
from metronome_pipeline_tests.world import START, World, failure

INGEST = "/v1/events/ingest-batch"


@pytest.fixture
def account(world: World) -> tuple[str, str]:
    """A customer and a SUM metric, imported."""
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    return customer, metric


@pytest.mark.parametrize("deduplication", ["on", "off"])
@pytest.mark.parametrize("moment", Moment)
def test_a_killed_run_is_finished_by_the_next_under_the_same_references(
    world: World, account: tuple[str, str], moment: Moment, deduplication: str
) -> None:
    customer, metric = account
    world.solvimon.set(reference_idempotency=deduplication)
    if deduplication == "on":
        world.prove_deduplication()
    world.use_hours(customer, metric, dict.fromkeys(range(5), 10))
    ingest_and_die(world, moment)
    assert [state for *_, state in world.events()] == ["sending"] * 5
    world.use(customer, metric, 1, 1)
    assert world.ingest().success
    assert world.counted(customer, metric) == {0: 10, 1: 11, 2: 10, 3: 10, 4: 10}
    assert {state for *_, state in world.events()} == {"delivered"}


@pytest.mark.parametrize("deduplication", ["on", "off"])
@pytest.mark.parametrize(
    "fault", ["reset_before", "reset_after", "truncated_body", "html_200", "not_json_200", "short_201", "status_503"]
)
def test_an_event_whose_answer_never_came_counts_once(
    world: World, account: tuple[str, str], fault: str, deduplication: str
) -> None:
    customer, metric = account
    world.solvimon.set(reference_idempotency=deduplication)
    if deduplication == "on":
        world.prove_deduplication()
    world.use_hours(customer, metric, dict.fromkeys(range(3), 10))
    world.solvimon.faults({"path": INGEST, "method": "POST", "kind": fault, "rate": 1, "times": 2})
    result = world.ingest()
    assert result.success, failure(result)
    assert world.counted(customer, metric) == {0: 10, 1: 10, 2: 10}


def test_a_read_back_that_is_refused_never_sends_a_batch_again(world: World, account: tuple[str, str]) -> None:
    customer, metric = account
    world.solvimon.set(reference_idempotency="off")
    world.use_hours(customer, metric, dict.fromkeys(range(4), 10))
    world.solvimon.faults({"path": INGEST, "method": "POST", "kind": "reset_after", "rate": 1, "times": 1})
    nothing = {"data": [], "page": 1, "limit": 50, "total_number_of_pages": 0, "links": {}}
    refusal = {"type": "INVALID_REQUEST", "code": "INVALID_OPERATION", "message": "not now"}
    answers = [
        {"method": "GET", "path": "/v1/events", "body": nothing, "times": 4},
        {"method": "POST", "path": "/v1/events/metd*", "status": 409, "body": refusal, "times": None},
    ]
    world.solvimon.call("PUT", "/_sandbox/answers", answers)
    result = world.ingest()
    assert not result.success
    assert "could not be read back" in failure(result)
    assert len(world.stored_events()) == 8, "the first send, which seemed lost, and the second"
    world.solvimon.call("PUT", "/_sandbox/answers", [])
    assert world.ingest().success
    assert world.counted(customer, metric) == dict.fromkeys(range(4), 10)


def test_a_duplicate_whose_original_differs_is_taken_as_it_is_and_the_difference_is_sent(
    world: World, account: tuple[str, str]
) -> None:
    customer, metric = account
    world.prove_deduplication()
    world.use(customer, metric, 1, 10)
    ingest_and_die(world, Moment.BEFORE_SENDING)
    ((reference,),) = world.sql("SELECT reference FROM ledger.events")
    world.solvimon.call("POST", "/v1/events/ingest", _event(reference, customer, metric, "4"))
    assert world.ingest().success
    assert world.counted(customer, metric) == {1: 10}
    assert world.events() == [("usage", 0, Decimal(10), "restated"), ("correction", 1, Decimal(6), "delivered")]


def test_one_poisoned_event_is_quarantined_and_the_others_go_through_in_a_few_requests(
    world: World, account: tuple[str, str]
) -> None:
    customer, metric = account
    world.use_hours(customer, metric, dict.fromkeys(range(100), 10))
    poisoned = world.sql(
        "SELECT ledger.event_reference(%s, %s, '2026-01-05T07:00Z', '2026-01-05T08:00Z', 'total', 0)", customer, metric
    )[0][0]
    world.solvimon.set(refuse_reference=[poisoned], error_field_index=False)
    world.solvimon.forget_requests()
    result = world.ingest(0, 99)
    assert result.success, failure(result)
    counted = world.counted(customer, metric)
    assert len(counted) == 99
    assert 7 not in counted
    assert world.solvimon.requests()[f"POST {INGEST}"] <= 2 + 12
    check = next(c for c in result.get_asset_check_evaluations() if c.check_name == "nothing_in_quarantine")
    assert not check.passed


def test_a_quarantined_slot_takes_no_newer_event(world: World, account: tuple[str, str]) -> None:
    customer, metric = account
    world.use(customer, metric, 1, 10)
    reference = world.sql(
        "SELECT ledger.event_reference(%s, %s, '2026-01-05T01:00Z', '2026-01-05T02:00Z', 'total', 0)", customer, metric
    )[0][0]
    world.solvimon.set(refuse_reference=[reference])
    assert world.ingest().success
    world.use(customer, metric, 1, 5)
    assert world.ingest().success
    assert world.events() == [("usage", 0, Decimal(10), "quarantined")]


@pytest.mark.parametrize("kind", ["SUM", "MAX"])
def test_usage_that_changed_in_quarantine_follows_with_the_next_run_of_any_hours(world: World, kind: str) -> None:
    world.at(START + timedelta(days=2))
    customer, metric = world.customer(), world.metric(kind)
    world.imported()
    world.use(customer, metric, 1, 10)
    reference = world.sql(
        "SELECT ledger.event_reference(%s, %s, '2026-01-05T01:00Z', '2026-01-05T02:00Z', 'total', 0)", customer, metric
    )[0][0]
    world.solvimon.set(refuse_reference=[reference])
    assert world.ingest().success
    world.use(customer, metric, 1, 12)
    assert world.ingest().success
    world.solvimon.set(refuse_reference=[])
    with psycopg.connect(world.database_url) as connection:
        retry(connection, 1, None, run_id="a test", by="a test", reason="a test")
    result = world.ingest(4, 7)
    assert world.counted(customer, metric) == {1: 22 if kind == "SUM" else 12}
    assert all(check.passed for check in result.get_asset_check_evaluations())


def test_a_difference_that_another_runs_delivery_finds_is_planned_by_the_next_run(
    world: World, account: tuple[str, str]
) -> None:
    customer, metric = account
    world.prove_deduplication()
    world.use(customer, metric, 1, 10)
    ingest_and_die(world, Moment.BEFORE_SENDING)
    ((reference,),) = world.sql("SELECT reference FROM ledger.events")
    world.solvimon.call("POST", "/v1/events/ingest", _event(reference, customer, metric, "4"))
    assert world.ingest(4, 7).success
    assert world.counted(customer, metric) == {1: 10}


def test_an_inactive_meter_costs_no_request_for_each_event_that_a_dead_run_left(
    world: World, account: tuple[str, str]
) -> None:
    customer, metric = account
    world.prove_deduplication()
    world.use_hours(customer, metric, dict.fromkeys(range(60), 1))
    ingest_and_die(world, Moment.BEFORE_SENDING, 0, 59)
    world.solvimon.call("PATCH", f"/v1/meters/{metric}", {"status": "ARCHIVED"})
    world.solvimon.forget_requests()
    result = world.ingest(0, 59)
    assert result.success, failure(result)
    assert world.sql("SELECT count(*) FROM ledger.quarantine_v1") == [(60,)]
    assert world.sql("SELECT count(*) FROM ledger.claims") == [(0,)]
    assert world.solvimon.requests()[f"POST {INGEST}"] <= 20


def test_trust_in_deduplication_ages_from_the_first_attempt(world: World, account: tuple[str, str]) -> None:
    customer, metric = account
    world.prove_deduplication()
    world.use(customer, metric, 1, 10)
    ingest_and_die(world, Moment.BEFORE_RECEIPTS)
    first_attempt = world.sql("SELECT claimed_at FROM ledger.claims")
    world.solvimon.faults({"path": INGEST, "method": "POST", "kind": "status_401", "rate": 1})
    assert not world.ingest().success
    assert world.sql("SELECT claimed_at FROM ledger.claims") == first_attempt


def test_a_run_whose_claim_was_taken_over_writes_nothing_down(world: World, account: tuple[str, str]) -> None:
    customer, metric = account
    world.use(customer, metric, 1, 10)
    ingest_and_die(world, Moment.BEFORE_SENDING)
    with psycopg.connect(world.database_url) as connection:
        taken = claims.claim_left_behind(connection, 1, "the next run")
        assert taken is not None
        with pytest.raises(claims.ClaimLost):
            claims.settle(connection, taken, [], [], [], pair_id=1, run_id="the dead run, alive after all")
        assert claims.claim_next(connection, 1, "a third run", 10) is None


def test_an_inactive_meter_parks_its_events_in_one_decision(world: World, account: tuple[str, str]) -> None:
    customer, metric = account
    other = world.metric("SUM", name="Other")
    world.imported()
    for each in (metric, other):
        world.use_hours(customer, each, dict.fromkeys(range(300), 1))
    world.solvimon.call("PATCH", f"/v1/meters/{metric}", {"status": "ARCHIVED"})
    world.solvimon.forget_requests()
    result = world.ingest(0, 299)
    assert result.success, failure(result)
    assert world.counted(customer, metric) == {}
    assert sum(world.counted(customer, other).values()) == 300
    assert world.solvimon.requests()[f"POST {INGEST}"] <= 12 + 20
    assert world.sql("SELECT count(*) FROM ledger.quarantine_v1") == [(300,)]


def test_two_runs_of_the_same_hours_at_once_send_each_event_once(world: World, account: tuple[str, str]) -> None:
    customer, metric = account
    world.solvimon.set(reference_idempotency="off")
    world.use_hours(customer, metric, dict.fromkeys(range(60), 10))
    world.solvimon.faults({"path": INGEST, "method": "POST", "kind": "slow", "rate": 1, "seconds": 0.2})
    runs = [ingest_elsewhere(world, 0, 59) for _ in range(2)]
    assert [run.end() for run in runs] == [None, None]
    assert len(world.stored_events()) == 60
    assert sum(world.counted(customer, metric).values()) == 600


def test_a_run_that_read_before_another_and_plans_after_it_takes_nothing_back(
    world: World, account: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer, metric = account
    world.use(customer, metric, 1, 10)
    store = Shelf.store
    overtaken: list[str | None] = []

    async def store_once_overtaken(shelf: Shelf, *arguments: Any, **named: Any) -> Any:
        if shelf._waiting and not overtaken:
            world.use(customer, metric, 1, 5)
            world.use(customer, metric, 2, 3)
            overtaken.append(ingest_elsewhere(world, 0, 7).end())
        return await store(shelf, *arguments, **named)

    monkeypatch.setattr(Shelf, "store", store_once_overtaken)
    result = world.ingest()
    assert result.success, failure(result)
    assert overtaken == [None], "the other run came to its end while this one had read and not stored"
    assert world.events() == [("usage", 0, Decimal(15), "delivered"), ("usage", 0, Decimal(3), "delivered")]
    assert world.counted(customer, metric) == {1: 15, 2: 3}


@pytest.mark.parametrize("status", ["status_401", "status_403"])
def test_a_refused_credential_fails_the_run_at_once_and_loses_nothing(
    world: World, account: tuple[str, str], status: str
) -> None:
    customer, metric = account
    world.use(customer, metric, 1, 10)
    world.solvimon.faults({"path": INGEST, "method": "POST", "kind": status, "rate": 1})
    world.solvimon.forget_requests()
    result = world.ingest()
    assert not result.success
    assert "SOLVIMON_API_KEY" in failure(result)
    assert world.solvimon.requests()[f"POST {INGEST}"] == 1
    world.solvimon.faults()
    assert world.ingest().success
    assert world.counted(customer, metric) == {1: 10}


def test_a_batch_limit_that_fell_is_learned_from_the_refusal(world: World, account: tuple[str, str]) -> None:
    customer, metric = account
    world.use_hours(customer, metric, dict.fromkeys(range(100), 1))
    world.solvimon.set(batch_max=7)
    assert world.ingest(0, 99).success
    assert sum(world.counted(customer, metric).values()) == 100


def _event(reference: str, customer: str, metric: str, number: str) -> dict[str, object]:
    return {
        "reference": reference,
        "customer_reference": customer,
        "meter_reference": metric,
        "timestamp": "2026-01-05T01:00:00Z",
        "meter_values": [{"reference": f"{metric}_value", "number": number}],
    }
