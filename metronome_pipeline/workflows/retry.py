"""Retry quarantine: send refused events again, unchanged, once their cause is mended.

Here: the one step of the job, which says who asked. Not here: what a retry is (``ledger/waiting.py``), sending
(``ledger/deliver.py``).
"""

import asyncio

import dagster as dg
from pydantic import Field

from metronome_pipeline.ledger import waiting
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.naming import pool_of
from metronome_pipeline.workflows.session import failing_in_a_sentence, open_session
from metronome_pipeline.workflows.synchronising import delivery_of
from metronome_pipeline.workflows.tags import tag_run


class RetryConfig(dg.Config):
    """Which events, and who asks: nothing leaves quarantine without a record of that."""

    asked_by: str = Field(min_length=1, description="Who asks, for the record.")
    reason: str = Field(default="the cause is mended", min_length=1, description="Why, for the record.")
    references: list[str] = Field(default=[], description="References of single events. Empty: all in quarantine.")


def retry_op(settings: Settings) -> dg.OpDefinition:
    """The step: releases, then delivers whatever is planned for this account pair."""

    @dg.op(
        name="retry",
        pool=pool_of(settings, "solvimon"),
        description="Lets events leave quarantine and sends them at once, unchanged. Where Metronome says something "
        "else by now, the next run of any hours sends the difference.",
    )
    def retry(
        context: dg.OpExecutionContext,
        config: RetryConfig,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
    ) -> None:
        tag_run(context)
        with failing_in_a_sentence():
            asyncio.run(_retry(context, config, metronome, solvimon, store))

    return retry


async def _retry(
    context: dg.OpExecutionContext,
    config: RetryConfig,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
) -> None:
    async with open_session(metronome, solvimon, store, context.run_id) as session:
        retried = await session.database.run(
            lambda c: waiting.retry(
                c,
                session.pair.pair_id,
                config.references or None,
                run_id=session.run_id,
                by=config.asked_by,
                reason=config.reason,
            )
        )
        report = await delivery_of(session, solvimon).deliver()
    context.log.info(
        f"Released {len(retried.released)} events, superseded {len(retried.superseded)}; delivered {report.delivered}, "
        f"back in quarantine {report.quarantined}."
    )
    context.add_output_metadata(
        {
            "released": len(retried.released),
            "superseded": len(retried.superseded),
            "delivered": report.delivered,
            "quarantined": report.quarantined,
        }
    )
