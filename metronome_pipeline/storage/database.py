"""Postgres as the core sees it: transactions, and locks that death frees.

Here: connections, their settings, and what is said when they fail. Not here: SQL of any workflow, and the server.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.settings import PostgresSettings, psycopg_url

T = TypeVar("T")

_CONNECT_SECONDS = 10
_MAKE_ANOTHER = (
    "make another with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and set DAGSTER_POSTGRES_URL to it."
)

# A machine that vanishes leaves its connections, and their locks, until the other side notices: in a minute instead of
# the two hours that systems have by default. The first set is libpq's (we notice), the second the server's.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_SESSION = "SELECT set_config('TimeZone', 'UTC', false), set_config('tcp_keepalives_idle', '30', false), "
_SESSION += "set_config('tcp_keepalives_interval', '10', false), set_config('tcp_keepalives_count', '3', false)"


class DatabaseUnavailable(PipelineError):
    """Postgres can't be reached, or a connection to it was lost. A sentence without the password."""


class Database:
    """One Postgres database, through at most ``connections`` connections plus one for each lock that is held.

    Every session is in UTC. The server must be reached directly or through a pooler in session mode: locks belong to
    sessions. A context manager; ``close`` waits for running transactions.
    """

    def __init__(self, url: str, *, application_name: str = "metronome-pipeline", connections: int = 4) -> None:
        """Connect once, to say at once what is wrong.

        Args:
            url: In any spelling that ``DAGSTER_POSTGRES_URL`` takes.
            application_name: What ``pg_stat_activity`` shows.
            connections: The most transactions at a time.

        Raises:
            DatabaseUnavailable: No connection could be made, or the database can't hold every text.
            ValueError: The URL is not one of Postgres.
        """
        parsed = _parsed(psycopg_url(url))
        self._place = _place(parsed)
        # What the URL says itself wins over these.
        defaults = {"application_name": application_name, "connect_timeout": _CONNECT_SECONDS, **_KEEPALIVE}
        self._parameters: dict[str, Any] = {**defaults, **parsed, "client_encoding": "UTF8"}
        with self._reaching(), psycopg.connect(**self._parameters) as connection:
            encoding = connection.info.parameter_status("server_encoding")
        if encoding not in ("UTF8", None):
            # SQL_ASCII lets through what is no text, any other lacks letters that names have; some poolers don't tell.
            sentence = (
                f"{self._place} keeps text as {encoding}, which not every name can be written in: {_MAKE_ANOTHER}"
            )
            raise DatabaseUnavailable(sentence)
        self._pool: ConnectionPool[psycopg.Connection[TupleRow]] = ConnectionPool(
            kwargs=self._parameters,
            # None is kept in reserve and one thread makes new ones, so an idle pool holds what was last needed at most.
            min_size=0,
            max_size=connections,
            num_workers=1,
            timeout=60,
            configure=_configure,
            check=ConnectionPool.check_connection,
            name=application_name,
            open=True,
        )
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix=f"{application_name}-database")

    async def run(self, work: Callable[[psycopg.Connection[TupleRow]], T]) -> T:
        """Do ``work`` in a thread, in one transaction: committed when it returns, rolled back when it raises.

        No transaction outlives its caller: when the caller is cancelled, work that has begun is awaited (and committed)
        before the cancellation goes on.

        Raises:
            DatabaseUnavailable: There was no connection, or it was lost; in the latter case the text says that the
                commit may or may not have happened.
        """
        running = self._threads.submit(self._transact, work)
        try:
            return await asyncio.shield(asyncio.wrap_future(running))
        except asyncio.CancelledError:
            if not running.cancel():
                await _ended(running)
            raise

    def _transact(self, work: Callable[[psycopg.Connection[TupleRow]], T]) -> T:
        with self.transaction() as connection:
            return work(connection)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """The same synchronously, for callers without an event loop. Raises what ``run`` raises."""
        with self._reaching():
            connection = self._pool.getconn()
        try:
            with connection.transaction():
                yield connection
        except psycopg.OperationalError as error:
            if not connection.broken:
                raise
            raise DatabaseUnavailable(
                f"The connection to {self._place} was lost in a transaction ({_reason(error)}): it may or may not "
                "have been committed. Run again; what was committed is found and kept."
            ) from None
        finally:
            self._pool.putconn(connection)

    @asynccontextmanager
    async def lock(self, *key: int) -> AsyncIterator[None]:
        """Hold an advisory lock of a session of its own; others wait. Freed by the death of this process, too.

        The event loop runs on while this waits. If the session is lost while the lock is held, somebody else may hold
        it from then on: the body is cancelled at its next ``await``.

        Args:
            key: One integer of 64 bits or two of 32, as in Postgres.

        Raises:
            DatabaseUnavailable: No connection could be made, or it was lost.
        """
        if len(key) not in {1, 2}:
            raise ValueError(f"A lock's key is one integer or two, not {len(key)}.")
        places = ", ".join(["%s"] * len(key))
        async with self._session() as session:
            with self._reaching():
                await session.execute(f"SELECT pg_advisory_lock({places})", key)
            sentence = (
                f"A lock was lost with its connection to {self._place} so another run may hold it now: run again."
            )
            try:
                async with _cancelled_when_lost(session, sentence):
                    yield
            finally:
                # Closing would free it as well, but only some time after we have gone on.
                with suppress(psycopg.Error):
                    await session.execute(f"SELECT pg_advisory_unlock({places})", key)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
        with self._reaching():
            session = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        try:
            with self._reaching():
                await session.execute(_SESSION)
            yield session
        finally:
            await session.close()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise DatabaseUnavailable(
                f"{self._place} can't be used ({_reason(error)}): check DAGSTER_POSTGRES_URL, and that the server "
                "runs and lets this user in."
            ) from None

    def close(self) -> None:
        """Wait for running transactions, then close every connection. A closed database stays closed."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def server_url(settings: PostgresSettings) -> str:
    """The Postgres to use: the one that is set, else the embedded one, started if need be and held by this process.

    Raises:
        EmbeddedPostgresError: The embedded one can't be started.
    """
    if settings.postgres_url is not None:
        return settings.postgres_url.get_secret_value()
    # Only here: it needs Unix file locks, which a system with a server of its own may lack.
    from metronome_pipeline.storage.embedded import embedded_postgres  # noqa: PLC0415

    return embedded_postgres(settings.home).url


def _configure(connection: psycopg.Connection[TupleRow]) -> None:
    connection.execute(_SESSION)
    connection.commit()


async def _ended(running: "Future[Any]") -> None:
    with suppress(Exception):
        await asyncio.wrap_future(running)


@asynccontextmanager
async def _cancelled_when_lost(session: psycopg.AsyncConnection[TupleRow], sentence: str) -> AsyncIterator[None]:
    """Cancel the body when the server ends an idle session, and raise ``DatabaseUnavailable`` in its place."""
    loop, task, descriptor = asyncio.get_running_loop(), asyncio.current_task(), session.fileno()
    assert task is not None
    asked_before, lost = task.cancelling(), False

    def readable() -> None:
        # An idle session hears little: a changed server setting, a notice, or its end.
        nonlocal lost
        with suppress(psycopg.Error):
            session.pgconn.consume_input()
            if session.pgconn.status == psycopg.pq.ConnStatus.OK:
                return
        lost = True
        loop.remove_reader(descriptor)
        task.cancel()

    loop.add_reader(descriptor, readable)
    try:
        yield
    except BaseException as error:
        # Our own cancellation becomes the error; one that somebody else asked for as well goes on.
        ours = lost and task.uncancel() <= asked_before
        if ours and isinstance(error, asyncio.CancelledError):
            raise DatabaseUnavailable(sentence) from None
        raise
    else:
        if lost:
            task.uncancel()
            raise DatabaseUnavailable(sentence)
    finally:
        loop.remove_reader(descriptor)


def _parsed(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        # Its text quotes the URL, and the URL may hold a password.
        message = "The Postgres URL can't be read: compare it with postgresql://user:password@host:5432/database."
        raise ValueError(message) from None


def _place(parameters: Mapping[str, Any]) -> str:
    """The server and the database, for texts: never the user or the password."""
    port = f":{parameters['port']}" if "port" in parameters else ""
    return f"Postgres at {parameters.get('host', 'localhost')}{port}, database {parameters.get('dbname', 'default')},"


def _reason(error: Exception) -> str:
    """What libpq said, in one line: with several addresses it says one line for each."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:400]}…"
