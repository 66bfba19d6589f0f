"""Customers: their fields and the status changes of their own. Not here: what every resource can do (resources.py)."""

from metronome_pipeline.sandbox.solvimon.errors import missing
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
    record,
)
from metronome_pipeline.sandbox.solvimon.resources import Kind, endpoints, lookup
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

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


def takes_events(customer: JsonObject, *, drafts: bool) -> bool:
    """Whether a customer's status lets events in.

    Only ACTIVE is documented; DEPRECATED is assumed to run out, DRAFT is a knob.
    """
    return customer["status"] in {"ACTIVE", "DEPRECATED"} or (drafts and customer["status"] == "DRAFT")


ENDPOINTS: list[Endpoint] = [
    *endpoints(CUSTOMERS),
    Endpoint("POST", "/v1/customers/{id}/forget", _UPDATE, _forget, takes_key=True),
]
