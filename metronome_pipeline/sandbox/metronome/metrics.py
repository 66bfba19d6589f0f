"""The billable metric endpoints: list, get, create in two ways, archive, rename.

Here: what they answer and what a definition must be like. Not here: what a metric adds up to.
"""

import uuid
from typing import Any

from metronome_pipeline.sandbox.metronome import checks
from metronome_pipeline.sandbox.metronome.aggregate import AGGREGATIONS
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused
from metronome_pipeline.sandbox.metronome.paging import answer_page, limit_of, rows_after, yes_or_no
from metronome_pipeline.sandbox.metronome.store import Call, Fields, Metric, Store

_SPELLINGS = frozenset(spelled for name in AGGREGATIONS for spelled in (name, name.lower(), name.title()))
_STREAMING = ("event_type_filter", "property_filters", "aggregation_type", "aggregation_key", "group_keys")


def list_metrics(store: Store, call: Call) -> Answer:
    """``GET /v1/billable-metrics``: archived ones only with ``include_archived=true``, then beside the others."""
    archived = yes_or_no(call, "include_archived")
    shown = [metric for metric in store.metrics.values() if archived or metric.archived_at is None]
    rows = [(metric.number, metric.fields) for metric in shown]
    return answer_page(store, call, rows_after(rows, limit_of(store, call)))


def find_metric(store: Store, given: object) -> Metric:
    """The metric of a UUID, archived ones too.

    Raises:
        Refused: 404 when there is none.
    """
    metric = store.metrics.get(str(given).lower())
    if metric is None:
        raise Refused("Billable metric not found.", 404)
    return metric


def _of_path(store: Store, call: Call) -> Metric:
    if not checks.is_uuid(call.ids["id"]) and call.ids["id"] not in store.metrics:
        raise Refused("The billable metric id must be a UUID.", store.settings.bad_uuid_status)
    return find_metric(store, call.ids["id"])


def get_metric(store: Store, call: Call) -> Answer:
    """``GET /v1/billable-metrics/{id}``."""
    return Answer({"data": _of_path(store, call).fields})


def create_metric(store: Store, call: Call) -> Answer:
    """``POST /v1/billable-metrics/create``.

    A SQL metric may carry a field of the sandbox's own, ``sandbox``: the streaming definition that stands behind it, as
    no SQL is run here. Without it such a metric has no usage.
    """
    body = checks.body_of(call)
    fields: Fields = {"id": str(uuid.uuid4()), "name": checks.text(body, "name")}
    if "sql" in body:
        if any(name in body for name in _STREAMING):
            raise Refused("sql cannot be used together with filters, aggregation or group keys.")
        fields["sql"] = checks.text(body, "sql")
        if isinstance(body.get("sandbox"), dict):
            fields["sandbox"] = body["sandbox"]
    else:
        _require_streaming(body)
        fields.update({name: body[name] for name in _STREAMING if name in body})
    if "custom_fields" in body:
        fields["custom_fields"] = checks.custom_fields(body)
    # A streaming metric counts what is received from now on; events so far came before it.
    metric = store.put_metric(fields, store.now(), store.events.last_number)
    store.write_audit("create", "billable_metric", metric.id)
    return Answer({"data": {"id": metric.id}})


def create_legacy_metric(store: Store, call: Call) -> Answer:
    """``POST /v1/billable-metrics``: the older way to create one.

    Its filter is a JSON schema, which is not evaluated here: such a metric has no usage.
    """
    body = checks.body_of(call)
    fields: Fields = {"id": str(uuid.uuid4()), "name": checks.text(body, "name")}
    if body.get("aggregate") not in _SPELLINGS:
        raise Refused(f"aggregate must be one of {', '.join(AGGREGATIONS)}.")
    if not isinstance(body.get("filter"), dict):
        raise Refused("filter must be a JSON schema.")
    fields["aggregation_type"] = body["aggregate"]
    if "aggregate_key" in body:
        fields["aggregation_key"] = checks.text(body, "aggregate_key")
    keys = checks.texts(body.get("group_keys", []), "group_keys")
    if keys:
        fields["group_keys"] = [[key] for key in keys]
    without_usage = {"group_keys": fields.get("group_keys", [])}
    metric = store.put_metric({**fields, "sandbox": without_usage}, store.now(), store.events.last_number)
    store.write_audit("create", "billable_metric", metric.id)
    return Answer({"data": {"id": metric.id}})


def _require_streaming(body: dict[str, Any]) -> None:
    if body.get("aggregation_type") not in _SPELLINGS:
        raise Refused(f"aggregation_type must be one of {', '.join(AGGREGATIONS)}.")
    types = body.get("event_type_filter")
    if types is not None and (not isinstance(types, dict) or not any(types.values())):
        raise Refused("event_type_filter must have in_values or not_in_values.")
    filters = body.get("property_filters", [])
    if not isinstance(filters, list) or not all(isinstance(one, dict) for one in filters):
        raise Refused("property_filters must be a list of filters.")
    named = {checks.text(one, "name"): one for one in filters}
    required = {name for name, one in named.items() if one.get("exists") or one.get("in_values")}
    if body["aggregation_type"].upper() != "COUNT":
        key = checks.text(body, "aggregation_key")
        if key not in named:
            raise Refused("aggregation_key must be the name of one of the property filters.")
    group_keys = body.get("group_keys", [])
    if not isinstance(group_keys, list):
        raise Refused("group_keys must be a list of lists.")
    for keys in group_keys:
        missing = [key for key in checks.texts(keys, "group_keys", least=1) if key not in required]
        if missing:
            raise Refused(f"Group key {missing[0]!r} needs a property filter that says it exists.")


def archive_metric(store: Store, call: Call) -> Answer:
    """``POST /v1/billable-metrics/archive``."""
    metric = find_metric(store, checks.uuid_text(checks.body_of(call).get("id"), "id"))
    if metric.archived_at is not None:
        raise Refused("The billable metric is already archived.")
    metric.fields["archived_at"] = store.now()
    store.parts.clear()
    store.write_audit("archive", "billable_metric", metric.id)
    return Answer({"data": {"id": metric.id}})


def rename_metric(store: Store, call: Call) -> Answer:
    """``PUT /v1/billable-metrics/{id}``: the name, and nothing else."""
    metric = _of_path(store, call)
    body = checks.body_of(call)
    if set(body) - {"name"}:
        raise Refused("Only the name of a billable metric can be changed.")
    metric.fields["name"] = checks.text(body, "name")
    store.write_audit("update", "billable_metric", metric.id)
    return Answer({"data": {"id": metric.id}})
