"""The database as a Dagster resource: one account pair's rows in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg
from pydantic import Field

from metronome_pipeline.clock import Clock, clock_ahead
from metronome_pipeline.settings import AccountPair, PostgresSettings
from metronome_pipeline.storage.accounts import Pair, pair_of
from metronome_pipeline.storage.database import Database, server_url
from metronome_pipeline.storage.migrations import migrate
from metronome_pipeline.storage.restores import notice_restore


@dataclass(frozen=True)
class Store:
    """An open database, the account pair whose rows are meant, and the clock that goes with the database's time."""

    database: Database
    pair: Pair
    clock: Clock


class StoreResource(dg.ConfigurableResource[Store]):
    """Where usage, the ledger and the pace are kept: the database of ``DAGSTER_POSTGRES_URL``, or the embedded one.

    The URL is read from the environment where a run executes, so that no password is part of a resource's
    configuration, which Dagster shows. ``database_url`` is for tests.
    """

    metronome_host: str = Field(description="Host of Metronome's API: part of the account pair.")
    metronome_environment: str = Field(description="Name of the Metronome environment: part of the account pair.")
    solvimon_host: str = Field(description="Host of Solvimon's API: part of the account pair.")
    solvimon_platform_id: str = Field(description="Solvimon platform: part of the account pair.")
    database_url: str | None = Field(default=None, description="Instead of the environment's; without a password.")

    @contextmanager
    def open(self, *, connections: int = 4) -> Iterator[Store]:
        """The database with its schema up to date, and this pair's row."""
        url = self.database_url or server_url(PostgresSettings.from_environment())
        accounts = AccountPair(
            metronome_host=self.metronome_host,
            metronome_environment=self.metronome_environment,
            solvimon_host=self.solvimon_host,
            solvimon_platform_id=self.solvimon_platform_id,
        )
        with Database(url, connections=connections) as database:
            with database.transaction() as connection:
                migrate(connection)
                notice_restore(connection)
                pair = pair_of(connection, accounts)
                row = connection.execute("SELECT ledger.ahead()").fetchone()
            ahead: timedelta = row[0] if row else timedelta(0)
            yield Store(database, pair, clock_ahead(ahead))
