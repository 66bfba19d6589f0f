"""Import customers, through real runs: every Metronome customer becomes a Solvimon customer, once."""

import uuid
from typing import Any

from metronome_pipeline_tests.world import World, failure, metadata, rows

ARCHIVED = "2026-01-01T00:00:00Z"


def _have(world: World, **fields: Any) -> dict[str, Any]:
    """A customer that someone made in Solvimon."""
    body = {"type": "ORGANIZATION", "status": "ACTIVE", "organization": {"legal_name": "Acme"}, **fields}
    made: dict[str, Any] = world.solvimon.call("POST", "/v1/customers", body)
    return made


def _count(world: World) -> int:
    return len(world.solvimon.call("GET", "/v1/customers", limit=100)["data"])


def test_every_customer_becomes_an_organization_and_a_second_run_changes_nothing(world: World) -> None:
    active = world.customer("Acme", ingest_aliases=["acme"], custom_fields={"tier": "gold"})
    archived = world.customer("Old & Co", archived_at=ARCHIVED)
    first = world.run("import_customers", DEFAULT_CUSTOMER_EMAIL="billing@example.com")
    assert first.success, failure(first)

    made = world.made("customers", active)
    assert (made["type"], made["status"]) == ("ORGANIZATION", "ACTIVE")
    assert made["organization"] == {"legal_name": "Acme"}
    assert made["email"] == "billing@example.com"
    assert world.made("customers", archived)["organization"] == {"legal_name": "Old & Co"}

    source, destination = metadata(first, "metronome", "customers"), metadata(first, "solvimon", "customers")
    assert (source["dagster/row_count"], source["refused"], source["requests"], source["retries"]) == (2, 0, 2, 0)
    assert {row["name"] for row in rows(source["preview"])} == {"Acme", "Old & Co"}
    assert [destination[name] for name in ("created", "updated", "unchanged", "refused")] == [2, 0, 0, 0]
    assert destination["requests"] == 3
    assert {row["reference"]: row["outcome"] for row in rows(destination["preview"])} == {
        active: "created",
        archived: "created",
    }
    assert world.sql(
        "SELECT name, external_id, ingest_aliases, custom_fields, archived_at IS NULL, gone_at "
        "FROM metronome.customers ORDER BY name"
    ) == [
        ("Acme", "acme", ["acme"], {"tier": "gold"}, True, None),
        ("Old & Co", archived, [], {}, False, None),
    ]
    assert world.sql("SELECT solvimon_id, legal_name, run_id FROM solvimon.customers WHERE reference = %s", active) == [
        (made["id"], "Acme", first.run_id)
    ]

    world.solvimon.forget_requests()
    second = metadata(world.run("import_customers"), "solvimon", "customers")
    assert [second[name] for name in ("created", "updated", "unchanged", "refused")] == [0, 0, 2, 0]
    assert world.solvimon.writes() == {}


def test_a_renamed_customer_is_renamed_and_keeps_what_people_added_in_solvimon(world: World) -> None:
    customer = world.customer("Acme")
    world.run("import_customers")
    added = {"legal_name": "Acme", "tax_id": "12/345/67890", "registered_address": {"city": "Berlin", "country": "DE"}}
    world.solvimon.call("PATCH", f"/v1/customers/{customer}", {"organization": added, "timezone": "Europe/Berlin"})
    world.customer("Acme Holding", id=customer)

    world.solvimon.forget_requests()
    result = metadata(world.run("import_customers"), "solvimon", "customers")
    assert world.solvimon.writes() == {"PATCH /v1/customers/{id}": 1}
    assert (result["updated"], result["unchanged"]) == (1, 0)
    renamed = world.made("customers", customer)
    assert renamed["organization"] == {**added, "legal_name": "Acme Holding"}
    assert renamed["timezone"] == "Europe/Berlin"


def test_names_in_any_script_survive_and_what_cannot_be_stored_is_refused_by_name(world: World) -> None:
    kept = [
        "\u05e9\u05dc\u05d5\u05dd \u200f\u05e2\u05d5\u05dc\u05dd",  # right to left, with its mark
        "\u0646\u0631\u0645\u200c\u0627\u0641\u0632\u0627\u0631",  # zero-width non-joiner
        "👩‍👩‍👧‍👦 family",  # joined emoji
        "e\u0301",  # a combining accent
        "株式会社",
        "'; DROP TABLE metronome.customers; --",
        "<script>alert(1)</script>",
        "%s {0} \\u0000",
        "x" * 256,
    ]
    names = {world.customer(name): name for name in kept}
    broken = world.customer("Two\r\nlines\u2028and\x85three\x07")
    long = world.customer("y" * 300)
    nul = world.customer("a\0b")
    surrogate = world.customer("a\ud800b")
    upper = world.customer("Acme", id=str(uuid.uuid4()).upper())
    result = world.run("import_customers")
    assert result.success, failure(result)

    for reference, name in names.items():
        assert world.made("customers", reference)["organization"]["legal_name"] == name
    assert world.made("customers", broken)["organization"]["legal_name"] == "Two lines and three "
    assert world.made("customers", long)["organization"]["legal_name"] == "y" * 255 + "…"
    assert world.sql("SELECT name FROM metronome.customers WHERE customer_id = %s", long) == [("y" * 300,)]
    source = metadata(result, "metronome", "customers")
    refused = {row["id"]: (row["field"], row["reason"]) for row in rows(source["refused_records"])}
    assert {reference: field for reference, (field, _) in refused.items()} == {
        nul: "name",
        surrogate: "name",
        upper: "id",
    }
    assert "NUL" in refused[nul][1]
    assert source["refused"] == 3
    assert source["dagster/row_count"] == metadata(result, "solvimon", "customers")["created"] == len(kept) + 2

    world.solvimon.forget_requests()
    assert world.run("import_customers").success
    assert world.solvimon.writes() == {}


def test_a_customer_that_cannot_be_stored_any_more_stays_as_it_was(world: World) -> None:
    customer = world.customer("Acme")
    world.run("import_customers")
    world.customer("a\0b", id=customer)
    result = world.run("import_customers")
    assert result.success, failure(result)
    assert metadata(result, "metronome", "customers")["refused"] == 1
    assert world.sql("SELECT name, gone_at FROM metronome.customers") == [("Acme", None)]


def test_what_exists_is_taken_over_or_refused_by_name_and_the_others_go_on(world: World) -> None:
    individual, closed, archived, draft, renamed, new = (world.customer(name) for name in "ICADRN")
    _have(world, reference=individual, type="INDIVIDUAL")
    _have(world, reference=closed)
    world.solvimon.call("POST", f"/v1/customers/{closed}/forget")
    _have(world, reference=archived)
    world.solvimon.call("POST", f"/v1/customers/{archived}/archive")
    _have(world, reference=draft, status="DRAFT", organization={"legal_name": "D"})
    _have(world, reference=renamed, organization={"legal_name": "Before"})
    # Whatever the list shows, and however conflicts and missing resources are answered.
    world.solvimon.set(
        hide_drafts_in_lists=True,
        customers_conflict_status=400,
        conflict_includes_resource_id=False,
        not_found_status=400,
    )
    result = world.run("import_customers")
    assert result.success, failure(result)

    outcomes = world.outcomes("customers")
    assert {reference: outcome for reference, (outcome, _) in outcomes.items()} == {
        individual: "refused",
        closed: "refused",
        archived: "refused",
        draft: "updated",
        renamed: "updated",
        new: "created",
    }
    for reference, has in ((individual, "type INDIVIDUAL"), (closed, "status CLOSED"), (archived, "status ARCHIVED")):
        reason = outcomes[reference][1] or ""
        assert reference in reason
        assert has in reason
        assert "import again" in reason
    assert world.made("customers", draft)["status"] == "ACTIVE"
    assert world.made("customers", renamed)["organization"]["legal_name"] == "R"
    shown = metadata(result, "solvimon", "customers")
    assert {row["reference"] for row in rows(shown["refused_records"])} == {individual, closed, archived}


def test_a_customer_that_solvimon_refuses_is_named_with_its_words_and_the_others_go_on(world: World) -> None:
    customers = sorted(world.customer(f"Customer {number}") for number in range(9))
    body = {"code": "INVALID_FIELD", "type": "INVALID_REQUEST", "field": "organization", "message": "No such company"}
    refusal = {"path": "/v1/customers", "method": "POST", "status": 400, "body": body}
    world.solvimon.call("PUT", "/_sandbox/answers", [refusal])
    result = world.run("import_customers")
    assert result.success, failure(result)
    outcomes = world.outcomes("customers")
    assert sorted(outcomes) == customers
    [(reference, reason)] = [(key, why) for key, (outcome, why) in outcomes.items() if outcome == "refused"]
    for words in ("Solvimon answered 400 to POST /v1/customers", "INVALID_FIELD", "organization", "No such company"):
        assert words in (reason or "")
    [row] = rows(metadata(result, "solvimon", "customers")["refused_records"])
    assert row["reference"] == reference

    assert world.run("import_customers").success
    assert world.outcomes("customers")[reference] == ("created", None)


def test_a_create_that_is_repeated_makes_one_customer(world: World) -> None:
    for number in range(30):
        world.customer(f"Customer {number}")
    world.solvimon.faults(
        {"path": "/v1/customers", "method": "POST", "kind": "reset_after", "times": 2},
        {"path": "/v1/customers", "method": "POST", "kind": "truncated_body", "times": 2, "after": 2},
        {"path": "/v1/customers", "method": "POST", "kind": "html_200", "times": 1, "after": 4},
        {"path": "/v1/customers", "method": "POST", "kind": "status_503", "times": 2, "after": 6},
        {"path": "/v1/customers", "method": "POST", "kind": "status_429", "times": 1, "after": 8},
        {"path": "/v1/customers", "method": "GET", "kind": "status_500", "times": 1},
    )
    result = world.run("import_customers")
    assert result.success, failure(result)
    assert metadata(result, "solvimon", "customers")["created"] == 30
    assert metadata(result, "solvimon", "customers")["retries"] == 9
    assert _count(world) == 30
    log = world.solvimon.call("GET", "/_sandbox/requests/log")["requests"]
    creates = [request for request in log if request["endpoint"] == "POST /v1/customers"]
    assert len(creates) == 30 + 8
    keys = {(request["headers"]["idempotency-key"], request["body"]["reference"]) for request in creates}
    assert len(keys) == 30


def test_a_wrong_credential_ends_the_run_at_once_in_one_sentence(world: World) -> None:
    world.customer("Acme")
    for kind in ("status_401", "status_403"):
        world.metronome.forget_requests()
        world.metronome.faults({"kind": kind})
        sentence = failure(world.run("import_customers"))
        assert f"Metronome answered {kind[-3:]} to GET /v1/customers" in sentence
        assert "METRONOME_BEARER_TOKEN" in sentence
        assert "Traceback" not in sentence
        assert world.metronome.requests() == {"GET /v1/customers": 1}
    assert world.sql("SELECT * FROM metronome.customers") == []

    world.metronome.faults()
    for kind, after in (("status_401", 0), ("status_403", 1)):
        world.solvimon.forget_requests()
        world.solvimon.faults({"kind": kind, "after": after})
        sentence = failure(world.run("import_customers"))
        assert f"Solvimon answered {kind[-3:]}" in sentence
        assert "SOLVIMON_API_KEY" in sentence
        assert sum(world.solvimon.requests().values()) == 1 + after
    assert world.sql("SELECT * FROM solvimon.customers") == []

    secrets = (world.metronome.headers["Authorization"].split()[1], world.solvimon.headers["X-API-KEY"])
    for run in world.instance.get_runs():
        for entry in world.instance.all_logs(run.run_id):
            assert not any(secret in str(entry) for secret in secrets)


def test_a_token_of_another_environment_stores_and_creates_nothing(world: World) -> None:
    customer, metric = world.customer("Acme"), world.metric("SUM")
    product = world.product(type="USAGE", initial={"name": "Calls", "billable_metric_id": metric})
    world.imports()
    other = {"Authorization": f"Bearer token-{uuid.uuid4()}"}
    world.metronome.headers = other
    world.metronome.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
    world.customer("Somebody else")
    world.product(type="USAGE", initial={"name": "Other", "billable_metric_id": world.metric("SUM")})
    world.solvimon.forget_requests()
    for job, known in (
        ("import_customers", customer),
        ("import_meters", metric),
        ("import_products", product),
        ("import_everything", customer),
    ):
        result = world.run(job)
        assert not result.success
        assert "METRONOME_BEARER_TOKEN seems to be of another environment" in failure(result)
        assert known in failure(result)
    assert world.solvimon.requests() == {}
    for table in ("customers", "billable_metrics", "products"):
        assert world.sql(f"SELECT count(*), count(gone_at) FROM metronome.{table}") == [(1, 0)]


def test_an_import_costs_no_request_for_a_customer_that_is_there(world: World) -> None:
    empty = world.run("import_everything")
    for kind in ("customers", "meters", "products"):
        assert metadata(empty, "solvimon", kind)["dagster/row_count"] == 0

    bodies = [{"id": str(uuid.uuid4()), "name": f"Customer {number}"} for number in range(500)]
    world.metronome.call("POST", "/_sandbox/customers", bodies)
    world.solvimon.forget_requests()
    assert world.run("import_customers").success
    assert world.solvimon.requests() == {"GET /v1/customers": 1, "POST /v1/customers": 500}

    world.metronome.forget_requests()
    world.solvimon.forget_requests()
    again = metadata(world.run("import_customers"), "solvimon", "customers")
    assert again["unchanged"] == 500
    assert again["requests"] == 10
    assert len(rows(again["preview"])) == 20
    assert world.solvimon.requests() == {"GET /v1/customers": 10}
    assert world.metronome.requests() == {"GET /v1/customers": 6}


def test_an_allow_list_of_customers_and_metrics_permits_a_pilot(world: World) -> None:
    pilot, other = world.customer("Pilot"), world.customer("Other")
    metric, left_out = world.metric("SUM", name="Calls"), world.metric("SUM", name="Bytes")
    product = world.product(type="USAGE", initial={"name": "Bytes", "billable_metric_id": left_out})
    world.imports(USAGE_CUSTOMERS=pilot, USAGE_METRICS=metric)
    assert set(world.outcomes("customers")) == {pilot}
    assert set(world.outcomes("meters")) == {metric}
    outcome, reason = world.outcomes("products")[product]
    assert outcome == "refused"
    assert "USAGE_METRICS" in (reason or "")
    assert world.sql("SELECT count(*) FROM metronome.customers WHERE customer_id = %s", other) == [(1,)]
