"""Dagster runs from the command line, in this process: a job of the real definitions on a real instance in Postgres.

Here: the instance, the definitions of given settings, and a run whose log lines are told. Not here: what a run does.
"""

import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from metronome_pipeline.cli.pair import RUN_ID, OpenPair
from metronome_pipeline.cli.terminal import Failed
from metronome_pipeline.clock import SYSTEM_CLOCK
from metronome_pipeline.definitions import build_definitions, solvimon_resource
from metronome_pipeline.http import Unpaced
from metronome_pipeline.ledger.deduplication import Proof, probe_deduplication
from metronome_pipeline.settings import Settings, sqlalchemy_url
from metronome_pipeline.storage.accounts import note_deduplication
from metronome_pipeline.storage.database import server_url
from metronome_pipeline.storage.resource import StoreResource

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout, where dagster.yaml and workspace.yaml are."""

# Capturing a step's output takes four processes more, which a Ctrl-C in the terminal would make shout.
_NO_CAPTURE = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}

Say = Callable[[str], None]
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class Runner:
    """Runs jobs of one account pair on one instance."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    say: Say

    def run(self, job: str, tags: Mapping[str, str] | None = None) -> str:
        """One run to its end, its own log lines told; the run's id.

        Raises:
            Failed: The run failed, with its sentence.
            KeyboardInterrupt: A signal stopped it.
        """
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config={"loggers": {"told": {}}},
            tags=dict(tags or {}),
            raise_on_error=False,
        )
        if not result.success:
            raise Failed(f"The run of {job} failed. {_failure(result)}")
        return result.run_id


@contextmanager
def runner(settings: Settings, folder: Path, say: Say) -> Iterator[Runner]:
    """The definitions of ``settings`` and their Dagster instance in the same Postgres, its files in ``folder``."""
    # As the project's own instance storage does: without it each partition of a range is a transaction.
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
    url = server_url(settings)
    folder.mkdir(parents=True, exist_ok=True)
    if (PROJECT / "dagster.yaml").exists():
        shutil.copy(PROJECT / "dagster.yaml", folder)
    storage = {"postgres": {"postgres_url": sqlalchemy_url(url)}}
    overrides = {"storage": storage, "compute_logs": _NO_CAPTURE, "telemetry": {"enabled": False}}
    reference = InstanceRef.from_dir(str(folder), overrides=overrides)
    with dg.DagsterInstance.from_ref(reference) as instance:
        # Dagster connects twice for each event, 4 ms a time, and a month has 3,000 events: let it keep a connection.
        instance.optimize_for_webserver(statement_timeout=600_000, pool_recycle=3600, max_overflow=20)
        definitions = build_definitions(settings, _resources(settings, url))
        yield Runner(dg.Definitions.merge(definitions, dg.Definitions(loggers={"told": _logger(say)})), instance, say)


def _resources(settings: Settings, database_url: str) -> dict[str, Any]:
    pair = settings.account_pair
    return {
        "store": StoreResource(
            metronome_host=pair.metronome_host,
            metronome_environment=pair.metronome_environment,
            solvimon_host=pair.solvimon_host,
            solvimon_platform_id=pair.solvimon_platform_id,
            database_url=database_url,
        ),
    }


async def prove_deduplication(opened: OpenPair) -> Proof:
    """Probes the destination, and remembers what was found for this pair."""
    # The operating system's randomness: no two probes may ever share a reference.
    source = random.SystemRandom()
    resource = solvimon_resource(opened.settings)
    async with resource.open(clock=SYSTEM_CLOCK, random=source, run_id=RUN_ID, pacer=Unpaced(SYSTEM_CLOCK)) as api:
        proof = await probe_deduplication(api, SYSTEM_CLOCK, source)
    if proof.found != "unknown":
        found = proof.found
        await opened.database.run(lambda connection: note_deduplication(connection, opened.pair.pair_id, found))
    return proof


def _logger(say: Say) -> dg.LoggerDefinition:
    """A logger that tells what the assets log, and none of Dagster's own events."""

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            meta = getattr(record, "dagster_meta", {})
            if meta.get("dagster_event") is None:
                say(str(meta.get("orig_message", record.getMessage())))

    def told(context: dg.InitLoggerContext) -> logging.Logger:
        del context
        # Not a child of the root logger, whose handlers would tell everything once more.
        logger = logging.Logger("told", level=logging.INFO)  # noqa: LOG001
        logger.addHandler(Teller())
        return logger

    return dg.LoggerDefinition(told, description="Tells on the terminal what the assets log.")


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """The sentence with which a run failed."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.error and data.error.cls_name == "DagsterExecutionInterruptedError":
                raise KeyboardInterrupt
            if data.user_failure_data and data.user_failure_data.description:
                return data.user_failure_data.description
            if data.error:
                return data.error.message.strip()
    return "See its events in Dagster."
