"""The account pair that the environment names, and its database: what commands on a running installation open."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.accounts import Pair, pair_of
from metronome_pipeline.storage.database import Database, server_url
from metronome_pipeline.storage.migrations import migrate
from metronome_pipeline.storage.restores import notice_restore

RUN_ID = "command line"
"""What stands for a Dagster run in rows that a person's command writes."""


@dataclass(frozen=True)
class OpenPair:
    """The settings, the database, and the pair's row. ``migrated``: what the schema lacked until now."""

    settings: Settings
    database: Database
    pair: Pair
    migrated: tuple[str, ...] = ()


@contextmanager
def open_pair(settings: Settings | None = None) -> Iterator[OpenPair]:
    """Opens the pair of ``settings``, by default those of the environment.

    Raises:
        SettingsError: A variable is missing or wrong.
        DatabaseUnavailable, EmbeddedPostgresError: Postgres is not there.
    """
    settings = settings or Settings.from_environment()
    with Database(server_url(settings), application_name="metronome-pipeline command line") as database:
        with database.transaction() as connection:
            migrated = migrate(connection)
            notice_restore(connection)
            pair = pair_of(connection, settings.account_pair)
        yield OpenPair(settings, database, pair, tuple(migrated))
