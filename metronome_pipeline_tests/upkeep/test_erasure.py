"""A person's data leaves on request, the amounts stay, and nothing brings the name back."""

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql

from metronome_pipeline.ledger.plan import PLANNING_LOCK
from metronome_pipeline.upkeep import erasure
from metronome_pipeline.upkeep.erasure import CannotErase
from metronome_pipeline_tests.cli.commands import Command, command, variables
from metronome_pipeline_tests.world import World, failure

NAME = 'Jane "J" Döe & Söns'
VALUE = "jane.doe@example.com"
ALIAS = "jane-doe-1967"
GROUPED: dict[str, Any] = {"GROUPED_USAGE_ENABLED": "true"}
PERSONAL = (NAME, "Jane", VALUE, "jane.doe", ALIAS, "555-0100")


@pytest.fixture
def person(world: World) -> tuple[World, str, str]:
    """A person who was billed by user and region for four hours, and then archived."""
    customer = world.customer(NAME, ingest_aliases=[ALIAS], custom_fields={"phone": "555-0100"})
    metric = world.metric(group_keys=[["user", "region"]], property_filters=[])
    for hour in range(4):
        world.use(customer, metric, hour, 10 + hour, user=VALUE, region="eu")
        world.use(customer, metric, hour, 1, user="somebody", region="us")
    world.imported(**GROUPED)
    result = world.ingest(0, 3, job="ingest_grouped_usage", **GROUPED)
    assert result.success, failure(result)
    return world, customer, metric


def archive(world: World, customer: str) -> None:
    world.metronome.call("POST", "/v1/customers/archive", {"id": customer})
    assert world.run("import_customers", **GROUPED).success


def erase(world: World, customer: str, *options: str) -> Command:
    return command("erase", "customer", customer, "--yes", "--by", "dpo", *options, env=variables(world))


def everything_of_ours(world: World) -> str:
    """Every row of every table of ours, as text."""
    tables = world.sql(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('metronome', 'solvimon', 'ledger')"
    )
    with psycopg.connect(world.database_url) as connection:
        return "\n".join(
            str(row)
            for table in tables
            for row in connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(*table)))
        )


def test_names_aliases_fields_and_group_values_go_and_the_amounts_stay(person: tuple[World, str, str]) -> None:
    world, customer, metric = person
    assert all(text in everything_of_ours(world) for text in (VALUE, ALIAS, "555-0100"))
    archive(world, customer)
    before = world.sql("SELECT reference, number, slice FROM ledger.events ORDER BY event_id")
    done = erase(world, customer)
    assert done.status == 0, done.err
    left = everything_of_ours(world)
    assert [text for text in PERSONAL if text in left] == []
    assert world.sql("SELECT reference, number, slice FROM ledger.events ORDER BY event_id") == before
    assert sum(number for _, number, _ in before) == Decimal(50)
    assert world.sql("SELECT DISTINCT customer FROM ledger.events_v1") == [(erasure.ERASED,)]
    assert world.sql("SELECT DISTINCT properties ->> 'user', properties ->> 'region' FROM ledger.events_v1") == [
        (erasure.ERASED, erasure.ERASED)
    ]
    assert world.sql("SELECT customer_id::text, asked_by FROM ledger.erasures") == [(customer, "dpo")]
    assert world.counted(customer, metric) == {hour: 11 + hour for hour in range(4)}


def test_solvimon_is_asked_to_forget_the_customer_too(person: tuple[World, str, str]) -> None:
    world, customer, _ = person
    archive(world, customer)
    assert erase(world, customer).status == 0
    made = world.made("customers", customer)
    assert "organization" not in made
    assert made["status"] == "CLOSED"
    assert world.sql("SELECT forgotten_at IS NOT NULL FROM ledger.erasures") == [(True,)]


def test_it_may_be_kept_from_solvimon(person: tuple[World, str, str]) -> None:
    world, customer, _ = person
    archive(world, customer)
    assert erase(world, customer, "--here-only").status == 0
    assert world.made("customers", customer)["organization"]["legal_name"] == NAME


def test_what_solvimon_did_not_forget_is_finished_by_the_same_command(person: tuple[World, str, str]) -> None:
    world, customer, _ = person
    archive(world, customer)
    world.solvimon.call("PUT", "/_sandbox/permissions", ["CUSTOMER.VIEW"])
    failed = erase(world, customer)
    assert failed.status == 1
    assert "Erased here, and not in Solvimon" in failed.err
    assert "Run the same command again" in failed.err
    world.solvimon.call("PUT", "/_sandbox/permissions", None)
    assert erase(world, customer).status == 0
    assert world.made("customers", customer)["status"] == "CLOSED"
    world.solvimon.forget_requests()
    assert erase(world, customer).status == 0
    assert world.solvimon.requests() == {}


def test_what_stays_is_told(person: tuple[World, str, str]) -> None:
    world, customer, _ = person
    archive(world, customer)
    done = erase(world, customer)
    naming = [run_id for (run_id,) in world.sql("SELECT DISTINCT run_id FROM event_logs WHERE event LIKE %s", "%Jane%")]
    assert naming, "previews of imports name their customers"
    assert all(run_id in done.out.replace(" ", "") for run_id in naming)
    assert "backups" in done.out


def test_later_imports_and_runs_do_not_bring_the_name_back(person: tuple[World, str, str]) -> None:
    world, customer, metric = person
    archive(world, customer)
    assert erase(world, customer).status == 0
    world.solvimon.forget_requests()
    world.imported(**GROUPED)
    result = world.ingest(0, 3, job="ingest_grouped_usage", config={"look_back_days": 8, "fill_gaps": True}, **GROUPED)
    assert result.success, failure(result)
    assert world.run("sweep_usage", **GROUPED).success
    left = everything_of_ours(world)
    assert [text for text in PERSONAL if text in left] == []
    assert world.solvimon.requests().get("POST /v1/events/ingest-batch", 0) == 0
    assert world.made("customers", customer)["status"] == "CLOSED"
    assert world.counted(customer, metric) == {hour: 11 + hour for hour in range(4)}


def test_a_rebuild_does_not_bring_it_back_and_changes_no_amount(person: tuple[World, str, str]) -> None:
    world, customer, _ = person
    archive(world, customer)
    assert erase(world, customer).status == 0
    before = world.sql("SELECT event_id, number, counted, state FROM ledger.events_v1 ORDER BY event_id")
    done = command("rebuild", "--yes", env=variables(world))
    assert done.status == 0, done.err
    assert world.sql("SELECT event_id, number, counted, state FROM ledger.events_v1 ORDER BY event_id") == before
    assert VALUE not in everything_of_ours(world)


def test_an_active_customer_is_not_erased(person: tuple[World, str, str]) -> None:
    world, customer, _ = person
    refused = erase(world, customer)
    assert refused.status == 1
    assert "is active in Metronome" in refused.err
    assert VALUE in everything_of_ours(world)


def test_what_waits_is_brought_to_its_end_first(person: tuple[World, str, str]) -> None:
    world, customer, _ = person
    archive(world, customer)
    world.sql("INSERT INTO ledger.open_events SELECT min(event_id), min(pair_id), 'quarantined' FROM ledger.events")
    refused = erase(world, customer)
    assert refused.status == 1
    assert "has 1 events that wait" in refused.err
    assert VALUE in everything_of_ours(world)


def test_nothing_is_erased_beside_a_run(person: tuple[World, str, str]) -> None:
    world, customer, _ = person
    archive(world, customer)
    ((pair_id,),) = world.sql("SELECT pair_id FROM ledger.account_pairs")
    with psycopg.connect(world.database_url) as running, psycopg.connect(world.database_url) as asking:
        running.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, pair_id])
        with pytest.raises(CannotErase, match="A run is planning or sending"):
            erasure.erase(asking, pair_id, customer, by="dpo")


def test_another_customer_is_left_alone(person: tuple[World, str, str]) -> None:
    world, customer, metric = person
    other = world.customer("Acme")
    world.use(other, metric, 1, 3, user="somebody", region="us")
    world.imported(**GROUPED)
    assert world.ingest(0, 3, job="ingest_grouped_usage", **GROUPED).success
    archive(world, customer)
    assert erase(world, customer).status == 0
    rows = world.sql("SELECT customer, properties ->> 'user' FROM ledger.events_v1 WHERE customer_id::text = %s", other)
    assert rows == [("Acme", "somebody")]
    assert world.made("customers", other)["organization"]["legal_name"] == "Acme"


@pytest.mark.parametrize(
    ("wrong", "status", "why"),
    [("3b241101-e2bb-4255-8caf-4136c566a962", 1, "knows no customer"), ("Acme", 2, "is no id")],
)
def test_an_unknown_customer_is_said_to_be_one(world: World, wrong: str, status: int, why: str) -> None:
    refused = erase(world, wrong)
    assert (refused.status, why in refused.err) == (status, True)
