"""The sandbox's Solvimon half, served once for all tests of this folder; each test has an account of its own in it."""

from collections.abc import Iterator

import pytest

from metronome_pipeline.sandbox.server import serve
from metronome_pipeline.sandbox.solvimon import create_app
from metronome_pipeline_tests.sandbox.solvimon_account import Account


@pytest.fixture(scope="session")
def solvimon_url() -> Iterator[str]:
    """The base URL of a served sandbox."""
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(solvimon_url: str) -> Iterator[Account]:
    """An empty account."""
    fresh = Account(solvimon_url)
    yield fresh
    fresh.http.close()
