"""What waits is found from the few events that wait, on tables that Postgres has not counted yet: after a backfill."""

from typing import Any

import psycopg
import pytest

from metronome_pipeline.ledger.waiting import waiting
from metronome_pipeline.storage.migrations import migrate

_WAITING = 3
_FILL = """
ALTER TABLE ledger.events SET (autovacuum_enabled = false);
ALTER TABLE ledger.receipts SET (autovacuum_enabled = false);
INSERT INTO ledger.account_pairs (metronome_host, metronome_environment, solvimon_host, solvimon_platform)
VALUES ('m', 'test', 's', '');
INSERT INTO ledger.events
    (pair_id, customer_id, metric_id, start_at, end_at, slice, kind, revision, number, reference, planned_at, run_id)
SELECT 1, gen_random_uuid(), gen_random_uuid(), now(), now() + interval '1 hour', 'total', 'usage', 0, 1, 'event ' || n,
       now(), 'run' FROM generate_series(1, 5000) AS n;
INSERT INTO ledger.receipts (event_id, outcome, code, run_id)
SELECT event_id, CASE WHEN event_id <= 3 THEN 'quarantined' ELSE 'delivered' END, 'BAD', 'run' FROM ledger.events;
INSERT INTO ledger.open_events (event_id, pair_id, state) SELECT n, 1, 'quarantined' FROM generate_series(1, 3) AS n;
"""
_ROWS_READ = """
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables
WHERE schemaname = 'ledger' AND relname IN ('events', 'receipts')
"""


@pytest.fixture
def large_ledger(database_url: str) -> psycopg.Connection[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        migrate(connection)
        connection.execute(_FILL)
    return psycopg.connect(database_url)


def test_what_waits_is_found_without_reading_what_does_not(large_ledger: psycopg.Connection[Any]) -> None:
    with large_ledger as connection:
        found = connection.execute("SELECT code FROM ledger.quarantine_v1 WHERE pair_id = 1").fetchall()
        listed = waiting(connection, 1, "quarantined")
        assert _rows_read(connection) <= 10 * _WAITING
    assert [(each.code,) for each in listed] == found == [("BAD",)] * _WAITING


def test_the_latest_receipt_of_an_event_is_one_look_up(large_ledger: psycopg.Connection[Any]) -> None:
    with large_ledger as connection:
        state = connection.execute("SELECT state FROM ledger.events_v1 WHERE event_id = 4000").fetchone()
        assert _rows_read(connection) <= 4
    assert state == ("delivered",)


def _rows_read(connection: psycopg.Connection[Any]) -> int:
    """Rows of events and receipts that this transaction has read."""
    row = connection.execute(_ROWS_READ).fetchone()
    assert row is not None
    return int(row[0])
