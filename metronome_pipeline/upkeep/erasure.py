"""Erasure: on request, what tells who a customer is leaves the database, and the amounts stay.

Here: when that is possible, the statements, and the list of what stays. Not here: Solvimon's own *forget*, and the
terminal (``cli/erase.py``).

References and rows carry ids, which name nobody by themselves. A group is told apart by the hash of its values: whoever
knows a value can still recognise it, and Solvimon, who has the same references, keeps them too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.ledger.claims import DELIVERY_LOCK
from metronome_pipeline.ledger.plan import PLANNING_LOCK

Connection = psycopg.Connection[Any]
ERASED = "erased on request"
"""What stands in place of names and group values."""


class CannotErase(PipelineError):
    """The customer's data is still needed, and what to do first."""


@dataclass(frozen=True)
class Standing:
    """A customer before its erasure.

    Attributes:
        customer_id: Metronome's id.
        name: Its name; None once it is erased.
        events: Its events in the ledger, whose amounts stay.
        forgotten: Whether Solvimon was seen to forget it.
        in_solvimon: Whether an import made it there, or found it.
        dagster_runs: Dagster runs whose stored events name it. They are Dagster's to delete.
    """

    customer_id: str
    name: str | None
    events: int
    forgotten: bool
    in_solvimon: bool
    dagster_runs: Sequence[str]


def standing(connection: Connection, pair_id: int, customer_id: str) -> Standing:
    """What is known of a customer that is to be erased.

    Raises:
        CannotErase: It is not known here, is not archived in Metronome, or something of it waits.
    """
    row = connection.execute(_CUSTOMER, {"pair_id": pair_id, "customer_id": customer_id}).fetchone()
    if row is None:
        raise CannotErase(f"This account pair knows no customer {customer_id}: an erasure takes Metronome's id.")
    name, ended, erased, forgotten, in_solvimon, waiting, unsettled, findings, events = row
    if not erased and not ended:
        raise CannotErase(
            f"Customer {customer_id} is active in Metronome, and usage that comes after its erasure would be billed to "
            "nobody: archive it there, run import_customers, and let its last usage be billed. Then erase it."
        )
    if waiting or unsettled or findings:
        raise CannotErase(
            f"Customer {customer_id} has {waiting} events that wait to be sent or decided about, {unsettled} hours "
            f"whose difference is not settled, and {findings} findings that are not planned: bring them to their end "
            "first (`metronome-pipeline quarantine list`, `late list`, `brake list`)."
        )
    runs = [] if erased else _dagster_runs(connection, name)
    return Standing(customer_id, None if erased else name, events, bool(forgotten), in_solvimon, runs)


def erase(connection: Connection, pair_id: int, customer_id: str, *, by: str) -> None:
    """Removes a customer's name, external id, aliases, custom fields and group values, in the caller's transaction.

    From then on the customer is not read, planned, swept or imported. Repeating it does nothing more.

    Raises:
        CannotErase: See ``standing``; nothing may be planned or sent meanwhile.
    """
    parameters = {"pair_id": pair_id, "customer_id": customer_id, "by": by, "erased": ERASED}
    row = connection.execute(
        "SELECT pg_try_advisory_xact_lock(%(send)s, %(pair)s) AND pg_try_advisory_xact_lock(%(plan)s, %(pair)s)",
        {"send": DELIVERY_LOCK, "plan": PLANNING_LOCK, "pair": pair_id},
    ).fetchone()
    if row != (True,):
        raise CannotErase("A run is planning or sending events right now. Nothing was erased: try again once it ended.")
    # Under the locks: what is to be erased must have come to its end.
    standing(connection, pair_id, customer_id)
    connection.execute(_ALERTS, parameters)
    for statement in _ERASE:
        connection.execute(statement, parameters)


def note_forgotten(connection: Connection, pair_id: int, customer_id: str) -> None:
    """Notes that Solvimon has forgotten a customer as well."""
    connection.execute(
        "UPDATE ledger.erasures SET forgotten_at = ledger.moment() WHERE pair_id = %s AND customer_id = %s",
        [pair_id, customer_id],
    )


def _dagster_runs(connection: Connection, name: str) -> list[str]:
    """Runs whose events hold a name, where Dagster keeps them in this database."""
    there = connection.execute("SELECT to_regclass('public.event_logs') IS NOT NULL").fetchone()
    if there != (True,):
        return []
    # As Dagster writes it into an event: as it is, as JSON, and as JSON within JSON, with what is not ASCII escaped.
    as_json = json.dumps(name)[1:-1]
    forms = [name, json.dumps(name, ensure_ascii=False)[1:-1], as_json, json.dumps(as_json)[1:-1]]
    return [run_id for (run_id,) in connection.execute(_DAGSTER_RUNS, {"forms": forms}) if run_id]


_CUSTOMER = """
SELECT c.name, c.archived_at IS NOT NULL OR c.gone_at IS NOT NULL, c.erased_at IS NOT NULL,
       (SELECT f.forgotten_at IS NOT NULL FROM ledger.erasures f
        WHERE (f.pair_id, f.customer_id) = (c.pair_id, c.customer_id)),
       EXISTS (SELECT FROM solvimon.customers s WHERE s.pair_id = c.pair_id AND s.reference = c.customer_id::text
               AND s.solvimon_id IS NOT NULL),
       (SELECT count(*) FROM ledger.open_events o JOIN ledger.events e USING (event_id)
        WHERE o.pair_id = c.pair_id AND e.customer_id = c.customer_id),
       (SELECT count(*) FROM ledger.unsettled_hours u WHERE (u.pair_id, u.customer_id) = (c.pair_id, c.customer_id)),
       (SELECT count(*) FROM ledger.findings f
        WHERE (f.pair_id, f.customer_id) = (c.pair_id, c.customer_id) AND f.state = 'open'),
       (SELECT count(*) FROM ledger.events e WHERE (e.pair_id, e.customer_id) = (c.pair_id, c.customer_id))
FROM metronome.customers c WHERE c.pair_id = %(pair_id)s AND c.customer_id = %(customer_id)s::uuid
"""

_DAGSTER_RUNS = """
SELECT DISTINCT run_id FROM public.event_logs
WHERE EXISTS (SELECT FROM unnest(%(forms)s::text[]) AS form WHERE position(form IN event) > 0) ORDER BY run_id
"""

_ALERTS = """
UPDATE ledger.alerts a SET problem = replace(problem, c.name, %(erased)s),
    headline = replace(headline, c.name, %(erased)s), state = replace(state, c.name, %(erased)s)
FROM metronome.customers c
WHERE a.pair_id = %(pair_id)s AND c.pair_id = a.pair_id AND c.customer_id = %(customer_id)s::uuid
  AND c.erased_at IS NULL AND position(c.name IN concat_ws(' ', a.problem, a.headline, a.state)) > 0
"""

# Slots are told apart by their hash, so all groups of an hour may read the same from now on. What Solvimon said of an
# event may quote what it refused.
_ERASE = (
    """
INSERT INTO ledger.erasures (pair_id, customer_id, asked_by)
VALUES (%(pair_id)s, %(customer_id)s::uuid, %(by)s) ON CONFLICT DO NOTHING
""",
    """
UPDATE metronome.customers SET name = %(erased)s, external_id = NULL, ingest_aliases = '{}', custom_fields = '{}',
    erased_at = coalesce(erased_at, ledger.moment())
WHERE pair_id = %(pair_id)s AND customer_id = %(customer_id)s::uuid
""",
    """
INSERT INTO solvimon.customers AS s (pair_id, reference, legal_name, outcome, reason, run_id)
VALUES (%(pair_id)s, %(customer_id)s, %(erased)s, 'refused', %(erased)s, %(erased)s)
ON CONFLICT (pair_id, reference) DO UPDATE
    SET legal_name = excluded.legal_name, outcome = excluded.outcome, reason = excluded.reason, at = excluded.at
""",
    """
UPDATE ledger.events SET properties = (
    SELECT coalesce(
        jsonb_object_agg(key, CASE WHEN value = 'null' THEN value ELSE to_jsonb(%(erased)s::text) END), '{}')::text
    FROM jsonb_each(properties::jsonb))
WHERE pair_id = %(pair_id)s AND customer_id = %(customer_id)s::uuid AND properties IS NOT NULL
""",
    """
UPDATE ledger.receipts r SET message = %(erased)s FROM ledger.events e
WHERE e.event_id = r.event_id AND e.pair_id = %(pair_id)s AND e.customer_id = %(customer_id)s::uuid
  AND r.code IS NOT NULL
""",
    """
UPDATE ledger.brakes SET plan = NULL
WHERE pair_id = %(pair_id)s AND plan @> jsonb_build_array(jsonb_build_object('customer_id', %(customer_id)s::text))
""",
    """
UPDATE ledger.sweep_pairs SET unread = %(erased)s
WHERE pair_id = %(pair_id)s AND customer_id = %(customer_id)s::uuid AND unread IS NOT NULL
""",
    "DELETE FROM metronome.usage WHERE pair_id = %(pair_id)s AND customer_id = %(customer_id)s::uuid",
    "DELETE FROM metronome.grouped_usage WHERE pair_id = %(pair_id)s AND customer_id = %(customer_id)s::uuid",
    "DELETE FROM metronome.short_groups WHERE pair_id = %(pair_id)s AND customer_id = %(customer_id)s::uuid",
    "DELETE FROM metronome.staged_usage WHERE customer_id = %(customer_id)s::uuid",
    # Without its rows no hour may count as read.
    """
UPDATE metronome.coverage SET retired = retired + covered, covered = '{}'
WHERE pair_id = %(pair_id)s AND customer_id = %(customer_id)s::uuid
""",
)
