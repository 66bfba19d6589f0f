"""Both accounts and the database, open for a command that asks them what a run would ask."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from metronome_pipeline.cli.pair import RUN_ID
from metronome_pipeline.definitions import metronome_resource, solvimon_resource
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.database import server_url
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.session import Session, open_session


@asynccontextmanager
async def command_session(settings: Settings) -> AsyncIterator[Session]:
    """A session as a run has it: in the pace that all runs share, on the clock that the database has.

    Raises:
        DatabaseUnavailable, EmbeddedPostgresError: Postgres is not there.
    """
    pair = settings.account_pair
    store = StoreResource(
        metronome_host=pair.metronome_host,
        metronome_environment=pair.metronome_environment,
        solvimon_host=pair.solvimon_host,
        solvimon_platform_id=pair.solvimon_platform_id,
        database_url=server_url(settings),
    )
    async with open_session(metronome_resource(settings), solvimon_resource(settings), store, RUN_ID) as session:
        yield session
