"""What every test may use: a real Postgres of its own, with an empty database for each test.

One embedded server for each pytest process, so that ``pytest -n`` and two suites at once do not meet. It stops with the
process, however that ends. Not here: sandboxes, and anything that one folder of tests needs alone.
"""

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from metronome_pipeline.storage.embedded import EmbeddedPostgres, embedded_postgres

_numbers = count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The server of this pytest process. What it holds dies with it, so it does not wait for the disk either."""
    # Not tmp_path: a Unix socket's path may have 103 characters.
    home = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    server = embedded_postgres(home, fast_commits=True)
    yield server
    server.stop()
    shutil.rmtree(home, ignore_errors=True)


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
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY")
        yield postgres.url.replace("/postgres?", f"/{name}?", 1)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
