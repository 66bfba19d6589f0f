"""The customer endpoints: list, get, create, archive, rename, aliases, custom fields.

Here: what they answer. Not here: usage.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from metronome_pipeline.sandbox.metronome import checks
from metronome_pipeline.sandbox.metronome.answers import Answer, Refused
from metronome_pipeline.sandbox.metronome.paging import answer_page, limit_of, one_of, rows_after, yes_or_no
from metronome_pipeline.sandbox.metronome.store import Call, Fields, Record, Store


def _detail(customer: Record) -> Fields:
    aliases = customer.fields.get("ingest_aliases") or [customer.id]
    return {"external_id": aliases[0], **customer.fields}


def _small(customer: Record) -> Fields:
    detail = _detail(customer)
    return {name: detail[name] for name in ("id", "external_id", "ingest_aliases", "name", "custom_fields")}


def _list_of(call: Call, name: str) -> frozenset[str] | None:
    # Official clients join with commas; the specification reads as repeated names. Both are taken.
    if name not in call.query:
        return None
    values = [one for given in call.query[name] for one in given.split(",") if one]
    if len(values) > 100:
        raise Refused(f"{name} takes at most 100 values.")
    return frozenset(values)


def list_customers(store: Store, call: Call) -> Answer:
    """``GET /v1/customers``: active ones, or with ``only_archived=true`` archived ones instead."""
    archived, alias = yes_or_no(call, "only_archived"), one_of(call, "ingest_alias")
    ids, accounts = _list_of(call, "customer_ids"), _list_of(call, "salesforce_account_ids")

    def wanted(customer: Record) -> bool:
        config = customer.fields.get("customer_config") or {}
        return (
            (customer.archived_at is not None) == archived
            and (alias is None or store.aliases.get(alias) == customer.id)
            and (ids is None or customer.id in ids)
            and (accounts is None or config.get("salesforce_account_id") in accounts)
        )

    rows = [(customer.number, _detail(customer)) for customer in store.customers.values() if wanted(customer)]
    return answer_page(store, call, rows_after(rows, limit_of(store, call)))


def find_customer(store: Store, given: object) -> Record:
    """The customer of a UUID, archived ones too.

    Raises:
        Refused: 404 when there is none.
    """
    customer = store.customers.get(str(given).lower())
    if customer is None:
        raise Refused("Customer not found.", 404)
    return customer


def _of_path(store: Store, ids: Mapping[str, str]) -> Record:
    if not checks.is_uuid(ids["id"]) and ids["id"] not in store.customers:
        raise Refused("The customer id must be a UUID.", store.settings.bad_uuid_status)
    return find_customer(store, ids["id"])


def get_customer(store: Store, call: Call) -> Answer:
    """``GET /v1/customers/{id}``, archived customers too."""
    return Answer({"data": _detail(_of_path(store, call.ids))})


def create_customer(store: Store, call: Call) -> Answer:
    """``POST /v1/customers``: answers the small form, without instants; 409 for an alias in use."""
    body = checks.body_of(call)
    now = store.now()
    aliases = _aliases(body.get("ingest_aliases", []))
    if "external_id" in body:
        aliases = [checks.text(body, "external_id", most=128), *aliases]
    fields: Fields = {
        "id": str(uuid.uuid4()),
        "ingest_aliases": list(dict.fromkeys(aliases)),
        "name": checks.text(body, "name")[:160],
        "customer_config": {"salesforce_account_id": None},
        "custom_fields": checks.custom_fields(body),
        "created_at": now,
        "updated_at": now,
        "archived_at": None,
    }
    _require_free(store, fields["ingest_aliases"], owner=None)
    customer = store.put_customer(fields, now)
    store.write_audit("create", "customer", customer.id)
    return Answer({"data": _small(customer)})


def archive_customer(store: Store, call: Call) -> Answer:
    """``POST /v1/customers/archive``: the customer keeps its aliases."""
    customer = find_customer(store, checks.uuid_text(checks.body_of(call).get("id"), "id"))
    if customer.archived_at is not None:
        raise Refused("The customer is already archived.")
    customer.fields["archived_at"] = store.now()
    store.write_audit("archive", "customer", customer.id)
    return Answer({"data": {"id": customer.id}})


def set_ingest_aliases(store: Store, call: Call) -> Answer:
    """``POST /v1/customers/{id}/setIngestAliases``: replaces them all; usage follows its alias, also past usage."""
    customer = _of_path(store, call.ids)
    aliases = list(dict.fromkeys(_aliases(checks.body_of(call).get("ingest_aliases"))))
    _require_free(store, aliases, owner=customer.id)
    store.set_aliases(customer, aliases)
    _touch(store, customer, "set_ingest_aliases")
    return Answer(has_body=False)


def set_name(store: Store, call: Call) -> Answer:
    """``POST /v1/customers/{id}/setName``."""
    customer = _of_path(store, call.ids)
    customer.fields["name"] = checks.text(checks.body_of(call), "name")[:160]
    _touch(store, customer, "set_name")
    return Answer({"data": _small(customer)})


def set_custom_fields(store: Store, call: Call) -> Answer:
    """``POST /v1/customFields/setValues`` for customers, billable metrics and products."""
    body = checks.body_of(call)
    homes: Mapping[str, Mapping[str, Record]] = {
        "customer": store.customers,
        "billable_metric": store.metrics,
        "contract_product": store.products,
    }
    entity = checks.text(body, "entity")
    if entity not in homes:
        raise Refused(f"entity must be one of {', '.join(homes)}.")
    record = homes[entity].get(checks.uuid_text(body.get("entity_id"), "entity_id"))
    if record is None:
        raise Refused("Entity not found.", 404)
    record.fields["custom_fields"] = {**record.fields.get("custom_fields", {}), **checks.custom_fields(body)}
    _touch(store, record, "set_custom_fields", entity)
    return Answer(has_body=False)


def _touch(store: Store, record: Record, action: str, resource_type: str = "customer") -> None:
    if "updated_at" in record.fields:
        record.fields["updated_at"] = store.now()
    store.write_audit(action, resource_type, record.id)


def _aliases(value: Any) -> list[str]:
    aliases = checks.texts(value, "ingest_aliases", most=2000)
    if any(not 1 <= len(alias) <= 128 for alias in aliases):
        raise Refused("An ingest alias must have 1 to 128 characters.")
    return aliases


def _require_free(store: Store, aliases: list[str], owner: str | None) -> None:
    for alias in aliases:
        if store.aliases.get(alias, owner) != owner:
            raise Refused("An ingest alias is already in use by another customer.", 409)
