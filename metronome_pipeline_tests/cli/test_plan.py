"""``plan`` as a person meets it: it says what a run then does, event by event, and writes nothing."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import psycopg.sql
import pytest

from metronome_pipeline.ledger.plan import PLANNING_LOCK
from metronome_pipeline.solvimon.requests import plain_number
from metronome_pipeline_tests.cli.commands import Command, variables
from metronome_pipeline_tests.cli.commands import command as run_command
from metronome_pipeline_tests.workflows.periods import LATER, bill_by_period, day, run_days
from metronome_pipeline_tests.world import World, failure

# Sequences go on, walks are numbered, the pace moves, a database notes where it is: none of it says anything of usage.
_OF_READING = {("ledger", "pace"), ("ledger", "home"), ("metronome", "walks"), ("metronome", "staged_usage")}
DAY = ("--from", "2026-01-05", "--to", "2026-01-06")


@pytest.fixture(autouse=True)
def _no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def everything(world: World) -> dict[str, list[str]]:
    """All rows of all tables of ours, as text."""
    with psycopg.connect(world.database_url) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
            "AND table_schema IN ('metronome', 'solvimon', 'ledger') ORDER BY 1, 2"
        ).fetchall()
        assert len(tables) > 15
        return {
            f"{schema}.{name}": sorted(
                row
                for (row,) in connection.execute(
                    psycopg.sql.SQL("SELECT t::text FROM {}.{} t").format(
                        psycopg.sql.Identifier(schema), psycopg.sql.Identifier(name)
                    )
                )
            )
            for schema, name in tables
            if (schema, name) not in _OF_READING
        }


def left_staged(world: World) -> int:
    ((walks, rows),) = world.sql(
        "SELECT (SELECT count(*) FROM metronome.walks), (SELECT count(*) FROM metronome.staged_usage)"
    )
    return int(walks) + int(rows)


def plan(world: World, *arguments: str, **settings: str) -> Command:
    """One plan, which must leave everything as it was."""
    before, stored, writes = everything(world), world.stored_events(), world.solvimon.writes()
    pace = {"METRONOME_REQUESTS_PER_SECOND": "1000"}
    done = run_command("plan", *arguments, env={**variables(world), **pace, **world.environment, **settings})
    after = everything(world)
    # Any command makes the row of an account pair that it meets for the first time.
    after["ledger.account_pairs"] = before["ledger.account_pairs"] or []
    assert after == before
    assert world.stored_events() == stored
    asked = {endpoint: count for endpoint, count in world.solvimon.writes().items() if "/calculate" not in endpoint}
    assert asked == {endpoint: count for endpoint, count in writes.items() if "/calculate" not in endpoint}
    assert left_staged(world) == 0
    return done


def planned(world: World, *arguments: str, status: int = 0, **settings: str) -> dict[str, Any]:
    """The same as JSON."""
    done = plan(world, *arguments, "--json", **settings)
    assert done.status == status, done.err
    told: dict[str, Any] = json.loads(done.out)
    return told


Event = tuple[str, str, str, str, str | None, str]


def foreseen(told: Mapping[str, Any]) -> list[Event]:
    """Events of a plan that a run would write: where, what, how much."""
    return sorted(
        (e["customer_id"], e["metric_id"], e["start"], e["kind"], e["number"], e["reference"])
        for e in told.get("events", [])
        if e["what"] != "hold: brake"
    )


def written_since(world: World, event_id: int) -> list[Event]:
    rows = world.sql(
        "SELECT customer_id::text, metric_id::text, start_at, kind, number, reference FROM ledger.events "
        "WHERE event_id > %s",
        event_id,
    )
    return sorted((c, m, s.isoformat(), k, None if n is None else plain_number(n), r) for c, m, s, k, n, r in rows)


def newest(world: World) -> int:
    ((event_id,),) = world.sql("SELECT coalesce(max(event_id), 0) FROM ledger.events")
    return int(event_id)


def ingest(world: World, **settings: Any) -> None:
    result = world.ingest(0, 23, **settings)
    assert result.success, failure(result)


def test_a_plan_says_event_by_event_what_the_run_then_does(world: World) -> None:
    customer, other = world.customer("Acme"), world.customer("Other")
    calls, peak = world.metric("SUM"), world.metric("MAX", name="Peak")
    world.imported()
    world.use(customer, calls, 1, "12345678901234567890.123456789")
    world.use(customer, calls, 2, 5)
    falling = world.use(customer, peak, 1, 9)
    world.use(customer, peak, 1, 4)
    vanishing = world.use(other, peak, 2, 7)
    told = planned(world, "usage", *DAY, "--events")
    assert told["does_everything"]
    before = newest(world)
    ingest(world)
    assert foreseen(told) == written_since(world, before) != []

    world.use(customer, calls, 1, "0.5")
    world.use(customer, calls, 2, -3)
    world.use(other, calls, 3, 2)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [falling, vanishing]})
    told = planned(world, "usage", *DAY, "--events")
    before = newest(world)
    ingest(world)
    assert foreseen(told) == written_since(world, before)
    kinds = [kind for _, _, _, kind, *_ in foreseen(told)]
    assert sorted(kinds) == ["correction", "correction", "correction", "deletion", "deletion", "usage"]
    lines = {(line["customer"], line["metric"], line["what"]): line["quantity"] for line in told["lines"]}
    assert lines == {
        ("Acme", "Calls", "correct"): "-2.5",
        ("Other", "Calls", "send"): "2",
        ("Acme", "Peak", "correct"): "4",
        ("Acme", "Peak", "delete"): "9",
        ("Other", "Peak", "delete"): "7",
    }
    assert planned(world, "usage", *DAY)["lines"] == []


def test_groups_are_planned_as_the_run_does_and_both_workflows_at_once(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    customer = world.customer()
    regions, plain = world.metric("SUM", name="Regions", group_keys=[["region"]]), world.metric("COUNT", name="Plain")
    world.imported()
    for value, properties in ((1, {"region": "eu"}), ("2.5", {"region": "us"}), (4, {})):
        world.use(customer, regions, 1, value, **properties)
        world.use(customer, plain, 2, 1)

    def both() -> None:
        ingest(world)
        ingest(world, job="ingest_grouped_usage")

    told = planned(world, "usage", *DAY, "--events")
    before = newest(world)
    both()
    assert foreseen(told) == written_since(world, before)
    assert len(foreseen(told)) == 4
    world.use(customer, regions, 1, "0.25", region="us")
    world.use(customer, regions, 1, -1, region="eu")
    told = planned(world, "usage", *DAY, "--events")
    before = newest(world)
    both()
    assert foreseen(told) == written_since(world, before)
    assert [number for *_, number, _ in foreseen(told)] == ["-1", "0.25"]


def test_what_the_brake_would_hold_is_told_and_is_what_it_holds(world: World) -> None:
    falling, fine = world.customer("Falling"), world.customer("Fine")
    metric = world.metric("SUM")
    world.imported()
    gone = world.use(falling, metric, 1, 5000)
    world.use(fine, metric, 1, 70000)
    ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [gone]})
    world.use(falling, metric, 2, 3)
    world.use(fine, metric, 2, 1)
    told = planned(world, "usage", *DAY, "--events", status=3)
    before = newest(world)
    world.ingest(0, 23)
    assert foreseen(told) == written_since(world, before)
    assert {(line["customer"], line["what"], line["events"], line["quantity"]) for line in told["lines"]} == {
        ("Fine", "send", 1, "1"),
        ("Falling", "hold: brake", 2, "-4997"),
    }
    ((billed, observed),) = world.sql("SELECT billed, observed FROM ledger.brakes")
    (brake,) = told["brakes"]
    assert (brake["customer_id"], brake["billed"], brake["observed"]) == (falling, plain_number(billed), "3")
    assert observed == 3
    shown = plan(world, "usage", *DAY)
    assert shown.status == 3
    assert "The brake would hold" in shown.out
    assert "brake release" not in shown.out, "nothing can be released that no run has held"
    # Once a person has let it through, the plan says so too.
    world.sql("UPDATE ledger.brakes SET released_at = now(), released_by = 'Ana'")
    told = planned(world, "usage", *DAY, "--events")
    before = newest(world)
    ingest(world)
    assert foreseen(told) == written_since(world, before) != []


def test_what_is_late_would_be_held_where_the_settings_say_so(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 5)
    ingest(world)
    world.use(customer, metric, 1, 2)
    sent = planned(world, "usage", *DAY, "--events")
    assert [(line["what"], line["late"]) for line in sent["lines"]] == [("correct", 1)]
    held = planned(world, "usage", *DAY, "--events", status=3, LATE_USAGE="hold")
    assert [(line["what"], line["quantity"]) for line in held["lines"]] == [("hold: late", "2")]
    assert held["requests"]["solvimon"] == 0
    before = newest(world)
    ingest(world, LATE_USAGE="hold")
    assert foreseen(held) == written_since(world, before)
    again = planned(world, "usage", *DAY, status=0, LATE_USAGE="hold")
    assert again["lines"] == []
    world.use(customer, metric, 1, 1)
    waiting = planned(world, "usage", *DAY, status=3, LATE_USAGE="hold")
    assert [(line["what"], line["events"]) for line in waiting["lines"]] == [("wait", 1)]


def test_what_earlier_runs_left_is_sent_first_and_then_corrected(world: World) -> None:
    customer, metric, peak = world.customer(), world.metric("SUM"), world.metric("MAX", name="Peak")
    world.imported()
    world.use(customer, metric, 1, 5)
    high = world.use(customer, peak, 1, 9)
    world.use(customer, peak, 1, 4)
    ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [high]})
    world.use(customer, metric, 2, 7)
    world.solvimon.faults({"path": "/v1/events/*", "method": "POST", "kind": "status_403", "rate": 1})
    assert not world.ingest(0, 23).success
    world.solvimon.faults()
    world.use(customer, metric, 2, 1)
    world.use(customer, peak, 1, 6)
    told = planned(world, "usage", *DAY, "--events")
    before = newest(world)
    ingest(world)
    assert foreseen(told) == written_since(world, before)
    lines = {(line["metric"], line["what"], line["events"], line["quantity"]) for line in told["lines"]}
    assert lines == {
        ("Calls", "earlier", 1, "7"),
        ("Calls", "correct", 1, "1"),
        ("Peak", "earlier", 2, "4"),
        ("Peak", "correct", 1, "6"),
    }


def test_hours_that_an_earlier_run_could_not_plan_are_planned_first(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    reference = f"{customer}_{metric}_20260105T010000Z_20260105T020000Z_total"
    world.solvimon.set(refuse_reference=[reference])
    world.use(customer, metric, 1, 5)
    ingest(world)
    world.use(customer, metric, 1, 2)
    ingest(world)
    waiting = planned(world, "usage", *DAY, status=3)
    assert [(line["what"], line["events"]) for line in waiting["lines"]] == [("wait", 1)]
    world.solvimon.set(refuse_reference=[])
    assert run_command("quarantine", "retry", "--all", env=variables(world)).status == 0
    later = ("--from", "2026-01-06", "--to", "2026-01-07")
    told = planned(world, "usage", *later, "--events")
    assert [(line["what"], line["quantity"]) for line in told["lines"]] == [("earlier", "5"), ("correct", "2")]
    before = newest(world)
    result = world.ingest(24, 47)
    assert result.success, failure(result)
    assert foreseen(told) == written_since(world, before)


def test_a_range_of_several_weeks_and_runs_is_planned_run_by_run(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use_hours(customer, metric, {hour: hour + 1 for hour in range(0, 24 * 20, 5)})
    months = ("--from", "2026-01-05", "--to", "2026-01-25")
    settings: Any = {"BACKFILL_PARTITIONS_PER_RUN": "240"}
    world.metronome.forget_requests()
    told = planned(world, "usage", *months, "--events", **settings)
    listing = sum(count for path, count in world.metronome.requests().items() if path.startswith("GET"))
    before = newest(world)
    world.metronome.forget_requests()
    world.solvimon.forget_requests()
    for first in (0, 240):
        result = world.ingest(first, first + 239, **settings)
        assert result.success, failure(result)
    assert foreseen(told) == written_since(world, before)
    assert told["requests"]["metronome"] == sum(world.metronome.requests().values())
    assert told["requests"]["solvimon"] == sum(world.solvimon.requests().values())
    assert listing == 3


def test_pairs_that_cannot_be_read_are_listed_and_fail_the_plan(world: World) -> None:
    fine, failing = world.customer("Fine"), world.customer("Failing")
    metric = world.metric("SUM")
    world.imported()
    for customer in (fine, failing):
        world.use(customer, metric, 1, 5)
    world.metronome.faults({"path": "/v1/usage", "kind": "repeated_cursor", "rate": 1})
    done = plan(world, "usage", *DAY, "--json")
    assert done.status == 1
    assert "did not complete" in done.err
    told = json.loads(done.out)
    assert sorted(each["customer_id"] for each in told["unread"]) == sorted([fine, failing])
    assert not told["does_everything"]


def test_a_plan_that_breaks_off_leaves_nothing_staged(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use_hours(customer, metric, dict.fromkeys(range(0, 24 * 20, 7), 1))
    world.metronome.faults({"path": "/v1/usage", "kind": "status_401", "rate": 1, "after": 2})
    done = plan(world, "usage", "--from", "2026-01-05", "--to", "2026-01-25")
    assert done.status == 1
    assert "METRONOME_BEARER_TOKEN" in done.err


def test_a_plan_gives_way_to_a_run_that_is_planning(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 5)
    with psycopg.connect(world.database_url) as planning, ThreadPoolExecutor(1) as pool:
        planning.execute("SELECT pg_advisory_xact_lock(%s, 1)", [PLANNING_LOCK])
        told = pool.submit(planned, world, "usage", *DAY)
        with pytest.raises(TimeoutError):
            told.result(timeout=4)
        waiting = planning.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype <> 'advisory'"
        ).fetchone()
        assert waiting == (0,)
        planning.rollback()
        assert [line["events"] for line in told.result(timeout=60)["lines"]] == [1]


def test_requests_to_solvimon_are_those_of_the_run_with_new_customers_and_deletions(world: World) -> None:
    calls, peak = world.metric("SUM"), world.metric("MAX", name="Peak")
    old = world.customer("Old")
    world.imported()
    world.use_hours(old, calls, dict.fromkeys(range(24), 1))
    highs = [world.use(old, peak, hour, 9) for hour in range(3)]
    for hour in range(3):
        world.use(old, peak, hour, 4)
    for _ in range(2):
        newcomers = [world.customer(f"New {number}") for number in range(3)]
        for customer in newcomers:
            world.use_hours(customer, calls, dict.fromkeys(range(24), 2))
        told = planned(world, "usage", *DAY)
        assert sorted(told["new_customers"]) == ["New 0", "New 1", "New 2"]
        world.solvimon.forget_requests()
        world.metronome.forget_requests()
        ingest(world)
        assert told["requests"]["solvimon"] == sum(world.solvimon.requests().values())
        assert told["requests"]["metronome"] == sum(world.metronome.requests().values())
        world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": highs})
    assert {kind for kind, *_ in world.events()} == {"usage", "deletion", "correction"}


def test_a_plan_may_be_narrowed_by_name_or_id(world: World) -> None:
    acme, other = world.customer("Acme"), world.customer("Other")
    calls, jobs = world.metric("SUM"), world.metric("COUNT", name="Jobs")
    world.imported()
    for customer in (acme, other):
        for metric in (calls, jobs):
            world.use(customer, metric, 1, 5)
    told = planned(world, "usage", *DAY, "--customer", "acme", "--metric", jobs.upper())
    assert [(line["customer_id"], line["metric_id"]) for line in told["lines"]] == [(acme, jobs)]
    nobody = plan(world, "usage", *DAY, "--customer", "Acme Ltd")
    assert nobody.status == 2
    assert "no customer 'Acme Ltd'" in nobody.err


def test_refused_metrics_are_named_and_make_the_status_3(world: World) -> None:
    customer = world.customer()
    world.metric("UNIQUE", name="Seats")
    calls = world.metric("SUM")
    world.imported()
    world.use(customer, calls, 1, 5)
    told = planned(world, "usage", *DAY, status=3)
    assert [metric["name"] for metric in told["refused"]] == ["Seats"]
    assert "METRIC_CALCULATIONS" in told["refused"][0]["reason"]
    assert [line["what"] for line in told["lines"]] == ["send"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "2026-01-06", "--to", "2026-01-05"), "not after"),
        (("--from", "yesterday", "--to", "2026-01-05"), "--from is"),
        (("--from", "2025-01-01", "--to", "2025-02-01"), "USAGE_START"),
        (("--from", "2126-01-01", "--to", "2126-02-01"), "closed"),
        ((*DAY, "--estimate", "--priced"), "leave the others out"),
    ],
)
def test_wrong_use_is_a_sentence(accounts: World, arguments: tuple[str, ...], words: str) -> None:
    done = run_command("plan", "usage", *arguments, env=variables(accounts))
    assert done.status == 2
    assert words in done.err


def test_usage_by_period_to_date_is_planned_by_whole_periods(world: World) -> None:
    now = day(4) + LATER
    world.at(now)
    customer, users = world.customer(), world.metric("UNIQUE", name="Users")
    bill_by_period(world, users)
    world.imported()
    for hour, user in ((1, "a"), (30, "a"), (31, "b"), (55, "c")):
        world.use(customer, users, hour, user)

    def foretold_and_done(minutes: int) -> list[str | None]:
        # Time goes on: what was read at the same moment as before would be no newer than that.
        told = planned(world, "usage", "--from", "2026-01-05", "--to", "2026-01-09", "--events")
        before = newest(world)
        world.metronome.forget_requests()
        result = run_days(world, 0, 3, at=now + timedelta(minutes=minutes))
        assert result.success, failure(result)
        assert foreseen(told) == written_since(world, before)
        # The workflow by hour is on as well: a run of its own, which lists customers and metrics.
        assert told["requests"]["metronome"] == sum(world.metronome.requests().values()) + 3
        return [number for *_, number, _ in foreseen(told)]

    assert foretold_and_done(5) == ["1", "1", "1"]
    world.use(customer, users, 2, "c")
    assert foretold_and_done(10) == ["1", "-1"]


# Imports


def test_imports_are_foreseen_record_by_record(world: World) -> None:
    acme, draft, archived = world.customer("Acme"), world.customer("Draft"), world.customer("Archived")
    calls, seats = world.metric("SUM"), world.metric("UNIQUE", name="Seats", group_keys=[["region"]])
    clashing = world.metric("SUM", name="Clashing")
    world.product(type="USAGE", initial=product("Calls sold", billable_metric_id=calls))
    world.product(type="USAGE", initial=product("Seats sold", billable_metric_id=seats))
    world.product(type="SUBSCRIPTION", initial=product("Support"))
    world.product(type="FIXED", initial=product("Setup"))
    organization = {"type": "ORGANIZATION", "organization": {"legal_name": "Draft"}}
    world.solvimon.call("POST", "/v1/customers", {**organization, "reference": draft, "status": "DRAFT"})
    world.solvimon.call("POST", "/v1/customers", {**organization, "reference": archived, "status": "ACTIVE"})
    world.solvimon.call("POST", f"/v1/customers/{archived}/archive")
    world.solvimon.call("POST", "/v1/meter-values", {"reference": f"{clashing}_value", "name": "x", "type": "AMOUNT"})
    for _ in range(2):
        told = planned(world, "import", status=3)
        world.solvimon.forget_requests()
        world.metronome.forget_requests()
        world.imported()
        for kind in ("customers", "meters", "products"):
            foretold = {o["reference"]: (o["outcome"], o["reason"]) for o in told[kind]["records"]}
            assert foretold == world.outcomes(kind)
        for system, api in (("solvimon", world.solvimon), ("metronome", world.metronome)):
            assert sum(told[kind]["requests"][system] for kind in told) == sum(api.requests().values())
        world.metronome.call("POST", f"/v1/customers/{acme}/setName", {"name": "Acme Ltd"})
    assert {outcome for outcome, _ in world.outcomes("customers").values()} == {"updated", "refused", "unchanged"}
    shown = plan(world, "import", "products")
    assert shown.status == 3
    assert "Setup refuse" in shown.out
    assert "Support" not in shown.out
    assert "Nothing was written." in shown.out


def product(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


def test_a_hidden_draft_is_found_before_it_would_be_created(world: World) -> None:
    customer = world.customer("Hidden")
    organization = {"type": "ORGANIZATION", "organization": {"legal_name": "Hidden"}}
    world.solvimon.call("POST", "/v1/customers", {**organization, "reference": customer, "status": "DRAFT"})
    world.solvimon.set(hide_drafts_in_lists=True)
    told = planned(world, "import", "customers")
    world.run("import_customers")
    assert [o["outcome"] for o in told["customers"]["records"]] == ["updated"]
    assert {outcome for outcome, _ in world.outcomes("customers").values()} == {"updated"}


# Prices


def priced_world(world: World) -> tuple[str, str, str]:
    acme, free = world.customer("Acme"), world.customer("Free")
    calls = world.metric("SUM")
    world.imported()
    world.solvimon.call(
        "POST",
        "/_sandbox/subscriptions",
        {
            "customer_reference": acme,
            "meter_references": [calls],
            "price": {"quantity": "0.0125", "currency": "EUR"},
        },
    )
    for hour, value in ((1, "1000.5"), (2, 3), (24 * 28, 7)):
        world.use(acme, calls, hour, value)
    world.use(free, calls, 1, 9)
    return acme, free, calls


FIVE_WEEKS = ("--from", "2026-01-05", "--to", "2026-02-09")


def test_prices_are_solvimons_own_for_the_difference_of_each_period(world: World) -> None:
    acme, free, calls = priced_world(world)
    told = planned(world, "usage", *FIVE_WEEKS, "--priced")
    assert told["totals"] == [{"customer_id": acme, "currency": "EUR", "amount": "12.63125"}]
    assert sorted((each["number"], each["amounts"]["EUR"]) for each in told["priced"]) == [
        ("1003.5", "12.54375"),
        ("7", "0.0875"),
    ]
    ((unpriced),) = told["unpriced"]
    assert (unpriced["customer_id"], unpriced["metric_id"], unpriced["number"]) == (free, calls, "9")
    assert "no subscription" in unpriced["reason"]
    result = world.ingest(0, 23)
    assert result.success
    world.use(acme, calls, 1, -1)
    shown = plan(world, "usage", *DAY, "--priced")
    assert "Acme -0.0125 EUR" in shown.out


def test_prices_are_refused_where_calculating_stores_the_event(world: World) -> None:
    priced_world(world)
    world.solvimon.set(calculate_stores=True)
    pace = {"METRONOME_REQUESTS_PER_SECOND": "1000"}
    done = run_command("plan", "usage", *DAY, "--priced", env={**variables(world), **pace})
    assert done.status == 1
    assert "stored the event" in done.err
    (event,) = world.stored_events()
    assert event["meter_values"][0]["number"] == "0", "what was stored changes no bill"


def test_prices_are_not_asked_of_a_live_account_unless_said(accounts: World) -> None:
    live = {"SOLVIMON_BASE_URL": "https://api.solvimon.com", "SOLVIMON_LIVE": "true"}
    done = run_command("plan", "usage", *DAY, "--priced", env={**variables(accounts), **live})
    assert done.status == 2
    assert "--priced-live" in done.err
