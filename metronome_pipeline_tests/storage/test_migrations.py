"""The schema's versions: applied once, by however many processes, with data in the tables from the first one on."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import resources
from typing import Any

import psycopg
import pytest

from metronome_pipeline.storage import migrations
from metronome_pipeline.storage.migrations import migrate
from metronome_pipeline_tests.world import START, World, failure

INGEST = "POST /v1/events/ingest-batch"
HOUR = timedelta(hours=1)

RELEASED = {
    "0001_tables.sql": "f8941d982211bb1498a58f637b59ebdadcb7d3d0bb9f8aaef474995833997c57",
    "0002_changes.sql": "43800dcb28b65b6b4b2b9c15692fb315f6c01c2f1b5bac631b79ceb3f06c2795",
    "0003_sweeps.sql": "dd7ea6e42c6ac03d74defe60f33aac23df1cf4a4ae174f8634724b6f2272ac79",
    "0004_reconciliations.sql": "660ae615800f5044941318cf1cddab2253befcf0c140dee72dd7823f5afe619b",
    "0006_alerts.sql": "b95ede7c823cbdd887ebce58e2c6001708fd7832f433e9130cb19ec5e0c9edb6",
    "0007_upkeep.sql": "238c246ad95b74b0bc75d8b97e5c41e0ad453daf8e21ac3e9179e54bf9dbe0ce",
    "0008_billing_health.sql": "c5eabdaa404ee4c3a1ca6a71100289274eb7c0fd51412656e4057530644d1579",
    "0009_waiting.sql": "742e6c645803a2a9c882c009940bb9c3353f803898d303950e662c93eed1aa38",
    "0010_turns.sql": "3376155138e8fc4526b0bbd049dfe129850be2a048283bfd0947bfe28219648e",
    "0011_usage.sql": "a6278cba0984b02b77e46674509754c9d9f07f3b72aefbf2e58af703d8c4a15d",
}
"""What was committed. A database that has applied one never applies it again: changes need a file of their own."""

MIGRATE = """
import sys
import psycopg
from metronome_pipeline.storage.migrations import migrate
print("ready", flush=True)
sys.stdin.readline()
with psycopg.connect(sys.argv[1]) as connection:
    print(len(migrate(connection)))
"""


def test_a_released_migration_never_changes() -> None:
    folder = resources.files(migrations.__name__)
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RELEASED}
    assert found == RELEASED, "write the change into a new file: databases that have applied this one will not see it"


def test_each_is_applied_once(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert migrate(connection) == migrations._names()
        assert migrate(connection) == []


def test_one_that_fails_leaves_nothing_behind(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*migrations._names(), "9999_no_such_file.sql"]
    monkeypatch.setattr(migrations, "_names", lambda: names)
    with pytest.raises(FileNotFoundError), psycopg.connect(database_url) as connection:
        migrate(connection)
    monkeypatch.undo()
    with psycopg.connect(database_url) as connection:
        assert migrate(connection) == migrations._names()


def test_two_processes_that_start_together_apply_each_once(database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [process.communicate() for process in processes] if _let_go(processes) else []
    assert [process.returncode for process in processes] == [0, 0, 0], [errors for _, errors in ended]
    assert sorted(int(out) for out, _ in ended) == [0, 0, len(migrations._names())]


def _let_go(processes: list["subprocess.Popen[str]"]) -> bool:
    """Lets all of them begin, once each has loaded what it needs."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return True


@contextmanager
def at_version(database_url: str, last: str) -> Iterator["psycopg.Connection[Any]"]:
    """A database as an earlier version of this project left it."""
    with psycopg.connect(database_url) as connection:
        everything = migrations._names()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(migrations, "_names", lambda: [name for name in everything if name <= last])
            migrate(connection)
        yield connection


def old_world(world: World) -> None:
    """The world's database without our schemas, as if this project had never been there."""
    world.sql("DROP SCHEMA ledger, metronome, solvimon CASCADE")
    world.sql("DROP TABLE public.metronome_pipeline_migrations")


def first_ledger(connection: "psycopg.Connection[Any]", world: World, customer: str, metric: str) -> None:
    """What version 1 held after a run: read, planned, sent, one hour corrected, one in quarantine, one claimed."""
    settings = world.settings().account_pair
    pair = connection.execute(
        "INSERT INTO ledger.account_pairs (metronome_host, metronome_environment, solvimon_host, solvimon_platform, "
        "deduplication) VALUES (%s, %s, %s, %s, 'proved') RETURNING pair_id",
        [
            settings.metronome_host,
            settings.metronome_environment,
            settings.solvimon_host,
            settings.solvimon_platform_id,
        ],
    ).fetchone()
    assert pair is not None
    ids = {"pair": pair[0], "customer": customer, "metric": metric, "start": START}
    for statement in FIRST.strip().split(";\n"):
        connection.execute(statement, ids)


# Hour 2 was 7 first, and corrected by 5. Hour 6 is in quarantine; hour 7 was being sent when its run died.
FIRST = """
INSERT INTO metronome.customers (pair_id, customer_id, name, ingest_aliases, custom_fields, created_at, updated_at)
VALUES (%(pair)s, %(customer)s, 'Acme', '{}', '{}', now(), now());
INSERT INTO metronome.billable_metrics (pair_id, metric_id, name, aggregation_type, aggregation_key, group_keys)
VALUES (%(pair)s, %(metric)s, 'Calls', 'SUM', 'value', '[]');
INSERT INTO metronome.usage
SELECT %(pair)s, %(customer)s, %(metric)s, h, h + interval '1 hour', 10 + extract(hour FROM h)
FROM generate_series(%(start)s, %(start)s + interval '7 hours', interval '1 hour') AS h;
INSERT INTO metronome.coverage
VALUES (%(pair)s, %(customer)s, %(metric)s, 'ungrouped',
        tstzmultirange(tstzrange(%(start)s, %(start)s + interval '8 hours')));
INSERT INTO ledger.slicings (pair_id, metric_id, slicing) VALUES (%(pair)s, %(metric)s, 'ungrouped');
INSERT INTO ledger.events (pair_id, customer_id, metric_id, start_at, end_at, slice, kind, revision, number, reference,
                           planned_at, run_id)
SELECT u.pair_id, u.customer_id, u.metric_id, u.start_at, u.end_at, 'total', k.kind, k.revision,
       CASE WHEN u.value <> 12 THEN u.value WHEN k.revision = 0 THEN 7 ELSE 5 END,
       ledger.event_reference(u.customer_id, u.metric_id, u.start_at, u.end_at, 'total', k.revision), now(), 'first run'
FROM metronome.usage u
JOIN (VALUES ('usage', 0), ('correction', 1)) AS k (kind, revision) ON k.revision = 0 OR u.value = 12
ORDER BY k.revision, u.start_at;
INSERT INTO ledger.open_events
SELECT event_id, pair_id, CASE number WHEN 16 THEN 'quarantined' ELSE 'planned' END FROM ledger.events
WHERE number IN (16, 17);
INSERT INTO ledger.claims (pair_id, event_ids, run_id)
SELECT pair_id, ARRAY[event_id], 'first run' FROM ledger.open_events WHERE state = 'planned';
INSERT INTO ledger.receipts (event_id, outcome, solvimon_id, run_id)
SELECT event_id, coalesce(o.state, 'delivered'), 'metd_' || event_id, 'first run'
FROM ledger.events LEFT JOIN ledger.open_events o USING (event_id) WHERE o.state IS DISTINCT FROM 'planned';
INSERT INTO ledger.brakes (pair_id, digest, metric_id, from_at, to_at, billed, observed, run_id, released_at,
                           released_by)
VALUES (%(pair)s, 'd', %(metric)s, %(start)s, %(start)s + interval '1 hour', 9, 1, 'first run', now(), 'somebody');
""".replace("%(start)s", "%(start)s::timestamptz")


def sent_before(world: World) -> None:
    """Gives Solvimon the events that the ledger says were sent, the one in doubt among them."""
    rows = world.sql(
        "SELECT reference, customer_id::text, metric_id::text, start_at, number FROM ledger.events e "
        "LEFT JOIN ledger.open_events o USING (event_id) WHERE o.state IS DISTINCT FROM 'quarantined' ORDER BY event_id"
    )
    events = [
        {
            "reference": reference,
            "customer_reference": customer,
            "meter_reference": metric,
            "timestamp": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "meter_values": [{"reference": f"{metric}_value", "number": str(number)}],
        }
        for reference, customer, metric, start, number in rows
    ]
    world.solvimon.call("POST", "/v1/events/ingest-batch", {"meter_datas": events})


@pytest.mark.parametrize("version", [name for name in sorted(RELEASED) if name != "0002_changes.sql"])
def test_a_ledger_of_any_version_goes_on_and_nothing_is_sent_twice(world: World, version: str) -> None:
    customer, metric = world.customer(), world.metric()
    world.use_hours(customer, metric, {hour: 10 + hour for hour in range(8)})
    # The other side as it stood then: customers and meters are there.
    world.imported()
    imported = [
        (table, json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
        for table in ("customers", "meters")
        for columns, rows in [_table(world, f"solvimon.{table}")]
    ]
    old_world(world)
    with at_version(world.database_url, version) as connection:
        first_ledger(connection, world, customer, metric)
        for table, rows in imported:
            name = psycopg.sql.Identifier("solvimon", table)
            statement = psycopg.sql.SQL("INSERT INTO {} SELECT * FROM jsonb_populate_recordset(NULL::{}, %s::jsonb)")
            connection.execute(statement.format(name, name), [rows])
    sent_before(world)
    world.solvimon.forget_requests()
    result = world.ingest(0, 7)
    assert result.success, failure(result)
    with psycopg.connect(world.database_url) as connection:
        assert migrate(connection) == []
    # The one in doubt is sent again under its own reference, and is recognised; the one in quarantine waits.
    assert world.counted(customer, metric) == {hour: 10 + hour for hour in range(8) if hour != 6}
    live = [event for event in world.stored_events() if event["counts"]]
    assert len(live) == 8
    assert len({event["reference"] for event in live}) == 8
    states = world.sql("SELECT state, count(*) FROM ledger.events_v1 GROUP BY state ORDER BY state")
    assert states == [("delivered", 8), ("quarantined", 1)]
    again = world.ingest(0, 7)
    assert again.success, failure(again)
    assert world.solvimon.requests().get(INGEST, 0) == 1, "the batch in doubt, once"


def _table(world: World, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    with psycopg.connect(world.database_url) as connection:
        cursor = connection.execute(
            psycopg.sql.SQL("SELECT * FROM {}").format(psycopg.sql.Identifier(*name.split(".")))
        )
        assert cursor.description is not None
        return [column.name for column in cursor.description], cursor.fetchall()


def test_a_ledger_of_before_is_not_taken_for_a_restored_one(world: World) -> None:
    old_world(world)
    with at_version(world.database_url, "0001_tables.sql") as connection:
        first_ledger(connection, world, world.customer(), world.metric())
    world.imported()
    assert world.sql("SELECT restored_at FROM ledger.account_pairs") == [(None,)]
