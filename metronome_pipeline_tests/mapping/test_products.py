"""Products to products: a plain link to a meter is made exactly where it bills what Metronome would."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from metronome_pipeline.mapping.products import NotImported, ProductPlan, product_plan
from metronome_pipeline.metronome.records import (
    Product,
    ProductState,
    ProductUpdate,
    QuantityConversion,
    QuantityRounding,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
ID = "9c9a4a71-171e-41f9-b8da-d982baf1a388"
CONVERSION = QuantityConversion(Decimal(1024), "divide")
ROUNDING = QuantityRounding("round_up", 0)

metrics = st.sampled_from([None, "metric-a", "metric-b"])
states = st.fixed_dictionaries(
    {"name": st.sampled_from(["Calls", "API calls", "Two\nlines"])},
    optional={
        "billable_metric_id": metrics,
        "quantity_conversion": st.sampled_from([None, CONVERSION]),
        "quantity_rounding": st.sampled_from([None, ROUNDING]),
    },
)
updates = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("Renamed"),
        "billable_metric_id": metrics,
        "quantity_conversion": st.sampled_from([None, CONVERSION]),
        "quantity_rounding": st.sampled_from([None, ROUNDING]),
    },
)
types = st.sampled_from(["USAGE", "usage", "SUBSCRIPTION", "COMPOSITE", "FIXED", "PRO_SERVICE", "OTHER"])


def _product(kind: str, initial: dict[str, Any], current: dict[str, Any], changes: list[dict[str, Any]]) -> Product:
    stamp: dict[str, Any] = {"created_at": AT, "created_by": "Bob"}
    return Product(
        id=ID,
        type=kind,
        initial=ProductState(**stamp, **initial),
        current=ProductState(**stamp, **current),
        updates=tuple(ProductUpdate(**stamp, **change) for change in changes),
    )


@given(types, states, states, st.lists(updates, max_size=3))
@example("USAGE", {"name": "Calls"}, {"name": "Calls", "billable_metric_id": "metric-a"}, [])
def test_a_product_is_linked_only_where_nothing_ever_stands_between_it_and_one_metric(
    kind: str, initial: dict[str, Any], current: dict[str, Any], changes: list[dict[str, Any]]
) -> None:
    plan = product_plan(_product(kind, initial, current, changes))
    everything = [initial, current, *changes]
    had = {state["billable_metric_id"] for state in everything if state.get("billable_metric_id")}
    taken_away = any("billable_metric_id" in change and change["billable_metric_id"] is None for change in changes)
    altered = any(state.get("quantity_conversion") or state.get("quantity_rounding") for state in everything)
    linkable = len(had) == 1 and not taken_away and not altered
    if kind.upper() == "USAGE" and linkable:
        assert isinstance(plan, ProductPlan)
        assert (plan.model_type, plan.metric_id, plan.item_reference) == ("USAGE_BASED", *had, f"{ID}_usage")
    elif kind == "SUBSCRIPTION":
        assert isinstance(plan, ProductPlan)
        assert (plan.model_type, plan.metric_id, plan.item_reference) == ("RECURRING", None, f"{ID}_recurring")
    else:
        assert isinstance(plan, NotImported)
        assert plan.reason.endswith(".")
        assert plan.reason.startswith(f"Type {kind.upper()} is not imported") == (kind.upper() != "USAGE")
    assert plan.reference == ID
    assert plan.name == initial["name"].replace("\n", " ")
    if isinstance(plan, ProductPlan):
        assert plan.renamed_to == (current["name"] if current["name"] != initial["name"] else None)


def test_the_reason_says_what_to_do() -> None:
    metric = {"name": "Calls", "billable_metric_id": "metric-a"}

    def reason(initial: dict[str, Any], *changes: dict[str, Any]) -> str:
        plan = product_plan(_product("USAGE", initial, metric, list(changes)))
        assert isinstance(plan, NotImported)
        return plan.reason

    assert "put the conversion into the price" in reason({**metric, "quantity_conversion": CONVERSION})
    assert "round in the pricing" in reason({**metric, "quantity_rounding": ROUNDING})
    assert "round in the pricing" in reason(metric, {"quantity_rounding": ROUNDING}, {"quantity_rounding": None})
    assert "(metric-a, metric-b): make one product for each" in reason(metric, {"billable_metric_id": "metric-b"})
    assert "(metric-a, none)" in reason(metric, {"billable_metric_id": None})
