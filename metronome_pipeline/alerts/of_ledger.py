"""Problems that the ledger knows: quarantine, the brake, late changes, and hours that stay unsettled.

Here: the statements and the sentences. They ask small tables and partial indexes only, for this runs every minute. Not
here: problems of runs and checks (``of_dagster.py``).
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import dagster as dg
import psycopg

from metronome_pipeline.alerts.problems import MOST_RECORDS, Kind, Problem, counted, record
from metronome_pipeline.errors import quoted
from metronome_pipeline.ledger.evidence import LATE_SHOWN

Connection = psycopg.Connection[Any]


def problems_of_ledger(
    connection: Connection, pair_id: int, *, events: dg.AssetKey, unsettled_for: timedelta, anchor_day: int
) -> list[Problem]:
    """Everything of an account pair that waits for a person.

    Args:
        connection: A transaction.
        pair_id: The account pair.
        events: The asset of its usage events, whose checks show the same.
        unsettled_for: How long an hour may stay unsettled before anyone is told.
        anchor_day: The day of the month on which billing periods begin: late changes are one problem a period.
    """
    page = f"assets/{events.to_user_string()}?view=checks"
    return [
        *_quarantined(connection, pair_id, page),
        *_held_by_the_brake(connection, pair_id, page),
        *_late(connection, pair_id, page, anchor_day),
        *_unsettled(connection, pair_id, page, unsettled_for),
    ]


def _quarantined(connection: Connection, pair_id: int, page: str) -> Iterator[Problem]:
    """One problem for each of Solvimon's reasons: whatever is refused for the same one, needs the same remedy."""
    rows = connection.execute(_QUARANTINED, {"pair_id": pair_id, "most": MOST_RECORDS})
    for (code, where, events, newest), some in groupby(rows, key=lambda row: row[:4]):
        reason = [quoted(text, 80) for text in (code, where and f"field {where}") if text]
        records = tuple(record(customer, metric, _hour(hour), message) for *_, customer, metric, hour, message in some)
        yield Problem(
            key=f"quarantine {quoted(code, 80)} {quoted(where, 80)}",
            kind=Kind.quarantine,
            what=f"Solvimon refused {counted(events, 'event')} ({', '.join(reason) or 'without a reason'}).",
            state=f"{events} {newest}",
            to_do="Mend the cause that Solvimon names, then send them again with `metronome-pipeline quarantine "
            "retry --all`. `metronome-pipeline quarantine list` shows all. The rest went through.",
            records=records,
            more=events - len(records),
            page=page,
        )


def _held_by_the_brake(connection: Connection, pair_id: int, page: str) -> Iterator[Problem]:
    """One problem a metric: each new plan of the same decrease has a digest of its own, and is the same problem."""
    rows = connection.execute(_BRAKED, {"pair_id": pair_id, "most": MOST_RECORDS})
    for (metric_id, metric, plans), some in groupby(rows, key=lambda row: row[:3]):
        held = [row[3:] for row in some]
        records = tuple(
            record(
                customer or "all customers together",
                f"{_hour(first)} to {_hour(last)}",
                f"{billed:f} billed, {observed:f} seen",
                f"digest {digest}",
            )
            for digest, customer, first, last, billed, observed in held
        )
        yield Problem(
            key=f"brake {metric_id}",
            kind=Kind.brake,
            what=f"{counted(plans, 'plan')} would take back too much of what was billed for {quoted(metric, 80)}, "
            f"and {'is' if plans == 1 else 'are'} held.",
            state=" ".join([str(plans), *(row[0] for row in held)]),
            to_do="Ask what happened in Metronome. See what a plan would do with `metronome-pipeline brake show "
            "DIGEST`, and if it is right, let it through with `metronome-pipeline brake release DIGEST`. Until then "
            "these hours are billed as before.",
            records=records,
            more=plans - len(records),
            page=page,
        )


def _late(connection: Connection, pair_id: int, page: str, anchor_day: int) -> Iterator[Problem]:
    """One problem a billing period, as long as a change is held, or was sent within 35 days."""
    parameters = {"pair_id": pair_id, "anchor_day": anchor_day, "within": LATE_SHOWN, "most": MOST_RECORDS}
    rows = connection.execute(_LATE, parameters)
    for (period_end, events, held, newest), some in groupby(rows, key=lambda row: row[:4]):
        records = tuple(
            record(customer, metric, _hour(hour), kind, None if number is None else f"{number:f}")
            for *_, customer, metric, hour, kind, number in some
        )
        yield Problem(
            key=f"late {period_end:%Y-%m-%d}",
            kind=Kind.late,
            what=f"{counted(events, 'change')} came after the invoices of the billing period that ended on "
            f"{period_end:%Y-%m-%d} were final; {held:,} of them held, the rest sent.",
            state=f"{events} {held} {newest}",
            to_do="See `metronome-pipeline late list`. Release or drop what is held; what was sent may be on no "
            f"invoice, so bill or credit it by hand. It is over {LATE_SHOWN.days} days after the last such change.",
            records=records,
            more=events - len(records),
            page=page,
        )


def _unsettled(connection: Connection, pair_id: int, page: str, unsettled_for: timedelta) -> Iterator[Problem]:
    """One problem for all: hours that no run could settle, without those that wait for a person elsewhere."""
    parameters = {"pair_id": pair_id, "for": unsettled_for, "most": MOST_RECORDS}
    rows = connection.execute(_UNSETTLED, parameters).fetchall()
    for hours, newest in {row[:2] for row in rows}:
        yield Problem(
            key="unsettled",
            kind=Kind.unsettled,
            what=f"{counted(hours, 'hour')} of usage differ{'s' if hours == 1 else ''} from what Solvimon was told, "
            f"for over {counted(unsettled_for // timedelta(hours=1), 'hour')}.",
            state=f"{hours} {newest}",
            to_do="Every run of the workflow plans these hours first: see whether its last run failed, and why. They "
            "wait for no quarantined event and no brake.",
            records=tuple(record(customer, metric, _hour(hour)) for _, _, customer, metric, hour in rows),
            more=hours - len(rows),
            page=page,
        )


def _hour(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


_QUARANTINED = """
WITH refused AS (
    SELECT e.event_id, e.customer_id, e.metric_id, e.start_at, coalesce(r.code, '') AS code,
           coalesce(r.field, '') AS field, r.message
    FROM ledger.open_events o
    JOIN ledger.events e USING (event_id)
    LEFT JOIN LATERAL (
        SELECT code, field, message FROM ledger.receipts r
        WHERE r.event_id = o.event_id ORDER BY r.receipt_id DESC LIMIT 1) r ON true
    WHERE o.pair_id = %(pair_id)s AND o.state = 'quarantined'
), placed AS (
    SELECT *, count(*) OVER reasons AS events, max(event_id) OVER reasons AS newest,
           row_number() OVER (PARTITION BY code, field ORDER BY event_id) AS place
    FROM refused WINDOW reasons AS (PARTITION BY code, field)
)
SELECT p.code, p.field, p.events, p.newest, coalesce(c.name, p.customer_id::text),
       coalesce(m.name, p.metric_id::text), p.start_at, p.message
FROM placed p
LEFT JOIN metronome.customers c ON c.pair_id = %(pair_id)s AND c.customer_id = p.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = %(pair_id)s AND m.metric_id = p.metric_id
WHERE p.place <= %(most)s ORDER BY p.code, p.field, p.place
"""

_BRAKED = """
WITH placed AS (
    SELECT *, count(*) OVER (PARTITION BY metric_id) AS plans,
           row_number() OVER (PARTITION BY metric_id ORDER BY at, digest) AS place
    FROM ledger.brakes WHERE pair_id = %(pair_id)s AND released_at IS NULL
)
SELECT p.metric_id::text, coalesce(m.name, p.metric_id::text), p.plans, p.digest,
       coalesce(c.name, p.customer_id::text), p.from_at, p.to_at, p.billed, p.observed
FROM placed p
LEFT JOIN metronome.customers c ON c.pair_id = p.pair_id AND c.customer_id = p.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = p.pair_id AND m.metric_id = p.metric_id
WHERE p.place <= %(most)s ORDER BY p.metric_id, p.place
"""

_LATE = """
WITH late AS (
    SELECT e.*, coalesce(o.state = 'held', false) AS held,
           ledger.period_end(e.start_at, %(anchor_day)s) AS period_end
    FROM ledger.events e LEFT JOIN ledger.open_events o USING (event_id)
    WHERE e.late AND e.pair_id = %(pair_id)s
      AND (o.state = 'held' OR e.planned_at > ledger.moment() - %(within)s)
), placed AS (
    SELECT *, count(*) OVER periods AS events, count(*) FILTER (WHERE held) OVER periods AS held_events,
           max(event_id) OVER periods AS newest,
           row_number() OVER (PARTITION BY period_end ORDER BY event_id DESC) AS place
    FROM late WINDOW periods AS (PARTITION BY period_end)
)
SELECT p.period_end, p.events, p.held_events, p.newest, coalesce(c.name, p.customer_id::text),
       coalesce(m.name, p.metric_id::text), p.start_at, p.kind, p.number
FROM placed p
LEFT JOIN metronome.customers c ON c.pair_id = p.pair_id AND c.customer_id = p.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = p.pair_id AND m.metric_id = p.metric_id
WHERE p.place <= %(most)s ORDER BY p.period_end, p.place
"""

# What waits for a quarantined or held event, for the brake, or for the release of a revert, is told as that.
_UNSETTLED = """
WITH stuck AS (
    SELECT u.customer_id, u.metric_id, u.start_at, u.noted_at FROM ledger.unsettled_hours u
    WHERE u.pair_id = %(pair_id)s AND u.noted_at < ledger.moment() - %(for)s
      AND NOT EXISTS (
          SELECT FROM ledger.open_events o JOIN ledger.events e USING (event_id)
          WHERE o.pair_id = u.pair_id AND o.state IN ('quarantined', 'held')
            AND (e.metric_id, e.customer_id, e.start_at) = (u.metric_id, u.customer_id, u.start_at))
      AND NOT EXISTS (
          SELECT FROM ledger.brakes b
          WHERE b.pair_id = u.pair_id AND b.released_at IS NULL
            AND (b.metric_id = u.metric_id OR b.customer_id = u.customer_id)
            AND u.start_at >= b.from_at AND u.start_at < b.to_at)
      AND NOT EXISTS (
          SELECT FROM ledger.reverted_slots r
          WHERE r.released_at IS NULL AND (r.pair_id, r.metric_id, r.customer_id, r.start_at)
            = (u.pair_id, u.metric_id, u.customer_id, u.start_at))
)
SELECT count(*) OVER (), max(s.noted_at) OVER (), coalesce(c.name, s.customer_id::text),
       coalesce(m.name, s.metric_id::text), s.start_at
FROM stuck s
LEFT JOIN metronome.customers c ON c.pair_id = %(pair_id)s AND c.customer_id = s.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = %(pair_id)s AND m.metric_id = s.metric_id
ORDER BY s.noted_at, s.start_at LIMIT %(most)s
"""
