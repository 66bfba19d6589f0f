"""Rebuild: a ledger that is lost, whole or in part, is made again from the events that Solvimon stores.

Here: the order of it in one transaction, and its report. Nothing is planned or sent meanwhile, for the transaction
holds both of the pair's locks from its beginning; a rebuild that fails leaves nothing behind. Not here: the walks
(``stocktake.py``), which slot an event stands for (``adoption.py``), the statements on the ledger (``recovery.py``).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.ledger.claims import DELIVERY_LOCK
from metronome_pipeline.ledger.plan import PLANNING_LOCK
from metronome_pipeline.ledger.slicings import note_slicings, slicings
from metronome_pipeline.mapping.usage import PERIOD_TO_DATE, UNGROUPED, slicing_of
from metronome_pipeline.rebuilding import recovery
from metronome_pipeline.rebuilding.adoption import Known
from metronome_pipeline.rebuilding.rebuilt import Rebuilt, report
from metronome_pipeline.rebuilding.stocktake import Say, take_stock
from metronome_pipeline.solvimon.api import SolvimonApi

Connection = psycopg.Connection[Any]

_HOUR = timedelta(hours=1)


class CannotRebuild(PipelineError):
    """The ledger cannot be rebuilt now, and what to do first."""


async def rebuild(
    connection: Connection,
    api: SolvimonApi,
    pair_id: int,
    *,
    wanted: Mapping[str, str],
    by: str,
    say: Say = lambda _: None,
) -> Rebuilt:
    """Makes the ledger again in the caller's transaction, which may then be rolled back to have changed nothing.

    What stands in the ledger stays. What Solvimon has beyond it is added under its references; where Solvimon's number
    under a reference differs, that one is counted from now on. Coverage is not made up: the next run reads again.

    Args:
        connection: In a transaction. It lasts as long as the walks do.
        api: Read from only.
        pair_id: The account pair.
        wanted: The slicing that the settings choose, by metric id.
        by: Who asks.
        say: Told the progress.

    Raises:
        CannotRebuild: A run is under way, or the imports are missing.
        EventsKeepChanging, NotProved: Nothing may be committed.
    """
    _lock(connection, pair_id)
    known = _known(connection, pair_id, wanted)
    walks = await take_stock(connection, api, known, say)
    run_id = _run_id(connection)
    done = recovery.recover(connection, pair_id, run_id=run_id, asked=f"Rebuilt from Solvimon's events by {by}.")
    seen = _recover_slicings(connection, pair_id, wanted)
    recovery.note_planned(connection, pair_id)
    recovery.prove(connection, pair_id)
    return report(connection, pair_id, walks=walks, done=done, slicings=seen)


def _lock(connection: Connection, pair_id: int) -> None:
    """Keeps everything else from planning and sending until the transaction ends; it never waits for a run."""
    # Waiting for an answer of Solvimon is no idleness.
    connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    row = connection.execute(
        "SELECT pg_try_advisory_xact_lock(%(send)s, %(pair)s) AND pg_try_advisory_xact_lock(%(plan)s, %(pair)s)",
        {"send": DELIVERY_LOCK, "plan": PLANNING_LOCK, "pair": pair_id},
    ).fetchone()
    if row != (True,):
        raise CannotRebuild(
            "A run is planning or sending events right now, or another rebuild is under way. Nothing was changed: "
            "wait until it has ended, or stop it, then rebuild."
        )


def _known(connection: Connection, pair_id: int, wanted: Mapping[str, str]) -> Known:
    """The customers and metrics of this pair, and how their usage may be grouped.

    Raises:
        CannotRebuild: There are none.
    """
    customers = dict(connection.execute(_CUSTOMERS, {"pair_id": pair_id}).fetchall())
    rows = connection.execute(_METRICS, {"pair_id": pair_id}).fetchall()
    meters = _count(connection, "SELECT count(*) FROM solvimon.meters WHERE pair_id = %s", pair_id)
    if not customers or not rows or not meters:
        raise CannotRebuild(
            "Customers and billable metrics are not known here, so no event can be placed. Nothing was changed: run "
            "import_everything first, then rebuild."
        )
    billed = slicings(connection, pair_id)
    metrics, keys = {}, {}
    for metric_id, solvimon_id, declared in rows:
        metrics[metric_id] = metric_id
        if solvimon_id:
            metrics[solvimon_id] = metric_id
        first = [billed.get(metric_id), wanted.get(metric_id)]
        chosen = [tuple(json.loads(each)) for each in first if each not in (None, UNGROUPED, PERIOD_TO_DATE)]
        keys[metric_id] = tuple(dict.fromkeys([*chosen, *map(tuple, declared)]))
    return Known(customers, metrics, keys)


def _recover_slicings(connection: Connection, pair_id: int, wanted: Mapping[str, str]) -> list[tuple[str, str]]:
    """Notes how each metric was billed of late, where its events tell, and says so by name."""
    rows = connection.execute(_SEEN_SLICINGS, {"pair_id": pair_id}).fetchall()
    found: dict[str, str] = {}
    told = []
    for metric_id, name, declared, slice_name, length, properties in rows:
        ways = [tuple(way) for way in declared]
        slicing = _slicing(slice_name, length, properties, ways, wanted.get(metric_id))
        if slicing is None:
            told.append((name, "billed by groups; which ones is not certain: the next run takes the settings' word"))
            continue
        found[metric_id] = slicing
        if wanted.get(metric_id, slicing) == slicing:
            told.append((name, f"billed through {slicing}"))
        else:
            asked = f"billed through {slicing}, and the settings say {wanted[metric_id]}: runs refuse it until the "
            told.append((name, f"{asked}setting is changed back, or `slicing switch` is asked for"))
    if found:
        note_slicings(connection, pair_id, found)
    return told


def _slicing(
    slice_name: str, length: timedelta, properties: str | None, ways: Sequence[tuple[str, ...]], wanted: str | None
) -> str | None:
    """The slicing that an event was billed through; None where several would explain it, or none."""
    if slice_name == "total":
        return UNGROUPED if length == _HOUR else PERIOD_TO_DATE
    keys = None if properties is None else set(json.loads(properties))
    fitting = [slicing_of(way) for way in ways if way and keys in (None, set(way))]
    if wanted in fitting:
        return wanted
    return fitting[0] if len(fitting) == 1 else None


def _run_id(connection: Connection) -> str:
    row = connection.execute("SELECT ledger.moment()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return f"rebuild {moment:%Y-%m-%dT%H:%M:%SZ}"


def _count(connection: Connection, statement: str, *parameters: object) -> int:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return int(row[0])


_CUSTOMERS = """
SELECT customer_id::text, customer_id::text FROM metronome.customers WHERE pair_id = %(pair_id)s
UNION ALL
SELECT s.solvimon_id, s.reference FROM solvimon.customers s
JOIN metronome.customers c ON c.pair_id = s.pair_id AND c.customer_id::text = s.reference
WHERE s.pair_id = %(pair_id)s AND s.solvimon_id IS NOT NULL
"""

_METRICS = """
SELECT m.metric_id::text, s.solvimon_id, m.group_keys FROM metronome.billable_metrics m
LEFT JOIN solvimon.meters s ON s.pair_id = m.pair_id AND s.reference = m.metric_id::text
WHERE m.pair_id = %(pair_id)s
"""

# The newest event of ours that counts in its slot says how a metric is billed: after a switch of slicing, the slots of
# the old one net to nothing.
_SEEN_SLICINGS = """
WITH live AS (
    SELECT *, sum(counts) OVER (PARTITION BY metric_id, customer_id, start_at, end_at, slice) AS net FROM chosen c
    WHERE ours AND counts IS NOT NULL
      AND NOT EXISTS (SELECT FROM ledger.slicings s WHERE s.pair_id = %(pair_id)s AND s.metric_id = c.metric_id)
), newest AS (
    SELECT DISTINCT ON (metric_id) metric_id, slice, end_at - start_at AS length FROM live WHERE maximum OR net <> 0
    ORDER BY metric_id, created DESC NULLS LAST, start_at DESC, revision DESC
), groups AS (
    SELECT DISTINCT ON (metric_id) metric_id, properties FROM live
    WHERE (maximum OR net <> 0) AND exact AND properties IS NOT NULL
    ORDER BY metric_id, created DESC NULLS LAST, start_at DESC, revision DESC
)
SELECT metric_id::text, m.name, m.group_keys, n.slice, n.length, g.properties
FROM newest n JOIN metronome.billable_metrics m USING (metric_id) LEFT JOIN groups g USING (metric_id)
WHERE m.pair_id = %(pair_id)s ORDER BY m.name, metric_id
"""
