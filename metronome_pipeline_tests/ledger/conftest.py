"""Books for tests of the ledger's statements: an account pair of the test's own in a database that they share."""

from collections.abc import Iterator

import psycopg
import pytest

from metronome_pipeline.storage.embedded import EmbeddedPostgres
from metronome_pipeline_tests.ledger.books import Books, open_books


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
