"""Meter values, meter properties, meters and meter value calculations: their fields, links and rules.

Here: also what a meter accepts of an event (``shape_of``), as it follows from the links. Not here: reading events
(event_checks.py).
"""

import csv
import io
from dataclasses import dataclass

from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, invalid, missing, not_found, refused_operation
from metronome_pipeline.sandbox.solvimon.fields import (
    ANY_TEXT,
    BOOLEAN,
    LINE,
    REFERENCE,
    STATUSES,
    Field,
    list_of,
    one_of,
    record,
)
from metronome_pipeline.sandbox.solvimon.resources import Kind, endpoints, lookup
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

_REFERENCE = Field("reference", REFERENCE, required=True)
_STATUS = Field("status", one_of(*STATUSES))
_DESCRIPTION = Field("description", LINE)


def _as_it_is(call: Call, resource: JsonObject, old: JsonObject | None) -> JsonObject:
    del call, old
    return resource


def _prepare_property(call: Call, resource: JsonObject, old: JsonObject | None) -> JsonObject:
    del call
    if resource["type"] == "ENUM" and not resource.get("enum_values"):
        raise missing("enum_values")
    if (
        old is not None
        and old["status"] == "ACTIVE"
        and not set(old.get("enum_values") or ()) <= set(resource.get("enum_values") or ())
    ):
        raise refused_operation(
            "values of an active ENUM property can be added, not removed", resource_type="METER_PROPERTY"
        )
    return resource


METER_VALUES = Kind(
    path="meter-values",
    permission="METER_VALUE",
    fields=(
        _REFERENCE,
        Field("name", LINE, required=True),
        Field("type", one_of("NUMBER", "AMOUNT"), required=True),
        _DESCRIPTION,
        _STATUS,
    ),
    prepare=_as_it_is,
    statuses=STATUSES,
    listing="data",
    frozen=("type",),
)

METER_PROPERTIES = Kind(
    path="meter-properties",
    permission="METER_PROPERTY",
    fields=(
        _REFERENCE,
        Field("name", LINE, required=True),
        Field("type", one_of("NUMBER", "ENUM", "STRING"), required=True),
        Field("enum_values", list_of(ANY_TEXT)),
        _DESCRIPTION,
        _STATUS,
    ),
    prepare=_prepare_property,
    statuses=STATUSES,
    listing="data",
    frozen=("type",),
)

_LINK = record(
    Field("id", ANY_TEXT),
    Field("reference", ANY_TEXT),
    Field("required", BOOLEAN),
    # Sent back by clients that repeat an expanded answer; without effect.
    Field("object", lambda value, _where, _settings: value),
)


def _linked(call: Call, meter: JsonObject, name: str, path: str, old: JsonObject | None) -> list[JsonObject]:
    """The links of a meter to values or properties, each resolved to id, reference and ``required``."""
    links: dict[str, JsonObject] = {}
    collection = call.store.collection(path)
    for index, link in enumerate(meter.get(name) or []):
        resource = (
            collection.by_id(link["id"]) if link.get("id") else collection.by_reference(link.get("reference") or "")
        )
        if resource is None:
            object_type = collection.object_type
            raise not_found(object_type, status=400, code=f"{object_type}_NOT_FOUND", field=f"{name}.{index}.id")
        if resource["id"] in links:
            raise invalid(f"{name}.{index}.id", "is linked twice")
        links[resource["id"]] = _link(resource, required=bool(link.get("required")))
    if old is not None and call.store.settings.meter_links == "merge":
        links = {**{link["id"]: link for link in old[name]}, **links}
    return list(links.values())


def _link(resource: JsonObject, *, required: bool) -> JsonObject:
    return {"id": resource["id"], "reference": resource["reference"], "required": required}


def _prepare_meter(call: Call, meter: JsonObject, old: JsonObject | None) -> JsonObject:
    return {
        **meter,
        "meter_values": _linked(call, meter, "meter_values", "meter-values", old),
        "meter_properties": _linked(call, meter, "meter_properties", "meter-properties", old),
    }


def _render_meter(call: Call, meter: JsonObject) -> JsonObject:
    """A meter; with ``expand[]`` naming them, each link carries the whole value or property as ``object``."""
    expanded = [name.split(".")[0] for name in call.query.getlist("expand[]")]
    for name, path in (("meter_values", "meter-values"), ("meter_properties", "meter-properties")):
        if {name, name.removesuffix("s"), name.replace("ies", "y")} & set(expanded):
            collection = call.store.collection(path)
            meter = {**meter, name: [{**link, "object": collection.by_id(link["id"])} for link in meter[name]]}
    return meter


METERS = Kind(
    path="meters",
    permission="METER",
    fields=(
        _REFERENCE,
        Field("name", LINE),
        _DESCRIPTION,
        _STATUS,
        Field("meter_values", list_of(_LINK)),
        Field("meter_properties", list_of(_LINK)),
    ),
    prepare=_prepare_meter,
    render=_render_meter,
    statuses=STATUSES,
    listing="data",
)


def _file_template(call: Call) -> str:
    """``GET …/meter-data-file``: the header of a file of events. The names of its first columns are assumed."""
    meter = lookup(METERS, call)
    names = ["customer_reference", "pricing_plan_subscription_reference", "reference", "timestamp"]
    names += [link["reference"] for link in (*meter["meter_values"], *meter["meter_properties"])]
    line = io.StringIO()
    csv.writer(line).writerow(names)
    return line.getvalue()


def _prepare_calculation(call: Call, calculation: JsonObject, old: JsonObject | None) -> JsonObject:
    del old
    meter = call.store.collection("meters").by_id(calculation["meter_id"])
    if meter is None:
        raise not_found("METER", status=400, code="METER_NOT_FOUND", field="meter_id")
    needed = "meter_property_id" if calculation["calculation_type"] == "UNIQUE" else "meter_value_id"
    if calculation.get(needed) is None:
        raise missing(needed)
    for name, links in (("meter_value", "meter_values"), ("meter_property", "meter_properties")):
        wanted = calculation.get(f"{name}_id")
        if wanted is not None and wanted not in {link["id"] for link in meter[links]}:
            message = f"The requested {name.upper()} could not be found on the meter"
            raise ApiProblem(400, f"{name.upper()}_NOT_FOUND", message, field=f"{name}_id")
    return {"persist": False, **calculation}


CALCULATIONS = Kind(
    path="meter-value-calculations",
    permission="METER_VALUE_CALCULATION",
    fields=(
        _REFERENCE,
        Field("calculation_type", one_of("SUM", "MAX", "MIN", "AVERAGE", "UNIQUE"), required=True),
        Field("meter_id", ANY_TEXT, required=True),
        Field("meter_value_id", ANY_TEXT),
        Field("meter_property_id", ANY_TEXT),
        Field("name", LINE),
        _DESCRIPTION,
        Field("persist", BOOLEAN),
    ),
    prepare=_prepare_calculation,
    listing="unmarked_pages",
    frozen=("calculation_type", "meter_id", "meter_value_id"),
    id_only=True,
)


@dataclass(frozen=True)
class MeterShape:
    """What a meter accepts: its active values and properties, by id and by reference, and which of them it requires."""

    values: dict[str, JsonObject]
    properties: dict[str, JsonObject]
    required_values: frozenset[str]
    required_properties: frozenset[str]


def shape_of(store: Store, meter: JsonObject) -> MeterShape:
    """The shape of a meter. A linked value or property that is not ACTIVE is as good as unknown."""

    def linked(links: list[JsonObject], path: str) -> tuple[dict[str, JsonObject], frozenset[str]]:
        collection = store.collection(path)
        by_key: dict[str, JsonObject] = {}
        for link in links:
            resource = collection.by_id(link["id"])
            if resource is not None and resource["status"] == "ACTIVE":
                by_key[resource["id"]] = by_key[resource["reference"]] = resource
        return by_key, frozenset(link["id"] for link in links if link["required"])

    values, required_values = linked(meter["meter_values"], "meter-values")
    properties, required_properties = linked(meter["meter_properties"], "meter-properties")
    return MeterShape(values, properties, required_values, required_properties)


ENDPOINTS: list[Endpoint] = [
    *endpoints(METER_VALUES),
    *endpoints(METER_PROPERTIES),
    *endpoints(METERS),
    Endpoint("GET", "/v1/meters/{id}/meter-data-file", ("METER.VIEW",), _file_template),
    *endpoints(CALCULATIONS),
]
