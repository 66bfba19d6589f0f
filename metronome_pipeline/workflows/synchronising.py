"""The synchronising core as a session's settings want it: a run's own, and what a rehearsal is made of.

Here: from resources and settings to the core. Not here: what the core does (``ledger/synchronise.py``).
"""

from datetime import timedelta

from metronome_pipeline.ledger.deliver import Delivery
from metronome_pipeline.ledger.read import UsageReader
from metronome_pipeline.ledger.synchronise import Synchroniser
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.workflows.customers import ensure_customers
from metronome_pipeline.workflows.limits import brake_of, lateness_of
from metronome_pipeline.workflows.session import Session


def synchroniser_of(
    session: Session, metronome: MetronomeResource, solvimon: SolvimonResource, settings: Settings
) -> Synchroniser:
    """Everything that takes usage from Metronome to Solvimon, on a session."""
    pair_id, run_id = session.pair.pair_id, session.run_id
    return Synchroniser(
        reader=UsageReader(
            session.metronome, session.database, pair_id, run_id, in_flight=metronome.requests_in_flight
        ),
        delivery=delivery_of(session, solvimon),
        database=session.database,
        pair_id=pair_id,
        run_id=run_id,
        brake=brake_of(settings),
        ensure_customers=lambda: ensure_customers(session, email=settings.default_customer_email),
        lateness=lateness_of(settings),
    )


def delivery_of(session: Session, solvimon: SolvimonResource) -> Delivery:
    """What sends the planned events of a session's account pair."""
    return Delivery(
        session.solvimon,
        session.database,
        session.clock,
        session.pair.pair_id,
        session.run_id,
        deduplicated=session.pair.deduplication == "proved",
        batch_limit=solvimon.batch_limit,
        in_flight=solvimon.requests_in_flight,
        request_timeout=timedelta(seconds=solvimon.timeout_seconds),
        restored_at=session.pair.restored_at,
    )
