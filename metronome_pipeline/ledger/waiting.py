"""Events that wait for a person: refused by Solvimon (quarantine), or held as late. And the two ways out of it.

Here: the lists, letting go and dropping, each in the caller's transaction under the pair's planning lock. Not here: how
an event comes to wait (``claims.py``, ``late.py``), and who asks.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import psycopg

from metronome_pipeline.errors import PipelineError, quoted
from metronome_pipeline.ledger.plan import PLANNING_LOCK
from metronome_pipeline.ledger.unsettled import note_hours_of

Connection = psycopg.Connection[Any]
State = Literal["quarantined", "held"]
_WHERE = {"quarantined": "in quarantine", "held": "held as late"}
_LIST = {"quarantined": "quarantine list", "held": "late list"}


class NotWaiting(PipelineError):
    """A reference that was named is not that of an event that waits."""


@dataclass(frozen=True)
class WaitingEvent:
    """One event that waits, and why. ``number`` is None for a deletion."""

    reference: str
    kind: str
    customer: str | None
    metric: str | None
    start: datetime
    number: Decimal | None
    code: str | None
    field: str | None
    message: str | None
    since: datetime


@dataclass(frozen=True)
class Retried:
    """What a retry did: references that leave with the next delivery, and maxima that a later reading has overtaken."""

    released: tuple[str, ...]
    superseded: tuple[str, ...]


@dataclass(frozen=True)
class Told:
    """One thing that happened to an event: planned, then each receipt, in order."""

    at: datetime
    what: str
    solvimon_id: str | None
    code: str | None
    field: str | None
    message: str | None
    run_id: str


def waiting(connection: Connection, pair_id: int, state: State) -> list[WaitingEvent]:
    """Everything that waits in a state, the oldest hour first."""
    rows = connection.execute(
        "SELECT reference, kind, coalesce(customer, customer_id::text), coalesce(metric, metric_id::text), start_at, "
        "number, code, field, message, state_at FROM ledger.waiting_v1 WHERE pair_id = %s AND state = %s "
        "ORDER BY start_at, reference",
        [pair_id, state],
    )
    return [WaitingEvent(*row) for row in rows]


def history(connection: Connection, pair_id: int, reference: str) -> list[Told]:
    """Everything that happened to the event of a reference, oldest first. Empty: the ledger knows no such event."""
    rows = connection.execute(_HISTORY, {"pair_id": pair_id, "reference": reference})
    return [Told(*row[:7]) for row in rows]


def retry(
    connection: Connection,
    pair_id: int,
    references: Collection[str] | None,
    *,
    run_id: str,
    by: str,
    reason: str,
    state: State = "quarantined",
) -> Retried:
    """Lets events leave again, unchanged, with the next delivery. ``references`` None means all of them.

    Where Metronome says something else by now, the next plan of the hour corrects the difference. A maximum that has
    been read as another value since is closed as superseded instead: it counts nothing, and the next plan writes its
    successor.

    Raises:
        NotWaiting: A reference does not wait in this state. Nothing is changed.
    """
    _begin(connection, pair_id, references, state)
    _note_hours(connection)
    what = "Retry" if state == "quarantined" else "Release"
    words = f"{what} asked for by {quoted(by, 100)}: {quoted(reason, 400)}."
    overtaken = connection.execute(_SUPERSEDE, {"pair_id": pair_id, "message": words, "run_id": run_id}).fetchall()
    released = connection.execute(_RELEASE, {"message": words, "run_id": run_id}).fetchall()
    connection.execute("DROP TABLE chosen")
    return Retried(
        released=tuple(sorted(reference for (reference,) in released)),
        superseded=tuple(sorted(reference for (reference,) in overtaken)),
    )


def drop(
    connection: Connection,
    pair_id: int,
    references: Collection[str],
    *,
    reason: str,
    run_id: str,
    by: str,
    state: State = "quarantined",
) -> None:
    """Gives events up, and keeps counting them as if they had gone through: accepted differences, listed as *dropped*.

    A dropped usage event is never sent, and plan sets later readings against it. A dropped deletion leaves its event in
    Solvimon while the ledger counts it as gone.

    Raises:
        NotWaiting: One of the references does not wait in this state. Nothing is changed.
    """
    _begin(connection, pair_id, references, state)
    _note_hours(connection)
    words = f"{quoted(reason, 400)} (dropped by {quoted(by, 100)})"
    connection.execute(_DROP, {"message": words, "run_id": run_id})
    connection.execute("DROP TABLE chosen")


def _begin(connection: Connection, pair_id: int, references: Collection[str] | None, state: State) -> None:
    """Takes the planning lock, and notes the chosen events in a temporary table."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, pair_id])
    wanted = None if references is None else list(references)
    connection.execute(_CHOOSE, {"pair_id": pair_id, "references": wanted, "state": state})
    if wanted is None:
        return
    found = {reference for (reference,) in connection.execute("SELECT reference FROM chosen")}
    missing = sorted(set(wanted) - found)
    if missing:
        raise NotWaiting(
            f"{quoted(missing[0])} is not the reference of an event {_WHERE[state]}: see "
            f"`metronome-pipeline {_LIST[state]}`. Nothing was changed."
        )


def _note_hours(connection: Connection) -> None:
    """Usage may have changed while the slot was closed: the next run plans its hour, whichever hours it is about."""
    note_hours_of(connection, [event_id for (event_id,) in connection.execute("SELECT event_id FROM chosen")])


_HISTORY = """
SELECT e.planned_at, 'planned', NULL, NULL, NULL,
       e.kind || CASE WHEN e.number IS NULL THEN '' ELSE ' of ' || e.number END, e.run_id, 0::bigint AS place
FROM ledger.events e WHERE e.pair_id = %(pair_id)s AND e.reference = %(reference)s
UNION ALL
SELECT r.at, r.outcome, r.solvimon_id, r.code, r.field, r.message, r.run_id, r.receipt_id
FROM ledger.events e JOIN ledger.receipts r USING (event_id)
WHERE e.pair_id = %(pair_id)s AND e.reference = %(reference)s
ORDER BY 1, 8
"""

_CHOOSE = """
CREATE TEMP TABLE chosen ON COMMIT DROP AS
SELECT e.event_id, e.reference FROM ledger.open_events o JOIN ledger.events e USING (event_id)
WHERE o.pair_id = %(pair_id)s AND o.state = %(state)s
  AND (%(references)s::text[] IS NULL OR e.reference = ANY (%(references)s::text[]))
FOR UPDATE OF o
"""

# Only where the hour has been read in the slicing that the metric is billed through: otherwise nothing newer is known.
# The rest of a MAX hour is its total.
_SUPERSEDE = """
WITH overtaken AS (
    DELETE FROM chosen USING ledger.events e
    JOIN solvimon.meters m
        ON m.pair_id = e.pair_id AND m.reference = e.metric_id::text AND m.calculation_type = 'MAX'
    JOIN ledger.slicings s ON s.pair_id = e.pair_id AND s.metric_id = e.metric_id
    JOIN metronome.coverage c ON c.pair_id = e.pair_id AND c.metric_id = e.metric_id AND c.customer_id = e.customer_id
        AND c.slicing = s.slicing AND c.covered @> e.start_at
    LEFT JOIN metronome.usage u ON s.slicing = 'ungrouped' AND e.slice = 'total' AND u.pair_id = e.pair_id
        AND u.metric_id = e.metric_id AND u.customer_id = e.customer_id AND u.start_at = e.start_at
    LEFT JOIN metronome.grouped_usage g ON s.slicing <> 'ungrouped' AND e.slice <> 'total' AND g.pair_id = e.pair_id
        AND g.metric_id = e.metric_id AND g.customer_id = e.customer_id AND g.start_at = e.start_at
        AND g.slice = CASE e.slice WHEN 'rest' THEN 'total' ELSE e.slice END
    WHERE e.event_id = chosen.event_id AND e.pair_id = %(pair_id)s AND e.kind <> 'deletion'
      AND coalesce(u.value, g.value) IS DISTINCT FROM e.number
    RETURNING chosen.event_id, chosen.reference
), closed AS (
    DELETE FROM ledger.open_events WHERE event_id IN (SELECT event_id FROM overtaken)
), counted AS (
    INSERT INTO ledger.restatements (event_id, number) SELECT event_id, NULL FROM overtaken
    ON CONFLICT (event_id) DO UPDATE SET number = NULL
), written AS (
    INSERT INTO ledger.receipts (event_id, outcome, message, run_id)
    SELECT event_id, 'superseded', %(message)s, %(run_id)s FROM overtaken
)
SELECT reference FROM overtaken
"""

_RELEASE = """
WITH released AS (
    UPDATE ledger.open_events SET state = 'planned' WHERE event_id IN (SELECT event_id FROM chosen)
), written AS (
    INSERT INTO ledger.receipts (event_id, outcome, message, run_id)
    SELECT event_id, 'released', %(message)s, %(run_id)s FROM chosen
)
SELECT reference FROM chosen
"""

_DROP = """
WITH closed AS (
    DELETE FROM ledger.open_events WHERE event_id IN (SELECT event_id FROM chosen)
), counted AS (
    INSERT INTO ledger.restatements (event_id, number)
    SELECT deletes, NULL FROM ledger.events JOIN chosen USING (event_id) WHERE kind = 'deletion'
    ON CONFLICT (event_id) DO UPDATE SET number = NULL
)
INSERT INTO ledger.receipts (event_id, outcome, message, run_id)
SELECT event_id, 'dropped', %(message)s, %(run_id)s FROM chosen
"""
