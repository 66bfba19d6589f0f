"""What the endpoints of every configuration resource have in common: create, read, list, search, change, delete.

Here: one implementation, steered by a ``Kind``. Not here: the fields and links of customers, meters and products
(files of their own).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from metronome_pipeline.sandbox.solvimon.collection import Collection
from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, invalid, missing, not_found, refused_operation
from metronome_pipeline.sandbox.solvimon.fields import Field, read
from metronome_pipeline.sandbox.solvimon.paging import found, of_statuses, ordered, page_and_limit, paged
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.wire import JsonObject, instant_text

Prepare = Callable[[Call, JsonObject, JsonObject | None], JsonObject]
"""Resolves links and checks rules: takes what is to be stored and what was stored before."""


@dataclass(frozen=True)
class Kind:
    """A configuration resource.

    Attributes:
        path: Its path and collection.
        permission: What the names of its permissions begin with.
        fields: What its bodies may hold.
        prepare: Links and rules of its own.
        render: What an answer shows of it.
        statuses: Empty where it has none.
        listing: How its list answers: with pages, with ``data`` alone, or with ``data`` alone but by pages.
        frozen: Fields that a change may not change.
        filters: Query parameters of its list that are compared with a field.
        actions: Status by the name of a path that sets it, with the permissions.
        upsert: Whether PUT exists.
        searchable: Whether ``/search`` exists.
        id_only: Whether its path takes no reference.
        draft_permissions: Whether ``STATUS.DRAFT`` permissions let changes in, as on customers.
    """

    path: str
    permission: str
    fields: tuple[Field, ...]
    prepare: Prepare
    render: Callable[[Call, JsonObject], JsonObject] = lambda _call, resource: resource
    statuses: tuple[str, ...] = ()
    listing: Literal["pages", "data", "unmarked_pages"] = "pages"
    frozen: tuple[str, ...] = ()
    filters: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    upsert: bool = False
    searchable: bool = False
    id_only: bool = False
    draft_permissions: bool = False
    hidden_statuses: frozenset[str] = frozenset()
    after_status: Callable[[Call, JsonObject], None] = lambda _call, _resource: None
    deletable: tuple[str, ...] | None = None


def endpoints(kind: Kind) -> list[Endpoint]:
    """Every endpoint of a kind."""
    root, one = f"/v1/{kind.path}", f"/v1/{kind.path}/{{id}}"

    def may(*verbs: str) -> tuple[str, ...]:
        drafts = [
            f"{kind.permission}.STATUS.DRAFT.{verb}"
            for verb in verbs
            if kind.draft_permissions and verb in {"UPDATE", "DELETE"}
        ]
        return (*(f"{kind.permission}.{verb}" for verb in verbs), *drafts)

    routes = [
        Endpoint("GET", root, may("VIEW"), partial(_list, kind)),
        Endpoint("POST", root, may("CREATE"), partial(_create, kind), 201, takes_key=True),
        Endpoint("GET", one, may("VIEW"), partial(_get, kind)),
        Endpoint("PATCH", one, may("UPDATE"), partial(_patch, kind)),
        Endpoint("DELETE", one, may("DELETE"), partial(_delete, kind)),
    ]
    if kind.upsert:
        routes.append(Endpoint("PUT", root, may("CREATE", "UPDATE"), partial(_put, kind), 201))
    if kind.searchable:
        routes.append(Endpoint("POST", f"{root}/search", may("VIEW"), partial(_search, kind)))
    for action, (status, permissions) in kind.actions.items():
        routes.append(Endpoint("POST", f"{one}/{action}", permissions, partial(_act, kind, status), takes_key=True))
    return routes


def lookup(kind: Kind, call: Call) -> JsonObject:
    """The resource that the path names.

    Raises:
        ApiProblem: ``RESOURCE_NOT_FOUND`` with the status of the knob.
    """
    collection = call.store.collection(kind.path)
    resource = collection.by_id(call.key) if kind.id_only else collection.find(call.key)
    if resource is None:
        raise not_found(collection.object_type, status=call.store.settings.not_found_status)
    return resource


def already_exists(call: Call, collection: Collection, resource: JsonObject) -> ApiProblem:
    """``RESOURCE_ALREADY_EXISTS`` for a reference that is taken."""
    settings = call.store.settings
    named = settings.conflict_includes_resource_id
    is_customer = collection.object_type == "CUSTOMER"
    return ApiProblem(
        settings.customers_conflict_status if is_customer else settings.conflict_status,
        "RESOURCE_ALREADY_EXISTS",
        "There is an existing resource with the provided identifier",
        field="reference",
        resource_type=collection.object_type if named else None,
        resource_id=resource["id"] if named else None,
    )


def _create(kind: Kind, call: Call) -> JsonObject:
    fields = read(kind.fields, call.fields(), call.store.settings, creating=True)
    collection = call.store.collection(kind.path)
    taken = collection.by_reference(fields["reference"]) if fields.get("reference") else None
    if taken is not None:
        raise already_exists(call, collection, taken)
    return kind.render(call, _add(kind, call, fields))


def _add(kind: Kind, call: Call, fields: JsonObject) -> JsonObject:
    if kind.statuses:
        fields = {**fields, "status": fields.get("status") or "DRAFT"}
    created = {"created_at": instant_text(call.now)} if kind.path == "customers" else {}
    return call.store.collection(kind.path).add({**created, **kind.prepare(call, fields, None)})


def _put(kind: Kind, call: Call) -> JsonObject:
    fields = read(kind.fields, call.fields(), call.store.settings, creating=True)
    identifier = call.query.get("identifier_field", "reference")
    if identifier not in {"reference", "id"}:
        raise invalid("identifier_field", "must be reference or id")
    value = call.fields().get(identifier)
    if not isinstance(value, str):
        raise missing(identifier)
    collection = call.store.collection(kind.path)
    old = collection.by_id(value) if identifier == "id" else collection.by_reference(value)
    if old is None and identifier == "id":
        raise not_found(collection.object_type, status=404)
    if old is None:
        return kind.render(call, _add(kind, call, fields))
    if call.store.settings.put_merge:
        fields = {**{name: old[name] for name in _names(kind) if name in old}, **fields}
    kept: JsonObject = {name: old[name] for name in ("object_type", "id", "created_at", "status") if name in old}
    return kind.render(call, _replace(kind, call, old, {**kept, **fields}))


def _names(kind: Kind) -> list[str]:
    return [known.name for known in kind.fields]


def _patch(kind: Kind, call: Call) -> JsonObject:
    old = lookup(kind, call)
    fields = read(kind.fields, call.fields(), call.store.settings, creating=False)
    return kind.render(call, _replace(kind, call, old, {**old, **fields}))


def _replace(kind: Kind, call: Call, old: JsonObject, new: JsonObject) -> JsonObject:
    collection = call.store.collection(kind.path)
    for name in kind.frozen:
        if old.get(name) is not None and new.get(name) != old[name]:
            message = f"{name} of an existing {collection.object_type} cannot be changed"
            raise ApiProblem(400, "COULD_NOT_UPDATE_RESOURCE", message, field=name, resource_id=old["id"])
    if kind.statuses:
        new = {**new, "status": new.get("status") or old["status"]}
        _check_step(old["status"], new["status"], collection, old)
    taken = collection.by_reference(new["reference"]) if new.get("reference") else None
    if taken is not None and taken["id"] != old["id"]:
        raise already_exists(call, collection, taken)
    return collection.put(kind.prepare(call, new, old))


def _check_step(old: str, new: str, collection: Collection, resource: JsonObject) -> None:
    if new != old and (new == "DRAFT" or old in {"ARCHIVED", "CLOSED"}):
        message = f"a {collection.object_type} in status {old} cannot become {new}"
        raise refused_operation(message, resource_type=collection.object_type, resource_id=resource["id"])


def set_status(call: Call, path: str, resource: JsonObject, status: str) -> JsonObject:
    """Store a resource with another status; one that it has already is no error.

    Raises:
        ApiProblem: 400 ``INVALID_OPERATION`` for a step that does not exist.
    """
    collection = call.store.collection(path)
    _check_step(resource["status"], status, collection, resource)
    return collection.put({**resource, "status": status})


def _act(kind: Kind, status: str, call: Call) -> JsonObject:
    changed = set_status(call, kind.path, lookup(kind, call), status)
    kind.after_status(call, changed)
    return kind.render(call, changed)


def _delete(kind: Kind, call: Call) -> JsonObject:
    resource = lookup(kind, call)
    collection = call.store.collection(kind.path)
    if kind.deletable is not None and resource.get("status") not in kind.deletable:
        message = f"a {collection.object_type} in status {resource.get('status')} cannot be deleted"
        raise refused_operation(message, resource_type=collection.object_type, resource_id=resource["id"])
    collection.remove(resource["id"])
    return kind.render(call, resource)


def _get(kind: Kind, call: Call) -> JsonObject:
    return kind.render(call, lookup(kind, call))


def _visible(kind: Kind, call: Call) -> list[JsonObject]:
    drafts = frozenset({"DRAFT"}) if call.store.settings.hide_drafts_in_lists else frozenset()
    shown = [row for row in call.store.collection(kind.path) if row.get("status") not in drafts]
    return of_statuses(call, shown, hidden=kind.hidden_statuses)


def _list(kind: Kind, call: Call) -> JsonObject:
    rows = _visible(kind, call)
    for parameter, name in kind.filters.items():
        wanted = call.query.getlist(parameter)
        rows = [row for row in rows if row.get(name) in wanted] if wanted else rows
    rows = [row for row in rows if _has_custom_fields(row, call.query.getlist("custom_field"))]
    rows = ordered(call, rows, by=None, direction="desc")
    render = partial(kind.render, call)
    if kind.listing == "pages":
        return paged(call, rows, render)
    if kind.listing == "unmarked_pages" and not call.store.settings.calculations_ignore_page:
        page, limit = page_and_limit(call)
        rows = rows[(page - 1) * limit : page * limit]
    return {"data": [render(row) for row in rows]}


def _has_custom_fields(row: JsonObject, wanted: list[str]) -> bool:
    there = {f"{entry.get('reference')}:{entry.get('value')}" for entry in row.get("custom_fields") or []}
    return all(entry in there for entry in wanted)


def _search(kind: Kind, call: Call) -> JsonObject:
    rows = found(call.fields(), _visible(kind, call))
    return paged(call, ordered(call, rows, by="name", direction="asc"), partial(kind.render, call))
