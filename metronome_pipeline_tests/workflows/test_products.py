"""Import products, through real runs: what can be linked to a meter exactly is, the rest is listed with its reason."""

from typing import Any

from metronome_pipeline_tests.world import World, failure, metadata, rows

ARCHIVED = "2026-01-01T00:00:00Z"


def _usage(world: World, metric: str, name: str = "Calls", **fields: Any) -> str:
    initial = {"name": name, "billable_metric_id": metric, **fields.pop("initial", {})}
    return world.product(type="USAGE", initial=initial, **fields)


def _have(world: World, path: str, **fields: Any) -> str:
    """A product, or a part of one, that someone made in Solvimon; its id."""
    return str(world.solvimon.call("POST", f"/v1/{path}", {"name": "Theirs", **fields})["id"])


def _all(world: World, path: str) -> dict[str, dict[str, Any]]:
    listed = world.solvimon.call("GET", f"/v1/{path}", limit=100)["data"]
    return {resource["reference"]: resource for resource in listed}


def test_products_become_products_with_one_active_item_and_a_second_run_changes_nothing(world: World) -> None:
    metric = world.metric("SUM", name="Calls")
    usage = _usage(world, metric)
    twin = _usage(world, metric, name="Two\nlines 👩‍👩‍👧‍👦")
    archived = _usage(world, metric, name="Old", archived_at=ARCHIVED)
    seats = world.product(type="SUBSCRIPTION", initial={"name": "s" * 300})
    first = world.imports()

    [(calculation,)] = world.sql("SELECT calculation_id FROM solvimon.meters")
    categories = _all(world, "product-categories")
    assert {reference: category["name"] for reference, category in categories.items()} == {
        "metronome_products": "Metronome Products"
    }
    names = {usage: "Calls", twin: "Two lines 👩‍👩‍👧‍👦", archived: "Old", seats: "s" * 255 + "…"}
    items = _all(world, "product-items")
    for reference, name in names.items():
        product = world.made("products", reference)
        assert (product["name"], product["status"]) == (name, "ACTIVE")
        assert product["category_id"] == categories["metronome_products"]["id"]
        item = items.pop(f"{reference}_recurring" if reference == seats else f"{reference}_usage")
        assert (item["name"], item["status"], item["product_id"]) == (name, "ACTIVE", product["id"])
        assert item["model_type"] == ("RECURRING" if reference == seats else "USAGE_BASED")
        assert item.get("usage_based") == (None if reference == seats else {"meter_value_calculation_id": calculation})
        assert world.sql(
            "SELECT solvimon_id, name, item_id, model_type, calculation_id, outcome FROM solvimon.products "
            "WHERE reference = %s",
            reference,
        ) == [
            (
                product["id"],
                name,
                item["id"],
                item["model_type"],
                None if reference == seats else calculation,
                "created",
            )
        ]
    assert items == {}
    assert metadata(first, "solvimon", "products")["created"] == 4
    assert metadata(first, "metronome", "products")["dagster/row_count"] == 4

    world.solvimon.forget_requests()
    second = metadata(world.run("import_products"), "solvimon", "products")
    assert [second[name] for name in ("created", "updated", "unchanged", "refused")] == [0, 0, 4, 0]
    assert world.solvimon.writes() == {}


def test_a_product_keeps_its_first_name_and_a_rename_is_reported(world: World) -> None:
    product = world.product(
        type="SUBSCRIPTION",
        initial={"name": "Seats"},
        updates=[
            {"name": "Seats (v2)", "starting_at": ARCHIVED, "created_at": ARCHIVED, "created_by": "Alice"},
            {"name": "Later", "starting_at": "2999-01-01T00:00:00Z", "created_at": ARCHIVED, "created_by": "Alice"},
        ],
    )
    world.imports()
    world.solvimon.forget_requests()
    result = world.run("import_products")
    assert world.solvimon.writes() == {}
    assert world.made("products", product)["name"] == "Seats"
    outcome, reason = world.outcomes("products")[product]
    assert outcome == "unchanged"
    assert "'Seats (v2)'" in (reason or "")
    assert [row["reference"] for row in rows(metadata(result, "solvimon", "products")["to_note"])] == [product]


def test_what_a_plain_link_would_bill_wrongly_is_refused_by_name_and_the_others_go_on(world: World) -> None:
    metric, other = world.metric("SUM", name="Calls"), world.metric("SUM", name="Bytes")
    stamp = {"starting_at": "2999-01-01T00:00:00Z", "created_at": ARCHIVED, "created_by": "Alice"}
    conversion = {"quantity_conversion": {"conversion_factor": 1024, "operation": "divide"}}
    rounding = {"quantity_rounding": {"rounding_method": "ROUND_UP", "decimal_places": 0}}
    expected = {
        world.product(type="COMPOSITE", initial={"name": "Composite"}): "COMPOSITE",
        world.product(type="fixed", initial={"name": "Fixed"}): "FIXED",
        world.product(type="PRO_SERVICE", initial={"name": "Hours"}): "PRO_SERVICE",
        world.product(type="BUNDLE", initial={"name": "Bundle"}): "does not know the type",
        _usage(world, metric, "Converted", initial=conversion): "converts quantities",
        _usage(world, metric, "Later converted", updates=[{**conversion, **stamp}]): "converts quantities",
        _usage(world, metric, "Rounded", initial=rounding): "rounds quantities",
        _usage(world, metric, "Moved", updates=[{"billable_metric_id": other, **stamp}]): other,
        _usage(world, metric, "Dropped", updates=[{"billable_metric_id": None, **stamp}]): "changes over time",
        world.product(type="USAGE", initial={"name": "Unlinked"}): "without a billable metric",
        _usage(world, "6f0c63a1-6a14-4a4c-9a2a-0d8a5b1f2c3d", "Unknown metric"): "6f0c63a1",
    }
    late = world.product(type="USAGE", initial={"name": "Late"}, updates=[{"billable_metric_id": metric, **stamp}])
    nul = world.product(type="SUBSCRIPTION", initial={"name": "a\0b"})
    broken = world.product(type="SUBSCRIPTION", initial={"name": None})
    good = _usage(world, metric, "'; DROP TABLE metronome.products; -- <b>")
    result = world.imports()

    outcomes = world.outcomes("products")
    assert {reference for reference, (outcome, _) in outcomes.items() if outcome == "created"} == {good, late}
    for reference, words in expected.items():
        outcome, reason = outcomes[reference]
        assert outcome == "refused"
        assert words in (reason or ""), reason
    shown = metadata(result, "solvimon", "products")
    refused = {row["reference"]: row["name"] for row in rows(shown["refused_records"])}
    assert set(refused) == set(expected)
    assert {"Composite", "Converted", "Moved"} <= set(refused.values())
    assert set(_all(world, "products")) == {good, late}
    unread = {row["id"]: row["field"] for row in rows(metadata(result, "metronome", "products")["refused_records"])}
    assert unread == {nul: "initial.name", broken: "initial.name"}


def test_what_exists_is_taken_over_or_refused_by_name(world: World) -> None:
    metric, other = world.metric("SUM", name="Calls"), world.metric("SUM", name="Bytes")
    draft, model, link, foreign, archived, idle = (_usage(world, metric, name) for name in "DMLFAI")
    world.run("import_meters")
    calculations = dict(world.sql("SELECT reference, calculation_id FROM solvimon.meters"))
    category = _have(world, "product-categories", name="Metronome Products", reference="theirs")
    ours = {"model_type": "USAGE_BASED", "usage_based": {"meter_value_calculation_id": calculations[metric]}}
    ids = {
        reference: _have(world, "products", reference=reference, category_id=category)
        for reference in (draft, model, link, foreign, archived, idle)
    }
    _have(world, "product-items", reference=f"{draft}_usage", product_id=ids[draft], **ours)
    _have(world, "product-items", reference=f"{model}_usage", product_id=ids[model], model_type="ONE_OFF")
    wrong = {"model_type": "USAGE_BASED", "meter_value_calculation_id": calculations[other]}
    _have(world, "product-items", reference=f"{link}_usage", product_id=ids[link], **wrong)
    _have(world, "product-items", reference=f"{foreign}_usage", product_id=ids[draft], **ours)
    _have(world, "product-items", reference=f"{idle}_usage", product_id=ids[idle], **ours)
    world.solvimon.call("POST", f"/v1/product-items/{idle}_usage/archive")
    world.solvimon.call("POST", f"/v1/products/{archived}/archive")
    world.solvimon.set(
        hide_drafts_in_lists=True, conflict_status=400, conflict_includes_resource_id=False, not_found_status=400
    )
    result = world.run("import_products")
    assert result.success, failure(result)

    outcomes = world.outcomes("products")
    assert outcomes.pop(draft) == ("updated", None)
    assert (world.made("products", draft)["status"], world.made("product-items", f"{draft}_usage")["status"]) == (
        "ACTIVE",
        "ACTIVE",
    )
    for reference, words in (
        (model, (f"{model}_usage", "ONE_OFF", "USAGE_BASED")),
        (link, (f"{link}_usage", calculations[other], calculations[metric])),
        (foreign, (f"{foreign}_usage", ids[draft], ids[foreign])),
        (archived, (archived, "ARCHIVED")),
        (idle, (f"{idle}_usage", "ARCHIVED")),
    ):
        outcome, reason = outcomes.pop(reference)
        assert outcome == "refused"
        assert all(word in (reason or "") for word in words), reason
    assert outcomes == {}
    assert set(_all(world, "product-categories")) == {"theirs"}
    assert world.made("products", model)["status"] == "DRAFT"


def test_items_are_active_and_linked_however_the_api_wants_it(world: World) -> None:
    metric = world.metric("SUM")
    product, seats = _usage(world, metric), world.product(type="SUBSCRIPTION", initial={"name": "Seats"})
    world.solvimon.set(calculation_link="top_level", item_status_readonly=False)
    world.imports()
    [(calculation,)] = world.sql("SELECT calculation_id FROM solvimon.meters")
    item = world.made("product-items", f"{product}_usage")
    assert (item["status"], item["meter_value_calculation_id"]) == ("ACTIVE", calculation)
    assert world.made("product-items", f"{seats}_recurring")["status"] == "ACTIVE"
    world.solvimon.forget_requests()
    assert metadata(world.run("import_products"), "solvimon", "products")["unchanged"] == 2
    assert world.solvimon.writes() == {}


def test_creates_and_activations_that_are_repeated_make_each_product_once(world: World) -> None:
    products = [world.product(type="SUBSCRIPTION", initial={"name": f"Product {number}"}) for number in range(10)]
    world.solvimon.faults(
        {"path": "/v1/product-categories", "method": "POST", "kind": "reset_after", "times": 1},
        {"path": "/v1/products", "method": "POST", "kind": "reset_after", "times": 2},
        {"path": "/v1/products", "method": "POST", "kind": "status_429", "times": 1, "after": 4},
        {"path": "/v1/product-items", "method": "POST", "kind": "status_503", "times": 1},
        {"path": "/v1/product-items", "method": "POST", "kind": "reset_after", "times": 2, "after": 2},
        {"path": "/v1/products/*", "method": "POST", "kind": "reset_after", "times": 2},
    )
    result = world.run("import_products")
    assert result.success, failure(result)
    shown = metadata(result, "solvimon", "products")
    assert (shown["created"], shown["retries"]) == (10, 9)
    assert len(_all(world, "product-categories")) == 1
    assert {reference: product["status"] for reference, product in _all(world, "products").items()} == dict.fromkeys(
        products, "ACTIVE"
    )
    assert [item["status"] for item in _all(world, "product-items").values()] == ["ACTIVE"] * 10


def test_a_run_that_loses_its_permission_half_way_is_completed_by_the_next(world: World) -> None:
    product = world.product(type="SUBSCRIPTION", initial={"name": "Seats"})
    world.solvimon.faults({"path": "/v1/product-items", "method": "POST", "kind": "status_403"})
    sentence = failure(world.run("import_products"))
    assert "Solvimon answered 403 to POST /v1/product-items" in sentence
    assert world.solvimon.requests()["POST /v1/product-items"] == 1
    assert world.outcomes("products") == {}
    world.solvimon.faults()
    assert world.run("import_products").success
    assert world.outcomes("products") == {product: ("created", None)}
    assert len(_all(world, "products")) == len(_all(world, "product-items")) == 1
