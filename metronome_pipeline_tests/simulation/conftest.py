"""A database for simulations, one for each pytest process, and emptied by each seed."""

from collections.abc import Iterator

import psycopg
import pytest

from metronome_pipeline.storage.embedded import EmbeddedPostgres
from metronome_pipeline_tests.simulation.long_run import quiet_libraries
from metronome_pipeline_tests.simulation.postgres import Server


@pytest.fixture(scope="session")
def simulation_server(postgres: EmbeddedPostgres) -> Iterator[Server]:
    quiet_libraries()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE simulation")
    server = Server(postgres.url.replace("/postgres?", "/simulation?", 1))
    yield server
    server.close()
