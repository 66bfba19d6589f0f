"""Recovery: what the ledger lacks of Solvimon's events is written into it, and what it has otherwise is restated.

Here: the statements between the temporary table ``stored`` (``stocktake.py``) and the ledger's own tables, in the
transaction of whoever holds the pair's planning and delivery locks, and the proof that both agree afterwards. What
stands in the ledger stays. Not here: their order among the other steps of a rebuild, and its report (``rebuild.py``).
"""

from collections.abc import Mapping
from typing import Any

import psycopg

from metronome_pipeline.errors import PipelineError

Connection = psycopg.Connection[Any]


class NotProved(PipelineError):
    """The ledger would not count what Solvimon counts. Whoever holds the transaction must roll it back."""


def recover(connection: Connection, pair_id: int, *, run_id: str, asked: str) -> Mapping[str, int]:
    """Writes the difference down and returns how many events of each kind of change there were. Fills ``chosen``.

    ``chosen`` is the one copy of each reference that the ledger goes by; ``changed`` are the slots whose number is
    another one now. The hours of those are to be read again before anything is planned for them: what was read of them
    may be older than what Solvimon was told.
    """
    parameters = {"pair_id": pair_id, "run_id": run_id, "asked": asked}
    row = connection.execute("SELECT FROM ledger.events WHERE pair_id = %s LIMIT 1", [pair_id]).fetchone()
    empty = row is None
    for statement in (_CHOOSE, *_CHOSEN_INDEXES, "ANALYZE chosen", _NEW_CHANGED):
        connection.execute(statement, parameters)
    done = {"deletions brought to an end": connection.execute(_END_DELETIONS, parameters).rowcount}
    connection.execute(_COMPARE, parameters)
    for verdict, number in connection.execute(_APPLY, parameters).fetchall():
        done[_WORDS[verdict]] = number
    done["added"] = connection.execute(_ADD, parameters).rowcount
    connection.execute(_LINK, parameters)
    for statement in (_ADD_RECEIPTS, _ADD_RESTATEMENTS, _CLOSE_DELETED, _NOTE_CHANGED, "ANALYZE changed"):
        connection.execute(statement, parameters)
    done["superseded"] = connection.execute(_SUPERSEDE, parameters).rowcount
    for statement in (_FORGET_ALL,) if empty else (_NOTE_HOURS, _FORGET):
        connection.execute(statement, parameters)
    return {words: number for words, number in done.items() if number}


def note_planned(connection: Connection, pair_id: int) -> None:
    """Notes the hours of recovered events of ours as planned, once slicings are: a later change to them may be late."""
    connection.execute(_NOTE_PLANNED, {"pair_id": pair_id})


def prove(connection: Connection, pair_id: int) -> None:
    """Holds every (customer, metric, hour) of the ledger against Solvimon's events, as exact sums and counts.

    Raises:
        NotProved: One differs beyond what is listed by name.
    """
    row = connection.execute(_PROOF, {"pair_id": pair_id}).fetchone()
    if row is not None:
        customer_id, metric_id, start, ledger, solvimon, hours = row
        raise NotProved(
            f"The rebuilt ledger would count {ledger} for customer {customer_id}, metric {metric_id} at "
            f"{start:%Y-%m-%d %H:%M} UTC, and Solvimon counts {solvimon}; so in {hours} hours. Nothing was written: "
            "this is a mistake of the rebuild, report it with these numbers."
        )


_WORDS = {
    "delivered": "waiting events found delivered",
    "restated": "restated as Solvimon has them",
    "deleted": "found deleted for a lower maximum",
    "kept": "kept against Solvimon",
}

# One copy a reference: the one that counts; of several, the one that the ledger knows, else the oldest. Events of one
# second are listed newest first.
_CHOOSE = """
CREATE TEMP TABLE chosen ON COMMIT DROP AS
SELECT DISTINCT ON (s.reference) s.*, e.event_id AS known_id, NULL::bigint AS added_id,
       coalesce(m.calculation_type = 'MAX', false) AS maximum,
       CASE WHEN s.live AND s.why IS NULL THEN s.number END AS counts
FROM stored s
LEFT JOIN ledger.events e ON e.pair_id = %(pair_id)s AND e.reference = s.reference AND e.kind <> 'deletion'
LEFT JOIN LATERAL (
    SELECT true AS receipt FROM ledger.receipts r WHERE r.event_id = e.event_id AND r.solvimon_id = s.id LIMIT 1
) AS known ON true
LEFT JOIN solvimon.meters m ON m.pair_id = %(pair_id)s AND m.reference = s.metric_id::text
WHERE s.start_at IS NOT NULL AND s.reference IS NOT NULL
ORDER BY s.reference, s.why IS NOT NULL, NOT s.live, known.receipt IS NULL, s.duplicate, s.created, s.place DESC
"""

_CHOSEN_INDEXES = (
    "CREATE INDEX ON chosen (reference)",
    "CREATE INDEX ON chosen (metric_id, customer_id, start_at)",
)

_NEW_CHANGED = """
CREATE TEMP TABLE changed (
    customer_id uuid, metric_id uuid, start_at timestamptz, end_at timestamptz, slice text
) ON COMMIT DROP
"""

# A deletion that waits, of an event that Solvimon shows as deleted, is done.
_END_DELETIONS = """
WITH done AS (
    SELECT d.event_id, d.deletes, c.id FROM ledger.open_events o JOIN ledger.events d USING (event_id)
    JOIN chosen c ON c.known_id = d.deletes
    WHERE o.pair_id = %(pair_id)s AND d.kind = 'deletion' AND c.deleted AND NOT c.live
), written AS (
    INSERT INTO ledger.receipts (event_id, outcome, solvimon_id, message, run_id)
    SELECT event_id, 'delivered', NULL, %(asked)s::text, %(run_id)s FROM done
    UNION ALL SELECT deletes, 'deleted', id, %(asked)s::text, %(run_id)s FROM done
), counted AS (
    INSERT INTO ledger.restatements (event_id, number) SELECT deletes, NULL FROM done
    ON CONFLICT (event_id) DO UPDATE SET number = NULL
), noted AS (
    INSERT INTO changed
    SELECT customer_id, metric_id, start_at, end_at, slice FROM ledger.events e JOIN done d ON e.event_id = d.deletes
)
DELETE FROM ledger.open_events WHERE event_id IN (SELECT event_id FROM done)
"""

# What Solvimon's number means for an event that the ledger has: as for one whose answer says duplicate (`doubts.py`).
# An event that a person deleted in Solvimon keeps its number, so that it is never sent again unasked; the deletion of
# a maximum is the ledger's own where another maximum of the hour stands in its place.
_COMPARE = """
CREATE TEMP TABLE compared ON COMMIT DROP AS
SELECT *, CASE
    WHEN waits AND (duplicate OR unread) THEN NULL
    WHEN waits AND counts = number THEN 'delivered'
    WHEN waits THEN 'restated'
    WHEN counts IS NOT DISTINCT FROM counted THEN NULL
    WHEN live AND NOT unread THEN 'restated'
    WHEN followed THEN 'deleted'
    ELSE 'kept' END AS verdict
FROM (
    SELECT e.event_id, e.number, c.id, c.live, c.deleted, c.duplicate, c.maximum, o.event_id IS NOT NULL AS waits,
           CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END AS counted,
           CASE WHEN c.live AND same.slot THEN c.number END AS counts,
           c.live AND same.slot AND c.number IS NULL AS unread,
           c.deleted AND c.maximum AND EXISTS (
               SELECT FROM chosen x WHERE x.counts IS NOT NULL AND x.reference <> c.reference
               AND (x.customer_id, x.metric_id, x.start_at, x.end_at, x.slice)
                   = (e.customer_id, e.metric_id, e.start_at, e.end_at, e.slice)) AS followed
    FROM chosen c
    JOIN ledger.events e ON e.event_id = c.known_id
    LEFT JOIN ledger.open_events o USING (event_id)
    LEFT JOIN ledger.restatements s USING (event_id)
    CROSS JOIN LATERAL (SELECT coalesce(
        (c.by_customer, c.by_metric, c.stamp) = (e.customer_id, e.metric_id, e.start_at)
        AND (c.sent::jsonb = jsonb_strip_nulls(coalesce(e.properties, '{}')::jsonb) OR EXISTS (
            SELECT FROM ledger.erasures f WHERE f.pair_id = e.pair_id AND f.customer_id = e.customer_id)), false
        ) AS slot) AS same
) AS both_sides
"""

_APPLY = """
WITH judged AS (
    SELECT * FROM compared WHERE verdict IS NOT NULL
), ended AS (
    DELETE FROM ledger.open_events WHERE event_id IN (SELECT event_id FROM judged WHERE waits)
), counted AS (
    INSERT INTO ledger.restatements (event_id, number)
    SELECT event_id, counts FROM judged WHERE verdict IN ('restated', 'deleted')
    ON CONFLICT (event_id) DO UPDATE SET number = excluded.number
), written AS (
    INSERT INTO ledger.receipts (event_id, outcome, solvimon_id, message, run_id)
    SELECT event_id, verdict, id, CASE
        WHEN verdict = 'delivered' THEN %(asked)s::text
        WHEN deleted AND NOT live THEN 'The original under this reference was deleted in Solvimon. ' || %(asked)s::text
        WHEN counts IS NULL THEN
            'Another event stands in Solvimon under this reference, for another slot. ' || %(asked)s::text
        ELSE 'Solvimon holds ' || counts || ' under this reference instead of ' || number || '. '
            || %(asked)s::text END,
        %(run_id)s
    FROM judged WHERE verdict <> 'kept'
), noted AS (
    INSERT INTO changed SELECT e.customer_id, e.metric_id, e.start_at, e.end_at, e.slice
    FROM judged JOIN ledger.events e USING (event_id) WHERE verdict IN ('restated', 'deleted')
)
SELECT verdict, count(*) FROM judged GROUP BY verdict
"""

# Used references of ours stand in the ledger whatever they count: revisions go on after them.
_ADD = """
INSERT INTO ledger.events (pair_id, customer_id, metric_id, start_at, end_at, slice, properties, kind, revision, number,
                           reference, planned_at, run_id)
SELECT %(pair_id)s, customer_id, metric_id, start_at, end_at, slice, properties,
       CASE revision WHEN 0 THEN 'usage' ELSE 'correction' END, revision, coalesce(number, 0), reference,
       coalesce(created, ledger.moment()), %(run_id)s
FROM chosen WHERE known_id IS NULL AND (ours OR live)
ORDER BY created, metric_id, customer_id, start_at, slice, revision
"""

_LINK = """
UPDATE chosen c SET added_id = e.event_id FROM ledger.events e
WHERE c.known_id IS NULL AND (c.ours OR c.live) AND e.pair_id = %(pair_id)s AND e.reference = c.reference
  AND e.kind <> 'deletion'
"""

_ADD_RECEIPTS = """
INSERT INTO ledger.receipts (event_id, outcome, solvimon_id, message, run_id)
SELECT added_id, CASE WHEN counts IS NOT NULL THEN 'delivered' WHEN deleted THEN 'deleted' ELSE 'restated' END, id,
       CASE WHEN counts IS NOT NULL AND NOT ours THEN 'Adopted: an event of other origin. '
            WHEN counts IS NOT NULL THEN ''
            WHEN deleted THEN 'It was deleted in Solvimon. '
            WHEN duplicate THEN 'Solvimon says duplicate, but shows no original under this reference. '
            ELSE 'It counts nothing: ' || why || '. ' END || %(asked)s::text, %(run_id)s
FROM chosen WHERE added_id IS NOT NULL ORDER BY added_id
"""

_ADD_RESTATEMENTS = """
INSERT INTO ledger.restatements (event_id, number)
SELECT added_id, NULL FROM chosen WHERE added_id IS NOT NULL AND counts IS NULL
"""

# Of a sum, only a person deletes an event: it is not sent again unasked. (A maximum's may have been ours.)
_CLOSE_DELETED = """
INSERT INTO ledger.reverted_slots (pair_id, metric_id, customer_id, start_at, end_at, slice, run_id, asked_by)
SELECT %(pair_id)s, metric_id, customer_id, start_at, end_at, slice, %(run_id)s, %(asked)s::text
FROM chosen WHERE added_id IS NOT NULL AND deleted AND NOT live AND NOT maximum
UNION
SELECT %(pair_id)s, e.metric_id, e.customer_id, e.start_at, e.end_at, e.slice, %(run_id)s, %(asked)s::text
FROM compared k JOIN ledger.events e USING (event_id) WHERE k.waits AND k.deleted AND NOT k.live AND NOT k.maximum
ON CONFLICT (pair_id, metric_id, customer_id, start_at, end_at, slice) DO UPDATE
    SET run_id = excluded.run_id, asked_by = excluded.asked_by, at = ledger.moment(), released_at = NULL,
        released_by = NULL
    WHERE reverted_slots.released_at IS NOT NULL
"""

_NOTE_CHANGED = """
INSERT INTO changed
SELECT customer_id, metric_id, start_at, end_at, slice FROM chosen
WHERE added_id IS NOT NULL AND counts IS NOT NULL AND (maximum OR counts <> 0)
"""

# A difference that was planned, never sent, and computed without what has just come to light. The next plan of its
# hour writes the right one. A maximum is not computed from what was before.
_SUPERSEDE = """
WITH overtaken AS (
    SELECT DISTINCT e.event_id, e.customer_id, e.metric_id, e.start_at, e.end_at, e.slice
    FROM ledger.open_events o JOIN ledger.events e USING (event_id)
    JOIN changed USING (customer_id, metric_id, start_at, end_at, slice)
    LEFT JOIN solvimon.meters m ON m.pair_id = e.pair_id AND m.reference = e.metric_id::text
    WHERE o.pair_id = %(pair_id)s AND o.state = 'planned' AND e.kind <> 'deletion'
      AND m.calculation_type IS DISTINCT FROM 'MAX'
      AND NOT EXISTS (SELECT FROM chosen c WHERE c.reference = e.reference)
      AND NOT EXISTS (SELECT FROM ledger.claims k WHERE k.pair_id = o.pair_id AND e.event_id = ANY (k.event_ids))
), counted AS (
    INSERT INTO ledger.restatements (event_id, number) SELECT event_id, NULL FROM overtaken
    ON CONFLICT (event_id) DO UPDATE SET number = NULL
), written AS (
    INSERT INTO ledger.receipts (event_id, outcome, message, run_id)
    SELECT event_id, 'superseded', 'Planned without what Solvimon holds already. ' || %(asked)s::text, %(run_id)s
    FROM overtaken
)
DELETE FROM ledger.open_events WHERE event_id IN (SELECT event_id FROM overtaken)
"""

_NOTE_HOURS = """
INSERT INTO ledger.unsettled_hours (pair_id, metric_id, customer_id, start_at)
SELECT DISTINCT c.pair_id, x.metric_id, x.customer_id, x.start_at
FROM changed x JOIN metronome.coverage c USING (customer_id, metric_id)
WHERE c.pair_id = %(pair_id)s AND c.covered + c.retired @> x.start_at
ON CONFLICT DO NOTHING
"""

_FORGET = """
UPDATE metronome.coverage c SET covered = c.covered - x.hours
FROM (
    SELECT customer_id, metric_id, range_agg(tstzrange(start_at, end_at)) AS hours FROM changed
    GROUP BY customer_id, metric_id
) AS x
WHERE c.pair_id = %(pair_id)s AND (c.customer_id, c.metric_id) = (x.customer_id, x.metric_id) AND c.covered && x.hours
"""

# Of a ledger that was lost whole nothing says up to when its readings were planned.
_FORGET_ALL = """
UPDATE metronome.coverage SET covered = '{}', retired = '{}'
WHERE pair_id = %(pair_id)s AND NOT (isempty(covered) AND isempty(retired))
"""

_NOTE_PLANNED = """
INSERT INTO ledger.planned_hours AS p (pair_id, metric_id, customer_id, slicing, hours)
SELECT %(pair_id)s, c.metric_id, c.customer_id, s.slicing, range_agg(tstzrange(c.start_at, c.end_at))
FROM chosen c JOIN ledger.slicings s ON s.pair_id = %(pair_id)s AND s.metric_id = c.metric_id
WHERE c.added_id IS NOT NULL AND c.ours GROUP BY c.metric_id, c.customer_id, s.slicing
ON CONFLICT (pair_id, metric_id, customer_id, slicing) DO UPDATE SET hours = p.hours + excluded.hours
"""

# Left: what the ledger counts for the events that Solvimon shows. Right: what Solvimon counts, without the copies and
# the events that are listed as not adopted, and with what the ledger keeps against it, which is listed as well.
_PROOF = """
WITH sides AS (
    SELECT e.customer_id, e.metric_id, e.start_at,
           CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END AS ledger, NULL::numeric AS solvimon
    FROM chosen c JOIN ledger.events e ON e.event_id = coalesce(c.known_id, c.added_id)
    LEFT JOIN ledger.restatements s USING (event_id)
    WHERE NOT EXISTS (SELECT FROM ledger.open_events o WHERE o.event_id = e.event_id)
    UNION ALL
    SELECT s.by_customer, s.by_metric, s.stamp, NULL, s.number FROM stored s
    WHERE s.live AND s.why IS NULL AND EXISTS (
        SELECT FROM chosen c WHERE c.reference = s.reference AND c.id = s.id
        AND NOT EXISTS (
            SELECT FROM compared k WHERE k.event_id = c.known_id AND (k.verdict = 'kept' OR k.counts IS NULL)))
    UNION ALL
    SELECT e.customer_id, e.metric_id, e.start_at, NULL, k.counted
    FROM compared k JOIN ledger.events e USING (event_id) WHERE k.verdict = 'kept'
), hours AS (
    SELECT customer_id, metric_id, start_at, sum(ledger) AS ledger, sum(solvimon) AS solvimon,
           count(ledger) <> count(solvimon) OR coalesce(sum(ledger), 0) <> coalesce(sum(solvimon), 0) AS differs
    FROM sides GROUP BY customer_id, metric_id, start_at
)
SELECT customer_id, metric_id, start_at, coalesce(ledger, 0), coalesce(solvimon, 0), count(*) OVER ()
FROM hours WHERE differs ORDER BY start_at, metric_id, customer_id LIMIT 1
"""
