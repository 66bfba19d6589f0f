"""What every workflow opens: its account pair's database, a paced session with Metronome, a session with Solvimon."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import dagster as dg

from metronome_pipeline.clock import Clock
from metronome_pipeline.errors import PipelineError
from metronome_pipeline.http import Unpaced
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.accounts import Pair
from metronome_pipeline.storage.database import Database, DatabaseUnavailable
from metronome_pipeline.storage.pace import SharedPacer
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.telemetry import observing


@dataclass(frozen=True)
class Session:
    """Everything that a run needs, open."""

    metronome: MetronomeApi
    solvimon: SolvimonApi
    database: Database
    pair: Pair
    run_id: str
    clock: Clock
    workers: int


@asynccontextmanager
async def open_session(
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
    run_id: str,
) -> AsyncIterator[Session]:
    """Opens all three and closes them again. Metronome's pace is shared by every run through the database."""
    randomness = random.Random()  # noqa: S311 - jitter and idempotency keys need no secrecy
    with store.open(connections=max(4, metronome.requests_in_flight // 2)) as opened:
        clock = opened.clock
        account = f"{store.metronome_host}/{store.metronome_environment}"
        pacer = SharedPacer(opened.database, clock, account, metronome.requests_per_second)
        async with (
            metronome.open(pacer=pacer, clock=clock, random=randomness, run_id=run_id) as source,
            solvimon.open(pacer=Unpaced(clock), clock=clock, random=randomness, run_id=run_id) as destination,
        ):
            session = Session(
                source, destination, opened.database, opened.pair, run_id, clock, solvimon.requests_in_flight
            )
            async with observing(session) as observed:
                yield observed


@contextmanager
def failing_in_a_sentence() -> Iterator[None]:
    """Ends a step with what went wrong as one sentence, where it is an error of ours, instead of a traceback.

    Requests have been retried already, so the step is not: a wrong credential or account stays wrong.
    """
    try:
        yield
    except (PipelineError, DatabaseUnavailable) as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
