"""OpenTelemetry, off by default: traces of runs, steps, walks, batches and requests, and the metrics beside them.

Here: when it is on, what is recorded, and where that goes. Not here: what is observed: nothing of the core knows of it.
The packages are an extra, imported where telemetry is on only: loading the definitions must stay quick.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from metronome_pipeline.errors import PipelineError, quoted
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.setting_values import is_loopback
from metronome_pipeline.settings import TEST_HOST, Settings, TelemetrySettings, environment
from metronome_pipeline.solvimon.api import SolvimonApi

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

    from metronome_pipeline.http import Attempt
    from metronome_pipeline.solvimon.records import Echo
    from metronome_pipeline.solvimon.requests import UsageEvent
    from metronome_pipeline.workflows.session import Session

P = TypeVar("P")
Connection = psycopg.Connection[Any]

logger = logging.getLogger("metronome_pipeline.telemetry")

INSTALL = (
    "Telemetry is on, and OpenTelemetry is not installed, so nothing is recorded: install it with `pip install "
    "'metronome-pipeline[telemetry]'`, or unset METRONOME_PIPELINE_TELEMETRY and OTEL_EXPORTER_OTLP_ENDPOINT."
)
_EXPORT_SECONDS = 5
_LAG_BOUNDS = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0, 604800.0)
_WAIT_BOUNDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@asynccontextmanager
async def observing(session: Session) -> AsyncIterator[Session]:
    """The session, observed where telemetry is on; the very same one where it is off. Nothing here fails a run."""
    telemetry = _active(session)
    if telemetry is None:
        yield session
        return
    receipts = await _newest_receipt(session)
    with telemetry.step(session) as observed:
        try:
            yield observed
        finally:
            if receipts is not None:
                await _record_outcomes(telemetry, session, receipts)


def close() -> None:
    """Ends the spans that are open and hands everything over: what the end of the process does by itself."""
    with _lock:
        telemetry, _current[:] = _current[:], []
    for each in telemetry:
        each.close()


# Whether it is on ----------------------------------------------------------------------------------------------------


_lock = threading.Lock()
_current: list[Telemetry] = []
_complaints: set[str] = set()


def _active(session: Session) -> Telemetry | None:
    """This process's telemetry, made by the first session that finds it on."""
    if not TelemetrySettings.from_environment().telemetry_is_on:
        return None
    with _lock:
        if not _current:
            made = _made_or_complained(_environment_of(session))
            if made is None:
                return None
            _current.append(made)
            atexit.register(close)
        return _current[0]


def _made_or_complained(environment_name: str) -> Telemetry | None:
    """Telemetry; or a sentence in the log, once: billing goes on without it, whatever is wrong."""
    try:
        return _made(environment_name)
    except ImportError:
        complaint = INSTALL
    except Exception as error:  # noqa: BLE001 - OpenTelemetry reads variables of its own, and may not like them
        complaint = f"Telemetry can't be set up ({quoted(str(error), 200)}), so nothing is recorded: see OTEL_…"
    if complaint not in _complaints:
        logger.warning(complaint)
    _complaints.add(complaint)
    return None


def _environment_of(session: Session) -> str:
    url = session.solvimon.http.service.base_url
    if is_loopback(url):
        return "sandbox"
    return "test" if url == f"https://{TEST_HOST}" else "live"


def _made(environment_name: str) -> Telemetry:
    """Telemetry as the ``OTEL_…`` variables want it, those of ``.env`` too.

    Raises:
        ImportError: The packages are not there.
    """
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    for name, value in environment().items():
        if name.startswith("OTEL_"):
            os.environ.setdefault(name, value)
    # A collector that is down must not hold up the end of every run.
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", str(_EXPORT_SECONDS))
    os.environ.setdefault("OTEL_SERVICE_NAME", "metronome-pipeline")
    resource = Resource.create(
        {
            "service.version": version("metronome-pipeline"),
            "service.instance.id": str(uuid.uuid4()),
            "deployment.environment.name": environment_name,
        }
    )
    ids = _run_ids()
    tracers = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter())]
    meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    return Telemetry(tracers, meters, ids)


def _run_ids() -> Any:
    """Makes ids at random, but for the trace of a run: that is the run's own id, so that one finds the other."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415

    class RunIds(RandomIdGenerator):
        run_id: str = ""

        def generate_trace_id(self) -> int:
            try:
                return uuid.UUID(self.run_id).int
            except ValueError:
                return super().generate_trace_id()

    return RunIds()


# What is recorded ----------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """A run as far as this process takes part in it. Its span ends with the process, or when another run begins."""

    span: Span
    sessions: int = 0


@dataclass
class Telemetry:
    """This process's spans and instruments."""

    tracers: TracerProvider
    meters: MeterProvider
    ids: Any
    tracer: Tracer = field(init=False)
    _runs: dict[str, _Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tracer = self.tracers.get_tracer("metronome_pipeline")
        meter: Meter = self.meters.get_meter("metronome_pipeline")
        self._requests = meter.create_counter(
            "metronome_pipeline.requests", "{request}", "Attempts by system, endpoint and status; 0 is no answer."
        )
        self._pace = meter.create_histogram(
            "metronome_pipeline.pace.wait",
            "s",
            "What each attempt waited for the pace of its account.",
            explicit_bucket_boundaries_advisory=_WAIT_BOUNDS,
        )
        self._events = meter.create_counter("metronome_pipeline.events", "{event}", "Events by what became of them.")
        self._lag = meter.create_histogram(
            "metronome_pipeline.lag",
            "s",
            "From the close of an hour until Solvimon had taken the last first event of it.",
            explicit_bucket_boundaries_advisory=_LAG_BOUNDS,
        )

    @contextmanager
    def step(self, session: Session) -> Iterator[Session]:
        """A span over a session, below its run's; and the session with everything below it observed."""
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        job, step, attributes = _what_runs()
        run = self._run(session, job, attributes)
        try:
            with self.tracer.start_as_current_span(
                f"step {step}", context=set_span_in_context(run.span), attributes=attributes
            ):
                yield self._observed(session)
        finally:
            with _lock:
                run.sessions -= 1

    def _run(self, session: Session, job: str, attributes: dict[str, str]) -> _Run:
        """The run's span; that of an earlier run ends, unless a session of it is still open."""
        with _lock:
            for run_id in [key for key, run in self._runs.items() if not run.sessions and key != session.run_id]:
                self._runs.pop(run_id).span.end()
            if session.run_id not in self._runs:
                from opentelemetry.context import Context  # noqa: PLC0415

                self.ids.run_id = session.run_id
                about: dict[str, Any] = {
                    **attributes,
                    "dagster.run_id": session.run_id,
                    "metronome_pipeline.pair": session.pair.pair_id,
                }
                self._runs[session.run_id] = _Run(
                    self.tracer.start_span(f"run {job}", context=Context(), attributes=about)
                )
            run = self._runs[session.run_id]
            run.sessions += 1
            return run

    def _observed(self, session: Session) -> Session:
        session.metronome.http.observer = self.attempt
        session.solvimon.http.observer = self.attempt
        return replace(session, metronome=_Walks(session.metronome, self), solvimon=_Batches(session.solvimon, self))

    def attempt(self, attempt: Attempt) -> None:
        """One request, once its answer is there or will not come."""
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

        about = {"system": attempt.system, "endpoint": attempt.endpoint}
        self._requests.add(1, {**about, "status": attempt.status})
        self._pace.record(attempt.waited_seconds, {"system": attempt.system})
        ended = time.time_ns()
        span = self.tracer.start_span(
            attempt.endpoint,
            kind=SpanKind.CLIENT,
            start_time=ended - int(attempt.seconds * 1e9),
            attributes={**about, "http.response.status_code": attempt.status, "waited_seconds": attempt.waited_seconds},
        )
        if not 200 <= attempt.status < 400:
            span.set_status(Status(StatusCode.ERROR, str(attempt.status or "no answer")))
        span.end(ended)

    async def walk(self, name: str, pages: AsyncIterator[P], about: dict[str, Any]) -> AsyncIterator[P]:
        """The pages of a walk, with a span over it. The span is current only while a page is fetched."""
        from opentelemetry import context  # noqa: PLC0415
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        span = self.tracer.start_span(f"walk {name}", attributes=about)
        number = 0
        try:
            while True:
                token = context.attach(set_span_in_context(span))
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    span.record_exception(error)
                    raise
                finally:
                    context.detach(token)
                number += 1
                yield page
        finally:
            span.set_attribute("pages", number)
            span.end()

    async def batch(self, send: Callable[[], Awaitable[list[Echo]]], events: int) -> list[Echo]:
        """A batch of events, with a span over all of its attempts."""
        with self.tracer.start_as_current_span("batch", attributes={"events": events}):
            return await send()

    def outcomes(self, counts: dict[str, int], lags: Sequence[float]) -> None:
        """What became of a session's events, and how long after their close its hours were delivered, in seconds."""
        for outcome, number in counts.items():
            self._events.add(number, {"outcome": outcome})
        for lag in lags:
            self._lag.record(lag)

    def close(self) -> None:
        """Ends every span and exports what is left."""
        with _lock:
            runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            run.span.end()
        self.tracers.shutdown()
        self.meters.shutdown()


class _Walks(MetronomeApi):
    """The same session's client, with a span over each walk of usage."""

    def __init__(self, api: MetronomeApi, telemetry: Telemetry) -> None:
        self.__dict__.update(vars(api))
        self._telemetry = telemetry

    def usage(self, **asked: Any) -> AsyncIterator[Any]:
        pages = super().usage(**asked)
        return self._telemetry.walk("usage", pages, _walk_attributes(asked))

    def grouped_usage(self, **asked: Any) -> AsyncIterator[Any]:
        pages = super().grouped_usage(**asked)
        return self._telemetry.walk("grouped usage", pages, _walk_attributes(asked))


class _Batches(SolvimonApi):
    """The same session's client, with a span over each batch of events."""

    def __init__(self, api: SolvimonApi, telemetry: Telemetry) -> None:
        self.__dict__.update(vars(api))
        self._telemetry = telemetry

    async def ingest(self, events: Sequence[UsageEvent], *, replay: bool) -> list[Echo]:
        send = super().ingest
        return await self._telemetry.batch(lambda: send(events, replay=replay), len(events))


def _walk_attributes(asked: dict[str, Any]) -> dict[str, Any]:
    metrics = asked.get("metric_ids") or [asked.get("metric_id", "")]
    return {
        "customer_id": asked["customer_id"],
        "metrics": len(metrics),
        "from": asked["starting_on"].isoformat(),
        "to": asked["ending_before"].isoformat(),
    }


def _what_runs() -> tuple[str, str, dict[str, str]]:
    """The job, the step, and tags of the Dagster run in which this is called; a command, where there is none."""
    import dagster as dg  # noqa: PLC0415

    try:
        context = dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return "command", "command", {}
    tags = {name: value for name, value in context.run.tags.items() if name.startswith("dagster/asset_partition")}
    return context.job_name, context.op_handle.name, {"dagster.job": context.job_name, **tags}


# What the ledger says afterwards -------------------------------------------------------------------------------------


async def _newest_receipt(session: Session) -> int | None:
    try:
        return await session.database.run(_newest)
    except (PipelineError, psycopg.Error):
        return None


async def _record_outcomes(telemetry: Telemetry, session: Session, after: int) -> None:
    close_minutes = _close_minutes()
    try:
        counts, lags = await session.database.run(lambda c: _outcomes(c, session.run_id, after, close_minutes))
    except (PipelineError, psycopg.Error) as error:
        logger.warning("The outcomes of this run's events are not recorded: %s", error)
        return
    telemetry.outcomes(counts, lags)


def _newest(connection: Connection) -> int:
    row = connection.execute("SELECT coalesce(max(receipt_id), 0) FROM ledger.receipts").fetchone()
    assert row is not None
    newest: int = row[0]
    return newest


def _outcomes(
    connection: Connection, run_id: str, after: int, close_minutes: int
) -> tuple[dict[str, int], list[float]]:
    parameters = {"run_id": run_id, "after": after, "minutes": close_minutes}
    counts = connection.execute(_COUNTS, parameters).fetchall()
    return dict(counts), [seconds for (seconds,) in connection.execute(_LAGS, parameters)]


def _close_minutes() -> int:
    """``USAGE_CLOSE_MINUTES``, which was checked when the definitions were loaded."""
    text = environment().get("USAGE_CLOSE_MINUTES")
    default: int = Settings.model_fields["usage_close_minutes"].default
    return int(text) if text else default


_COUNTS = """
SELECT outcome, count(*) FROM ledger.receipts WHERE receipt_id > %(after)s AND run_id = %(run_id)s GROUP BY outcome
"""

# One number an hour: a late correction is no lag of the hour.
_LAGS = """
SELECT extract(epoch FROM max(r.at) - max(e.end_at) - make_interval(mins => %(minutes)s))::float8
FROM ledger.receipts r JOIN ledger.events e USING (event_id)
WHERE r.receipt_id > %(after)s AND r.run_id = %(run_id)s AND r.outcome = 'delivered' AND e.kind = 'usage'
GROUP BY e.start_at
"""
