"""Rebuild as a person meets it: a ledger that is lost, whole or in part, and the real runs before and after."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from metronome_pipeline.ledger.claims import DELIVERY_LOCK
from metronome_pipeline.ledger.plan import PLANNING_LOCK
from metronome_pipeline.mapping.usage import canonical_properties, slice_of
from metronome_pipeline.rebuilding import recovery
from metronome_pipeline_tests.cli.commands import Command, command, variables
from metronome_pipeline_tests.dying_run import Moment, ingest_and_die
from metronome_pipeline_tests.world import START, World, failure

INGEST = "POST /v1/events/ingest-batch"
_LEDGER = (
    "events, open_events, claims, receipts, restatements, slicings, unsettled_hours, brakes, reverts, reverted_slots, "
    "planned_hours"
)


@pytest.fixture(autouse=True)
def _no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


# Arrange -------------------------------------------------------------------------------------------------------------


def ingest(world: World, last: int = 7, *, job: str = "ingest_usage", **settings: str) -> None:
    variables_of_run: Any = {"BRAKE_FLOOR": "100000", **settings}
    result = world.ingest(0, last, job=job, **variables_of_run)
    assert result.success, failure(result)


def lose_ledger(world: World) -> None:
    world.sql("TRUNCATE " + ", ".join(f"ledger.{table.strip()}" for table in _LEDGER.split(",")))


def lose_everything(world: World) -> None:
    """All rows of ours, as in a new database; Dagster's own may live on."""
    lose_ledger(world)
    tables = world.sql(
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('metronome', 'solvimon')"
    )
    world.sql("TRUNCATE " + ", ".join(name for (name,) in tables))


@contextmanager
def restored_from_now(world: World) -> Iterator[None]:
    """Our tables as they are now are what they are after the block: a backup, restored."""
    tables = [
        name
        for (name,) in world.sql(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('metronome', 'solvimon') "
            "OR schemaname = 'ledger' AND tablename NOT IN ('account_pairs', 'pace')"
        )
    ]
    for number, name in enumerate(tables):
        world.sql(f"CREATE TABLE public.backup_{number} AS TABLE {name}")
    yield
    with psycopg.connect(world.database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("TRUNCATE " + ", ".join(tables))
        for number, name in enumerate(tables):
            connection.execute(f"INSERT INTO {name} OVERRIDING SYSTEM VALUE TABLE public.backup_{number}")
            connection.execute(f"DROP TABLE public.backup_{number}")
        # New rows must not meet the numbers of old ones.
        connection.execute("SELECT setval('ledger.events_event_id_seq', 1000000)")


def foreign(
    world: World, customer: str, metric: str, hour: float, number: Any, reference: str, **properties: str
) -> dict[str, Any]:
    """An event that somebody else sends to Solvimon."""
    stored: dict[str, Any] = world.solvimon.call(
        "POST",
        "/v1/events/ingest",
        {
            "reference": reference,
            "customer_reference": customer,
            "meter_reference": metric,
            "timestamp": (START + hour * timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "meter_values": [{"reference": f"{metric}_value", "number": str(number)}],
            "meter_properties": [{"reference": key, "value": value} for key, value in properties.items()],
        },
    )
    return stored


# Act -----------------------------------------------------------------------------------------------------------------


def rebuild(world: World, *options: str, **settings: str) -> Command:
    return command("rebuild", "--yes", *options, env={**variables(world), **settings})


def sent_by_a_run(world: World, **options: Any) -> int:
    """How many requests with events a run of the same hours makes."""
    world.solvimon.forget_requests()
    ingest(world, **options)
    return world.solvimon.requests().get(INGEST, 0)


# Assert --------------------------------------------------------------------------------------------------------------


def account(world: World) -> list[tuple[Any, ...]]:
    """What every row of the ledger says, but for what cannot be known from Solvimon."""
    return world.sql(
        "SELECT reference, customer_id, metric_id, start_at, end_at, slice, properties, kind, revision, number, "
        "counted, state, (SELECT max(r.solvimon_id) FROM ledger.receipts r WHERE r.event_id = e.event_id) "
        "FROM ledger.events_v1 e WHERE kind <> 'deletion' ORDER BY reference"
    )


def digests(done: Command) -> list[str]:
    return re.findall(r"[0-9a-f]{16}(?=,|\b)", done.out.split("Totals.")[1].split("metric id")[0])[:2]


def test_a_lost_ledger_is_made_again_and_a_run_sends_nothing(world: World) -> None:
    acme, other = world.customer("Acme"), world.customer("Ötzi")
    summed, highest = world.metric(name="Calls"), world.metric("MAX", name="Peak")
    world.imported()
    for customer in (acme, other):
        world.use(customer, summed, 1, "0.1")
        world.use(customer, summed, 2, 10)
        world.use(customer, highest, 1, 10)
    moving, falling = world.use(acme, summed, 3, 7), world.use(acme, highest, 1, 40)
    gone = world.use(acme, highest, 2, 5)
    ingest(world)
    world.use(acme, summed, 1, "0.25")
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [moving, falling, gone]})
    ingest(world)
    world.use(acme, summed, 1, -1)
    ingest(world)
    before, counted = account(world), world.counted(acme, summed)
    # Eight first events (two of them maxima that were deleted), a successor, and corrections of 0.25, -1 and -7.
    assert len(before) == 8 + 1 + 3

    lose_everything(world)
    world.imported()
    world.solvimon.forget_requests()
    done = rebuild(world, "--by", "Ana")
    assert done.status == 0, done.err
    assert world.solvimon.writes() == {}
    assert account(world) == before
    assert "added" in done.out
    assert len(set(digests(done))) == 1
    assert world.sql("SELECT metric_id::text, slicing FROM ledger.slicings ORDER BY 1") == sorted(
        [(summed, "ungrouped"), (highest, "ungrouped")]
    )
    assert world.sql("SELECT DISTINCT left(run_id, 8), state FROM ledger.events_v1 ORDER BY state") == [
        ("rebuild ", "deleted"),
        ("rebuild ", "delivered"),
    ]
    assert world.sql("SELECT count(*) FROM ledger.events_v1 WHERE right(message, 7) = 'by Ana.'") == [(len(before),)]
    assert world.sql("SELECT count(*) FROM metronome.coverage") == [(0,)]

    assert sent_by_a_run(world) == 0
    assert world.counted(acme, summed) == counted
    world.use(acme, summed, 1, 5)
    world.use(acme, highest, 2, 3)
    assert sent_by_a_run(world) == 1
    assert world.counted(acme, summed) == {**counted, 1: counted[1] + 5}
    assert world.sql(
        "SELECT kind, revision, number FROM ledger.events WHERE left(run_id, 7) <> 'rebuild' ORDER BY number"
    ) == [("correction", 1, Decimal(3)), ("correction", 3, Decimal(5))]


def test_repeating_it_does_nothing(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6})
    ingest(world)
    foreign(world, customer, metric, 4, 3, "native-0000000001")
    lose_ledger(world)
    assert rebuild(world).status == 0
    tables = ("events", "receipts", "restatements", "open_events", "slicings", "unsettled_hours")
    rows = [world.sql(f"TABLE ledger.{table}") for table in tables]
    again = rebuild(world)
    assert again.status == 0
    assert "nothing was missing" in again.out
    assert [world.sql(f"TABLE ledger.{table}") for table in tables] == rows


def test_a_ledger_that_lost_nothing_is_left_as_it_is(world: World) -> None:
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    falling = world.use(customer, metric, 1, 40)
    world.use(customer, metric, 1, 10)
    ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [falling]})
    ingest(world)
    rows = world.sql("TABLE ledger.receipts"), world.sql("TABLE metronome.coverage")
    done = rebuild(world)
    assert (done.status, "nothing was missing" in done.out) == (0, True)
    assert (world.sql("TABLE ledger.receipts"), world.sql("TABLE metronome.coverage")) == rows


def test_a_dry_run_shows_the_same_and_changes_nothing(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6})
    ingest(world)
    lose_ledger(world)
    dry = rebuild(world, "--dry-run")
    assert dry.status == 0
    assert "Nothing was changed." in dry.err
    for table in ("events", "receipts", "slicings"):
        assert world.sql(f"SELECT count(*) FROM ledger.{table}") == [(0,)]
    assert world.sql("SELECT count(*) FROM metronome.coverage WHERE NOT isempty(covered)") == [(1,)]
    wet = rebuild(world)
    assert digests(wet) == digests(dry)
    assert dry.out.replace("A rebuild would do this, from", "Rebuilt from") == wet.out


def test_it_asks_before_it_writes(world: World) -> None:
    world.customer()
    world.metric()
    world.imported()
    refused = command("rebuild", env=variables(world), answer="n\n")
    assert refused.status == 1
    assert "holds 0 events" in refused.err
    assert world.solvimon.requests().get("GET /v1/events", 0) == 0


def test_groups_come_back_with_their_nulls_and_their_strange_keys(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    customer = world.customer()
    metric = world.metric(group_keys=[["région 1", "data%center"], ["région 1"]])
    highest = world.metric("MAX", name="Peak", group_keys=[["région 1"]])
    plain = world.metric(name="Plain")
    world.imported()
    groups: list[dict[str, str]] = [
        {"région 1": "eu west", "data%center": "日本"},
        {"région 1": "eu west"},
        {"data%center": ""},
        {},
    ]
    for number, group in enumerate(groups, start=1):
        world.use(customer, metric, 1, number, **group)
        world.use(customer, highest, 1, number, **group)
    gone = world.use(customer, metric, 2, 50, **groups[1])
    world.use(customer, plain, 1, 9)
    for job in ("ingest_grouped_usage", "ingest_usage"):
        ingest(world, 3, job=job)
    world.use(customer, metric, 1, "0.5", **groups[2])
    ingest(world, 3, job="ingest_grouped_usage")
    before, slices = account(world), world.slices(customer, metric, 1)
    assert len(slices) == 4

    lose_everything(world)
    world.imported()
    done = rebuild(world, GROUPED_USAGE_ENABLED="true")
    assert done.status == 0, done.err
    assert account(world) == before
    assert "group not recovered" not in done.out
    assert dict(world.sql("SELECT metric_id::text, slicing FROM ledger.slicings")) == {
        metric: '["région 1","data%center"]',
        highest: '["région 1"]',
        plain: "ungrouped",
    }
    assert sent_by_a_run(world, last=3, job="ingest_grouped_usage") == 0
    assert sent_by_a_run(world, last=3) == 0
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [gone]})
    ingest(world, 3, job="ingest_grouped_usage")
    assert world.slices(customer, metric, 2) == {}
    assert world.slices(customer, metric, 1) == slices


def test_a_group_whose_keys_changed_since_is_still_corrected_with_its_own_properties(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    customer = world.customer()
    metric = world.metric(group_keys=[["region"]])
    world.imported()
    world.use(customer, metric, 1, 5, region="eu")
    ingest(world, 3, job="ingest_grouped_usage")
    # As it was billed by another way to group: with a key that is null, and is not declared any more.
    old = canonical_properties({"region": "ap", "team": None})
    ((reference,),) = world.sql("SELECT reference FROM ledger.events")
    strange = reference.rpartition("_")[0] + "_" + slice_of(old)
    foreign(world, customer, metric, 1, 8, strange, region="ap")
    lose_ledger(world)
    done = rebuild(world, GROUPED_USAGE_ENABLED="true")
    assert done.status == 0, done.err
    assert "group not recovered" in done.out
    ingest(world, 3, job="ingest_grouped_usage")
    assert world.slices(customer, metric, 1) == {(("region", "eu"),): Decimal(5)}


def test_events_of_other_origin_are_adopted_and_only_the_difference_is_sent(world: World) -> None:
    customer, metric = world.customer("Gnädig"), world.metric()
    world.imported()
    same, less, mixed = 1, 2, 3
    world.use_hours(customer, metric, {same: 5, less: 9, mixed: 4})
    for hour, number in ((same, 5), (less, 6)):
        foreign(world, customer, metric, hour, number, f"native-000000000{hour}")
    # Two of one hour, of which Metronome knows less.
    foreign(world, customer, metric, mixed, 3, "native-0000000003")
    foreign(world, customer, metric, mixed, 3, "by-hand-of-somebody")
    done = rebuild(world)
    assert done.status == 0, done.err
    assert "Gnädig Calls 4 17" in done.out
    assert world.sql("SELECT slicing FROM ledger.slicings") == [], "how the other one billed binds nothing"
    assert sent_by_a_run(world) == 1
    assert world.counted(customer, metric) == {same: 5, less: 9, mixed: 4}
    sent = world.sql(
        "SELECT kind, revision, number, right(reference, 3) FROM ledger.events WHERE left(run_id, 7) <> 'rebuild' "
        "ORDER BY start_at"
    )
    assert sent == [("correction", 1, Decimal(3), "_r1"), ("correction", 1, Decimal(-2), "_r1")]
    assert sent_by_a_run(world) == 0


def test_maxima_and_groups_of_other_origin_are_adopted_into_their_slots(world: World) -> None:
    world.environment["GROUPED_USAGE_ENABLED"] = "true"
    customer = world.customer()
    highest = world.metric("MAX", name="Peak", group_keys=[["region", "tier"]])
    world.imported()
    world.use(customer, highest, 1, 10, region="eu")
    world.use(customer, highest, 2, 7, region="eu", tier="a")
    foreign(world, customer, highest, 1, 40, "native-0000000001", region="eu")
    foreign(world, customer, highest, 2, 7, "native-0000000002", region="eu", tier="a")
    done = rebuild(world, GROUPED_USAGE_ENABLED="true")
    assert done.status == 0
    assert "Acme Peak 2 40" in done.out, "the highest, not what they add up to"
    ingest(world, 3, job="ingest_grouped_usage")
    assert world.slices(customer, highest, 1) == {(("region", "eu"),): Decimal(10)}
    assert world.slices(customer, highest, 2) == {(("region", "eu"), ("tier", "a")): Decimal(7)}
    assert world.sql("SELECT kind, number FROM ledger.events WHERE left(run_id, 7) <> 'rebuild' ORDER BY event_id") == [
        ("deletion", None),
        ("correction", Decimal(10)),
    ]
    deleted = [event["reference"] for event in world.stored_events() if event["deleted"]]
    assert deleted == ["native-0000000001"]


def test_what_cannot_be_adopted_is_listed_by_name(world: World) -> None:
    customer, stranger = world.customer(), world.customer("Stranger")
    metric, grouped = world.metric(), world.metric(name="Jobs", group_keys=[["region"]])
    world.imported()
    foreign(world, customer, metric, 1.5, 3, "half-past-one")
    foreign(world, stranger, metric, 1, 3, "of-a-stranger")
    foreign(world, customer, grouped, 1, 2, "adopted-0001", region="eu")
    world.sql("DELETE FROM metronome.customers WHERE customer_id = %s", stranger)
    done = rebuild(world)
    assert done.status == 1
    assert "not adopted: its time is not the start of an hour" in done.out
    assert "half-past-one" in done.out
    assert "its customer is unknown here" in done.out
    assert world.sql("SELECT reference FROM ledger.events") == [("adopted-0001",)]


def test_a_used_reference_is_never_used_again(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6})
    ingest(world)
    by_hour = dict(world.sql("SELECT extract(hour FROM start_at)::int, reference FROM ledger.events"))
    world.solvimon.call("POST", "/_sandbox/events/delete-by-hand", {"reference": by_hour[1]})
    # A duplicate of the other, with another number: it counts nothing.
    foreign(world, customer, metric, 2, 600, by_hour[2])
    lose_ledger(world)
    done = rebuild(world)
    assert done.status == 1
    assert "released, see `revert list`" in done.out
    assert world.events() == [("usage", 0, Decimal(5), "deleted"), ("usage", 0, Decimal(6), "delivered")]
    assert sent_by_a_run(world) == 0
    ((rebuilt,),) = world.sql("SELECT run_id FROM ledger.reverted_slots")
    assert "a rebuild writes down" in command("revert", "run", rebuilt, env=variables(world)).err
    assert command("revert", "release", rebuilt, env=variables(world)).status == 0
    assert sent_by_a_run(world) == 1
    assert world.counted(customer, metric) == {1: 5, 2: 6}
    assert world.events()[2:] == [("correction", 1, Decimal(5), "delivered")]


def test_two_live_copies_are_listed_and_neither_is_deleted(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.solvimon.set(reference_idempotency="off")
    world.use(customer, metric, 1, 5)
    ingest(world)
    ((reference,),) = world.sql("SELECT reference FROM ledger.events")
    copy = foreign(world, customer, metric, 1, 4, reference)
    lose_ledger(world)
    done = rebuild(world)
    assert done.status == 1
    assert "another copy counts under its reference" in done.out
    assert copy["id"] in done.out
    assert world.events() == [("usage", 0, Decimal(5), "delivered")]
    assert len(set(digests(done))) == 2
    assert sent_by_a_run(world) == 0
    assert world.counted(customer, metric) == {1: 9}
    assert not any(event["deleted"] for event in world.stored_events())


def test_a_restored_backup_gains_what_was_sent_since_and_is_read_again(world: World) -> None:
    customer, metric, highest = world.customer(), world.metric(), world.metric("MAX", name="Peak")
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6})
    falling = world.use(customer, highest, 1, 40)
    ingest(world)
    with restored_from_now(world):
        world.use(customer, metric, 1, 2)
        world.use(customer, metric, 3, 8)
        world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [falling]})
        world.use(customer, highest, 1, 10)
        ingest(world)
    truth = world.counted(customer, metric)
    assert truth == {1: 7, 2: 6, 3: 8}
    assert len(world.events()) == 3
    kept = world.sql("TABLE ledger.receipts")

    done = rebuild(world)
    assert done.status == 0, done.err
    assert "added 3" in done.out
    assert "found deleted for a lower maximum 1" in done.out
    assert world.sql("SELECT * FROM ledger.receipts ORDER BY receipt_id LIMIT %s", len(kept)) == kept
    counted = world.sql("SELECT sum(counted) FROM ledger.events_v1 WHERE metric_id = %s", metric)
    assert counted == [(Decimal(21),)]
    # What was read before the backup is older than what Solvimon was told: a plan from it would take back the 2.
    ((covered,),) = world.sql(
        "SELECT covered @> '2026-01-05T01:00Z'::timestamptz FROM metronome.coverage WHERE metric_id = %s", metric
    )
    assert not covered
    only_planned = world.ingest(0, 7, config={"look_back_days": 0}, METRONOME_REQUESTS_PER_SECOND="1000")
    assert only_planned.success
    assert world.counted(customer, metric) == truth
    assert sent_by_a_run(world) == 0
    assert world.total(customer, highest) == 10
    assert world.sql("SELECT count(*) FROM ledger.unsettled_hours") == [(0,)]


def test_what_waited_in_a_backup_is_settled_by_what_solvimon_has(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, dict.fromkeys(range(4), 10))
    ingest_and_die(world, Moment.BEFORE_SENDING)
    assert [state for *_, state in world.events()] == ["sending"] * 4
    with restored_from_now(world):
        world.use(customer, metric, 1, 3)
        ingest(world)
    assert {state for *_, state in world.events()} == {"sending"}
    gone = world.sql("SELECT reference FROM ledger.events WHERE start_at = '2026-01-05T00:00Z'")[0][0]
    world.solvimon.call("POST", "/_sandbox/events/delete-by-hand", {"reference": gone})

    world.solvimon.forget_requests()
    done = rebuild(world)
    assert done.status == 1, "what a person deleted is listed"
    assert "released, see `revert list`" in done.out
    assert world.solvimon.writes() == {}, "a planned event is not sent to find out whether it was"
    assert world.events() == [
        ("usage", 0, Decimal(10), "restated"),
        ("usage", 0, Decimal(10), "delivered"),
        ("usage", 0, Decimal(10), "delivered"),
        ("usage", 0, Decimal(10), "delivered"),
        ("correction", 1, Decimal(3), "delivered"),
    ]
    ingest(world)
    assert world.counted(customer, metric) == {1: 13, 2: 10, 3: 10}, "and is not sent again unasked"


def test_a_deletion_that_waited_in_a_backup_is_found_done(world: World) -> None:
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    falling = world.use(customer, metric, 1, 40)
    world.use(customer, metric, 1, 10)
    ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [falling]})
    ingest_and_die(world, Moment.BEFORE_SENDING)
    assert len(world.events()) == 3
    with restored_from_now(world):
        ingest(world)
    assert [state for *_, state in world.events()] == ["delivered", "sending", "planned"]
    done = rebuild(world)
    assert done.status == 0, done.err
    assert "deletions brought to an end 1" in done.out
    assert [state for *_, state in world.events()] == ["deleted", "delivered", "delivered"]
    assert sent_by_a_run(world) == 0
    assert world.total(customer, metric) == 10


def test_what_was_planned_against_an_empty_ledger_gives_way(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6})
    foreign(world, customer, metric, 1, 5, "native-0000000001")
    # A run that came before the rebuild, and died between its plan and its first claim.
    ingest_and_die(world, Moment.BEFORE_SENDING)
    world.sql("DELETE FROM ledger.claims")
    done = rebuild(world)
    assert done.status == 0, done.err
    assert "superseded 1" in done.out
    assert "waits: planned" in done.out
    ingest(world)
    assert world.counted(customer, metric) == {1: 5, 2: 6}
    assert world.sql("SELECT max(number) FROM ledger.events_v1 WHERE state = 'delivered' AND kind = 'correction'") == [
        (None,)
    ]


def test_what_the_ledger_has_and_solvimon_has_otherwise_is_listed_and_restated_only_where_it_counts(
    world: World,
) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6, 3: 7})
    ingest(world)
    by_hour = dict(world.sql("SELECT extract(hour FROM start_at)::int, reference FROM ledger.events"))
    world.solvimon.call("POST", "/_sandbox/events/delete-by-hand", {"reference": by_hour[1]})
    # A number of the ledger that Solvimon never took, and an event that it does not show.
    world.sql("UPDATE ledger.events SET number = 60 WHERE reference = %s", by_hour[2])
    world.sql("UPDATE ledger.events SET reference = 'lost-for-ever' WHERE reference = %s", by_hour[3])
    world.sql("UPDATE ledger.events SET start_at = start_at + interval '2 hours' WHERE reference = 'lost-for-ever'")
    done = rebuild(world)
    assert done.status == 1
    assert "deleted in Solvimon; the ledger keeps counting it" in done.out
    assert "restated, the ledger had 60" in done.out
    assert "Solvimon does not show it; the ledger keeps counting it" in done.out
    assert "lost-for-ever" in done.out
    assert sorted(world.sql("SELECT number, counted, state FROM ledger.events_v1")) == [
        (5, 5, "delivered"),
        (7, 7, "delivered"),
        (7, 7, "delivered"),
        (60, 6, "restated"),
    ]
    world.sql("DELETE FROM ledger.receipts WHERE event_id IN (SELECT event_id FROM ledger.events WHERE number = 7)")
    ingest(world, 3)
    assert world.counted(customer, metric) == {2: 6, 3: 7}, "what a person deleted is not sent again"


def test_a_ledger_that_would_count_otherwise_is_not_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {1: 5, 2: 6})
    ingest(world)
    lose_ledger(world)
    monkeypatch.setattr(recovery, "_ADD", recovery._ADD.replace("coalesce(number, 0)", "coalesce(number, 0) + 1"))
    done = rebuild(world)
    assert done.status == 1
    assert "would count 6" in done.err
    assert "and Solvimon counts 5; so in 2 hours. Nothing was written" in done.err
    assert world.events() == []
    assert world.sql("TABLE ledger.slicings") == []


def test_the_slicing_that_was_billed_of_late_is_recovered_and_told_where_the_settings_disagree(world: World) -> None:
    customer = world.customer()
    switched, by_day = world.metric(group_keys=[["region"]]), world.metric(name="Users")
    world.imported()
    world.use(customer, switched, 1, 5, region="eu")
    ingest(world)
    on: Any = {"GROUPED_USAGE_ENABLED": "true"}
    assert command("slicing", "switch", switched, "--yes", env={**variables(world), **on}).status == 0
    ingest(world, job="ingest_grouped_usage", **on)
    ((day,),) = world.sql(
        "SELECT ledger.event_reference(%s, %s, '2026-01-05Z', '2026-01-06Z', 'total', 0)", customer, by_day
    )
    foreign(world, customer, by_day, 0, 12, day)
    lose_ledger(world)
    done = rebuild(world)
    assert done.status == 0, done.err
    assert dict(world.sql("SELECT metric_id::text, slicing FROM ledger.slicings")) == {
        switched: '["region"]',
        by_day: "period_to_date",
    }
    assert 'billed through ["region"], and the settings say ungrouped: runs refuse it' in done.out
    assert sent_by_a_run(world, job="ingest_grouped_usage", **on) == 0


def test_another_pairs_events_on_the_same_platform_are_left_alone(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    ingest(world)
    ((reference,),) = world.sql("SELECT reference FROM ledger.events")
    lose_ledger(world)
    world.sql("UPDATE metronome.customers SET customer_id = gen_random_uuid()")
    done = rebuild(world)
    assert done.status == 0
    assert "Left alone" in done.out
    assert reference not in str(world.sql("TABLE ledger.events"))
    assert world.events() == []


def test_without_the_imports_it_says_what_to_run_first(accounts: World) -> None:
    done = rebuild(accounts)
    assert done.status == 1
    assert "run import_everything first" in done.err


@pytest.mark.parametrize("lock", [DELIVERY_LOCK, PLANNING_LOCK])
def test_it_never_works_beside_a_run(world: World, lock: int) -> None:
    world.customer()
    world.metric()
    world.imported()
    with psycopg.connect(world.database_url, autocommit=True) as run:
        run.execute("SELECT pg_advisory_lock(%s, 1)", [lock])
        refused = rebuild(world)
    assert refused.status == 1
    assert "A run is planning or sending events right now" in refused.err
    assert rebuild(world).status == 0


def test_five_thousand_events_are_made_again(world: World) -> None:
    customers = [world.customer(f"Customer {number}") for number in range(50)]
    metric = world.metric()
    world.imported()
    for customer in customers:
        world.use_hours(customer, metric, {hour: hour + 1 for hour in range(100)})
    ingest(world, 99)
    before = account(world)
    assert len(before) == 5_000
    lose_ledger(world)
    done = rebuild(world)
    assert done.status == 0, done.err
    assert account(world) == before


def test_what_a_person_deleted_is_closed_although_its_slot_was_released_before(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    run = world.ingest().run_id
    assert command("revert", "run", run, "--yes", env=variables(world)).status == 0
    ingest(world)
    assert command("revert", "release", run, env=variables(world)).status == 0
    with restored_from_now(world):
        ingest(world)
        (sent,) = (each["reference"] for each in world.stored_events() if each["reference"].endswith("_r2"))
        world.solvimon.call("POST", "/_sandbox/events/delete-by-hand", {"reference": sent})
    rebuild(world)
    ingest(world)
    assert world.counted(customer, metric) == {}


@pytest.mark.parametrize("proved", [True, False])
def test_what_a_person_deleted_is_not_sent_again_by_a_backup_that_forgot_it(
    world: World,
    proved: bool,
) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    if proved:
        world.prove_deduplication()
    world.use(customer, metric, 1, 5)
    with restored_from_now(world):
        ingest(world)
        (sent,) = world.stored_events()
        world.solvimon.call("POST", "/_sandbox/events/delete-by-hand", {"reference": sent["reference"]})
    if not proved:
        world.sql("UPDATE ledger.account_pairs SET restored_at = now()")
    for _ in range(2):
        result = world.ingest()
    assert world.counted(customer, metric) == {}
    assert not {c.check_name: c.passed for c in result.get_asset_check_evaluations()}["nothing_left_unsettled"]
    ((closed,),) = world.sql("SELECT run_id FROM ledger.reverted_slots")
    assert command("revert", "release", closed, env=variables(world)).status == 0
    ingest(world)
    assert world.counted(customer, metric) == {1: 5}


def test_a_change_to_a_recovered_hour_may_be_late(world: World) -> None:
    world.at(START + timedelta(days=1))
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    ingest(world)
    world.at(START + timedelta(days=40))
    world.use(customer, metric, 1, 2)
    lose_everything(world)
    world.imported()
    assert rebuild(world).status == 0
    ingest(world, LATE_USAGE="hold")
    assert world.events() == [("usage", 0, Decimal(5), "delivered"), ("correction", 1, Decimal(2), "held")]
