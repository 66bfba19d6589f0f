"""``python -m metronome_pipeline_tests.benchmark.partitions``: Dagster with years of hourly partitions, over GraphQL.

What the asset's page, the backfill dialog and the schedule's tick ask of the webserver and the code location, on
Postgres, with every hour of the years materialized. Not here: usage (``__main__.py``).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import click
import httpx
import psycopg

from metronome_pipeline.cli.terminal import say, show_table
from metronome_pipeline.sandbox.server import listen, url_of
from metronome_pipeline.storage.embedded import embedded_postgres

_ROUNDS = 5
_YEAR = timedelta(days=365)
_KEY = "%Y-%m-%d-%H:%M"
_PROJECT = Path(__file__).parents[2]
_ASSETS = (("metronome", "usage"), ("solvimon", "usage_events"))
_CODE = {"repositoryLocationName": "metronome_pipeline", "repositoryName": "__repository__"}

_PAGE = """
query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    id description metadataEntries { label }
    partitionKeysByDimension { name type partitionKeys }
    partitionStats { numMaterialized numPartitions numFailed numMaterializing }
    assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startTime endTime startKey endKey } } }
    assetMaterializations(limit: 100) { partition runId timestamp metadataEntries { label } }
} } }
"""
_DIALOG = """
query($keys: [AssetKeyInput!]!) { assetNodes(assetKeys: $keys) {
    id assetKey { path } jobNames dependencyKeys { path } backfillPolicy { policyType maxPartitionsPerRun }
    partitionDefinition { type name } partitionKeysByDimension { name type partitionKeys }
    assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startKey endKey } } }
} }
"""
_TICK = """
mutation($schedule: ScheduleSelector!, $at: Float!) { scheduleDryRun(selectorData: $schedule, timestamp: $at) {
    __typename ... on DryRunInstigationTick { evaluationResult { skipReason runRequests { runKey } error { message } } }
    ... on PythonError { message }
} }
"""
_COPY_EVENTS = """
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
SELECT l.run_id, replace(l.event, %(first)s, to_char(h AT TIME ZONE 'UTC', 'YYYY-MM-DD-HH24:MI')), l.dagster_event_type,
       l.timestamp, l.step_key, l.asset_key, to_char(h AT TIME ZONE 'UTC', 'YYYY-MM-DD-HH24:MI')
FROM event_logs l, generate_series(%(start)s + interval '1 hour', %(end)s - interval '1 hour', interval '1 hour') AS h
WHERE l.partition = %(first)s ORDER BY h, l.id
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--years", type=click.IntRange(1, 20), default=5, show_default=True)
def main(years: int) -> None:
    """Serve the project's definitions with so many years of hours, and ask what the UI and the daemon ask."""
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
    start = end.replace(hour=0) - years * _YEAR
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as folder:
        home = Path(folder)
        server = embedded_postgres(home / "services")
        try:
            variables = _variables(server.url, start, home)
            _materialize(variables, server.url, start, end)
            # Dagster keeps what it has counted of an asset's partitions, in Postgres: who looks first, after all these
            # years, waits for all of it, and who looks first after a restart does not.
            with _webserver(variables, home) as url:
                never = _answers(url, end, rounds=1)
            with _webserver(variables, home) as url:
                restarted = _answers(url, end, rounds=_ROUNDS)
        finally:
            server.stop()
    hours = int((end - start) / timedelta(hours=1))
    show_table(
        f"{years} years of hours: {hours:,} partitions of each asset",
        ("", "never looked at before, s", "first after a restart, s", "median, s"),
        [(name, f"{never[name][0]:.2f}", f"{took[0]:.2f}", f"{median(took):.2f}") for name, took in restarted.items()],
    )


def _answers(url: str, end: datetime, rounds: int) -> dict[str, list[float]]:
    """Seconds that each question took, time after time."""
    keys = [{"path": list(asset)} for asset in _ASSETS]
    schedule = {**_CODE, "scheduleName": "hourly_usage"}
    questions: dict[str, tuple[str, Mapping[str, Any]]] = {
        "the asset's page": (_PAGE, {"key": keys[1]}),
        "the backfill dialog": (_DIALOG, {"keys": keys}),
        "the schedule's tick": (_TICK, {"schedule": schedule, "at": (end + timedelta(hours=25)).timestamp()}),
    }
    return {
        name: [_seconds(url, query, variables) for _ in range(rounds)] for name, (query, variables) in questions.items()
    }


def _seconds(url: str, query: str, variables: Mapping[str, Any]) -> float:
    began = time.perf_counter()
    answer = httpx.post(f"{url}/graphql", json={"query": query, "variables": variables}, timeout=300)
    took = time.perf_counter() - began
    content = answer.json()
    if answer.is_error or "errors" in content or '"PythonError"' in answer.text:
        raise click.ClickException(f"Dagster answered {answer.status_code}: {answer.text[:2000]}")
    return took


def _variables(database_url: str, start: datetime, home: Path) -> dict[str, str]:
    """Accounts that nobody asks: only definitions are served."""
    return {
        **os.environ,
        "METRONOME_BASE_URL": "http://127.0.0.1:9",
        "METRONOME_BEARER_TOKEN": "token",
        "SOLVIMON_BASE_URL": "http://127.0.0.1:9",
        "SOLVIMON_API_KEY": "key",
        "DAGSTER_POSTGRES_URL": database_url,
        "USAGE_START": start.isoformat(),
        "DAGSTER_HOME": str(home),
    }


def _materialize(variables: Mapping[str, str], database_url: str, start: datetime, end: datetime) -> None:
    """Every hour of both assets: the first through Dagster, the others as copies of its rows."""
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(_PROJECT / name, variables["DAGSTER_HOME"])
    first = start.strftime(_KEY)
    lines = [
        f"i.report_runless_asset_event(dg.AssetMaterialization({asset!r}, partition={first!r}))" for asset in _ASSETS
    ]
    program = "; ".join(("import dagster as dg", "i = dg.DagsterInstance.get()", *lines))
    subprocess.run([sys.executable, "-c", program], env=variables, check=True)
    with psycopg.connect(database_url) as connection:
        copied = connection.execute(_COPY_EVENTS, {"first": first, "start": start, "end": end}).rowcount
    say(f"{copied + len(_ASSETS):,} materializations")


@contextmanager
def _webserver(variables: Mapping[str, str], home: Path) -> Iterator[str]:
    with listen() as free:
        url = url_of(free)
    port = url.rpartition(":")[2]
    arguments = ("-m", "dagster_webserver", "-w", str(home / "workspace.yaml"), "-h", "127.0.0.1", "-p", port)
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen((sys.executable, *arguments), cwd=_PROJECT, env=variables, stdout=log, stderr=log) as process,
    ):
        try:
            while process.poll() is None:
                try:
                    httpx.get(f"{url}/server_info", timeout=5)
                    break
                except httpx.HTTPError:
                    time.sleep(0.2)
            else:
                raise click.ClickException((home / "log").read_text()[-2000:])
            yield url
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
