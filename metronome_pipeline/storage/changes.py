"""What is known of the Metronome account beside what imports made of it: the records that may need an import.

Here: the statements. Not here: whether a difference needs one (``automation/changes.py``).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg

from metronome_pipeline.settings import Permitted

Connection = psycopg.Connection[Any]
Kind = Literal["customers", "meters", "products"]
KINDS: tuple[Kind, ...] = ("customers", "meters", "products")
MOST_RECORDS = 10_000
"""Records of a kind that are looked at in one go, the ones never imported first. An import takes all of them anyway."""


@dataclass(frozen=True)
class Known:
    """A record as last read, beside its last import.

    Attributes:
        record_id: Metronome's id.
        name: Its name in Metronome; of a product the first one.
        imported: Whether an import has an outcome for it, refused ones too.
        imported_name: The name that this import sent.
        changed_at: When it was last archived or changed, or what it waited for was imported, if after its own import.
        group_keys: Declared group keys of a metric.
        properties: References of the meter properties that the import linked; None when it was refused.
    """

    record_id: str
    name: str
    imported: bool
    imported_name: str | None
    changed_at: datetime | None
    group_keys: tuple[tuple[str, ...], ...] = ()
    properties: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Count:
    """How many records of a kind are known, and how many of these have an outcome of an import."""

    known: int
    imported: int


def suspects(connection: Connection, pair_id: int, kind: Kind, permitted: Permitted) -> list[Known]:
    """Records of a kind that may need an import, of those that the settings allow; of metrics all of these."""
    only = None if permitted.only is None else sorted(permitted.only)
    parameters = {"pair_id": pair_id, "only": only, "without": sorted(permitted.without), "most": MOST_RECORDS}
    rows = connection.execute(_SUSPECTS[kind], parameters)
    return [
        Known(
            record_id,
            name,
            imported,
            imported_name,
            changed_at,
            tuple(map(tuple, keys)),
            properties and tuple(properties),
        )
        for record_id, name, imported, imported_name, changed_at, keys, properties in rows
    ]


def counts(connection: Connection, pair_id: int) -> dict[Kind, Count]:
    """Numbers by kind."""
    return {kind: Count(*_row(connection, _COUNTS[kind], pair_id)) for kind in KINDS}


def _row(connection: Connection, statement: str, pair_id: int) -> tuple[int, int]:
    row = connection.execute(statement, {"pair_id": pair_id}).fetchone()
    assert row is not None
    return row[0], row[1]


_SUSPECTS = {
    "customers": """
SELECT c.customer_id::text, c.name, s.reference IS NOT NULL, s.legal_name,
       CASE WHEN c.archived_at > s.at THEN c.archived_at END, '[]'::jsonb, NULL::text[]
FROM metronome.customers c
LEFT JOIN solvimon.customers s ON s.pair_id = c.pair_id AND s.reference = c.customer_id::text
WHERE c.pair_id = %(pair_id)s AND c.gone_at IS NULL
  AND (%(only)s::text[] IS NULL OR c.customer_id::text = ANY (%(only)s::text[]))
  AND (s.reference IS NULL OR s.legal_name IS DISTINCT FROM c.name OR c.archived_at > s.at)
ORDER BY s.reference IS NOT NULL, c.customer_id LIMIT %(most)s
""",
    "meters": """
SELECT m.metric_id::text, m.name, s.reference IS NOT NULL, s.name,
       CASE WHEN m.archived_at > s.at THEN m.archived_at END, m.group_keys,
       CASE WHEN s.outcome <> 'refused' THEN s.properties END
FROM metronome.billable_metrics m
LEFT JOIN solvimon.meters s ON s.pair_id = m.pair_id AND s.reference = m.metric_id::text
WHERE m.pair_id = %(pair_id)s AND m.gone_at IS NULL
  AND (%(only)s::text[] IS NULL OR m.metric_id::text = ANY (%(only)s::text[]))
  AND m.metric_id::text <> ALL (%(without)s::text[])
ORDER BY s.reference IS NOT NULL, m.metric_id LIMIT %(most)s
""",
    # A product that was refused for want of its meter: the meter's import is its change.
    "products": """
WITH products AS (
    SELECT p.product_id::text AS record_id, p.initial ->> 'name' AS name, s.reference IS NOT NULL AS imported,
           s.name AS imported_name, s.at, greatest(
               p.archived_at,
               (SELECT max((u ->> 'created_at')::timestamptz) FROM jsonb_array_elements(p.updates) u),
               CASE WHEN s.outcome = 'refused' AND m.outcome IN ('created', 'updated') THEN m.at END
           ) AS changed_at
    FROM metronome.products p
    LEFT JOIN solvimon.products s ON s.pair_id = p.pair_id AND s.reference = p.product_id::text
    LEFT JOIN solvimon.meters m ON m.pair_id = p.pair_id AND m.calculation_id IS NOT NULL
        AND m.reference = coalesce(p.initial ->> 'billable_metric_id', p.current ->> 'billable_metric_id')
    WHERE p.pair_id = %(pair_id)s AND p.gone_at IS NULL
)
SELECT record_id, name, imported, imported_name, CASE WHEN changed_at > at THEN changed_at END,
       '[]'::jsonb, NULL::text[]
FROM products WHERE NOT imported OR imported_name IS DISTINCT FROM name OR changed_at > at
ORDER BY imported, record_id LIMIT %(most)s
""",
}

_COUNT = """
SELECT count(*), count(s.reference) FROM metronome.{known} k
LEFT JOIN solvimon.{imported} s ON s.pair_id = k.pair_id AND s.reference = k.{id}::text
WHERE k.pair_id = %(pair_id)s AND k.gone_at IS NULL
"""
_COUNTS: dict[Kind, str] = {
    "customers": _COUNT.format(known="customers", imported="customers", id="customer_id"),
    "meters": _COUNT.format(known="billable_metrics", imported="meters", id="metric_id"),
    "products": _COUNT.format(known="products", imported="products", id="product_id"),
}
