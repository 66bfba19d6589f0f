"""What the ledger shows of itself: numbers by hour, and everything that waits for a person, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from metronome_pipeline.ledger.late import late_events
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.unsettled import unsettled_hours
from metronome_pipeline.mapping.usage import BilledMetric

Connection = psycopg.Connection[Any]
QUARANTINE_COLUMNS = ("customer", "metric", "hour", "number", "reason", "reference")
BRAKE_COLUMNS = ("digest", "customer", "metric", "billed", "observed")
PREVIEW_COLUMNS = ("customer", "metric", "properties", "value")
SHORT_COLUMNS = ("customer", "metric", "hour", "total", "grouped")
LATE_SHOWN = timedelta(days=35)
"""How long an event that was sent late stays listed."""


@dataclass(frozen=True)
class Hour:
    """One hour: rows of usage and their customers, events in the ledger, and what this run planned of them."""

    rows: int = 0
    customers: int = 0
    events: int = 0
    planned: int = 0
    corrections: int = 0
    quarantined: int = 0


@dataclass(frozen=True)
class OpenMatters:
    """What waits for a person, as rows of the columns named above."""

    quarantined: Sequence[Sequence[Any]]
    braked: Sequence[Sequence[Any]]
    unsettled: Sequence[Sequence[Any]]
    short_hours: Sequence[Sequence[Any]]
    late: Sequence[Sequence[Any]]


def hours(
    connection: Connection, pair_id: int, metrics: Sequence[BilledMetric], window: Window, run_id: str, *, grouped: bool
) -> dict[datetime, Hour]:
    """Numbers of each hour of a window that has any."""
    table = "grouped_usage" if grouped else "usage"
    rows = connection.execute(
        f"""
        WITH read AS (
            SELECT start_at, count(*) AS rows, count(DISTINCT customer_id) AS customers FROM metronome.{table}
            WHERE pair_id = %(pair_id)s AND metric_id = ANY (%(metrics)s::uuid[])
              AND start_at >= %(start)s AND start_at < %(end)s GROUP BY start_at
        ), sent AS (
            SELECT start_at, count(*) AS events, count(*) FILTER (WHERE run_id = %(run_id)s) AS planned,
                   count(*) FILTER (WHERE run_id = %(run_id)s AND kind <> 'usage') AS corrections,
                   count(*) FILTER (WHERE o.state = 'quarantined') AS quarantined
            FROM ledger.events e LEFT JOIN ledger.open_events o USING (event_id)
            WHERE e.pair_id = %(pair_id)s AND e.metric_id = ANY (%(metrics)s::uuid[])
              AND start_at >= %(start)s AND start_at < %(end)s GROUP BY start_at
        )
        SELECT start_at, coalesce(rows, 0), coalesce(customers, 0), coalesce(events, 0), coalesce(planned, 0),
               coalesce(corrections, 0), coalesce(quarantined, 0)
        FROM read FULL JOIN sent USING (start_at)
        """,  # noqa: S608 - `table` is one of the two constants above
        {
            "pair_id": pair_id,
            "metrics": [metric.metric_id for metric in metrics],
            "start": window.start,
            "end": window.end,
            "run_id": run_id,
        },
    )
    return {start: Hour(*numbers) for start, *numbers in rows}


def preview(
    connection: Connection, pair_id: int, metrics: Sequence[BilledMetric], hour: datetime, *, grouped: bool
) -> list[tuple[Any, ...]]:
    """The largest usage of an hour, as rows of ``PREVIEW_COLUMNS``."""
    table, properties = ("grouped_usage", "coalesce(u.properties, '')") if grouped else ("usage", "''")
    return connection.execute(
        f"""
        SELECT c.name, m.name, {properties}, u.value FROM metronome.{table} u
        JOIN metronome.customers c USING (pair_id, customer_id)
        JOIN metronome.billable_metrics m USING (pair_id, metric_id)
        WHERE u.pair_id = %s AND u.metric_id = ANY (%s::uuid[]) AND u.start_at = %s
        ORDER BY m.name, u.value DESC LIMIT 20
        """,  # noqa: S608 - both are one of the two constants above
        [pair_id, [metric.metric_id for metric in metrics], hour],
    ).fetchall()


def open_matters(connection: Connection, pair_id: int) -> OpenMatters:
    """Everything of this pair that waits for a person."""
    return OpenMatters(
        quarantined=connection.execute(
            "SELECT customer, metric, start_at, number, concat_ws(', ', code, field, message), reference "
            "FROM ledger.quarantine_v1 "
            "WHERE pair_id = %s ORDER BY start_at, reference",
            [pair_id],
        ).fetchall(),
        braked=connection.execute(
            "SELECT digest, customer_id, metric_id, billed, observed FROM ledger.brakes "
            "WHERE pair_id = %s AND released_at IS NULL ORDER BY at, digest",
            [pair_id],
        ).fetchall(),
        unsettled=unsettled_hours(connection, pair_id),
        short_hours=connection.execute(
            "SELECT customer_id, metric_id, start_at, total, grouped FROM metronome.short_groups "
            "WHERE pair_id = %s ORDER BY start_at",
            [pair_id],
        ).fetchall(),
        late=late_events(connection, pair_id, sent_within=LATE_SHOWN),
    )
