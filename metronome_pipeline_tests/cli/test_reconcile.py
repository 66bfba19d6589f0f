"""``reconcile`` as a person meets it, against both sandboxes: what is equal, and each reason for what is not."""

import json
import uuid
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from metronome_pipeline_tests.cli.commands import Command, command, variables
from metronome_pipeline_tests.world import World, failure

LONG = "123456789012345678901234567.890123456789"


@pytest.fixture
def world(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which every event is billed, so that what remains is what a test makes differ."""
    monkeypatch.chdir(tmp_path)
    world.solvimon.set(match_all=True)
    return world


def ran(world: World, *options: str, **environment: str) -> Command:
    env = {**variables(world), "METRONOME_REQUESTS_PER_SECOND": "1000", **world.environment, **environment}
    before = world.solvimon.writes()
    done = command("reconcile", *options, env=env)
    assert world.solvimon.writes() == before, "nothing is sent, deleted or changed"
    return done


def compared(
    world: World, *options: str, first: str = "2026-01-05", end: str | None = "2026-01-06", **environment: str
) -> Any:
    """The command's answer for machines; its exit status must be the one that it tells."""
    until = [] if end is None else ["--to", end]
    done = ran(world, "--from", first, *until, "--json", *options, **environment)
    assert done.out.startswith("{"), done.err
    answer = json.loads(done.out)
    assert answer["status"] == done.status
    return answer


def reasons(answer: Any) -> dict[str, Decimal]:
    """The parts of all differences, by reason. Those of maxima that are missing are left out."""
    found: dict[str, Decimal] = {}
    for part in answer["differences"]:
        amount = Decimal(0) if part["difference"] == "missing" else Decimal(part["difference"])
        found[part["reason"]] = found.get(part["reason"], Decimal(0)) + amount
    return found


def totals(answer: Any, metric: str) -> tuple[Any, ...]:
    """What Metronome says, what was delivered, and what Solvimon itself says."""
    (of_metric,) = [each for each in answer["totals"] if each["metric_id"] == metric]
    metronome, delivered, solvimon = (of_metric[name] for name in ("metronome", "delivered", "solvimon"))
    return tuple(None if number is None else Decimal(number) for number in (metronome, delivered, solvimon))


def ingest(world: World, *, job: str = "ingest_usage", **variables: str) -> None:
    settings: Any = {"BRAKE_FLOOR": "1000000", **variables}
    result = world.ingest(0, 23, job=job, **settings)
    assert result.success, failure(result)


def reference(world: World, customer: str, metric: str, hour: int) -> str:
    ((text,),) = world.sql(
        "SELECT reference FROM ledger.events WHERE customer_id = %s AND metric_id = %s AND kind <> 'deletion' "
        "AND start_at = '2026-01-05Z'::timestamptz + %s * interval '1 hour' ORDER BY event_id LIMIT 1",
        customer,
        metric,
        hour,
    )
    return str(text)


def refusing(world: World, metric: str, hours: Mapping[int, Any], customer: str) -> None:
    """Poisons the events of some hours, so that they go to quarantine."""
    world.solvimon.set(
        refuse_reference=[
            world.sql(
                "SELECT ledger.event_reference(%s, %s, '2026-01-05Z'::timestamptz + %s * interval '1 hour', "
                "'2026-01-05Z'::timestamptz + (%s + 1) * interval '1 hour', 'total', 0)",
                customer,
                metric,
                hour,
                hour,
            )[0][0]
            for hour in hours
        ]
    )


def test_equal_sides_are_equal_to_the_last_digit_and_proved_by_day_or_by_event(world: World) -> None:
    customer = world.customer("Acme Ltd")
    calls, peak = world.metric(), world.metric("MAX", name="Peak")
    world.imported()
    world.use_hours(customer, calls, {1: LONG, 2: "-0.000000000001", 23: 3})
    world.use_hours(customer, peak, {1: 0, 5: "7.5"})
    ingest(world)
    world.metronome.forget_requests()
    answer = compared(world, "--all")
    assert answer["status"] == 0
    assert answer["differences"] == []
    assert answer["outcomes"] == {"equal": 2}
    assert answer["proved_by"] == {"day": 2}
    assert world.metronome.requests()["POST /v1/usage"] == 2, "one request a pair"
    exact = Decimal("123456789012345678901234570.890123456788")
    assert totals(answer, calls) == (exact, exact, None), "Solvimon's side has no number, only receipts"
    assert totals(answer, peak) == (Decimal("7.5"), Decimal("7.5"), None)

    deep = compared(world, "--deep", "--customer", "acme ltd")
    assert deep["status"] == 0
    assert deep["proved_by"] == {"event": 2}
    assert deep["events_read_back"] == 5
    assert totals(deep, calls) == (exact, exact, exact)

    shown = ran(world, "--from", "2026-01-05", "--to", "2026-01-06")
    assert shown.status == 0
    assert "acknowledged" in shown.out
    assert "2 days of a customer and metric are equal" in shown.out
    assert "Acme" not in shown.out, "equal lines are summed up"
    assert "for its lists" in shown.err
    assert "Acme Ltd" in ran(world, "--from", "2026-01-05", "--to", "2026-01-06", "--all").out


def test_hours_count_where_the_bounds_are_no_midnights(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 8: 7, 23: 11})
    ingest(world)
    world.use(customer, metric, 1, 1)
    answer = compared(world, "--all", first="2026-01-05T06:00Z", end="2026-01-05T20:00Z")
    assert answer["status"] == 0
    assert totals(answer, metric) == (7, 7, None)
    assert answer["proved_by"] == {"hour": 1}


def test_each_reason_is_named_with_its_exact_amount(world: World) -> None:
    customer = world.customer()
    metric = world.metric()
    world.imported()
    refusing(world, metric, {1: None}, customer)
    transaction = world.use(customer, metric, 2, 5000)
    world.use_hours(customer, metric, {1: "5.5", 4: 40})
    ingest(world)
    world.use(customer, metric, 4, "0.25")
    answer = compared(world)
    assert answer["status"] == 3
    assert reasons(answer) == {"quarantined": Decimal("5.5"), "changed since read": Decimal("0.25")}
    quarantined = next(part for part in answer["differences"] if part["reason"] == "quarantined")
    assert quarantined["hour"] == "2026-01-05T01:00:00+00:00"
    assert quarantined["proved_by"] == "hour"
    assert quarantined["references"] == [reference(world, customer, metric, 1)]
    assert totals(answer, metric) == (Decimal("5045.75"), 5040, None)

    world.use(customer, metric, 1, 2)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [transaction]})
    result = world.ingest(0, 23)
    assert result.success
    answer = compared(world)
    assert answer["status"] == 3
    assert reasons(answer) == {"quarantined": Decimal("7.5"), "held by the brake": Decimal("-4999.75")}
    held = [part for part in answer["differences"] if part["reason"] == "held by the brake"]
    assert [Decimal(part["difference"]) for part in held] == [-5000, Decimal("0.25")]
    assert all(digest in held[0]["detail"] for (digest,) in world.sql("SELECT digest FROM ledger.brakes"))


def test_what_was_never_read_is_listed_by_day_and_what_was_dropped_stays_listed(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    refusing(world, metric, {1: None}, customer)
    world.use_hours(customer, metric, {1: 5, 30: 9})
    ingest(world)
    dropped = ("--reference", reference(world, customer, metric, 1), "--reason", "A test")
    assert command("quarantine", "drop", *dropped, env=variables(world)).status == 0
    answer = compared(world, end="2026-01-07")
    assert answer["status"] == 3
    assert reasons(answer) == {"dropped": 5, "never read": 9}
    assert [part["proved_by"] for part in answer["differences"]] == ["hour", "day"]


def test_planned_events_that_have_not_left_are_not_delivered_yet(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    world.solvimon.faults({"method": "POST", "path": "/v1/events/*", "kind": "status_503", "rate": 1, "times": None})
    assert not world.ingest(0, 23).success
    world.solvimon.faults()
    answer = compared(world)
    assert answer["status"] == 3
    assert reasons(answer) == {"not delivered yet": 5}


def test_a_metric_that_is_refused_is_named_with_why(world: World) -> None:
    customer = world.customer()
    unique = world.metric("UNIQUE", name="Users")
    world.imported()
    for hour in (1, 2):
        world.use(customer, unique, hour, "ana")
    ingest(world)
    answer = compared(world)
    assert answer["status"] == 3
    (part,) = answer["differences"]
    assert (part["metric"], part["reason"], part["difference"], part["proved_by"]) == (
        "Users",
        "refused metric",
        "1",
        "day",
    )
    assert part["detail"]


def test_metrics_whose_days_do_not_add_up_are_compared_by_hour_alone(world: World) -> None:
    customer = world.customer()
    unique = world.metric("UNIQUE", name="Users")
    chosen = json.dumps({unique: "SUM"})
    world.imported(METRIC_CALCULATIONS=chosen)
    for hour in (1, 2):
        world.use(customer, unique, hour, "ana")
    ingest(world, METRIC_CALCULATIONS=chosen)
    answer = compared(world, "--all", METRIC_CALCULATIONS=chosen)
    assert answer["status"] == 0
    assert totals(answer, unique) == (2, 2, None)
    assert answer["proved_by"] == {"hour": 1}
    world.use(customer, unique, 2, "ben")
    assert reasons(compared(world, METRIC_CALCULATIONS=chosen)) == {"changed since read": 1}


def test_maxima_that_differ_say_so_and_nothing_is_no_number(world: World) -> None:
    customer = world.customer()
    metric = world.metric("MAX")
    world.imported()
    world.use_hours(customer, metric, {1: 10, 2: 4})
    ingest(world)
    world.use(customer, metric, 1, "12.5")
    answer = compared(world)
    assert answer["status"] == 3
    assert reasons(answer) == {"changed since read": Decimal("2.5")}
    world.use(customer, metric, 3, 0)
    answer = compared(world)
    assert [part["difference"] for part in answer["differences"]] == ["2.5", "missing"]


def test_grouped_usage_is_compared_by_its_totals_and_events_with_their_properties(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    customer = world.customer()
    summed = world.metric("SUM", group_keys=[["region"]])
    highest = world.metric("MAX", name="Peak", group_keys=[["region"]])
    world.imported()
    for metric in (summed, highest):
        for value, where in ((5, "eu"), (7, "us west"), (9, "")):
            world.use(customer, metric, 1, value, region=where)
        world.use(customer, metric, 2, 3)
    ingest(world, job="ingest_grouped_usage")
    assert compared(world)["status"] == 0
    deep = compared(world, "--deep", "--all")
    assert deep["status"] == 0
    assert totals(deep, summed) == (24, 24, 24)
    assert totals(deep, highest) == (9, 9, 9)
    world.solvimon.call("POST", "/v1/events/delete", {"reference": reference(world, customer, summed, 2)})
    assert reasons(compared(world)) == {"deleted by hand": 3}


def test_deleted_foreign_and_changed_events_are_listed_by_reference_and_left_alone(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: "5.25", 2: 7, 3: 9})
    ingest(world)
    deleted = reference(world, customer, metric, 1)
    world.solvimon.call("POST", "/v1/events/delete", {"reference": deleted})
    answer = compared(world)
    assert answer["status"] == 3
    assert reasons(answer) == {"deleted by hand": Decimal("5.25")}
    assert answer["differences"][0]["references"] == [deleted]

    stranger = f"their-own-{uuid.uuid4()}"
    theirs = {"customer_reference": customer, "meter_reference": metric, "timestamp": "2026-01-05T02:30:00Z"}
    number = {"reference": f"{metric}_value", "number": "0.5"}
    world.solvimon.call("POST", "/v1/events/ingest", {"reference": stranger, **theirs, "meter_values": [number]})
    changed = reference(world, customer, metric, 3)
    world.solvimon.set(deleted_reference_reuse="allowed")
    world.solvimon.call("POST", "/v1/events/delete", {"reference": changed})
    replaced = {**theirs, "timestamp": "2026-01-05T03:00:00Z", "meter_values": [{**number, "number": "8"}]}
    world.solvimon.call("POST", "/v1/events/ingest", {"reference": changed, **replaced})
    known = {"deleted by hand": Decimal("5.25"), "changed by hand": Decimal(1)}
    assert reasons(compared(world)) == known
    answer = compared(world, "--deep")
    assert answer["status"] == 3
    assert reasons(answer) == {**known, "foreign": Decimal("-0.5")}
    assert {part["reason"]: part["references"] for part in answer["differences"]} == {
        "deleted by hand": [deleted],
        "foreign": [stranger],
        "changed by hand": [changed],
    }
    assert {part["proved_by"] for part in answer["differences"]} == {"event"}
    assert totals(answer, metric) == (Decimal("21.25"), Decimal("15.5"), Decimal("15.5"))
    ingest(world)
    assert reference(world, customer, metric, 1) == deleted
    assert world.counted(customer, metric).get(1) is None, "never sent again"


def test_events_that_no_subscription_bills_are_listed_and_are_no_other_difference(world: World) -> None:
    world.solvimon.set(match_all=False)
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: "2.5"})
    ingest(world)
    answer = compared(world, "--all")
    assert answer["status"] == 3
    assert [(part["reason"], part["difference"]) for part in answer["differences"]] == [
        ("unmatched", "5"),
        ("unmatched", "2.5"),
    ]
    assert totals(answer, metric) == (Decimal("7.5"), Decimal("7.5"), None)


def test_a_duplicate_counts_what_the_original_holds(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.solvimon.set(duplicate_flag_sync=False, matching="manual")
    world.use_hours(customer, metric, {1: 5, 2: 6})
    refusing(world, metric, {}, customer)
    taken = world.sql(
        "SELECT ledger.event_reference(%s, %s, '2026-01-05T01:00Z', '2026-01-05T02:00Z', 'total', 0)", customer, metric
    )[0][0]
    theirs = {"customer_reference": customer, "meter_reference": metric, "timestamp": "2026-01-05T01:00:00Z"}
    assert world.ingest(5, 6).success, "which makes the customer"
    number = {"reference": f"{metric}_value", "number": "2"}
    world.solvimon.call("POST", "/v1/events/ingest", {"reference": taken, **theirs, "meter_values": [number]})
    ingest(world)
    world.solvimon.call("POST", "/_sandbox/process", {})
    answer = compared(world)
    assert answer["status"] == 3
    assert reasons(answer) == {"changed by hand": 3}


def test_a_pair_that_cannot_be_read_is_listed_and_the_others_are_compared(world: World) -> None:
    customers = [world.customer(f"Customer {number}") for number in range(2)]
    metrics = [world.metric(name=f"Metric {number}") for number in range(2)]
    world.imported()
    for customer in customers:
        for metric in metrics:
            world.use(customer, metric, 1, 5)
    ingest(world)
    world.use(customers[1], metrics[0], 2, "9" * 101)
    answer = compared(world, "--all")
    assert answer["status"] == 1
    assert [(each["customer_id"], each["metric_ids"]) for each in answer["unread"]] == [(customers[1], [metrics[0]])]
    assert answer["outcomes"] == {"equal": 3, "unread": 1}
    assert "over 100 digits" in ran(world, "--from", "2026-01-05", "--to", "2026-01-06").out
    deep = compared(world, "--deep")
    assert deep["status"] == 1
    assert deep["outcomes"] == {"equal": 3, "unread": 1}


def test_archived_customers_and_metrics_are_compared_too(world: World) -> None:
    customer = world.customer("Gone")
    metric = world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    ingest(world)
    world.metronome.call("POST", "/v1/customers/archive", {"id": customer})
    world.metronome.call("POST", "/v1/billable-metrics/archive", {"id": metric})
    world.use(customer, metric, 2, 3)
    answer = compared(world)
    assert reasons(answer) == {"changed since read": 3}
    assert answer["differences"][0]["customer"] == "Gone"


def test_nothing_from_before_a_cut_over_is_compared(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    late = json.dumps({customer: "2026-01-05T06:00Z"})
    world.imported()
    world.use_hours(customer, metric, {1: 100, 7: 5})
    ingest(world, CUSTOMER_USAGE_STARTS=late)
    answer = compared(world, "--all", first="2026-01-01", CUSTOMER_USAGE_STARTS=late)
    assert answer["status"] == 0
    assert totals(answer, metric) == (5, 5, None)


def test_what_no_reason_explains_makes_the_status_1(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6})
    ingest(world)
    world.sql("INSERT INTO ledger.restatements SELECT event_id, 4 FROM ledger.events WHERE number = 5")
    answer = compared(world)
    assert answer["status"] == 1
    assert reasons(answer) == {"unknown": 1}
    deep = compared(world, "--deep")
    assert deep["status"] == 1
    assert reasons(deep) == {"unknown": 1, "changed by hand": -1}, "Solvimon itself holds the 5"


def test_an_event_that_vanished_or_counts_twice_in_solvimon_is_found_by_reading_it_back(world: World) -> None:
    world.solvimon.set(reference_idempotency="off")
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6})
    ingest(world)
    theirs = {"customer_reference": customer, "meter_reference": metric, "timestamp": "2026-01-05T01:00:00Z"}
    number = {"reference": f"{metric}_value", "number": "5"}
    again = {"reference": reference(world, customer, metric, 1), **theirs, "meter_values": [number]}
    world.solvimon.call("POST", "/v1/events/ingest", again)
    assert compared(world)["status"] == 0, "receipts alone cannot tell"
    answer = compared(world, "--deep")
    assert answer["status"] == 1
    assert reasons(answer) == {"unknown": -5}
    assert "2 copies" in answer["differences"][0]["detail"]
    world.sql("UPDATE ledger.events SET reference = reference || '_other' WHERE number = 6")
    assert reasons(compared(world, "--deep")) == {"unknown": 1, "foreign": -6}


def test_a_maximum_whose_deletion_was_given_up_stays_listed(world: World) -> None:
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    world.use(customer, metric, 1, 10)
    transaction = world.use(customer, metric, 1, 40)
    ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [transaction]})
    refusal = {"type": "INVALID_REQUEST", "code": "INVALID_OPERATION", "message": "The invoice is final"}
    answer = {"method": "POST", "path": "/v1/events/delete", "status": 400, "body": refusal, "times": None}
    world.solvimon.call("PUT", "/_sandbox/answers", [answer])
    ingest(world)
    waiting = compared(world)
    assert waiting["status"] == 3
    assert reasons(waiting) == {"quarantined": -30, "not delivered yet": 0}
    dropped = ("--reference", reference(world, customer, metric, 1), "--reason", "The invoice is final")
    assert command("quarantine", "drop", *dropped, env=variables(world)).status == 0
    ingest(world)
    ingest(world)
    for options in ((), ("--deep",)):
        given_up = compared(world, *options)
        assert given_up["status"] == 3
        assert reasons(given_up) == {"dropped": -30}
        assert totals(given_up, metric)[:2] == (10, 40)


def test_a_maximum_that_was_deleted_and_sent_anew_is_equal_event_by_event(world: World) -> None:
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    world.use(customer, metric, 1, 10)
    transaction = world.use(customer, metric, 1, 40)
    ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [transaction]})
    ingest(world)
    assert compared(world)["status"] == 0
    deep = compared(world, "--deep")
    assert deep["status"] == 0
    assert totals(deep, metric) == (10, 10, 10)


def test_hours_whose_groups_contradict_their_total_are_named(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    customer = world.customer()
    metric = world.metric("MAX", group_keys=[["region"]])
    world.imported()
    world.use(customer, metric, 1, 5, region="eu")
    ingest(world, job="ingest_grouped_usage")
    # As Metronome's two reads would, if one were behind the other: the highest group is above its own total.
    world.sql("UPDATE metronome.grouped_usage SET value = 4 WHERE slice = 'total'")
    world.sql("INSERT INTO metronome.short_groups SELECT pair_id, customer_id, metric_id, start_at, 4, 5 "
              "FROM metronome.grouped_usage WHERE slice = 'total'")  # fmt: skip
    world.use(customer, metric, 1, 6, region="eu")
    answer = compared(world)
    assert answer["status"] == 3
    assert [part["reason"] for part in answer["differences"]] == ["changed since read", "groups short"]
    assert reasons(answer) == {"changed since read": 1, "groups short": 0}


def test_a_harmless_duplicate_is_no_difference(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    ingest(world)
    theirs = {"customer_reference": customer, "meter_reference": metric, "timestamp": "2026-01-05T01:00:00Z"}
    number = {"reference": f"{metric}_value", "number": "5"}
    again = {"reference": reference(world, customer, metric, 1), **theirs, "meter_values": [number]}
    copy = world.solvimon.call("POST", "/v1/events/ingest", again)
    world.sql("UPDATE ledger.receipts SET solvimon_id = %s", copy["id"])
    assert compared(world)["status"] == 0
    assert compared(world, "--deep")["status"] == 0


def test_every_customer_is_read_back_page_by_page_and_only_the_range_is_compared(world: World) -> None:
    customers = [world.customer(f"Customer {number}") for number in range(3)]
    metric = world.metric()
    world.imported()
    for customer in customers:
        world.use_hours(customer, metric, {hour: hour + 1 for hour in range(72)})
    result = world.ingest(0, 71)
    assert result.success
    world.solvimon.forget_requests()
    answer = compared(world, "--deep", first="2026-01-06", end="2026-01-07")
    assert answer["status"] == 0
    assert answer["outcomes"] == {"equal": 3}
    assert answer["events_read_back"] == 3 * 72
    assert world.solvimon.requests()["GET /v1/events"] == 3 * 2 + 1, (
        "two pages a customer, and the list of unmatched ones"
    )
    one = compared(world, "--deep", "--customer", customers[1].upper(), first="2026-01-06", end="2026-01-07")
    assert one["events_read_back"] == 72


def test_late_changes_that_are_held_and_runs_that_were_reverted_are_named(world: World) -> None:
    customer, held, other = world.customer(), world.metric(), world.metric(name="Other")
    world.imported()
    world.use_hours(customer, held, {1: 5})
    world.use_hours(customer, other, {1: 30})
    result = world.ingest(0, 23)
    assert result.success
    world.use(customer, held, 1, 2)
    ingest(world, LATE_USAGE="hold")
    assert reasons(compared(world)) == {"late (held)": 2}
    assert "Left alone: 1" in command("revert", "run", result.run_id, "--yes", env=variables(world)).out
    ingest(world)
    answer = compared(world)
    assert answer["status"] == 3
    assert reasons(answer)["reverted"] == 30


def test_metrics_billed_by_period_to_date_are_compared_by_the_increase_of_each_day(world: World) -> None:
    customer = world.customer()
    unique = world.metric("UNIQUE", name="Users")
    chosen = json.dumps({unique: "PERIOD_TO_DATE"})
    world.imported(METRIC_CALCULATIONS=chosen)
    for hour, who in ((1, "ana"), (25, "ana"), (26, "ben"), (27, "cem")):
        world.use(customer, unique, hour, who)
    days = {"dagster/asset_partition_range_start": "2026-01-05", "dagster/asset_partition_range_end": "2026-01-07"}
    result = world.run("ingest_period_usage", tags=days, METRIC_CALCULATIONS=chosen)
    assert result.success, failure(result)
    answer = compared(world, "--all", end="2026-01-08", METRIC_CALCULATIONS=chosen)
    assert answer["status"] == 0
    assert totals(answer, unique) == (3, 3, None)
    assert [(line["day"], line["metronome"]) for line in answer["days"]] == [("2026-01-05", "1"), ("2026-01-06", "2")]
    assert compared(world, "--deep", end="2026-01-08", METRIC_CALCULATIONS=chosen)["status"] == 0
    world.use(customer, unique, 3, "ben")
    late = compared(world, end="2026-01-08", METRIC_CALCULATIONS=chosen)
    assert [(part["hour"][:10], part["difference"]) for part in late["differences"]] == [
        ("2026-01-05", "1"),
        ("2026-01-06", "-1"),
    ]


def test_an_unreadable_list_of_solvimons_makes_the_status_1(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    ingest(world)
    everything = world.solvimon.call("GET", "/v1/events")
    answer = {"method": "GET", "path": "/v1/events", "status": 200, "body": everything, "times": None}
    world.solvimon.call("PUT", "/_sandbox/answers", [answer])
    answer = compared(world)
    assert answer["status"] == 1
    assert "ignored the filter" in answer["unread"][0]["reason"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--from", "2026-01-06", "--to", "2026-01-05"), "--to is not after --from"),
        (("--from", "yesterday"), "write a date or a whole UTC hour"),
        (("--from", "2025-01-01", "--to", "2025-02-01"), "after the cut-over"),
        (("--from", "2026-01-05", "--to", "2026-01-06", "--customer", "Nobody"), "no customer with the id or name"),
    ],
)
def test_wrong_use_is_status_2(world: World, options: tuple[str, ...], words: str) -> None:
    world.customer("Twice")
    done = ran(world, *options)
    assert done.status == 2
    assert words in done.err
