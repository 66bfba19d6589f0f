"""Customers: their fields, the status changes of their own, and what hangs on them.

Not here: what every resource can do (resources.py). Wallets, features and tax offices are not modelled: their endpoints
answer in the form of the schema, about nothing.
"""

from metronome_pipeline.sandbox.solvimon.errors import invalid, missing
from metronome_pipeline.sandbox.solvimon.fields import (
    ANY_TEXT,
    BOOLEAN,
    LINE,
    LIST,
    OBJECT,
    REFERENCE,
    STATUSES,
    Field,
    list_of,
    one_of,
    read,
    record,
)
from metronome_pipeline.sandbox.solvimon.resources import Kind, endpoints, lookup
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.wire import JsonObject, instant_text, parse_instant

_ADDRESS = record(*(Field(name, ANY_TEXT) for name in ("line1", "line2", "city", "postal_code", "state", "country")))
_NAME = record(*(Field(name, ANY_TEXT) for name in ("first_name", "last_name", "infix")))

_ORGANIZATION = record(
    Field("legal_name", LINE, nullable=False),
    Field("tax_id", ANY_TEXT),
    Field("tax_ids", LIST),
    Field("registration_number", ANY_TEXT),
    Field("tax_exempt", BOOLEAN),
    Field("tax_exempt_note", ANY_TEXT),
    Field("registered_address", _ADDRESS),
    Field("tax_registrations", LIST),
)

_FIELDS = (
    Field("type", one_of("ORGANIZATION", "INDIVIDUAL"), required=True),
    Field("reference", REFERENCE, nullable=False),
    Field("status", one_of(*STATUSES, "CLOSED")),
    Field("email", ANY_TEXT, nullable=False),
    Field("timezone", ANY_TEXT),
    Field("locale", ANY_TEXT),
    Field("organization", _ORGANIZATION, nullable=False),
    Field("individual", record(Field("name", _NAME), Field("residential_address", _ADDRESS)), nullable=False),
    Field("parent_customer_id", ANY_TEXT),
    Field("parent_customer_ids", list_of(ANY_TEXT)),
    Field("notification_preferences", LIST),
    Field("custom_fields", LIST),
    Field("processing_only", BOOLEAN),
    Field("roles", list_of(one_of("DEFAULT", "NON_PROCESSING", "SELF_BILLING", "SELLER", "PROCESSING_ONLY"))),
    Field("pricing_plan_subscription_selector", OBJECT, nullable=False),
    Field("linked_integrations", LIST),
    Field("seller_details", OBJECT, nullable=False),
)


def _prepare(call: Call, customer: JsonObject, old: JsonObject | None) -> JsonObject:
    del old
    if call.store.settings.email_required and not customer.get("email"):
        raise missing("email")
    return customer


_UPDATE = ("CUSTOMER.UPDATE",)

CUSTOMERS = Kind(
    path="customers",
    permission="CUSTOMER",
    fields=_FIELDS,
    prepare=_prepare,
    statuses=(*STATUSES, "CLOSED"),
    filters={"reference": "reference"},
    actions={
        "activate": ("ACTIVE", ("CUSTOMER.UPDATE", "CUSTOMER.STATUS.DRAFT.UPDATE")),
        "deprecate": ("DEPRECATED", _UPDATE),
        "archive": ("ARCHIVED", _UPDATE),
    },
    upsert=True,
    searchable=True,
    draft_permissions=True,
)


def _forget(call: Call) -> JsonObject:
    """``POST …/forget``: what is personal goes, no more events are taken, the reference stays taken (all assumed)."""
    customer = lookup(CUSTOMERS, call)
    kept = ("object_type", "id", "created_at", "reference", "type")
    return call.store.collection("customers").put({**{name: customer.get(name) for name in kept}, "status": "CLOSED"})


def _entitlements(call: Call) -> JsonObject:
    """``GET …/entitlements``: none, by each of the customer's subscriptions."""
    reference = lookup(CUSTOMERS, call).get("reference")
    mine = [one for one in call.store.subscriptions if one.customer_reference == reference]
    by_subscription = [{"pricing_plan_subscription_id": one.id, "entitlements": []} for one in mine]
    return {"entitlements": [], "pricing_plan_subscription_entitlements": by_subscription}


def _wallets(call: Call) -> JsonObject:
    """``POST …/wallets/balance``: no wallets, at the moment that is asked for."""
    lookup(CUSTOMERS, call)
    body = read((Field("balance_at", ANY_TEXT, nullable=False),), call.fields(), call.store.settings, creating=True)
    at = parse_instant(body["balance_at"], fractions=False) if "balance_at" in body else call.now
    if at is None:
        raise invalid("balance_at", "must be like 2026-11-01T00:00:00Z")
    return {"wallet_balances": [], "balance_at": instant_text(at)}


def _validate_tax_ids(call: Call) -> JsonObject:
    """``POST /v1/customers/validate-tax-id``: checks the body as a create does, and knows of no tax id."""
    fields = read(CUSTOMERS.fields, call.fields(), call.store.settings, creating=True)
    organization = fields.get("organization") or {}
    listed = [one.get("id") for one in organization.get("tax_ids") or () if isinstance(one, dict)]
    told = {"validation_date": instant_text(call.now), "source": "SANDBOX", "valid": "UNKNOWN", "message": None}
    return {"data": [{"id": one, **told} for one in (organization.get("tax_id"), *listed) if one]}


def takes_events(customer: JsonObject, *, drafts: bool) -> bool:
    """Whether a customer's status lets events in.

    Only ACTIVE is documented; DEPRECATED is assumed to run out, DRAFT is a knob.
    """
    return customer["status"] in {"ACTIVE", "DEPRECATED"} or (drafts and customer["status"] == "DRAFT")


ENDPOINTS: list[Endpoint] = [
    *endpoints(CUSTOMERS),
    Endpoint("POST", "/v1/customers/{id}/forget", _UPDATE, _forget, takes_key=True),
    Endpoint("GET", "/v1/customers/{id}/entitlements", ("CUSTOMER.VIEW",), _entitlements),
    Endpoint("POST", "/v1/customers/{id}/wallets/balance", ("CUSTOMER.VIEW", "WALLET.VIEW"), _wallets),
    Endpoint("POST", "/v1/customers/validate-tax-id", ("CUSTOMER.CREATE",), _validate_tax_ids),
]
