"""What imports made in Solvimon, remembered: customers, meters, products, with the outcome of each.

Here: the statements. A later import replaces the row of a record.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from metronome_pipeline.storage.accounts import KnownCustomer

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Outcome:
    """What an import did with one record. ``reason`` says why it was refused, or what a person should know of it."""

    reference: str
    name: str
    outcome: Literal["created", "updated", "unchanged", "refused"]
    reason: str | None = None
    solvimon_id: str | None = None


@dataclass(frozen=True)
class ImportedMeter(Outcome):
    """The same for a meter. Without a calculation its usage is not billed."""

    calculation_id: str | None = None
    calculation_type: str | None = None
    properties: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportedProduct(Outcome):
    """The same for a product and its one item."""

    item_id: str | None = None
    model_type: str | None = None
    calculation_id: str | None = None


def store_customers(connection: Connection, pair_id: int, outcomes: Sequence[Outcome], *, run_id: str) -> None:
    """Remembers the outcomes of customers."""
    connection.execute(_STORE_CUSTOMERS, _columns(pair_id, outcomes, run_id))


def store_meters(connection: Connection, pair_id: int, outcomes: Sequence[ImportedMeter], *, run_id: str) -> None:
    """Remembers the outcomes of meters."""
    own = {
        "calculation_ids": [o.calculation_id for o in outcomes],
        "calculation_types": [o.calculation_type for o in outcomes],
        "properties": [json.dumps(o.properties) for o in outcomes],
    }
    connection.execute(_STORE_METERS, {**_columns(pair_id, outcomes, run_id), **own})


def store_products(connection: Connection, pair_id: int, outcomes: Sequence[ImportedProduct], *, run_id: str) -> None:
    """Remembers the outcomes of products."""
    own = {
        "item_ids": [o.item_id for o in outcomes],
        "model_types": [o.model_type for o in outcomes],
        "calculation_ids": [o.calculation_id for o in outcomes],
    }
    connection.execute(_STORE_PRODUCTS, {**_columns(pair_id, outcomes, run_id), **own})


def _columns(pair_id: int, outcomes: Sequence[Outcome], run_id: str) -> dict[str, Any]:
    return {
        "pair_id": pair_id,
        "run_id": run_id,
        "references": [o.reference for o in outcomes],
        "solvimon_ids": [o.solvimon_id for o in outcomes],
        "names": [o.name for o in outcomes],
        "outcomes": [o.outcome for o in outcomes],
        "reasons": [o.reason for o in outcomes],
    }


# Each in the order of references: two imports at once then wait for each other, and never both.
_STORE_CUSTOMERS = """
INSERT INTO solvimon.customers (pair_id, run_id, reference, solvimon_id, legal_name, outcome, reason)
SELECT %(pair_id)s, %(run_id)s, * FROM unnest(
    %(references)s::text[], %(solvimon_ids)s::text[], %(names)s::text[], %(outcomes)s::text[], %(reasons)s::text[])
ORDER BY 3
ON CONFLICT (pair_id, reference) DO UPDATE
    SET solvimon_id = excluded.solvimon_id, legal_name = excluded.legal_name, outcome = excluded.outcome,
        reason = excluded.reason, run_id = excluded.run_id, at = excluded.at
"""

_STORE_METERS = """
INSERT INTO solvimon.meters (pair_id, run_id, reference, solvimon_id, name, outcome, reason, calculation_id,
                             calculation_type, properties)
SELECT %(pair_id)s, %(run_id)s, reference, solvimon_id, name, outcome, reason, calculation_id, calculation_type,
       ARRAY(SELECT jsonb_array_elements_text(properties))
FROM unnest(%(references)s::text[], %(solvimon_ids)s::text[], %(names)s::text[], %(outcomes)s::text[],
            %(reasons)s::text[], %(calculation_ids)s::text[], %(calculation_types)s::text[], %(properties)s::jsonb[])
    AS o (reference, solvimon_id, name, outcome, reason, calculation_id, calculation_type, properties)
ORDER BY reference
ON CONFLICT (pair_id, reference) DO UPDATE
    SET solvimon_id = excluded.solvimon_id, name = excluded.name, calculation_id = excluded.calculation_id,
        calculation_type = excluded.calculation_type, properties = excluded.properties, outcome = excluded.outcome,
        reason = excluded.reason, run_id = excluded.run_id, at = excluded.at
"""

_STORE_PRODUCTS = """
INSERT INTO solvimon.products (pair_id, run_id, reference, solvimon_id, name, outcome, reason, item_id, model_type,
                               calculation_id)
SELECT %(pair_id)s, %(run_id)s, * FROM unnest(
    %(references)s::text[], %(solvimon_ids)s::text[], %(names)s::text[], %(outcomes)s::text[], %(reasons)s::text[],
    %(item_ids)s::text[], %(model_types)s::text[], %(calculation_ids)s::text[])
ORDER BY 3
ON CONFLICT (pair_id, reference) DO UPDATE
    SET solvimon_id = excluded.solvimon_id, name = excluded.name, item_id = excluded.item_id,
        model_type = excluded.model_type, calculation_id = excluded.calculation_id, outcome = excluded.outcome,
        reason = excluded.reason, run_id = excluded.run_id, at = excluded.at
"""


def calculation_ids(connection: Connection, pair_id: int) -> dict[str, tuple[str, str]]:
    """Meters whose usage is billed: metric id → (calculation id, calculation type)."""
    rows = connection.execute(
        "SELECT reference, calculation_id, calculation_type FROM solvimon.meters "
        "WHERE pair_id = %s AND calculation_id IS NOT NULL AND outcome <> 'refused'",
        [pair_id],
    )
    return {reference: (calculation_id, kind) for reference, calculation_id, kind in rows}


def reasons_of_meters(connection: Connection, pair_id: int) -> dict[str, str]:
    """Meters whose usage is not billed: metric id → why."""
    rows = connection.execute(
        "SELECT reference, coalesce(reason, 'It has no meter value calculation.') FROM solvimon.meters "
        "WHERE pair_id = %s AND (calculation_id IS NULL OR outcome = 'refused')",
        [pair_id],
    )
    return dict(rows.fetchall())


def customers_to_create(connection: Connection, pair_id: int) -> list[KnownCustomer]:
    """Customers with waiting events that no import has brought over yet."""
    rows = connection.execute(
        "SELECT c.customer_id::text, c.name, c.archived_at FROM metronome.customers c WHERE c.pair_id = %(pair_id)s "
        "AND NOT EXISTS (SELECT FROM solvimon.customers s "
        "WHERE s.pair_id = c.pair_id AND s.reference = c.customer_id::text) "
        "AND EXISTS (SELECT FROM ledger.open_events o JOIN ledger.events e USING (event_id) "
        "WHERE o.pair_id = c.pair_id AND e.customer_id = c.customer_id) ORDER BY c.customer_id",
        {"pair_id": pair_id},
    )
    return [KnownCustomer(*row) for row in rows]
