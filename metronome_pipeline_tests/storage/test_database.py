"""Transactions and locks on a real Postgres, and what is said when it is not there."""

import asyncio
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from metronome_pipeline.settings import PostgresSettings
from metronome_pipeline.storage.database import Database, DatabaseUnavailable, server_url

HOLD = """
import asyncio, sys
from metronome_pipeline.storage.database import Database
async def main():
    async with Database(sys.argv[1]).lock(7, 1):
        print("held", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""

Connection = psycopg.Connection[TupleRow]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url, application_name="under-test", connections=2) as database:
        with database.transaction() as connection:
            connection.execute("CREATE TABLE entries (n int PRIMARY KEY)")
        yield database


def entries(database: Database) -> list[int]:
    with database.transaction() as connection:
        return [row[0] for row in connection.execute("SELECT n FROM entries ORDER BY n")]


def inserting(n: int) -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        connection.execute("INSERT INTO entries VALUES (%s)", [n])
        return n

    return work


def held_locks(database: Database) -> int:
    with database.transaction() as connection:
        row = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone()
        assert row is not None
        return int(row[0])


async def eventually(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_transaction_commits_when_it_returns(database: Database) -> None:
    assert asyncio.run(database.run(inserting(1))) == 1
    with database.transaction() as connection:
        inserting(2)(connection)
    assert entries(database) == [1, 2]


def test_a_transaction_rolls_back_when_it_raises(database: Database) -> None:
    def work(connection: Connection) -> None:
        inserting(1)(connection)
        raise LookupError("stop")

    with pytest.raises(LookupError, match="stop"):
        asyncio.run(database.run(work))
    with pytest.raises(LookupError), database.transaction() as connection:
        work(connection)
    assert entries(database) == []


def test_an_error_of_postgres_arrives_as_it_is(database: Database) -> None:
    asyncio.run(database.run(inserting(1)))
    with pytest.raises(psycopg.errors.UniqueViolation):
        asyncio.run(database.run(inserting(1)))
    assert entries(database) == [1]


def test_work_can_not_commit_half_of_itself(database: Database) -> None:
    def work(connection: Connection) -> None:
        inserting(1)(connection)
        connection.commit()

    with pytest.raises(psycopg.ProgrammingError):
        asyncio.run(database.run(work))
    assert entries(database) == []


def test_every_session_is_in_utc_and_named(database: Database, database_url: str) -> None:
    with database.transaction() as connection:
        row = connection.execute("SELECT current_setting('application_name'), current_database()").fetchone()
        assert row is not None
        assert row[0] == "under-test"
        connection.execute(f"ALTER DATABASE {row[1]} SET timezone TO 'Asia/Kathmandu'")
    with Database(database_url) as another, another.transaction() as connection:
        assert connection.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)


def test_more_work_than_connections_takes_turns(database: Database) -> None:
    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(database.run(inserting(n)) for n in range(20)))

    assert asyncio.run(all_at_once()) == list(range(20))
    assert entries(database) == list(range(20))
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'under-test'"
        ).fetchone()
    assert row is not None
    assert row[0] <= 2


def test_a_transaction_does_not_outlive_its_cancelled_caller(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(connection: Connection) -> None:
        inserting(1)(connection)
        begun.set()
        go_on.wait(30)

    async def cancelled() -> None:
        task = asyncio.create_task(database.run(work))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert entries(database) == [1]

    asyncio.run(cancelled())


def test_work_that_had_not_begun_is_cancelled_with_its_caller(database: Database) -> None:
    go_on = threading.Event()

    async def cancelled() -> None:
        busy = [asyncio.create_task(database.run(lambda _: go_on.wait(30))) for _ in range(2)]
        waiting = asyncio.create_task(database.run(inserting(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        await asyncio.gather(*busy)

    asyncio.run(cancelled())
    assert entries(database) == []


def test_a_connection_that_was_lost_in_between_is_replaced(database: Database) -> None:
    terminate_others(database)
    assert asyncio.run(database.run(inserting(1))) == 1


def terminate_others(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE application_name = 'under-test' AND pid <> pg_backend_pid()"
        )


def test_a_connection_lost_in_a_transaction_leaves_the_commit_in_doubt(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="it may or may not have been committed"):
        asyncio.run(
            database.run(lambda connection: connection.execute("SELECT pg_terminate_backend(pg_backend_pid())"))
        )
    assert entries(database) == []


def test_a_lock_has_one_holder_and_others_wait_without_blocking_the_loop(database: Database) -> None:
    order: list[str] = []

    async def holder(name: str, inside: asyncio.Event, leave: asyncio.Event) -> None:
        async with database.lock(7, 1):
            order.append(f"{name} in")
            inside.set()
            await leave.wait()
            order.append(f"{name} out")

    async def both() -> None:
        first, second, leave, gone = (asyncio.Event() for _ in range(4))
        gone.set()
        one = asyncio.create_task(holder("one", first, leave))
        await first.wait()
        two = asyncio.create_task(holder("two", second, gone))
        async with database.lock(7, 2), database.lock(7):
            pass
        await eventually(lambda: waiting_locks(database) == 1)
        assert not second.is_set()
        leave.set()
        await asyncio.gather(one, two)

    asyncio.run(both())
    assert order == ["one in", "one out", "two in", "two out"]
    assert held_locks(database) == 0


def waiting_locks(database: Database) -> int:
    with database.transaction() as connection:
        return len(connection.execute("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchall())


def test_a_lock_is_freed_when_its_body_raises_or_is_cancelled(database: Database) -> None:
    async def raising() -> None:
        with pytest.raises(LookupError):
            async with database.lock(7):
                raise LookupError
        assert held_locks(database) == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), database.lock(7):
                await asyncio.Event().wait()
        assert held_locks(database) == 0

    asyncio.run(raising())


def test_waiting_for_a_lock_can_be_given_up(database: Database) -> None:
    async def giving_up() -> None:
        async with database.lock(7):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), database.lock(7):
                    pytest.fail("two holders")
            await eventually(lambda: waiting_locks(database) == 0)

    asyncio.run(giving_up())
    assert held_locks(database) == 0


def test_a_lock_is_freed_by_the_death_of_its_process(database: Database, database_url: str) -> None:
    async def taken_over() -> None:
        async with asyncio.timeout(30), database.lock(7, 1):
            pass

    with subprocess.Popen((sys.executable, "-c", HOLD, database_url), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert held_locks(database) == 1
        process.kill()
    asyncio.run(taken_over())


def test_the_body_of_a_lost_lock_is_stopped(database: Database) -> None:
    async def losing() -> None:
        async with database.lock(7):
            await asyncio.to_thread(terminate_others, database)
            await asyncio.wait_for(asyncio.Event().wait(), 20)

    async def outer() -> None:
        with pytest.raises(DatabaseUnavailable, match="another run may hold it now"):
            await losing()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(outer())


def test_a_lock_key_is_one_integer_or_two(database: Database) -> None:
    async def lock(*key: int) -> None:
        async with database.lock(*key):
            pass

    for key in [(), (1, 2, 3)]:
        with pytest.raises(ValueError, match="one integer or two"):
            asyncio.run(lock(*key))
    asyncio.run(lock(-(2**63)))


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DatabaseUnavailable) as raised:
            Database(f"postgres://me:hush-hush@127.0.0.1:{port}/billing")
    text = str(raised.value)
    assert text.startswith(f"Postgres at 127.0.0.1:{port}, database billing, can't be used (")
    assert "check DAGSTER_POSTGRES_URL" in text
    assert "hush" not in text
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("url", ["postgresql://me:hush%zz@host/db", "postgresql://me:hush@host/db?no_such=1"])
def test_a_url_that_can_not_be_read_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="The Postgres URL can't be read") as raised:
        Database(url)
    assert "hush" not in str(raised.value)


def test_a_database_that_does_not_exist_is_named(database_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match='database "nowhere" does not exist'):
        Database(re.sub(r"/test_\d+", "/nowhere", database_url))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_can_not_hold_every_name_is_refused(database_url: str, encoding: str) -> None:
    name = f"other_{uuid.uuid4().hex}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
        try:
            with pytest.raises(DatabaseUnavailable, match=f"{name}, keeps text as {encoding}.*ENCODING 'UTF8'"):
                Database(database_url.replace(str(conninfo_to_dict(database_url)["dbname"]), name))
        finally:
            connection.execute(f"DROP DATABASE {name}")


def test_what_the_environment_says_of_the_encoding_does_not_matter(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with Database(database_url) as database, database.transaction() as connection:
        assert connection.execute("SELECT '顧客 Ω'").fetchone() == ("顧客 Ω",)


def test_the_database_is_the_one_that_is_set() -> None:
    found = PostgresSettings.from_environment({"DAGSTER_POSTGRES_URL": "postgres://me@host/db"})
    assert server_url(found) == "postgres://me@host/db"


def test_a_closed_database_leaves_no_connection(database: Database, database_url: str) -> None:
    other = Database(database_url, application_name="closing")
    asyncio.run(other.run(lambda _: None))
    other.close()
    with database.transaction() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'closing'"
        deadline = time.monotonic() + 30
        while connection.execute(query).fetchone() != (0,):
            assert time.monotonic() < deadline
            connection.execute("SELECT pg_stat_clear_snapshot()")
