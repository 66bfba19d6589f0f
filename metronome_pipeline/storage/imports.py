"""What imports made in Solvimon, remembered: customers, meters, products, with the outcome of each.

Here: the statements. A later import replaces the row of a record.
"""

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
    connection.cursor().executemany(
        "INSERT INTO solvimon.customers (pair_id, reference, solvimon_id, legal_name, outcome, reason, run_id) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (pair_id, reference) DO UPDATE SET "
        "solvimon_id = excluded.solvimon_id, legal_name = excluded.legal_name, outcome = excluded.outcome, "
        "reason = excluded.reason, run_id = excluded.run_id, at = excluded.at",
        [(pair_id, o.reference, o.solvimon_id, o.name, o.outcome, o.reason, run_id) for o in outcomes],
    )


def store_meters(connection: Connection, pair_id: int, outcomes: Sequence[ImportedMeter], *, run_id: str) -> None:
    """Remembers the outcomes of meters."""
    connection.cursor().executemany(
        "INSERT INTO solvimon.meters (pair_id, reference, solvimon_id, name, calculation_id, calculation_type, "
        "properties, outcome, reason, run_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (pair_id, reference) DO UPDATE SET solvimon_id = excluded.solvimon_id, name = excluded.name, "
        "calculation_id = excluded.calculation_id, calculation_type = excluded.calculation_type, "
        "properties = excluded.properties, outcome = excluded.outcome, "
        "reason = excluded.reason, run_id = excluded.run_id, at = excluded.at",
        [
            (
                pair_id,
                o.reference,
                o.solvimon_id,
                o.name,
                o.calculation_id,
                o.calculation_type,
                list(o.properties),
                o.outcome,
                o.reason,
                run_id,
            )
            for o in outcomes
        ],
    )


def store_products(connection: Connection, pair_id: int, outcomes: Sequence[ImportedProduct], *, run_id: str) -> None:
    """Remembers the outcomes of products."""
    connection.cursor().executemany(
        "INSERT INTO solvimon.products (pair_id, reference, solvimon_id, name, item_id, model_type, calculation_id, "
        "outcome, reason, run_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (pair_id, reference) DO UPDATE SET solvimon_id = excluded.solvimon_id, name = excluded.name, "
        "item_id = excluded.item_id, model_type = excluded.model_type, "
        "calculation_id = excluded.calculation_id, outcome = excluded.outcome, "
        "reason = excluded.reason, run_id = excluded.run_id, at = excluded.at",
        [
            (
                pair_id,
                o.reference,
                o.solvimon_id,
                o.name,
                o.item_id,
                o.model_type,
                o.calculation_id,
                o.outcome,
                o.reason,
                run_id,
            )
            for o in outcomes
        ],
    )


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
