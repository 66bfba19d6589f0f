"""Ingest usage, through real runs: what Solvimon counts is what Metronome reports."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from metronome_pipeline_tests.world import Api, World, failure, metadata, partition, partitions_of

EVENTS = ["solvimon", "usage_events"]


def posts(world: World) -> int:
    """Requests that could have changed anything in Solvimon."""
    return sum(count for endpoint, count in world.solvimon.requests().items() if not endpoint.startswith("GET"))


def test_usage_of_a_day_arrives_to_the_last_digit_and_a_second_run_sends_nothing(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, "0.1")
    world.use(customer, metric, 1, "0.2")
    world.use(customer, metric, 5, "12345678901234567890.123456789")
    requests_before = sum(world.metronome.requests().values())
    result = world.ingest(0, 23)
    assert result.success, failure(result)
    assert world.counted(customer, metric) == {1: Decimal("0.3"), 5: Decimal("12345678901234567890.123456789")}
    assert partitions_of(result.all_events, EVENTS) == [partition(hour) for hour in range(24)]
    shown = metadata(result, "metronome", "usage")
    assert shown["requests"] == sum(world.metronome.requests().values()) - requests_before
    assert shown["preview"].records == [], "the last hour has no usage"
    world.solvimon.forget_requests()
    assert world.ingest(0, 23).success
    assert posts(world) == 0


def test_every_aggregation_is_billed_by_its_own_calculation(world: World) -> None:
    customer = world.customer()
    metrics = {kind: world.metric(kind, name=kind) for kind in ("COUNT", "SUM", "MAX")}
    world.imported()
    for metric in metrics.values():
        for hour, value in ((1, 7), (1, 3), (2, 5)):
            world.use(customer, metric, hour, value)
    assert world.ingest().success
    assert {kind: world.total(customer, metric) for kind, metric in metrics.items()} == {
        "COUNT": 3,
        "SUM": 15,
        "MAX": 7,
    }
    assert world.counted(customer, metrics["MAX"]) == {1: 7, 2: 5}


def test_late_usage_is_corrected_by_the_difference_up_down_and_to_nothing(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    for hour, value in ((1, 10), (2, 10), (3, 10)):
        world.use(customer, metric, hour, value)
    assert world.ingest().success
    world.use(customer, metric, 1, "2.5")
    world.use(customer, metric, 2, -4)
    world.use(customer, metric, 3, -10)
    assert world.ingest().success
    assert world.counted(customer, metric) == {1: Decimal("12.5"), 2: 6}
    assert world.events() == [
        *[("usage", 0, Decimal(10), "delivered")] * 3,
        ("correction", 1, Decimal("2.5"), "delivered"),
        ("correction", 1, Decimal(-4), "delivered"),
        ("correction", 1, Decimal(-10), "delivered"),
    ]


def test_a_maximum_that_falls_is_deleted_before_its_successor_is_sent(world: World) -> None:
    customer, metric = world.customer(), world.metric("MAX")
    other = world.customer("Other", ingest_aliases=["late-comer"])
    world.imported()
    world.use(customer, metric, 1, 5)
    world.use("late-comer", metric, 1, 9)
    world.use(other, metric, 2, 4)
    assert world.ingest().success
    assert world.total(other, metric) == 9
    # The alias moves: what was the other customer's highest hour is now this one's.
    world.metronome.call("POST", f"/v1/customers/{other}/setIngestAliases", {"ingest_aliases": []})
    world.metronome.call("POST", f"/v1/customers/{customer}/setIngestAliases", {"ingest_aliases": ["late-comer"]})
    assert world.ingest(BRAKE_SHARE="1").success
    assert world.counted(customer, metric) == {1: 9 + 5}, "a higher value needs no deletion: the highest wins"
    assert world.total(customer, metric) == 9
    assert world.counted(other, metric) == {2: 4}
    assert ("deletion", None, None, "delivered") in world.events()
    world.metronome.call("POST", f"/v1/customers/{customer}/setIngestAliases", {"ingest_aliases": []})
    assert world.ingest(BRAKE_SHARE="1").success
    assert world.counted(customer, metric) == {1: 5}
    world.solvimon.forget_requests()
    assert world.ingest(BRAKE_SHARE="1").success
    assert posts(world) == 0


def test_a_lower_maximum_leaves_only_after_the_deletion_was_read_back(world: World) -> None:
    customer, metric = world.customer(ingest_aliases=["a"]), world.metric("MAX")
    world.imported()
    world.use("a", metric, 1, 9)
    world.use(customer, metric, 1, 4)
    assert world.ingest().success
    world.metronome.call("POST", f"/v1/customers/{customer}/setIngestAliases", {"ingest_aliases": []})
    world.solvimon.faults({"path": "/v1/events", "method": "GET", "kind": "status_403", "rate": 1})
    held = world.ingest(BRAKE_SHARE="1")
    assert not held.success
    assert world.events()[-1] == ("correction", 1, Decimal(4), "planned")
    world.solvimon.faults()
    assert world.ingest(BRAKE_SHARE="1").success
    assert world.total(customer, metric) == 4
    assert len(world.stored_events()) == 2


def test_usage_of_a_customer_that_was_never_imported_creates_the_customer_first(world: World) -> None:
    metric = world.metric("SUM")
    world.imported()
    customer = world.customer("Newcomer")
    world.use(customer, metric, 1, 3)
    assert world.ingest().success
    assert world.solvimon.call("GET", f"/v1/customers/{customer}")["organization"]["legal_name"] == "Newcomer"
    assert world.counted(customer, metric) == {1: 3}


def test_archived_customers_and_metrics_are_still_billed(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 3)
    world.metronome.call("POST", "/v1/customers/archive", {"id": customer})
    world.metronome.call("POST", "/v1/billable-metrics/archive", {"id": metric})
    assert world.ingest().success
    assert world.counted(customer, metric) == {1: 3}


def test_nothing_is_billed_from_before_a_customers_own_cut_over(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    for hour in (1, 5):
        world.use(customer, metric, hour, 3)
    start = partition(5).replace("-05:00", "T05:00Z")
    assert world.ingest(CUSTOMER_USAGE_STARTS=f'{{"{customer}": "{start}"}}').success
    assert world.counted(customer, metric) == {5: 3}


def test_an_allow_list_permits_a_pilot(world: World) -> None:
    pilot, other = world.customer("Pilot"), world.customer("Other")
    metric, unlisted = world.metric("SUM"), world.metric("SUM", name="Unlisted")
    world.imported()
    for customer in (pilot, other):
        world.use(customer, metric, 1, 3)
        world.use(customer, unlisted, 1, 3)
    assert world.ingest(USAGE_CUSTOMERS=pilot, USAGE_METRICS=metric).success
    assert world.counted(pilot, metric) == {1: 3}
    assert len(world.stored_events()) == 1


def test_metrics_without_an_exact_calculation_are_refused_by_name_until_a_setting_names_one(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE", name="Seats")
    world.imported()
    world.use(customer, metric, 1, "someone")
    result = world.ingest()
    assert result.success
    check = next(c for c in result.get_asset_check_evaluations() if c.check_name == "every_metric_is_billed")
    assert not check.passed
    assert "UNIQUE" in str(check.metadata["list"].value)
    assert world.stored_events() == []
    chosen = f'{{"{metric}": "SUM"}}'
    world.imported(METRIC_CALCULATIONS=chosen)
    assert world.ingest(METRIC_CALCULATIONS=chosen).success
    assert world.counted(customer, metric) == {1: 1}


def test_two_account_pairs_share_a_database_without_touching_each_other(world: World) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 3)
    assert world.ingest().success
    shadow = Api(world.solvimon.url, {"X-API-KEY": f"key-{uuid.uuid4()}"})
    shadow.call("PUT", "/_sandbox/store", {})
    world.environment = {"METRONOME_ENVIRONMENT": "shadow", "SOLVIMON_API_KEY": shadow.headers["X-API-KEY"]}
    world.imported()
    world.use(customer, metric, 1, 2)
    assert world.ingest().success
    by_pair = world.sql("SELECT pair_id, sum(number) FROM ledger.events GROUP BY pair_id ORDER BY pair_id")
    assert by_pair == [(1, Decimal(3)), (2, Decimal(5))]
    assert world.counted(customer, metric) == {1: 3}
    assert len(shadow.call("GET", "/_sandbox/truth")["rows"]) == 1


def test_an_hour_that_is_not_closed_is_refused_in_a_sentence(world: World) -> None:
    last_hour = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%d-%H:00")
    tags = {"dagster/asset_partition_range_start": last_hour, "dagster/asset_partition_range_end": last_hour}
    result = world.run("ingest_usage", tags=tags, USAGE_CLOSE_MINUTES="60")
    assert not result.success
    assert "is not closed yet" in failure(result)


@pytest.mark.parametrize("empty", ["null", "zero", "omit"])
def test_hours_without_usage_are_nothing_however_metronome_says_it(world: World, empty: str) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.metronome.set(empty_windows=empty)
    world.imported()
    world.use(customer, metric, 1, 3)
    assert world.ingest().success
    assert len(world.stored_events()) == 1


@pytest.mark.parametrize("status", ["status_401", "status_403"])
def test_a_token_that_metronome_refuses_fails_the_run_at_once(world: World, status: str) -> None:
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    world.use(customer, metric, 1, 3)
    world.metronome.faults({"path": "/v1/usage", "method": "POST", "kind": status, "rate": 1})
    world.metronome.forget_requests()
    result = world.ingest()
    assert not result.success
    assert "METRONOME_BEARER_TOKEN" in failure(result)
    assert world.metronome.requests()["POST /v1/usage"] == 1
    assert world.events() == []
