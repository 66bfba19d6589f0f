"""What every test may use: a real Postgres of its own, with an empty database for each test.

One embedded server for each pytest process, so that ``pytest -n`` and two suites at once do not meet. It stops with the
process, however that ends. Not here: sandboxes, and anything that one folder of tests needs alone.
"""

import gc
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._core.storage.defs_state.base import set_defs_state_storage

from metronome_pipeline.storage.embedded import EmbeddedPostgres, embedded_postgres
from metronome_pipeline.storage.migrations import migrate
from metronome_pipeline_tests.ledger.books import Books, open_books
from metronome_pipeline_tests.world import (
    Api,
    World,
    close_connections,
    in_the_environment,
    instance_on,
    open_instance,
)

# As the project's own instance storage sets it: Dagster writes its events in batches.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")

_LONGEST = ("test_story_of_", "_1000_pairs_", "test_the_estimate_of_a_month")
_ROOM = 6 * 1024**3  # for two suites at once, of two processes each
_WORLD = "world"
_numbers = count(1)


def pytest_configure() -> None:
    """SIGINT as it is in a terminal: a shell ignores it in what it puts into the background.

    A Dagster run gives SIGTERM whatever SIGINT has, and whoever ignores a signal, so do all processes that it starts:
    the tests that end a process by SIGTERM would wait for ever.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Until all tests are collected: what is imported meanwhile stays.
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process is left alone with one at the end. Nothing rests on the order."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in _LONGEST))


def pytest_collection_finish() -> None:
    """What stands now stays to the end, so the collector need not look through it again and again."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The server of this pytest process. What it holds dies with it, so it does not wait for the disk either."""
    # Not tmp_path: a Unix socket's path may have 103 characters.
    home = Path(tempfile.mkdtemp(prefix="mp-", dir=_quickest_folder()))
    server = embedded_postgres(home, fast_commits=True)
    yield server
    server.stop()
    shutil.rmtree(home, ignore_errors=True)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """Every record that is logged, of any level.

    pytest's own capture is off: it writes out every line of Dagster's, a quarter of the time of a test with runs.
    """
    handler, root = _Records(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler.records
    root.removeHandler(handler)
    root.setLevel(level)


def _quickest_folder() -> Path:
    """Memory, where the machine offers enough of it as files: a database is copied in 16 ms there, in 400 on a disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free >= _ROOM
    return memory if roomy else Path("/tmp")


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of the database that every test's own is a copy of. What is created in it once, every test has."""
    name = "template_of_tests"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
    return name


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """A database of the test's own, dropped after it, whoever is still connected."""
    with _copy(postgres, template_database, f"test_{next(_numbers)}") as url:
        yield url


@pytest.fixture(scope="session")
def world_template(postgres: EmbeddedPostgres) -> str:
    """A database with Dagster's tables and ours, which take a second to make: every world's own is a copy of it."""
    name = "template_of_worlds"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
    url = _url(postgres, name)
    with psycopg.connect(url) as connection:
        migrate(connection)
    with instance_on(url):
        return name


@contextmanager
def _copy(postgres: EmbeddedPostgres, template: str, name: str) -> Iterator[str]:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        yield _url(postgres, name)
        # Without waiting: a connection that is ended by DROP ... WITH (FORCE) itself costs 100 ms, which add up.
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _url(postgres: EmbeddedPostgres, database: str) -> str:
    return postgres.url.replace("/postgres?", f"/{database}?", 1)


@pytest.fixture(scope="session")
def sandbox_urls() -> Iterator[tuple[str, str]]:
    """Both sandboxes over real sockets, for this pytest process: (Metronome's URL, Solvimon's URL)."""
    from metronome_pipeline.sandbox.metronome.app import create_app as metronome_app  # noqa: PLC0415
    from metronome_pipeline.sandbox.server import serve  # noqa: PLC0415
    from metronome_pipeline.sandbox.solvimon.app import create_app as solvimon_app  # noqa: PLC0415

    with serve(metronome_app()) as metronome, serve(solvimon_app()) as solvimon:
        yield metronome, solvimon


@pytest.fixture(scope="session")
def world_instance(postgres: EmbeddedPostgres, world_template: str) -> Iterator[dg.DagsterInstance]:
    """Dagster's side of every world of this process, whose databases all have the same name.

    To open an instance, and to have its statements compiled, takes a tenth of a test with runs.
    """
    with ExitStack() as stack:
        with _copy(postgres, world_template, _WORLD) as url, in_the_environment(url):
            instance = stack.enter_context(open_instance())
            close_connections(instance)
        # An instance makes itself the one that is asked whenever definitions are made, also where there is no database.
        stack.enter_context(set_defs_state_storage(None))
        yield instance


@pytest.fixture
def world(
    sandbox_urls: tuple[str, str],
    postgres: EmbeddedPostgres,
    world_template: str,
    world_instance: dg.DagsterInstance,
    tmp_path: Path,
) -> Iterator[World]:
    """An empty world: two accounts and a database of the test's own, under names that the one before has left."""
    metronome_url, solvimon_url = sandbox_urls
    metronome = Api(metronome_url, {"Authorization": "Bearer token-of-the-world-as-long-as-a-real-one"})
    solvimon = Api(solvimon_url, {"X-API-KEY": "key-of-the-world-as-long-as-a-real-one"})
    metronome.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
    solvimon.call("PUT", "/_sandbox/store", {})
    with _copy(postgres, world_template, _WORLD) as url, in_the_environment(url), set_defs_state_storage(None):
        yield World(metronome, solvimon, url, world_instance, folder=tmp_path)
        close_connections(world_instance)


@pytest.fixture(scope="module")
def shared_database_url(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[str]:
    name = "books_of_" + request.module.__name__.rpartition(".")[2]
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgres.url.replace("/postgres?", f"/{name}?", 1)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def books(shared_database_url: str) -> Iterator[Books]:
    with open_books(shared_database_url) as opened:
        yield opened
