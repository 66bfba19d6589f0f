"""Products → products and product items: what can be linked to a meter exactly, and why the rest cannot.

Pure functions from Metronome records to Solvimon records. Not here: what exists already (``workflows/products.py``).
"""

from dataclasses import dataclass
from typing import Literal

from metronome_pipeline.mapping.meters import one_line_name
from metronome_pipeline.metronome.records import Product, ProductState, ProductUpdate

CATEGORY_REFERENCE = "metronome_products"
CATEGORY_NAME = "Metronome Products"

_NOT_IMPORTED = {
    "COMPOSITE": "a composite product is a share of other products, which Solvimon prices in the pricing plan",
    "FIXED": "a fixed product is a one-off charge of a contract, not of a catalogue",
    "PRO_SERVICE": "a professional service is charged by its contract",
    "PROFESSIONAL_SERVICE": "a professional service is charged by its contract",
}


@dataclass(frozen=True)
class ProductPlan:
    """The product and product item that a Metronome product should have. ``metric_id`` only for usage products."""

    reference: str
    name: str
    model_type: Literal["USAGE_BASED", "RECURRING"]
    metric_id: str | None
    renamed_to: str | None

    @property
    def item_reference(self) -> str:
        """The reference of its one product item."""
        return f"{self.reference}_{'usage' if self.model_type == 'USAGE_BASED' else 'recurring'}"


@dataclass(frozen=True)
class NotImported:
    """A product that is left out, and why, with what to do."""

    reference: str
    name: str
    reason: str


def product_plan(product: Product) -> ProductPlan | NotImported:
    """What a product becomes in Solvimon: ``name`` ← ``initial.name``, ``reference`` ← ``id``.

    Refuses, by name: other types than USAGE and SUBSCRIPTION; a usage product with a quantity conversion or rounding at
    any time, or whose billable metric changes over time. A plain link to its meter would bill it wrongly.
    """
    name = one_line_name(product.initial.name)
    if product.type == "SUBSCRIPTION":
        return ProductPlan(product.id, name, "RECURRING", None, _renamed(product))
    if product.type != "USAGE":
        why = _NOT_IMPORTED.get(product.type, "this version does not know the type")
        return NotImported(product.id, name, f"Type {product.type} is not imported: {why}.")
    reason = _why_a_plain_link_is_wrong(product)
    if reason is not None:
        return NotImported(product.id, name, reason)
    (metric_id,) = _metrics(product)
    return ProductPlan(product.id, name, "USAGE_BASED", metric_id, _renamed(product))


def _why_a_plain_link_is_wrong(product: Product) -> str | None:
    states: list[ProductState | ProductUpdate] = [product.initial, *product.updates, product.current]
    if any(getattr(state, "quantity_conversion", None) for state in states):
        return (
            "It converts quantities before pricing, and Solvimon would price the metered quantity: put the conversion "
            "into the price of a product of your own in Solvimon."
        )
    if any(getattr(state, "quantity_rounding", None) for state in states):
        return (
            "It rounds quantities before pricing, and Solvimon would price the metered quantity: round in the pricing "
            "of a product of your own in Solvimon."
        )
    metrics = _metrics(product)
    taken_away = any(update.billable_metric_id is None for update in product.updates)
    if len(metrics) > 1 or taken_away:
        named = ", ".join([*metrics, *(["none"] if taken_away else [])])
        return (
            f"Its billable metric changes over time ({named}): make one product for each metric in Solvimon, and "
            "schedule them in the pricing plan."
        )
    return None if metrics else "It is a usage product without a billable metric: give it one in Metronome."


def _metrics(product: Product) -> list[str]:
    """Every billable metric that it has had, has, or will have."""
    states: list[ProductState | ProductUpdate] = [product.initial, *product.updates, product.current]
    return sorted({state.billable_metric_id for state in states if state.billable_metric_id})


def _renamed(product: Product) -> str | None:
    return product.current.name if product.current.name != product.initial.name else None
