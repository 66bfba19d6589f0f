"""``python -m metronome_pipeline_tests.benchmark.ledger_size``: what a large ledger costs the work of an hour.

The same 1,000 pairs with few hours and with many, filled by SQL, then the production statements of an hourly run, a
sweep and the checks, each rolled back. Not here: anything over HTTP (``__main__.py``).
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import click
import psycopg
from psycopg import sql

from metronome_pipeline.cli.terminal import say, show_table
from metronome_pipeline.ledger import claims, evidence
from metronome_pipeline.ledger.plan import Scope, plan
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.mapping.usage import UNGROUPED, BilledMetric
from metronome_pipeline.storage.database import Database
from metronome_pipeline.storage.embedded import embedded_postgres
from metronome_pipeline.sweeps import proofs, sweeps
from metronome_pipeline.sweeps.days import DayTotal, days_of
from metronome_pipeline_tests.benchmark.contestants.setting import Setting
from metronome_pipeline_tests.benchmark.imported import prepare
from metronome_pipeline_tests.benchmark.workload import HOUR, M

Connection = psycopg.Connection[Any]
_ROUNDS = 7
_LAST = datetime.fromisoformat("2026-01-05T00:00:00+00:00")
_CHANGED = "UPDATE metronome.usage SET value = value + 1 WHERE start_at = %s"

# In the order in which hourly runs would have written them.
_FILL = """
INSERT INTO ledger.events
    (pair_id, customer_id, metric_id, start_at, end_at, slice, kind, revision, number, reference, planned_at, run_id)
SELECT {pair}, c.customer_id, m.metric_id, h, h + interval '1 hour', 'total', 'usage', 0, 12.345,
       ledger.event_reference(c.customer_id, m.metric_id, h, h + interval '1 hour', 'total', 0), h, 'run ' || h
FROM generate_series({first}::timestamptz, {last}, interval '1 hour') AS h, metronome.customers c,
     metronome.billable_metrics m
ORDER BY h;
INSERT INTO metronome.usage (pair_id, customer_id, metric_id, start_at, end_at, value)
SELECT pair_id, customer_id, metric_id, start_at, end_at, number FROM ledger.events ORDER BY event_id;
INSERT INTO ledger.receipts (event_id, outcome, solvimon_id, at, run_id)
SELECT event_id, 'delivered', 'mtda_' || event_id, planned_at, run_id FROM ledger.events ORDER BY event_id;
INSERT INTO metronome.coverage (pair_id, customer_id, metric_id, slicing, covered)
SELECT {pair}, customer_id, metric_id, {slicing}, tstzmultirange(tstzrange({first}, {last} + interval '1 hour'))
FROM metronome.customers, metronome.billable_metrics;
INSERT INTO ledger.planned_hours (pair_id, metric_id, customer_id, slicing, hours)
SELECT pair_id, metric_id, customer_id, slicing, covered FROM metronome.coverage;
INSERT INTO ledger.slicings (pair_id, metric_id, slicing)
SELECT {pair}, metric_id, {slicing} FROM metronome.billable_metrics;
"""


@dataclass(frozen=True)
class Ledger:
    """A database with so many events, and who is in it."""

    pair_id: int
    metrics: Sequence[BilledMetric]
    customers: Sequence[str]

    def plan(self, connection: Connection, hours: int) -> None:
        """Plans the last hours, in one of which every pair's usage has changed."""
        connection.execute(_CHANGED, [_LAST - HOUR])
        scope = Scope(self.pair_id, _LAST - hours * HOUR, _LAST, self.metrics, brake=None)
        planned = plan(connection, scope, run_id="bench")
        assert planned.events == M.pairs, planned

    def deliver(self, connection: Connection) -> None:
        """Claims and settles a batch of what was planned."""
        claim = claims.claim_next(connection, self.pair_id, "bench", 50)
        assert claim is not None
        receipts = [claims.Receipt(event.event_id, "delivered", "mtda_1") for event in claim.events]
        claims.settle(connection, claim, receipts, [], [], pair_id=self.pair_id, run_id="bench")

    def sweep(self, connection: Connection) -> None:
        """Holds the last three days of 20 customers against the ledger."""
        window = Window(_LAST - 72 * HOUR, _LAST)
        swept = sweeps.Swept(
            self.pair_id,
            self.customers,
            {metric.metric_id: sweeps.SweptMetric(metric, additive=True) for metric in self.metrics},
            cut_over=window.start,
        )
        sweep = sweeps.begin(connection, swept, sweeps.SweepKind.usage, window, run_id="bench")
        for customer in self.customers[:20]:
            totals = [
                DayTotal(customer, metric.metric_id, day, Decimal(288))
                for metric in self.metrics
                for day in days_of(window.start, window.end)
            ]
            proofs.compare_days(connection, swept, sweep, customer, totals)

    def check(self, connection: Connection) -> None:
        """What the reports and checks of one hour ask."""
        window = Window(_LAST - HOUR, _LAST)
        evidence.hours(connection, self.pair_id, self.metrics, window, "bench", grouped=False)
        evidence.open_matters(connection, self.pair_id)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rows", "sizes", multiple=True, type=int, default=(100_000, 10_000_000), show_default=True, help="Events."
)
@click.option("--analyzed/--not-analyzed", default=True, show_default=True, help="Whether Postgres has counted them.")
def main(sizes: Sequence[int], analyzed: bool) -> None:
    """Fill a ledger to each size, and time the statements of an hour on it. 10 million rows take 10 GB for a while."""
    columns = [_measured(size, analyzed=analyzed) for size in sizes]
    works = list(columns[0])
    rows = [
        (work, *(f"{column[work]:,.1f}" for column in columns), f"{columns[-1][work] / columns[0][work]:.2f}")
        for work in works
    ]
    show_table("The work of an hour, 1,000 pairs", ("", *(f"{size:,} events" for size in sizes), "times"), rows)


def _measured(size: int, *, analyzed: bool) -> dict[str, float]:
    """Medians in milliseconds, and bytes a row, of a ledger with so many events."""
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as home:
        server = embedded_postgres(Path(home), fast_commits=True)
        try:
            with Database(server.url) as database:
                began = time.monotonic()
                ledger = _filled(database, size // M.pairs, analyzed=analyzed)
                say(f"{size:,} events filled in {time.monotonic() - began:.0f} s")
                return _times(database, ledger, size)
        finally:
            server.stop()


def _filled(database: Database, hours: int, *, analyzed: bool) -> Ledger:
    pair = prepare(database, Setting("http://localhost", "http://localhost", "", "M"))
    values = {
        "pair": sql.Literal(pair.pair_id),
        "slicing": sql.Literal(UNGROUPED),
        "first": sql.Literal(_LAST - hours * HOUR),
        "last": sql.Literal(_LAST - HOUR),
    }
    with database.transaction() as connection:
        connection.execute(sql.SQL(_FILL).format(**values))
        if analyzed:
            connection.execute("ANALYZE")
    metrics = [BilledMetric(metric_id, "Metric", "SUM", UNGROUPED) for metric_id in M.metric_ids()]
    return Ledger(pair.pair_id, metrics, M.customer_ids())


def _times(database: Database, ledger: Ledger, size: int) -> dict[str, float]:
    works: dict[str, Callable[[Connection], None]] = {
        "plan an hour": lambda c: ledger.plan(c, 1),
        "plan four days": lambda c: ledger.plan(c, 96),
        "sweep three days of 100 pairs": ledger.sweep,
        "reports and checks of an hour": ledger.check,
    }
    found = {}
    for name, work in works.items():
        found[f"{name}, ms"] = median(_once(database, work) for _ in range(_ROUNDS))
    with database.transaction() as connection:
        ledger.plan(connection, 1)
    found["claim and settle a batch of 50, ms"] = median(_once(database, ledger.deliver) for _ in range(_ROUNDS))
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname IN ('ledger', 'metronome') AND c.relkind = 'r'"
        ).fetchone()
    assert row is not None
    found["bytes an event, with its usage and receipt"] = row[0] / size
    return found


def _once(database: Database, work: Callable[[Connection], None]) -> float:
    """Milliseconds of one turn, which is rolled back."""
    with database.transaction() as connection:
        began = time.perf_counter()
        work(connection)
        took = (time.perf_counter() - began) * 1000
        connection.execute("ROLLBACK")
    return took


if __name__ == "__main__":
    main()
