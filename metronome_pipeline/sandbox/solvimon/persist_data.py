"""Persist data: usage that is carried over into a later period. Stored as it is sent; nothing here reads it.

Here: the one endpoint, as far as the vendor's schema goes. Not here: periods and plans, which are not modelled.
"""

from metronome_pipeline.sandbox.solvimon.errors import not_found
from metronome_pipeline.sandbox.solvimon.fields import ANY_TEXT, BOOLEAN, OBJECT, Field, read, text
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

_REQUIRED = ("customer_id", "pricing_id", "pricing_item_id", "pricing_item_config_id", "pricing_plan_subscription_id")
_TEXTS = ("customer_reference", "pricing_plan_subscription_reference", "persist_usage", "persist_included_volume")
_FLAGS = ("persist_charged_volume", "persist_rollover_volume", "set_rollover_volume", "is_last_reprocess_item")
_OBJECTS = ("pricing_plan_subscription_selector", "period", "included_volume")

_FIELDS = (
    *(Field(name, ANY_TEXT, required=True) for name in _REQUIRED),
    *(Field(name, ANY_TEXT) for name in (*_TEXTS, "timestamp", "reprocess_id")),
    *(Field(name, BOOLEAN) for name in _FLAGS),
    *(Field(name, OBJECT) for name in _OBJECTS),
    Field("reference", text(r"[a-zA-Z0-9_\-]*", maximum=256)),
)


def _ingest(call: Call) -> JsonObject:
    settings = call.store.settings
    fields = read(_FIELDS, call.fields(), settings, creating=True)
    if call.store.collection("customers").by_id(str(fields["customer_id"])) is None:
        raise not_found("CUSTOMER", status=settings.ingest_not_found_status, code="RESOURCES_NOT_FOUND")
    return call.store.collection("persist-data").add(fields)


ENDPOINTS: list[Endpoint] = [Endpoint("POST", "/v1/ingest/persist-data", ("METER_DATA.INGEST",), _ingest, 201)]
