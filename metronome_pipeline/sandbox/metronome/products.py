"""The product endpoints: list, get, create, update, archive.

Here: what they answer, and how updates with their dates make the current state. Not here: prices.
"""

import uuid
from datetime import datetime
from typing import Any

from metronome_pipeline.sandbox.metronome import checks
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused, read_instant
from metronome_pipeline.sandbox.metronome.paging import answer_page, limit_of, rows_after
from metronome_pipeline.sandbox.metronome.store import Call, Fields, Record, Store

TYPES = ("USAGE", "SUBSCRIPTION", "COMPOSITE", "FIXED", "PRO_SERVICE")
"""The product types as they are answered."""

_FILTERS = ("ARCHIVED", "NOT_ARCHIVED", "ALL")
_STATE = (
    "name",
    "billable_metric_id",
    "composite_product_ids",
    "composite_tags",
    "tags",
    "pricing_group_key",
    "presentation_group_key",
    "quantity_conversion",
    "quantity_rounding",
    "exclude_free_usage",
    "include_composite_spend",
    "is_refundable",
    "netsuite_internal_item_id",
    "netsuite_overage_item_id",
    "composite_scope",
)


def _view(store: Store, product: Record) -> Fields:
    """The product with its current state: the initial one and every update whose date has come, in order of dates.

    ``starting_at`` and ``created_at`` stay the initial ones, as the real API's own example has it.
    """
    if "current" in product.fields:
        return product.fields
    now = store.now()
    current = dict(product.fields["initial"])
    updates = product.fields["updates"]
    for update in sorted(updates, key=lambda one: (_instant(one["starting_at"]), _instant(one["created_at"]))):
        if _instant(update["starting_at"]) <= now:
            current.update({name: update[name] for name in _STATE if name in update})
    return {**product.fields, "current": current}


def _instant(value: Any) -> datetime:
    return value if isinstance(value, datetime) else read_instant(value, "starting_at")


def list_products(store: Store, call: Call) -> Answer:
    """``POST /v1/contract-pricing/products/list``: without a filter, archived products are left out."""
    body = checks.body_of(call) if call.body is not None else {}
    wanted = body.get("archive_filter", "NOT_ARCHIVED")
    if wanted not in _FILTERS:
        raise Refused(f"archive_filter must be one of {', '.join(_FILTERS)}.")
    rows = [
        (product.number, _view(store, product))
        for product in store.products.values()
        if wanted == "ALL" or (product.archived_at is not None) == (wanted == "ARCHIVED")
    ]
    return answer_page(store, call, rows_after(rows, limit_of(store, call)))


def _find(store: Store, given: object, name: str) -> Record:
    product = store.products.get(checks.uuid_text(given, name))
    if product is None:
        raise Refused("Product not found.", 404)
    return product


def get_product(store: Store, call: Call) -> Answer:
    """``POST /v1/contract-pricing/products/get``."""
    return Answer({"data": _view(store, _find(store, checks.body_of(call).get("id"), "id"))})


def create_product(store: Store, call: Call) -> Answer:
    """``POST /v1/contract-pricing/products/create``: a USAGE product needs a metric that exists."""
    body = checks.body_of(call)
    kind = str(body.get("type")).upper().replace("PROFESSIONAL_SERVICE", "PRO_SERVICE")
    if kind not in TYPES or body["type"] not in {body["type"].upper(), body["type"].lower()}:
        raise Refused(f"type must be one of {', '.join(TYPES)}.")
    checks.text(body, "name")
    if kind == "USAGE" or "billable_metric_id" in body:
        _require_metric(store, body.get("billable_metric_id"))
    now = store.now()
    state = {name: body[name] for name in _STATE if name in body}
    fields: Fields = {
        "id": str(uuid.uuid4()),
        "type": kind,
        "initial": {**state, "created_at": now, "created_by": "sandbox"},
        "updates": [],
        "archived_at": None,
        "custom_fields": checks.custom_fields(body),
    }
    product = store.put_product(fields, now)
    store.write_audit("create", "contract_product", product.id)
    return Answer({"data": {"id": product.id}})


def update_product(store: Store, call: Call) -> Answer:
    """``POST /v1/contract-pricing/products/update``: a sparse change from an hour on, in the past or the future."""
    body = checks.body_of(call)
    product = _find(store, body.get("product_id"), "product_id")
    if product.archived_at is not None:
        raise Refused("An archived product cannot be updated.")
    starting_at = read_instant(body.get("starting_at"), "starting_at")
    if (starting_at.minute, starting_at.second, starting_at.microsecond) != (0, 0, 0):
        raise Refused("starting_at must be on an hour boundary.")
    if "billable_metric_id" in body:
        _require_metric(store, body["billable_metric_id"])
    changes = {name: body[name] for name in _STATE if name in body}
    stamp = {"starting_at": starting_at, "created_at": store.now(), "created_by": "sandbox"}
    product.fields.setdefault("updates", []).append({**changes, **stamp})
    product.fields.pop("current", None)
    store.write_audit("update", "contract_product", product.id)
    return Answer({"data": {"id": product.id}})


def archive_product(store: Store, call: Call) -> Answer:
    """``POST /v1/contract-pricing/products/archive``: for good."""
    product = _find(store, checks.body_of(call).get("product_id"), "product_id")
    if product.archived_at is not None:
        raise Refused("The product is already archived.")
    product.fields["archived_at"] = store.now()
    store.write_audit("archive", "contract_product", product.id)
    return Answer({"data": {"id": product.id}})


def _require_metric(store: Store, given: object) -> None:
    if checks.uuid_text(given, "billable_metric_id") not in store.metrics:
        raise Refused("billable_metric_id is not a billable metric of this account.")
