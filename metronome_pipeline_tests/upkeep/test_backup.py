"""A backup is whole or not there; a ledger that was restored from one loses nothing and doubles nothing."""

import ast
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from metronome_pipeline.storage.restores import notice_restore
from metronome_pipeline.upkeep import backup
from metronome_pipeline.upkeep.backup import BackupFailed, back_up, restore
from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.world import World, failure, instance_on

INGEST = "POST /v1/events/ingest-batch"
_numbers = count(1)


@contextmanager
def empty_database(url: str) -> Iterator[str]:
    """A new database on the same server."""
    name = f"restored_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        yield re.sub(r"/world\b", f"/{name}", url)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def restored(world: World, file: Path) -> Iterator[World]:
    """The same two accounts on a database of its own, made from a backup; Dagster's history comes back with it."""
    with empty_database(world.database_url) as url:
        restore(url, file)
        with instance_on(url) as instance:
            yield replace(world, database_url=url, instance=instance)


def ingest(world: World, last: int) -> None:
    result = world.ingest(0, last)
    assert result.success, failure(result)


def live_references(world: World) -> list[str]:
    return [event["reference"] for event in world.stored_events() if event["counts"]]


# Restored to an earlier moment ----------------------------------------------------------------------------------------


@pytest.fixture
def account(world: World, tmp_path: Path) -> tuple[World, str, str, Path]:
    """Eight hours were billed, then a backup was made; then eight more, and corrections of three of the sixteen."""
    customer, metric, file = world.customer(), world.metric(), tmp_path / "ledger.dump"
    world.use_hours(customer, metric, {hour: 100 + hour for hour in range(8)})
    world.imported()
    ingest(world, 7)
    back_up(world.database_url, file)
    return world, customer, metric, file


def after_the_backup(world: World, customer: str, metric: str) -> None:
    world.use_hours(customer, metric, {hour: 100 + hour for hour in range(8, 16)})
    world.use(customer, metric, 2, 5)
    ingest(world, 15)
    world.use(customer, metric, 2, 6)
    world.use(customer, metric, 9, 7)
    ingest(world, 15)
    # Not billed yet when the database was lost: the next plan computes other corrections than were sent.
    world.use(customer, metric, 2, 1000)
    world.use(customer, metric, 12, 1000)


TRUTH = {hour: Decimal(100 + hour) for hour in range(16)} | {2: Decimal(1113), 9: Decimal(116), 12: Decimal(1112)}


@pytest.mark.parametrize("deduplicates", [True, False])
@pytest.mark.parametrize("rebuilt", [True, False])
def test_a_restore_to_an_earlier_moment_loses_nothing_and_doubles_nothing(
    account: tuple[World, str, str, Path], deduplicates: bool, rebuilt: bool
) -> None:
    world, customer, metric, file = account
    if deduplicates:
        world.prove_deduplication()
        back_up(world.database_url, file.with_name("proved"))
        file = file.with_name("proved")
    else:
        world.solvimon.set(reference_idempotency="off")
    after_the_backup(world, customer, metric)
    with restored(world, file) as again:
        if rebuilt:
            done = command("rebuild", "--yes", env=variables(again))
            assert done.status == 0, done.err
        ingest(again, 15)
        assert again.counted(customer, metric) == TRUTH
        references = live_references(again)
        assert len(references) == len(set(references))
        again.solvimon.forget_requests()
        ingest(again, 15)
        assert again.solvimon.requests().get(INGEST, 0) == 0
        assert again.sql("SELECT count(*) FROM ledger.open_events") == [(0,)]
        assert again.sql("SELECT restored_at IS NOT NULL FROM ledger.account_pairs") == [(True,)]


def test_without_the_look_up_it_would_be_doubled(
    account: tuple[World, str, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the test above guards against is real.
    world, customer, metric, file = account
    world.solvimon.set(reference_idempotency="off")
    after_the_backup(world, customer, metric)
    with restored(world, file) as again:
        monkeypatch.setattr("metronome_pipeline.storage.resource.notice_restore", lambda _: False)
        ingest(again, 15)
        assert again.counted(customer, metric) != TRUTH


def test_hours_after_the_restore_are_sent_without_a_look_up(account: tuple[World, str, str, Path]) -> None:
    world, customer, metric, file = account
    with restored(world, file) as again:
        ingest(again, 7)
        again.sql("UPDATE ledger.account_pairs SET restored_at = '2026-01-05 08:00Z'")
        again.use(customer, metric, 9, 1)
        again.solvimon.forget_requests()
        ingest(again, 9)
        assert again.solvimon.requests() == {INGEST: 1}


def test_a_rebuild_finds_what_was_taken_back_since(account: tuple[World, str, str, Path]) -> None:
    # The one thing that only a rebuild (or the nightly reconciliation, event by event) can know.
    world, customer, metric, file = account
    extra = world.use(customer, metric, 3, 50)
    ingest(world, 7)
    assert world.counted(customer, metric)[3] == 153
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [extra]})
    with restored(world, file) as again:
        done = command("rebuild", "--yes", env=variables(again))
        assert done.status == 0, done.err
        result = again.ingest(0, 7, BRAKE_FLOOR="100000")
        assert result.success, failure(result)
        assert again.counted(customer, metric)[3] == 103


# How a restore is noticed ---------------------------------------------------------------------------------------------


def noticed(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return notice_restore(connection)


def test_a_restore_is_noticed_once(account: tuple[World, str, str, Path]) -> None:
    world, _, _, file = account
    assert not noticed(world.database_url)
    with restored(world, file) as again:
        assert [noticed(again.database_url) for _ in range(2)] == [True, False]
    assert not noticed(world.database_url)


def test_a_dump_that_is_put_back_into_the_same_database_is_noticed(account: tuple[World, str, str, Path]) -> None:
    world, _, _, file = account
    world.sql("DROP SCHEMA ledger, metronome, solvimon, public CASCADE")
    world.sql("CREATE SCHEMA public")
    restore(world.database_url, file)
    assert noticed(world.database_url)


def test_a_role_that_may_not_look_at_the_server_still_notices(account: tuple[World, str, str, Path]) -> None:
    world, _, _, file = account
    with restored(world, file) as again:
        for function in ("pg_control_system()", "pg_control_checkpoint()"):
            again.sql(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        again.sql("CREATE ROLE plain_reader LOGIN IN ROLE pg_write_all_data, pg_read_all_data")
        try:
            again.sql("GRANT USAGE ON SCHEMA ledger TO plain_reader")
            with psycopg.connect(again.database_url, user="plain_reader") as connection:
                assert notice_restore(connection)
                assert not notice_restore(connection)
        finally:
            again.sql("DROP OWNED BY plain_reader")
            again.sql("DROP ROLE plain_reader")


# The file -------------------------------------------------------------------------------------------------------------


def test_the_commands_back_up_and_restore(account: tuple[World, str, str, Path], tmp_path: Path) -> None:
    world = account[0]
    file = tmp_path / "by-command.dump"
    made = command("backup", "create", str(file), env=variables(world))
    assert made.status == 0, made.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with empty_database(world.database_url) as url:
        put_back = command("backup", "restore", str(file), env={**variables(world), "DAGSTER_POSTGRES_URL": url})
        assert put_back.status == 0, put_back.err
        assert "metronome-pipeline rebuild" in put_back.err
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM ledger.events").fetchone() == (8,)
            assert connection.execute("SELECT count(*) > 0 FROM public.event_logs").fetchone() == (True,)


def test_a_file_that_exists_is_never_written_over(account: tuple[World, str, str, Path]) -> None:
    world, _, _, file = account
    before = file.read_bytes()
    with pytest.raises(BackupFailed, match="exists: give a new name"):
        back_up(world.database_url, file)
    assert file.read_bytes() == before


def test_a_database_that_holds_anything_is_never_restored_over(account: tuple[World, str, str, Path]) -> None:
    world, _, _, file = account
    with pytest.raises(BackupFailed, match="holds tables already"):
        restore(world.database_url, file)


def test_a_backup_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho no room left >&2\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(backup, "_found", lambda *_: str(program))
    with pytest.raises(BackupFailed, match="pg_dump ended with 3: no room left"):
        back_up("postgresql://me@host/ledger", tmp_path / "new.dump")
    assert list(tmp_path.glob("new.dump*")) == []


def test_a_broken_file_restores_nothing(account: tuple[World, str, str, Path], tmp_path: Path) -> None:
    world, _, _, file = account
    broken = tmp_path / "broken.dump"
    broken.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with empty_database(world.database_url) as url:
        with pytest.raises(BackupFailed, match="pg_restore ended with"):
            restore(url, broken)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regclass('ledger.events')").fetchone() == (None,)


def test_the_password_is_never_on_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    program = tmp_path / "pg_dump"
    told = f"open({str(seen)!r}, 'w').write(repr((sys.argv, dict(os.environ))))"
    program.write_text(f"#!{sys.executable}\nimport os, sys\n{told}\n")
    program.chmod(0o700)
    monkeypatch.setattr(backup, "_found", lambda *_: str(program))
    back_up("postgres://me:hush%2Fhush@db.example:6432/ledger?sslmode=verify-full", tmp_path / "file")
    arguments, environment = ast.literal_eval(seen.read_text())
    assert "hush" not in repr(arguments)
    found = {
        name: environment[name] for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE")
    }
    assert list(found.values()) == ["db.example", "6432", "me", "hush/hush", "ledger", "verify-full"]


def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match="can't be reached") as raised:
        back_up("postgresql://me:hush-hush@127.0.0.1:1/ledger", tmp_path / "file")
    assert "hush" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
