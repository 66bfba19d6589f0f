"""A world of its own for each test: two empty accounts, Metronome's and Solvimon's, a database, a Dagster instance.

Here: what tests arrange with, run with, and assert on. The sandbox servers and the Dagster instance are shared by the
tests of a pytest process; each test begins with empty accounts and a database of its own.
"""

import asyncio
import json
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import httpx
import psycopg
import psycopg.sql
import pytest
import sqlalchemy

from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.instance import EmbeddedOrPostgresStorage
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.customers import import_known_customers, read_customers
from metronome_pipeline.workflows.meters import import_known_metrics, read_metrics
from metronome_pipeline.workflows.products import import_known_products, read_products
from metronome_pipeline.workflows.session import open_session

START = datetime(2026, 1, 5, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_KEY = "%Y-%m-%d-%H:%M"
_EXACT = Context(prec=1_000, traps=[Inexact])


@dataclass
class Api:
    """One sandbox store, over HTTP, with the test's own client."""

    url: str
    headers: Mapping[str, str]

    def call(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        # As plain ASCII, so that a test can send a lone surrogate.
        content = None if body is None else json.dumps(body)
        headers = {**self.headers, "Content-Type": "application/json"}
        answer = _client().request(method, f"{self.url}{path}", content=content, params=params, headers=headers)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def requests(self) -> dict[str, int]:
        counts = self.call("GET", "/_sandbox/requests")["by_endpoint"]
        return {endpoint: sum(by_status.values()) for endpoint, by_status in counts.items()}

    def writes(self) -> dict[str, int]:
        """Requests by endpoint that made or changed something, or tried to."""
        return {endpoint: count for endpoint, count in self.requests().items() if not endpoint.startswith("GET ")}

    def forget_requests(self) -> None:
        self.call("DELETE", "/_sandbox/requests")

    def set(self, **settings: Any) -> None:
        self.call("PATCH", "/_sandbox/settings", settings)

    def faults(self, *rules: Mapping[str, Any], seed: int = 1) -> None:
        self.call("PUT", "/_sandbox/faults", {"seed": seed, "rules": list(rules)})


@cache
def _client() -> httpx.Client:
    # One for all calls: making one costs more than the call.
    return httpx.Client(timeout=60)


class Recorded(dg.ExecuteInProcessResult):
    """The result of a run, with the events that its instance has, as the UI shows them: looked up when asked for."""

    def __init__(self, result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> None:
        super().__init__((), result.dagster_run, {}, result.job_def)
        self._instance = instance

    @property
    def all_events(self) -> Sequence[dg.DagsterEvent]:
        records = self._instance.all_logs(self.run_id)
        return [record.dagster_event for record in records if record.dagster_event is not None]


@dataclass
class World:
    """Everything that one test needs, with what stands in it made by the test.

    Attributes:
        folder: For what runs in processes of their own leave behind when they are killed.
    """

    metronome: Api
    solvimon: Api
    database_url: str
    instance: dg.DagsterInstance
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    has_products: bool = False

    # Arrange ---------------------------------------------------------------------------------------------------------

    def customer(self, name: str = "Acme", **fields: Any) -> str:
        customer_id = fields.pop("id", None) or str(uuid.uuid4())
        self.metronome.call("POST", "/_sandbox/customers", {"id": customer_id, "name": name, **fields})
        return str(customer_id)

    def metric(self, aggregation: str | None = "SUM", name: str = "Calls", **fields: Any) -> str:
        metric_id = fields.pop("id", None) or str(uuid.uuid4())
        body: dict[str, Any] = {"id": metric_id, "name": name, **fields}
        if aggregation is not None:
            body["aggregation_type"] = aggregation
            body.setdefault("event_type_filter", {"in_values": [metric_id]})
            if aggregation != "COUNT":
                body.setdefault("aggregation_key", "value")
        self.metronome.call("POST", "/_sandbox/billable-metrics", body)
        return str(metric_id)

    def product(self, **fields: Any) -> str:
        product_id = fields.pop("id", None) or str(uuid.uuid4())
        self.metronome.call("POST", "/_sandbox/products", {"id": product_id, **fields})
        self.has_products = True
        return str(product_id)

    def use(self, customer: str, metric: str, hour: int, value: Any, **properties: Any) -> str:
        """One raw event in an hour counted from START; returns its transaction id."""
        event = _event(customer, metric, hour, value, properties)
        self.metronome.call("POST", "/_sandbox/events", [event])
        return str(event["transaction_id"])

    def use_hours(self, customer: str, metric: str, values: Mapping[int, Any]) -> None:
        """One raw event in each of many hours."""
        events = [_event(customer, metric, hour, value, {}) for hour, value in values.items()]
        self.metronome.call("POST", "/_sandbox/events", events)

    def imported(self, **variables: str) -> None:
        """All there is, imported by what the assets of the imports call, in no run: for tests of something else."""
        asyncio.run(self._import(self.settings(**variables)))

    async def _import(self, settings: Settings) -> None:
        async with open_session(*_resources(settings, self.database_url), run_id="arranged") as session:
            await read_customers(session)
            await import_known_customers(session, settings)
            await read_metrics(session)
            await import_known_metrics(session, settings)
            if self.has_products:
                await read_products(session)
                await import_known_products(session)

    # Act -------------------------------------------------------------------------------------------------------------

    def at(self, moment: datetime) -> None:
        """Sets the time of this world: of its database, and so of every run from now on. Dagster's own time stays."""
        ahead = moment - datetime.now(UTC)
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            statement = psycopg.sql.SQL("ALTER DATABASE {} SET ledger.ahead = {}")
            name = psycopg.sql.Identifier(connection.info.dbname)
            connection.execute(statement.format(name, f"{int(ahead.total_seconds())} seconds"))
            # Set back, the next request would wait until the time at which the last one left.
            connection.execute("DELETE FROM ledger.pace")

    def settings(self, **variables: str) -> Settings:
        return Settings.from_environment(self._variables(**variables))

    def definitions(self, **variables: str) -> dg.Definitions:
        named = self._variables(**variables)
        file = named.get("METRICS_FILE")
        written = Path(file).read_bytes() if file and Path(file).is_file() else None
        return _definitions(self.database_url, tuple(sorted(named.items())), written)

    def _variables(self, **variables: str) -> dict[str, str]:
        return {
            "METRONOME_BASE_URL": self.metronome.url,
            "METRONOME_BEARER_TOKEN": self.metronome.headers["Authorization"].removeprefix("Bearer "),
            "METRONOME_ENVIRONMENT": "sandbox",
            "METRONOME_REQUESTS_PER_SECOND": "1000",
            "SOLVIMON_BASE_URL": self.solvimon.url,
            "SOLVIMON_API_KEY": self.solvimon.headers["X-API-KEY"],
            "USAGE_START": START.isoformat(),
            **self.environment,
            **variables,
        }

    def run(
        self,
        job: str,
        *,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        **variables: str,
    ) -> dg.ExecuteInProcessResult:
        """A real run of a job, recorded in this world's instance. Never raises: look at ``success``."""
        definition = self.definitions(**variables).resolve_job_def(job)
        result = definition.execute_in_process(
            instance=self.instance, run_config=config, tags=dict(tags or {}), raise_on_error=False
        )
        return Recorded(result, self.instance)

    def imports(self, **variables: str) -> dg.ExecuteInProcessResult:
        """A real run that imports all there is."""
        result = self.run("import_everything", config=None, tags=None, **variables)
        assert result.success
        return result

    def ingest(
        self,
        first: int = 0,
        last: int = 7,
        *,
        job: str = "ingest_usage",
        config: Mapping[str, Any] | None = None,
        **variables: str,
    ) -> dg.ExecuteInProcessResult:
        """A run over the hours ``first`` to ``last``, counted from START."""
        tags = {
            "dagster/asset_partition_range_start": partition(first),
            "dagster/asset_partition_range_end": partition(last),
        }
        step = job.removeprefix("ingest_")
        return self.run(job, config={"ops": {step: {"config": config}}} if config else None, tags=tags, **variables)

    # Assert ----------------------------------------------------------------------------------------------------------

    def counted(self, customer: str, metric: str) -> dict[int, Decimal]:
        """What Solvimon counts, by hour from START: sums over every event that is neither deleted nor a duplicate."""
        rows = self.solvimon.call("GET", "/_sandbox/truth", customer_reference=customer, meter_reference=metric)["rows"]
        hours: dict[int, Decimal] = {}
        for row in rows:
            hour = int((datetime.fromisoformat(row["timestamp"]) - START) / _HOUR)
            hours[hour] = _EXACT.add(hours.get(hour, Decimal(0)), Decimal(row["sum"]))
        return {hour: value for hour, value in hours.items() if value}

    def slices(self, customer: str, metric: str, hour: int) -> dict[tuple[tuple[str, str], ...], Decimal]:
        """What Solvimon counts in one hour, by meter properties."""
        rows = self.solvimon.call("GET", "/_sandbox/truth", customer_reference=customer, meter_reference=metric)["rows"]
        return {
            tuple(sorted(row["properties"].items())): Decimal(row["sum"])
            for row in rows
            if datetime.fromisoformat(row["timestamp"]) == START + hour * _HOUR and Decimal(row["sum"])
        }

    def prove_deduplication(self) -> None:
        """Notes that this Solvimon ignores a second event under one reference, as the connection check does."""
        self.sql("UPDATE ledger.account_pairs SET deduplication = 'proved', deduplication_at = now()")

    def total(self, customer: str, metric: str) -> Decimal | None:
        """What Solvimon bills for everything, by the meter's own calculation."""
        rows = self.solvimon.call("GET", "/_sandbox/totals")["rows"]
        values = [
            row["value"] for row in rows if (row["customer_reference"], row["meter_reference"]) == (customer, metric)
        ]
        return Decimal(values[0]) if values and values[0] is not None else None

    def stored_events(self) -> list[dict[str, Any]]:
        """Every event that Solvimon stores, deleted and duplicate ones too."""
        found = self.solvimon.call("GET", "/_sandbox/events")
        return list(found["events"] if isinstance(found, dict) else found)

    def made(self, path: str, reference: str, **params: Any) -> dict[str, Any]:
        """A resource that stands in Solvimon, by its reference."""
        found: dict[str, Any] = self.solvimon.call("GET", f"/v1/{path}/{quote(reference, safe='')}", **params)
        return found

    def outcomes(self, kind: str) -> dict[str, tuple[str, str | None]]:
        """What the last import of ``customers``, ``meters`` or ``products`` did: (outcome, reason) by reference."""
        rows = self.sql(f"SELECT reference, outcome, reason FROM solvimon.{kind}")
        return {reference: (outcome, reason) for reference, outcome, reason in rows}

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def events(self) -> list[tuple[str, int | None, Decimal | None, str]]:
        """The ledger's events as (kind, revision, number, state), in the order of planning."""
        return [
            (kind, revision, number, state)
            for kind, revision, number, state in self.sql(
                "SELECT kind, revision, number, state FROM ledger.events_v1 ORDER BY event_id"
            )
        ]


@lru_cache(maxsize=16)
def _definitions(
    database_url: str, variables: tuple[tuple[str, str], ...], metrics_file: bytes | None
) -> dg.Definitions:
    """The same ones for the same settings, and the same words in their file: to make them takes a fifth of a run."""
    del metrics_file
    settings = Settings.from_environment(dict(variables))
    metronome, solvimon, store = _resources(settings, database_url)
    return build_definitions(settings, {"metronome": metronome, "solvimon": solvimon, "store": store})


def _resources(settings: Settings, database_url: str) -> tuple[MetronomeResource, SolvimonResource, StoreResource]:
    pair = settings.account_pair
    return (
        MetronomeResource(
            base_url=settings.metronome_base_url,
            bearer_token=settings.metronome_bearer_token.get_secret_value(),
            environment=settings.metronome_environment,
            requests_per_second=settings.metronome_requests_per_second,
            requests_in_flight=settings.metronome_requests_in_flight,
        ),
        SolvimonResource(
            base_url=settings.solvimon_base_url,
            api_key=settings.solvimon_api_key.get_secret_value(),
            platform_id=settings.solvimon_platform_id,
            batch_limit=settings.solvimon_batch_limit,
            timeout_seconds=2.0,
        ),
        StoreResource(
            metronome_host=pair.metronome_host,
            metronome_environment=pair.metronome_environment,
            solvimon_host=pair.solvimon_host,
            solvimon_platform_id=pair.solvimon_platform_id,
            database_url=database_url,
        ),
    )


@contextmanager
def instance_on(database_url: str) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance whose storage is a test's database."""
    with in_the_environment(database_url), open_instance() as instance:
        yield instance


def open_instance() -> AbstractContextManager[dg.DagsterInstance]:
    """A Dagster instance as the project's own ``dagster.yaml`` has it, on the database that the environment names.

    What steps print is not captured to files: nothing reads them, and Dagster starts two processes a step for it.
    """
    storage = EmbeddedOrPostgresStorage
    overrides = {
        "storage": {"custom": {"module": storage.__module__, "class": storage.__name__, "config": {}}},
        "compute_logs": {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "telemetry": {"enabled": False},
    }
    return dg.DagsterInstance.local_temp(overrides=overrides)


@contextmanager
def in_the_environment(database_url: str) -> Iterator[None]:
    """Where an instance finds its database, when Dagster opens it again from its description: for a tick, say."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_POSTGRES_URL", database_url)
        yield


def close_connections(instance: dg.DagsterInstance) -> None:
    """Lets go of an instance's database, which another one will take the place of."""
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        engine: sqlalchemy.Engine = vars(storage)["_engine"]
        engine.dispose()


@contextmanager
def dagsters_statements() -> Iterator[list[str]]:
    """The statements that Dagster's storages send meanwhile."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def _event(customer: str, metric: str, hour: int, value: Any, properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "transaction_id": str(uuid.uuid4()),
        "customer_id": customer,
        "event_type": metric,
        "timestamp": (START + hour * _HOUR + timedelta(minutes=7)).isoformat(),
        "properties": {"value": str(value), **properties},
    }


def partition(hour: int) -> str:
    """The partition key of an hour counted from START."""
    return (START + hour * _HOUR).strftime(_KEY)


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The sentence with which a run failed."""
    texts: list[str] = []
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            texts += [error.message, error.cause.message if error.cause else ""]
            data = event.step_failure_data.user_failure_data
            texts.append(data.description or "" if data else "")
    return " ".join(texts)


def metadata(result: dg.ExecuteInProcessResult, *key: str) -> dict[str, Any]:
    """The metadata of the last materialization of an asset in a run."""
    events = [
        event.materialization
        for event in result.get_asset_materialization_events()
        if event.materialization.asset_key == dg.AssetKey(list(key))
    ]
    return {name: value.value for name, value in events[-1].metadata.items()}


def partitions_of(events: Iterable[dg.DagsterEvent], key: Sequence[str]) -> list[str]:
    """The partitions of an asset that a run reported, in order."""
    return [
        str(event.materialization.partition)
        for event in events
        if event.is_step_materialization and event.materialization.asset_key == dg.AssetKey(list(key))
    ]


def rows(table: Any) -> list[dict[str, Any]]:
    """The rows of a table in an asset's metadata."""
    names = [column.name for column in table.schema.columns]
    return [{name: record.data[name] for name in names} for record in table.records]
