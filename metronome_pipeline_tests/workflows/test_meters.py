"""Import meters, through real runs: every billable metric becomes a meter that can hold its usage exactly."""

import uuid
from typing import Any

from metronome_pipeline_tests.world import World, failure, metadata, rows

ARCHIVED = "2026-01-01T00:00:00Z"


def _have(world: World, path: str, reference: str, **fields: Any) -> str:
    """A meter, or a part of one, that someone made in Solvimon; its id."""
    body = {"reference": reference, "name": "Theirs", "status": "ACTIVE", **fields}
    if path == "meter-value-calculations":
        del body["status"]
    return str(world.solvimon.call("POST", f"/v1/{path}", body)["id"])


def _all(world: World, path: str) -> dict[str, dict[str, Any]]:
    """Everything of a kind that stands in Solvimon, by reference."""
    listed = world.solvimon.call("GET", f"/v1/{path}", limit=100)["data"]
    return {resource["reference"]: resource for resource in listed}


def test_every_metric_becomes_a_meter_and_a_second_run_changes_nothing(world: World) -> None:
    count = world.metric("COUNT", name="Requests")
    total = world.metric("SUM", name="Bytes", group_keys=[["region"], ["cluster", "tier"], ["tier", "region"]])
    peak = world.metric("max", name="Peak", archived_at=ARCHIVED)
    first = world.run("import_meters")
    assert first.success, failure(first)

    properties = _all(world, "meter-properties")
    assert {key: (p["name"], p["type"], p["status"]) for key, p in properties.items()} == {
        key: (key, "STRING", "ACTIVE") for key in ("region", "cluster", "tier")
    }
    calculations = _all(world, "meter-value-calculations")
    for metric, name, calculation in ((count, "Requests", "SUM"), (total, "Bytes", "SUM"), (peak, "Peak", "MAX")):
        meter, value = world.made("meters", metric), world.made("meter-values", f"{metric}_value")
        assert (meter["name"], meter["status"]) == (name, "ACTIVE")
        assert (value["name"], value["type"], value["status"]) == (name, "NUMBER", "ACTIVE")
        assert [(link["id"], link["required"]) for link in meter["meter_values"]] == [(value["id"], True)]
        made = calculations[f"{metric}_{calculation.lower()}"]
        assert (made["name"], made["calculation_type"], made["persist"]) == (name, calculation, False)
        assert (made["meter_id"], made["meter_value_id"]) == (meter["id"], value["id"])
        assert world.sql(
            "SELECT solvimon_id, name, calculation_id, calculation_type, outcome FROM solvimon.meters "
            "WHERE reference = %s",
            metric,
        ) == [(meter["id"], name, made["id"], calculation, "created")]
    links = world.made("meters", total)["meter_properties"]
    assert [(link["reference"], link["required"]) for link in links] == [
        ("region", False),
        ("cluster", False),
        ("tier", False),
    ]
    assert world.sql("SELECT properties FROM solvimon.meters WHERE reference = %s", total) == [
        (["region", "cluster", "tier"],)
    ]
    assert metadata(first, "metronome", "billable_metrics")["dagster/row_count"] == 3
    assert metadata(first, "solvimon", "meters")["created"] == 3
    assert world.sql("SELECT aggregation_type FROM metronome.billable_metrics ORDER BY 1") == [
        ("COUNT",),
        ("MAX",),
        ("SUM",),
    ]

    world.solvimon.forget_requests()
    second = metadata(world.run("import_meters"), "solvimon", "meters")
    assert [second[name] for name in ("created", "updated", "unchanged", "refused")] == [0, 0, 3, 0]
    assert world.solvimon.writes() == {}


def test_a_new_name_and_a_new_group_key_reach_a_meter_that_people_have_added_to(world: World) -> None:
    metric = world.metric("SUM", name="Calls", group_keys=[["region"]])
    world.run("import_meters")
    region = world.made("meter-properties", "region")["id"]
    note = _have(world, "meter-properties", "note", type="STRING")
    # Someone wants to price by region, which Solvimon allows for required properties only, and added a note.
    theirs = [{"id": region, "required": True}, {"id": note, "required": False}]
    world.solvimon.call("PATCH", f"/v1/meters/{metric}", {"meter_properties": theirs})
    world.metric("SUM", name="API calls", group_keys=[["region"], ["team"]], id=metric)

    result = metadata(world.run("import_meters"), "solvimon", "meters")
    assert (result["created"], result["updated"]) == (1, 0)
    meter = world.made("meters", metric)
    assert meter["name"] == "API calls"
    assert [(link["reference"], link["required"]) for link in meter["meter_properties"]] == [
        ("region", True),
        ("note", False),
        ("team", False),
    ]
    assert len(meter["meter_values"]) == 1
    assert world.made("meter-values", f"{metric}_value")["name"] == "API calls"
    assert _all(world, "meter-value-calculations")[f"{metric}_sum"]["name"] == "API calls"

    # The metric loses a group key: its property stays, and as it is required, events could not do without it.
    world.metric("SUM", name="API calls", group_keys=[["team"]], id=metric)
    world.solvimon.forget_requests()
    assert metadata(world.run("import_meters"), "solvimon", "meters")["refused"] == 1
    assert "region as required" in (world.outcomes("meters")[metric][1] or "")
    assert world.solvimon.writes() == {}


def test_metrics_whose_hours_do_not_add_up_have_no_calculation_until_a_setting_names_one(world: World) -> None:
    latest, unique = world.metric("LATEST", name="Seats"), world.metric("UNIQUE", name="Users")
    sql = world.metric(None, name="Query", sql="SELECT 1 AS value")
    strange = world.metric("AVERAGE", name="Mean")
    products = {
        metric: world.product(type="USAGE", initial={"name": "P", "billable_metric_id": metric})
        for metric in (latest, unique, sql, strange)
    }
    world.imports()
    for metric, kind in ((latest, "LATEST"), (unique, "UNIQUE"), (sql, "SQL"), (strange, "AVERAGE")):
        assert world.made("meters", metric)["status"] == "ACTIVE"
        outcome, reason = world.outcomes("meters")[metric]
        assert outcome == "created"
        assert f"a {kind} metric" in (reason or "")
        assert "METRIC_CALCULATIONS" in (reason or "")
        outcome, reason = world.outcomes("products")[products[metric]]
        assert outcome == "refused"
        assert metric in (reason or "")
        assert "METRIC_CALCULATIONS" in (reason or "")
    assert _all(world, "meter-value-calculations") == {}
    assert _all(world, "products") == {}

    chosen = f'{{"{latest}": "MAX", "{sql}": "SUM"}}'
    result = world.imports(METRIC_CALCULATIONS=chosen)
    assert set(_all(world, "meter-value-calculations")) == {f"{latest}_max", f"{sql}_sum"}
    shown = metadata(result, "solvimon", "meters")
    assert (shown["created"], shown["unchanged"]) == (2, 2)
    assert {row["reference"] for row in rows(shown["to_note"])} == {unique, strange}
    assert {reference: outcome for reference, (outcome, _) in world.outcomes("products").items()} == {
        products[latest]: "created",
        products[sql]: "created",
        products[unique]: "refused",
        products[strange]: "refused",
    }


def test_group_keys_and_names_of_any_kind_survive(world: World) -> None:
    key = "data centre/50% \u00a0→ \u05d0\u05d1"
    names = [
        "👩‍👩‍👧‍👦",
        "\u0646\u0631\u0645\u200c\u0627\u0641\u0632\u0627\u0631",
        "'; DROP TABLE x; --",
        "<b>%s</b>",
        "z" * 256,
    ]
    metrics = {world.metric("SUM", name=name, group_keys=[[key], ["."]]): name for name in names}
    broken = world.metric("SUM", name="Two\nlines", group_keys=[[key], ["data%20centre", "data centre"]])
    long = world.metric("SUM", name="w" * 257)
    too_long = world.metric("SUM", name="Too long", group_keys=[["k" * 257]])
    nul = world.metric("SUM", group_keys=[["a\0b"]])
    surrogate = world.metric("SUM", name="\udfff")
    result = world.run("import_meters")
    assert result.success, failure(result)

    for metric, name in metrics.items():
        assert world.made("meters", metric)["name"] == name
    assert world.made("meters", broken)["name"] == "Two lines"
    assert world.made("meters", long)["name"] == "w" * 255 + "…"
    reference = "data%20centre/50%25%20%C2%A0→%20\u05d0\u05d1"
    properties = _all(world, "meter-properties")
    assert {reference: made["name"] for reference, made in properties.items()} == {
        reference: "data centre/50% \u00a0→ \u05d0\u05d1",
        "%2E": ".",
        "data%20centre": "data centre",
        "data%2520centre": "data%20centre",
    }
    assert world.solvimon.writes()["POST /v1/meter-properties"] == len(properties)
    outcome, reason = world.outcomes("meters")[too_long]
    assert outcome == "refused"
    assert "256" in (reason or "")
    refused = rows(metadata(result, "metronome", "billable_metrics")["refused_records"])
    assert {(row["id"], row["field"]) for row in refused} == {(nul, "group_keys[0][0]"), (surrogate, "name")}
    world.solvimon.forget_requests()
    assert metadata(world.run("import_meters"), "solvimon", "meters")["unchanged"] == len(names) + 2
    assert world.solvimon.writes() == {}


def test_what_exists_with_another_type_is_refused_by_name_and_the_others_go_on(world: World) -> None:
    enum = world.metric("SUM", name="enum", group_keys=[["fine"], ["tier"]])
    number = world.metric("SUM", name="number", group_keys=[["size"]])
    amount, retired, summed = (world.metric("SUM", name=name) for name in ("amount", "retired", "summed"))
    other_calculation, rolling, other_value, demanding, archived, good = (
        world.metric("SUM", name=name) for name in ("calculation", "rolling", "value", "demanding", "archived", "good")
    )
    _have(world, "meter-properties", "tier", type="ENUM", enum_values=["a"])
    size = _have(world, "meter-properties", "size", type="NUMBER")
    _have(world, "meter-values", f"{amount}_value", type="AMOUNT")
    _have(world, "meter-values", f"{retired}_value", type="NUMBER", status="ARCHIVED")
    stranger = _have(world, "meter-values", "stranger", type="NUMBER")
    _have(world, "meters", other_value, meter_values=[{"id": stranger, "required": True}])
    _have(world, "meters", archived, status="ARCHIVED")
    for metric in (other_calculation, rolling, demanding, summed):
        value = _have(world, "meter-values", f"{metric}_value", type="NUMBER")
        required = [{"id": size, "required": True}] if metric == demanding else []
        links = [{"id": value, "required": True}]
        meter = _have(world, "meters", metric, meter_values=links, meter_properties=required)
        calculation: dict[str, Any] = {"calculation_type": "SUM", "meter_id": meter, "meter_value_id": value}
        calculation |= {"persist": metric == rolling}
        calculation |= {"calculation_type": "MAX"} if metric == other_calculation else {}
        _have(world, "meter-value-calculations", f"{metric}_sum", **calculation)

    result = world.run("import_meters")
    assert result.success, failure(result)
    outcomes = world.outcomes("meters")
    assert {reference for reference, (outcome, _) in outcomes.items() if outcome != "refused"} == {good, summed}
    for metric, words in (
        (enum, ("meter property", "tier", "ENUM", "STRING")),
        (number, ("meter property", "size", "NUMBER", "STRING")),
        (amount, ("meter value", f"{amount}_value", "AMOUNT", "NUMBER")),
        (retired, ("meter value", "ARCHIVED")),
        (other_calculation, ("calculation", f"{other_calculation}_sum", "MAX")),
        (rolling, ("calculation", f"{rolling}_sum", "persist")),
        (other_value, ("meter", other_value, f"{other_value}_value")),
        (demanding, ("meter", demanding, "size as required")),
        (archived, ("meter", archived, "ARCHIVED")),
    ):
        outcome, reason = outcomes[metric]
        assert outcome == "refused"
        assert all(word in (reason or "") for word in words), reason
    shown = metadata(result, "solvimon", "meters")
    assert (shown["refused"], shown["created"], shown["updated"]) == (9, 1, 1)
    assert world.made("meters", summed)["name"] == "summed"
    assert world.sql("SELECT reference FROM solvimon.meters WHERE calculation_id IS NOT NULL ORDER BY name") == [
        (good,),
        (summed,),
    ]


def test_drafts_are_made_active_however_the_api_hides_them(world: World) -> None:
    metrics = [world.metric("SUM", name=name, group_keys=[["region"]]) for name in ("One", "Two")]
    _have(world, "meter-properties", "region", type="STRING", status="DRAFT")
    value = _have(world, "meter-values", f"{metrics[0]}_value", type="NUMBER", status="DRAFT")
    _have(world, "meters", metrics[0], status="DRAFT", meter_values=[{"id": value, "required": True}])
    world.solvimon.set(
        hide_drafts_in_lists=True,
        conflict_status=400,
        conflict_includes_resource_id=False,
        not_found_status=400,
        meter_links="merge",
    )
    result = world.run("import_meters")
    assert result.success, failure(result)
    assert world.made("meter-properties", "region")["status"] == "ACTIVE"
    assert world.made("meter-values", f"{metrics[0]}_value")["status"] == "ACTIVE"
    for metric in metrics:
        meter = world.made("meters", metric)
        assert meter["status"] == "ACTIVE"
        assert [link["reference"] for link in meter["meter_properties"]] == ["region"]
    assert world.solvimon.requests()["PATCH /v1/meter-properties/{id}"] == 1
    world.solvimon.forget_requests()
    assert metadata(world.run("import_meters"), "solvimon", "meters")["unchanged"] == 2
    assert world.solvimon.writes() == {}


def test_what_another_run_made_meanwhile_is_taken_over(world: World) -> None:
    metric = world.metric("SUM", name="Calls", group_keys=[["region"]])
    world.run("import_meters")
    [(calculation,)] = world.sql("SELECT calculation_id FROM solvimon.meters")
    # The lists were read before the other run had made anything.
    early = [
        {"path": f"/v1/{path}", "method": "GET", "body": {"data": []}}
        for path in ("meter-values", "meter-properties", "meters", "meter-value-calculations")
    ]
    world.solvimon.call("PUT", "/_sandbox/answers", early)
    result = metadata(world.run("import_meters"), "solvimon", "meters")
    assert (result["unchanged"], result["refused"]) == (1, 0)
    assert world.sql("SELECT reference, calculation_id FROM solvimon.meters") == [(metric, calculation)]


def test_creates_that_are_repeated_make_each_part_once(world: World) -> None:
    metrics = [world.metric("SUM", name=f"Metric {number}", group_keys=[["a"], ["b"]]) for number in range(5)]
    paths = ("meter-values", "meter-properties", "meters", "meter-value-calculations")
    world.solvimon.faults(
        *(
            {"path": f"/v1/{path}", "method": "POST", "kind": kind, "times": 1, "after": 2 * number}
            for path in paths
            for number, kind in enumerate(("reset_after", "status_503"))
        )
    )
    result = world.run("import_meters")
    assert result.success, failure(result)
    assert metadata(result, "solvimon", "meters")["created"] == 5
    assert metadata(result, "solvimon", "meters")["retries"] == 8
    assert [len(world.solvimon.call("GET", f"/v1/{path}")["data"]) for path in paths] == [5, 2, 5, 5]
    assert set(_all(world, "meters")) == set(metrics)


def test_a_missing_permission_ends_the_run_at_once_and_stores_no_outcome(world: World) -> None:
    world.metric("SUM")
    world.metric("SUM")
    names = ("METER_VALUE.VIEW", "METER_PROPERTY.VIEW", "METER.VIEW", "METER_VALUE_CALCULATION.VIEW")
    world.solvimon.call("PUT", "/_sandbox/permissions", list(names))
    sentence = failure(world.run("import_meters"))
    assert "Solvimon answered 403 to POST /v1/meter-values" in sentence
    assert "SOLVIMON_API_KEY" in sentence
    assert world.solvimon.writes() == {"POST /v1/meter-values": 1}
    assert world.outcomes("meters") == {}


def test_a_metric_that_is_not_listed_any_more_is_marked_and_its_meter_left_alone(world: World) -> None:
    kept, other, gone = (world.metric("SUM", name=name) for name in ("Kept", "Other", "Gone"))
    world.run("import_meters")
    world.metronome.headers = {"Authorization": f"Bearer token-{uuid.uuid4()}"}
    world.metronome.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
    world.metric("SUM", name="Kept", id=kept)
    world.metric("SUM", name="Other", id=other)
    result = world.run("import_meters")
    assert result.success, failure(result)
    assert world.sql("SELECT metric_id::text FROM metronome.billable_metrics WHERE gone_at IS NOT NULL") == [(gone,)]
    assert metadata(result, "solvimon", "meters")["dagster/row_count"] == 2
    assert world.made("meters", gone)["status"] == "ACTIVE"
