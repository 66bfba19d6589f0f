"""Dagster's own storage: runs, events and schedules, in the Postgres that the ledger uses too.

Here: which Postgres that is, and how Dagster opens it. Not here: the ledger, and the server itself (embedded).
"""

import os
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from metronome_pipeline.settings import PostgresSettings, sqlalchemy_url
from metronome_pipeline.storage.database import server_url
from metronome_pipeline.storage.event_log import BatchingEventLogStorage
from metronome_pipeline.storage.run_storage import RememberingRunStorage

S = TypeVar("S", bound=DagsterPostgresStorage)

_STATEMENT_MILLISECONDS = 60_000
_RECYCLE_SECONDS = 3_600
_MOST_MORE = 20


def holding_connections(storage: S) -> S:
    """The storage, keeping its connections: by default it makes a new one for every event.

    Measured with a range of 168 hours, which are 336 events of one run each stored as it happens: 16.0 s without, 6.1 s
    with. Dagster offers this for its webserver; a run that reports each hour as it is done gains as much.
    """
    for part in (storage.run_storage, storage.event_log_storage, storage.schedule_storage):
        part.optimize_for_webserver(
            statement_timeout=_STATEMENT_MILLISECONDS, pool_recycle=_RECYCLE_SECONDS, max_overflow=_MOST_MORE
        )
    return storage


class EmbeddedOrPostgresStorage(DagsterPostgresStorage):
    """``DAGSTER_POSTGRES_URL``, or the embedded server when it is unset: one ``dagster.yaml`` for both.

    ``dagster.yaml`` names this class under ``storage.custom``, without config. Dagster hands that name, not the URL, to
    every process that it starts (code server, daemon, run worker), and each one asks the environment again here: so the
    password stays out of command lines, and each process holds the embedded server as long as it lives.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        """Dagster's three storages, with our event log and our runs in place of two of them."""
        super().__init__(postgres_url, inst_data=inst_data)
        # The tables are there by now.
        self._event_log_storage = BatchingEventLogStorage(postgres_url)
        self._run_storage = RememberingRunStorage(postgres_url)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Nothing: everything is in the environment."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Open the storage; makes Dagster's tables in an empty database.

        Raises:
            SettingsError: ``DAGSTER_POSTGRES_URL`` is no URL of Postgres.
            EmbeddedPostgresError: The embedded server can't be started.
        """
        del config_value
        # Dagster reads this at each event and takes 0 for unset: a transaction for each partition of a range. Measured
        # with 720 partitions of an empty asset: 25 s at 0, 10 s at 1000. Every process that stores events opens its
        # storage first, run workers too, so this is early enough; and whoever sets the variable keeps what they set.
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
        url = server_url(PostgresSettings.from_environment())
        return holding_connections(cls(postgres_url=sqlalchemy_url(url), inst_data=inst_data))

    @property
    def event_storage_data(self) -> ConfigurableClassData | None:
        """None: the three parts exist only inside this class, they have no configuration of their own."""
        return None

    @property
    def run_storage_data(self) -> ConfigurableClassData | None:
        """None, as for events."""
        return None

    @property
    def schedule_storage_data(self) -> ConfigurableClassData | None:
        """None, as for events."""
        return None
