"""The connection check, against emulators of the test's own."""

from pathlib import Path

import pytest

from metronome_pipeline.cli.connections import is_live
from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.world import World


@pytest.fixture(autouse=True)
def _no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_is_ok_on_a_new_pair_and_the_probe_leaves_nothing_that_counts(accounts: World) -> None:
    accounts.customer()
    accounts.metric()
    done = command("check", env=variables(accounts))
    assert done.status == 0, done.out
    for what in ("Postgres", "cut-over", "account pair", "METER_DATA.VIEW", "takes 50 events at a time", "clock"):
        assert what in done.out
    assert "marked DUPLICATE" in done.out
    assert accounts.sql("SELECT deduplication FROM ledger.account_pairs") == [("proved",)]
    assert [event["deleted"] for event in accounts.stored_events()] == [True, True]
    assert accounts.solvimon.call("GET", "/_sandbox/totals")["rows"] == []


def test_a_second_check_uses_the_probe_that_exists(accounts: World) -> None:
    assert command("check", env=variables(accounts)).status == 0
    accounts.solvimon.forget_requests()
    assert command("check", env=variables(accounts)).status == 0
    made = {endpoint for endpoint in accounts.solvimon.requests() if endpoint.startswith("POST")}
    assert made == {"POST /v1/events/ingest-batch", "POST /v1/events/{id}/delete"}


def test_deduplication_that_is_off_is_noted_and_remembered(accounts: World) -> None:
    accounts.solvimon.set(reference_idempotency="off")
    done = command("check", env=variables(accounts))
    assert done.status == 0
    assert "both count" in done.out
    assert accounts.sql("SELECT deduplication FROM ledger.account_pairs") == [("off",)]
    assert all(event["deleted"] for event in accounts.stored_events())


def test_a_wrong_token_is_named_and_the_rest_is_still_checked(accounts: World) -> None:
    done = command("check", env={**variables(accounts), "METRONOME_BEARER_TOKEN": "of-nobody"})
    assert done.status == 1
    assert "Check METRONOME_BEARER_TOKEN" in done.out
    assert "takes 50 events at a time" in done.out
    assert "of-nobody" not in done.out + done.err


def test_a_wrong_key_is_asked_once(accounts: World) -> None:
    done = command("check", env={**variables(accounts), "SOLVIMON_API_KEY": "of-nobody"})
    assert done.status == 1
    assert done.out.count("Check SOLVIMON_API_KEY") == 1


def test_a_missing_permission_is_named(accounts: World) -> None:
    views = "CUSTOMER METER_VALUE METER_PROPERTY METER METER_VALUE_CALCULATION PRODUCT_CATEGORY PRODUCT_ITEM METER_DATA"
    accounts.solvimon.call("PUT", "/_sandbox/permissions", [f"{name}.VIEW" for name in views.split()])
    done = command("check", env=variables(accounts))
    assert done.status == 1
    assert "PRODUCT.VIEW NOT OK" in done.out
    assert "PRODUCT_ITEM.VIEW ok" in done.out
    assert "METER_DATA.INGEST" in done.out


def test_a_smaller_limit_of_batches_is_told(accounts: World) -> None:
    accounts.solvimon.set(batch_max=20)
    assert "SOLVIMON_BATCH_LIMIT=20" in command("check", env=variables(accounts)).out


def test_a_wrong_batch_endpoint_is_told(accounts: World) -> None:
    done = command("check", env={**variables(accounts), "SOLVIMON_EVENTS_PATH": "/v1/events/no-such"})
    assert done.status == 1
    assert "Correct SOLVIMON_EVENTS_PATH" in done.out


def test_a_token_of_another_environment_is_noticed(world: World) -> None:
    world.customer()
    world.imported()
    world.metronome.call("PUT", "/_sandbox/store", {})
    done = command("check", env=variables(world))
    assert done.status == 1
    assert "METRONOME_ENVIRONMENT" in done.out


def test_without_postgres_the_accounts_are_checked_all_the_same(accounts: World) -> None:
    done = command("check", env={**variables(accounts), "DAGSTER_POSTGRES_URL": "postgresql://me:hidden@127.0.0.1:1/x"})
    assert done.status == 1
    assert "Postgres NOT OK" in done.out
    assert "METER_DATA.VIEW ok" in done.out
    assert "hidden" not in done.out + done.err


def test_a_price_on_a_property_that_meters_do_not_require_is_noted(world: World) -> None:
    world.metric(group_keys=[["region"]])
    metric = world.metric(name="Priced", group_keys=[["region"]])
    world.product(type="USAGE", initial={"name": "By region", "billable_metric_id": metric})
    world.imported()
    item = next(
        row
        for row in world.solvimon.call("GET", "/v1/product-items")["data"]
        if (row.get("usage_based") or {}).get("meter_value_calculation_id")
    )
    (reference,) = (row["reference"] for row in world.solvimon.call("GET", "/v1/meter-properties")["data"])
    conditions = {"meter_properties": [{"reference": reference, "value": "eu", "comparator": "EQUALS"}]}
    world.solvimon.call(
        "PATCH", f"/v1/product-items/{item['id']}", {"usage_based": {**item["usage_based"], "conditions": conditions}}
    )
    done = command("check", env=variables(world))
    assert done.status == 0, done.out
    assert f"item By region needs {reference}" in done.out


def test_live_is_what_is_neither_the_test_host_nor_this_machine() -> None:
    given = {
        "METRONOME_BEARER_TOKEN": "t",
        "SOLVIMON_API_KEY": "k",
        "USAGE_START": "2026-01-01",
        "SOLVIMON_LIVE": "true",
    }

    def live(url: str) -> bool:
        return is_live(Settings.from_environment({**given, "SOLVIMON_BASE_URL": url}))

    assert live("https://api.solvimon.com")
    assert live("https://acme.solvimon.com")
    assert not live("https://test.api.solvimon.com")
    assert not live("http://127.0.0.1:8702")


def test_a_probe_on_live_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {
        "METRONOME_BEARER_TOKEN": "t",
        "SOLVIMON_API_KEY": "k",
        "USAGE_START": "2026-01-01",
        "SOLVIMON_LIVE": "true",
        "SOLVIMON_BASE_URL": "https://api.solvimon.com",
    }
    asked: list[object] = []
    monkeypatch.setattr("metronome_pipeline.cli.connections.check", lambda *told, **_: asked.append(told))
    done = command("check", "--probe", env=env, answer="n\n")
    assert done.status == 2
    assert "api.solvimon.com is live" in done.err
    assert asked == []
