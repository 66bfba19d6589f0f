"""What was read of a Metronome account (customers, billable metrics, products), and the account pair that owns it.

Here: the statements. A complete walk replaces what was known: what it no longer lists is marked as gone, never deleted.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
import psycopg

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.metronome.records import BillableMetric, Customer, Product, ProductState, ProductUpdate
from metronome_pipeline.settings import AccountPair

Connection = psycopg.Connection[Any]


class WrongAccount(PipelineError):
    """What Metronome lists is not the account that this pair has been billing."""


@dataclass(frozen=True)
class Pair:
    """An account pair's row.

    ``deduplication``: whether its Solvimon was proved to ignore repeated references. ``restored_at``: when its ledger
    was last found to be restored from a backup.
    """

    pair_id: int
    deduplication: Literal["unknown", "proved", "off"]
    restored_at: datetime | None = None


@dataclass(frozen=True)
class KnownCustomer:
    """A customer as last read."""

    customer_id: str
    name: str
    archived_at: datetime | None


@dataclass(frozen=True)
class KnownMetric:
    """A billable metric as last read. ``group_keys`` as Metronome gives them."""

    metric_id: str
    name: str
    aggregation_type: str | None
    group_keys: tuple[tuple[str, ...], ...]
    is_sql: bool
    archived_at: datetime | None


def pair_of(connection: Connection, accounts: AccountPair) -> Pair:
    """The row of an account pair, made when it is met for the first time: another pair starts empty."""
    key = [
        accounts.metronome_host,
        accounts.metronome_environment,
        accounts.solvimon_host,
        accounts.solvimon_platform_id,
    ]
    row = connection.execute(_PAIR, key).fetchone()
    if row is None:
        connection.execute(
            "INSERT INTO ledger.account_pairs "
            "(metronome_host, metronome_environment, solvimon_host, solvimon_platform) VALUES "
            "(%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            key,
        )
        row = connection.execute(_PAIR, key).fetchone()
    assert row is not None
    return Pair(*row)


_PAIR = """
SELECT pair_id, deduplication, restored_at FROM ledger.account_pairs
WHERE (metronome_host, metronome_environment, solvimon_host, solvimon_platform) = (%s, %s, %s, %s)
"""


def note_deduplication(connection: Connection, pair_id: int, found: Literal["proved", "off"]) -> None:
    """Remembers whether the destination ignores a second event under one reference."""
    connection.execute(
        "UPDATE ledger.account_pairs SET deduplication = %s, deduplication_at = ledger.moment() WHERE pair_id = %s",
        [found, pair_id],
    )


def store_customers(
    connection: Connection, pair_id: int, customers: Sequence[Customer], *, refused: Collection[str] = ()
) -> None:
    """Replaces the known customers by a complete walk.

    ``refused`` are ids of listed records that cannot be kept: where one is known from before, it stays as it was.

    Raises:
        WrongAccount: Most of the customers known so far are not listed: another environment's token, most likely.
            Nothing is stored.
    """
    known = connection.execute(
        "SELECT customer_id::text FROM metronome.customers WHERE pair_id = %s AND gone_at IS NULL", [pair_id]
    )
    listed = [*refused, *(customer.id for customer in customers)]
    _refuse_another_account("customers", known, listed)
    connection.execute(
        _STORE_CUSTOMERS,
        {
            "pair_id": pair_id,
            "ids": [customer.id for customer in customers],
            "names": [customer.name for customer in customers],
            "external_ids": [customer.external_id for customer in customers],
            "ingest_aliases": [json.dumps(customer.ingest_aliases) for customer in customers],
            "custom_fields": [json.dumps(dict(customer.custom_fields)) for customer in customers],
            "created": [customer.created_at for customer in customers],
            "updated": [customer.updated_at for customer in customers],
            "archived": [customer.archived_at for customer in customers],
        },
    )
    connection.execute(
        "UPDATE metronome.customers SET gone_at = ledger.moment() "
        "WHERE pair_id = %s AND gone_at IS NULL AND customer_id::text <> ALL (%s::text[])",
        [pair_id, listed],
    )


def _refuse_another_account(what: str, known: Iterable[tuple[str]], listed: Collection[str]) -> None:
    """A walk lists archived records too, so what is known does not leave an account."""
    ids = {record_id for (record_id,) in known}
    missing = ids.difference(listed)
    if len(missing) * 2 > len(ids):
        raise WrongAccount(
            f"Metronome no longer lists {len(missing)} of the {len(ids)} {what} that this account pair knows, such as "
            f"{min(missing)}. METRONOME_BEARER_TOKEN seems to be of another environment: set the right token, or give "
            "this environment a name of its own in METRONOME_ENVIRONMENT. Nothing was stored, planned or sent."
        )


def store_metrics(
    connection: Connection, pair_id: int, metrics: Sequence[BillableMetric], *, refused: Collection[str] = ()
) -> None:
    """Replaces the known billable metrics by a complete walk, under the conditions of ``store_customers``."""
    known = connection.execute(
        "SELECT metric_id::text FROM metronome.billable_metrics WHERE pair_id = %s AND gone_at IS NULL", [pair_id]
    )
    listed = [*refused, *(metric.id for metric in metrics)]
    _refuse_another_account("billable metrics", known, listed)
    connection.execute(
        _STORE_METRICS,
        {
            "pair_id": pair_id,
            "ids": [metric.id for metric in metrics],
            "names": [metric.name for metric in metrics],
            "aggregation_types": [metric.aggregation_type for metric in metrics],
            "aggregation_keys": [metric.aggregation_key for metric in metrics],
            "group_keys": [json.dumps(metric.group_keys) for metric in metrics],
            "sql": [metric.sql for metric in metrics],
            "archived": [metric.archived_at for metric in metrics],
        },
    )
    connection.execute(
        "UPDATE metronome.billable_metrics SET gone_at = ledger.moment() "
        "WHERE pair_id = %s AND gone_at IS NULL AND metric_id::text <> ALL (%s::text[])",
        [pair_id, listed],
    )


def store_products(
    connection: Connection, pair_id: int, products: Sequence[Product], *, refused: Collection[str] = ()
) -> None:
    """Replaces the known products by a complete walk, under the conditions of ``store_customers``."""
    known = connection.execute(
        "SELECT product_id::text FROM metronome.products WHERE pair_id = %s AND gone_at IS NULL", [pair_id]
    )
    listed = [*refused, *(product.id for product in products)]
    _refuse_another_account("products", known, listed)
    connection.execute(
        _STORE_PRODUCTS,
        {
            "pair_id": pair_id,
            "ids": [product.id for product in products],
            "types": [product.type for product in products],
            "initial": [msgspec.json.encode(product.initial).decode() for product in products],
            "current": [msgspec.json.encode(product.current).decode() for product in products],
            "updates": [msgspec.json.encode(product.updates).decode() for product in products],
            "archived": [product.archived_at for product in products],
        },
    )
    connection.execute(
        "UPDATE metronome.products SET gone_at = ledger.moment() "
        "WHERE pair_id = %s AND gone_at IS NULL AND product_id::text <> ALL (%s::text[])",
        [pair_id, listed],
    )


def known_customers(connection: Connection, pair_id: int) -> list[KnownCustomer]:
    """Every customer of the account, archived ones too and erased ones not, in the order of their ids."""
    rows = connection.execute(
        "SELECT customer_id::text, name, archived_at FROM metronome.customers "
        "WHERE pair_id = %s AND gone_at IS NULL AND erased_at IS NULL ORDER BY customer_id",
        [pair_id],
    )
    return [KnownCustomer(*row) for row in rows]


def known_metrics(connection: Connection, pair_id: int) -> list[KnownMetric]:
    """Every billable metric of the account, archived ones too, in the order of their ids."""
    rows = connection.execute(
        "SELECT metric_id::text, name, aggregation_type, group_keys, sql IS NOT NULL, archived_at "
        "FROM metronome.billable_metrics WHERE pair_id = %s AND gone_at IS NULL ORDER BY metric_id",
        [pair_id],
    )
    return [
        KnownMetric(metric_id, name, aggregation, tuple(tuple(key) for key in keys), is_sql, archived_at)
        for metric_id, name, aggregation, keys, is_sql, archived_at in rows
    ]


def known_products(connection: Connection, pair_id: int) -> list[Product]:
    """Every product of the account, archived ones too, in the order of their ids."""
    rows = connection.execute(
        "SELECT product_id::text, type, initial::text, current::text, updates::text, archived_at "
        "FROM metronome.products WHERE pair_id = %s AND gone_at IS NULL ORDER BY product_id",
        [pair_id],
    )
    return [
        Product(
            id=product_id,
            type=kind,
            initial=msgspec.json.decode(initial, type=ProductState),
            current=msgspec.json.decode(current, type=ProductState),
            updates=msgspec.json.decode(updates, type=tuple[ProductUpdate, ...]),
            archived_at=archived_at,
        )
        for product_id, kind, initial, current, updates, archived_at in rows
    ]


# Each in the order of ids: two runs that store one list at once then wait for each other, and never both.
_STORE_CUSTOMERS = """
INSERT INTO metronome.customers AS c (pair_id, customer_id, name, external_id, ingest_aliases, custom_fields,
                                      created_at, updated_at, archived_at)
SELECT %(pair_id)s, customer_id, name, external_id, ARRAY(SELECT jsonb_array_elements_text(ingest_aliases)),
       custom_fields, created_at, updated_at, archived_at
FROM unnest(%(ids)s::uuid[], %(names)s::text[], %(external_ids)s::text[], %(ingest_aliases)s::jsonb[],
            %(custom_fields)s::jsonb[], %(created)s::timestamptz[], %(updated)s::timestamptz[],
            %(archived)s::timestamptz[])
    AS r (customer_id, name, external_id, ingest_aliases, custom_fields, created_at, updated_at, archived_at)
ORDER BY customer_id
ON CONFLICT (pair_id, customer_id) DO UPDATE
    SET name = excluded.name, external_id = excluded.external_id, ingest_aliases = excluded.ingest_aliases,
        custom_fields = excluded.custom_fields, updated_at = excluded.updated_at, archived_at = excluded.archived_at,
        gone_at = NULL
    WHERE c.erased_at IS NULL
      AND (c.name, c.external_id, c.ingest_aliases, c.custom_fields, c.updated_at, c.archived_at, c.gone_at)
          IS DISTINCT FROM (excluded.name, excluded.external_id, excluded.ingest_aliases, excluded.custom_fields,
                            excluded.updated_at, excluded.archived_at, NULL)
"""

_STORE_METRICS = """
INSERT INTO metronome.billable_metrics AS m (pair_id, metric_id, name, aggregation_type, aggregation_key, group_keys,
                                             sql, archived_at)
SELECT %(pair_id)s, * FROM unnest(
    %(ids)s::uuid[], %(names)s::text[], %(aggregation_types)s::text[], %(aggregation_keys)s::text[],
    %(group_keys)s::jsonb[], %(sql)s::text[], %(archived)s::timestamptz[])
ORDER BY 2
ON CONFLICT (pair_id, metric_id) DO UPDATE
    SET name = excluded.name, aggregation_type = excluded.aggregation_type,
        aggregation_key = excluded.aggregation_key, group_keys = excluded.group_keys, sql = excluded.sql,
        archived_at = excluded.archived_at, gone_at = NULL
    WHERE (m.name, m.aggregation_type, m.aggregation_key, m.group_keys, m.sql, m.archived_at, m.gone_at)
          IS DISTINCT FROM (excluded.name, excluded.aggregation_type, excluded.aggregation_key, excluded.group_keys,
                            excluded.sql, excluded.archived_at, NULL)
"""

_STORE_PRODUCTS = """
INSERT INTO metronome.products AS p (pair_id, product_id, type, initial, current, updates, archived_at)
SELECT %(pair_id)s, * FROM unnest(
    %(ids)s::uuid[], %(types)s::text[], %(initial)s::jsonb[], %(current)s::jsonb[], %(updates)s::jsonb[],
    %(archived)s::timestamptz[])
ORDER BY 2
ON CONFLICT (pair_id, product_id) DO UPDATE
    SET type = excluded.type, initial = excluded.initial, current = excluded.current, updates = excluded.updates,
        archived_at = excluded.archived_at, gone_at = NULL
    WHERE (p.type, p.initial, p.current, p.updates, p.archived_at, p.gone_at)
          IS DISTINCT FROM (excluded.type, excluded.initial, excluded.current, excluded.updates, excluded.archived_at,
                            NULL)
"""
