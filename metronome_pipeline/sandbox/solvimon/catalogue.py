"""Product categories, products and product items: their fields, links and status rules.

Not here: plans and prices, which nobody imports.
"""

from metronome_pipeline.sandbox.solvimon.collection import Collection
from metronome_pipeline.sandbox.solvimon.errors import invalid, missing, not_found, refused_operation
from metronome_pipeline.sandbox.solvimon.fields import (
    ANY_TEXT,
    LINE,
    LIST,
    OBJECT,
    REFERENCE,
    STATUSES,
    TAX_CATEGORY,
    WHOLE,
    Field,
    list_of,
    one_of,
    record,
)
from metronome_pipeline.sandbox.solvimon.resources import Kind, endpoints, set_status
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

_COMMON = (
    Field("description", LINE),
    Field("tax_category", TAX_CATEGORY),
    Field("display_order", WHOLE),
    Field("customer_id", ANY_TEXT),
)
_STATUS = Field("status", one_of(*STATUSES))


def _as_it_is(call: Call, resource: JsonObject, old: JsonObject | None) -> JsonObject:
    del call, old
    return resource


CATEGORIES = Kind(
    path="product-categories",
    permission="PRODUCT_CATEGORY",
    fields=(Field("name", LINE, required=True), Field("reference", REFERENCE, required=True), *_COMMON),
    prepare=_as_it_is,
    filters={"customer_id": "customer_id"},
    upsert=True,
    searchable=True,
)


def _prepare_product(call: Call, product: JsonObject, old: JsonObject | None) -> JsonObject:
    category = product.get("category_id")
    if category is not None and call.store.collection("product-categories").by_id(category) is None:
        raise not_found("PRODUCT_CATEGORY", status=400, field="category_id")
    if old is not None and old["status"] != product["status"]:
        _align(call, product)
    return product


def _align(call: Call, product: JsonObject) -> None:
    """With ``align_product_item_status=true`` a product's items follow its status, those that can."""
    if not call.flag("align_product_item_status"):
        return
    for item in list(call.store.collection("product-items")):
        if item["product_id"] == product["id"] and item["status"] != "ARCHIVED":
            set_status(call, "product-items", item, product["status"])


PRODUCTS = Kind(
    path="products",
    permission="PRODUCT",
    fields=(
        Field("name", LINE, nullable=False),
        Field("reference", REFERENCE, nullable=False),
        Field("category_id", ANY_TEXT, nullable=False),
        Field("parent_product_id", ANY_TEXT),
        _STATUS,
        Field("product_type", one_of("DEFAULT", "ADDON"), nullable=False),
        Field("features", LIST),
        Field("custom_fields", LIST),
        Field("linked_integrations", LIST),
        Field("billing_entity_id", ANY_TEXT),
        *_COMMON,
    ),
    prepare=_prepare_product,
    statuses=STATUSES,
    filters={"product_category_id": "category_id", "customer_id": "customer_id"},
    actions={
        "activate": ("ACTIVE", ("PRODUCT.STATUS.UPDATE",)),
        "deprecate": ("DEPRECATED", ("PRODUCT.STATUS.UPDATE",)),
        "archive": ("ARCHIVED", ("PRODUCT.STATUS.UPDATE",)),
    },
    upsert=True,
    searchable=True,
    hidden_statuses=frozenset({"ARCHIVED"}),
    after_status=_align,
    deletable=("DRAFT",),
)

_MODEL_TYPES = ("USAGE_BASED", "USAGE_BASED_CONVERSION", "RECURRING", "ONE_OFF", "PER_SEAT", "CREDITS")

_USAGE_BASED = record(
    Field("meter_value_calculation_id", ANY_TEXT),
    Field("tiering_meter_value_calculation_id", ANY_TEXT),
    Field("report_meter_value_calculation_ids", list_of(ANY_TEXT)),
    Field("conditions", OBJECT),
)


def _prepare_item(call: Call, item: JsonObject, old: JsonObject | None) -> JsonObject:
    if call.store.settings.item_status_readonly:
        item = {**item, "status": "DRAFT" if old is None else old["status"]}
    product = call.store.collection("products").by_id(item["product_id"])
    if product is None:
        raise not_found("PRODUCT", status=400, code="PRODUCT_NOT_FOUND", field="product_id")
    if old is None and product["status"] in {"DEPRECATED", "ARCHIVED"}:
        message = f"a product in status {product['status']} takes no new items"
        raise refused_operation(message, resource_type="PRODUCT", resource_id=product["id"])
    if item["model_type"] == "CREDITS" and not (item.get("credits") or {}).get("credit_type_id"):
        raise missing("credits.credit_type_id")
    return _with_calculation(call, item)


def _with_calculation(call: Call, item: JsonObject) -> JsonObject:
    """The item with its calculation resolved to an id, at the place where it was sent; both places are in use."""
    accepted = call.store.settings.calculation_link
    nested = (item.get("usage_based") or {}).get("meter_value_calculation_id")
    top = item.get("meter_value_calculation_id")
    if accepted == "top_level" and nested is not None:
        raise invalid("usage_based.meter_value_calculation_id", "is not supported")
    if accepted == "nested" and top is not None:
        raise invalid("meter_value_calculation_id", "is not supported")
    if item["model_type"] in {"USAGE_BASED", "USAGE_BASED_CONVERSION"} and nested is None and top is None:
        raise missing("usage_based.meter_value_calculation_id")
    calculations = call.store.collection("meter-value-calculations")
    if nested is not None:
        known = _calculation_id(calculations, nested, "usage_based.meter_value_calculation_id")
        item = {**item, "usage_based": {**item["usage_based"], "meter_value_calculation_id": known}}
    if top is not None:
        item = {**item, "meter_value_calculation_id": _calculation_id(calculations, top, "meter_value_calculation_id")}
    return item


def _calculation_id(calculations: Collection, key: str, field: str) -> str:
    """A calculation's id from its id or reference: the documentation allows both in a product item."""
    calculation = calculations.find(key)
    if calculation is None:
        raise not_found("METER_VALUE_CALCULATION", status=400, field=field)
    known: str = calculation["id"]
    return known


ITEMS = Kind(
    path="product-items",
    permission="PRODUCT_ITEM",
    fields=(
        Field("product_id", ANY_TEXT, required=True),
        Field("name", LINE, required=True),
        Field("reference", REFERENCE, required=True),
        Field("model_type", one_of(*_MODEL_TYPES), required=True),
        Field("type", one_of("REVENUE", "DEDUCTION")),
        _STATUS,
        Field("usage_based", _USAGE_BASED, nullable=False),
        Field("credits", record(Field("credit_type_id", ANY_TEXT)), nullable=False),
        Field("meter_value_calculation_id", ANY_TEXT),
        Field("report_meter_value_calculation_ids", list_of(ANY_TEXT)),
        Field("unit_name", record(Field("singular", ANY_TEXT), Field("plural", ANY_TEXT)), nullable=False),
        Field("custom_fields", LIST),
        *_COMMON,
    ),
    prepare=_prepare_item,
    statuses=STATUSES,
    frozen=("model_type", "product_id"),
    filters={"product_id": "product_id", "customer_id": "customer_id"},
    actions={
        "activate": ("ACTIVE", ("PRODUCT_ITEM.ACTIVATE",)),
        "deprecate": ("DEPRECATED", ("PRODUCT_ITEM.DEPRECATE",)),
        "archive": ("ARCHIVED", ("PRODUCT_ITEM.ARCHIVE",)),
    },
    upsert=True,
    searchable=True,
)

ENDPOINTS: list[Endpoint] = [*endpoints(CATEGORIES), *endpoints(PRODUCTS), *endpoints(ITEMS)]
