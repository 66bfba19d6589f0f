"""The proof of a demonstration: what Metronome metered, what the ledger holds, what Solvimon counts, side by side.

Here: each total from its own source, by the metric's own aggregation, and their differences. The ledger's is SQL; the
other two are the emulators' control totals, which share no code with the clients.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal, Inexact
from functools import reduce
from typing import Any

import psycopg

from metronome_pipeline.cli.local import Services

Connection = psycopg.Connection[Any]
Totals = Mapping[tuple[str, str], Decimal]
"""(customer id, metric id) → total."""

COLUMNS = ("customer", "metric", "by", "Metronome", "ledger", "Solvimon", "difference")

_EXACT = Context(prec=10_000, traps=[Inexact])


@dataclass(frozen=True)
class Line:
    """One customer and metric. ``aggregation`` is the metric's own; None: no such usage."""

    customer: str
    metric: str
    aggregation: str
    metronome: Decimal | None
    ledger: Decimal | None
    solvimon: Decimal | None

    @property
    def difference(self) -> Decimal | None:
        """How far the three are apart; None where one lacks a maximum that another has (nothing is no number)."""
        totals = [self.metronome, self.ledger, self.solvimon]
        if self.aggregation != "MAX":
            totals = [total or Decimal(0) for total in totals]
        there = [total for total in totals if total is not None]
        if not there:
            return Decimal(0)
        return _EXACT.subtract(max(there), min(there)) if len(there) == len(totals) else None

    @property
    def agrees(self) -> bool:
        """Whether all three say the same."""
        return self.difference == 0

    def cells(self) -> Sequence[object]:
        """The line as a row of the table."""
        difference = "missing" if self.difference is None else self.difference
        return (
            self.customer, self.metric, self.aggregation, self.metronome, self.ledger, self.solvimon, difference,
        )  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """A line for each customer and metric, and one for each metric over all customers."""

    lines: Sequence[Line]
    totals: Sequence[Line]

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return all(line.agrees for line in (*self.lines, *self.totals))


def compare(services: Services, connection: Connection, pair_id: int, start: datetime, end: datetime) -> Comparison:
    """Reads the three totals of ``[start, end)`` afresh, and sets them side by side."""
    within = {"from": start.isoformat(), "to": end.isoformat()}
    metered = services.metronome.call("GET", "totals", **within)["rows"]
    counted = services.solvimon.call("GET", "totals", **within)["rows"]
    names, metrics = _names(connection, pair_id)
    return comparison(
        {(row["customer_id"], row["metric_id"]): Decimal(row["value"]) for row in metered},
        _ledger_totals(connection, pair_id, start, end),
        {
            (row["customer_reference"], row["meter_reference"]): Decimal(row["value"])
            for row in counted
            if row["value"] is not None
        },
        names,
        metrics,
    )


def comparison(
    metronome: Totals,
    ledger: Totals,
    solvimon: Totals,
    names: Mapping[str, str],
    metrics: Mapping[str, tuple[str, str]],
) -> Comparison:
    """Lines for everything that any of the three knows. ``metrics`` gives name and aggregation by id."""
    lines = {
        (customer, metric): Line(
            names.get(customer, customer),
            *metrics.get(metric, (metric, "SUM")),
            metronome.get((customer, metric)),
            ledger.get((customer, metric)),
            solvimon.get((customer, metric)),
        )
        for customer, metric in {*metronome, *ledger, *solvimon}
    }
    in_order = sorted(lines.values(), key=lambda line: (line.customer, line.metric))
    by_metric = {metric: [line for key, line in lines.items() if key[1] == metric] for _, metric in lines}
    totals = [_total(list_) for list_ in by_metric.values()]
    return Comparison(in_order, sorted(totals, key=lambda line: line.metric))


def _total(lines: Sequence[Line]) -> Line:
    first = lines[0]
    return Line(
        "all customers",
        first.metric,
        first.aggregation,
        _aggregate(first.aggregation, (line.metronome for line in lines)),
        _aggregate(first.aggregation, (line.ledger for line in lines)),
        _aggregate(first.aggregation, (line.solvimon for line in lines)),
    )


def _aggregate(aggregation: str, totals: Iterable[Decimal | None]) -> Decimal | None:
    there = [total for total in totals if total is not None]
    if not there:
        return None
    return max(there) if aggregation == "MAX" else reduce(_EXACT.add, there)


def _names(connection: Connection, pair_id: int) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    customers = connection.execute(
        "SELECT customer_id::text, name FROM metronome.customers WHERE pair_id = %s", [pair_id]
    )
    metrics = connection.execute(
        "SELECT metric_id::text, name, coalesce(aggregation_type, '') FROM metronome.billable_metrics "
        "WHERE pair_id = %s",
        [pair_id],
    )
    return dict(customers.fetchall()), {metric_id: (name, kind) for metric_id, name, kind in metrics}


def _ledger_totals(connection: Connection, pair_id: int, start: datetime, end: datetime) -> Totals:
    rows = connection.execute(_LEDGER, {"pair_id": pair_id, "start": start, "end": end})
    return {(customer, metric): total for customer, metric, total in rows if total is not None}


# What the ledger counts for an event is its number, unless a receipt restated it.
_LEDGER = """
SELECT customer_id::text, metric_id::text,
       CASE m.aggregation_type WHEN 'MAX' THEN max(counted) ELSE sum(counted) END
FROM (
    SELECT e.pair_id, e.customer_id, e.metric_id,
           CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END AS counted
    FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
    WHERE e.pair_id = %(pair_id)s AND e.kind <> 'deletion' AND e.start_at >= %(start)s AND e.start_at < %(end)s
) AS events
JOIN metronome.billable_metrics m USING (pair_id, metric_id)
GROUP BY customer_id, metric_id, m.aggregation_type
"""
