"""DYNAMIC meter validation: an event creates what it names.

Not here: the knob that allows it (settings.py), the default (STATIC).

It is a trap more than a service: what it creates has no calculation, so usage is taken that nothing bills.
"""

from typing import Literal

from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

Links = Literal["meter_values", "meter_properties"]


def learn(store: Store, event: JsonObject) -> None:
    """Create the meter, values (AMOUNT if an amount is sent, else NUMBER) and properties (STRING) that an event names.

    ENUM properties learn new values; everything is linked as not required. What is malformed is left to the checks
    that follow.
    """
    reference = event.get("meter_reference")
    if not isinstance(reference, str) or event.get("meter_id") is not None:
        return
    meters = store.collection("meters")
    meter = meters.by_reference(reference) or meters.add(
        {"reference": reference, "name": reference, "status": "ACTIVE", "meter_values": [], "meter_properties": []}
    )
    for entry in _named(event, "meter_values"):
        kind = "AMOUNT" if entry.get("amount") is not None else "NUMBER"
        meter = _link(store, meter, "meter_values", entry["reference"], kind)
    for entry in _named(event, "meter_properties"):
        meter = _link(store, meter, "meter_properties", entry["reference"], "STRING")
        _learn_enum_value(store, entry)


def _named(event: JsonObject, name: Links) -> list[JsonObject]:
    entries = event.get(name)
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("reference"), str)]


def _link(store: Store, meter: JsonObject, links: Links, reference: str, kind: str) -> JsonObject:
    collection = store.collection(links.replace("_", "-"))
    found = collection.by_reference(reference)
    resource = found or collection.add({"reference": reference, "name": reference, "status": "ACTIVE", "type": kind})
    if resource["id"] in {link["id"] for link in meter[links]}:
        return meter
    link = {"id": resource["id"], "reference": reference, "required": False}
    return store.collection("meters").put({**meter, links: [*meter[links], link]})


def _learn_enum_value(store: Store, entry: JsonObject) -> None:
    properties = store.collection("meter-properties")
    known = properties.by_reference(entry["reference"])
    value = entry.get("value")
    if known is not None and known["type"] == "ENUM" and isinstance(value, str) and value not in known["enum_values"]:
        properties.put({**known, "enum_values": [*known["enum_values"], value]})
