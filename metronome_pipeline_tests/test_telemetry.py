"""OpenTelemetry at a real receiver on loopback: what a run records, and that it harms nothing when it cannot."""

import logging
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from metronome_pipeline import telemetry
from metronome_pipeline_tests.alerts.watch import at_hour
from metronome_pipeline_tests.loopback import Scripted, bad, ok, session
from metronome_pipeline_tests.world import World, failure

Labels = tuple[tuple[str, Any], ...]


def value(any_value: Any) -> Any:
    return getattr(any_value, any_value.WhichOneof("value"))


def labels(attributes: Any) -> dict[str, Any]:
    return {each.key: value(each.value) for each in attributes}


@dataclass
class Collector:
    """What a collector got."""

    url: str = ""
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)

    @property
    def resources(self) -> list[dict[str, Any]]:
        return [labels(each.resource.attributes) for request in self.traces for each in request.resource_spans]

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def points(self, name: str) -> dict[Labels, Any]:
        """The last point of each series of a metric: a count or sum; of a histogram the point itself."""
        found: dict[Labels, Any] = {}
        for request in self.metrics:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            data = getattr(metric, metric.WhichOneof("data"))
                            for point in data.data_points:
                                key = tuple(sorted(labels(point.attributes).items()))
                                found[key] = point.as_int if hasattr(point, "as_int") else point
        return found


@contextmanager
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                found.traces.append(ExportTraceServiceRequest.FromString(body))
            elif self.path == "/v1/metrics":
                found.metrics.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    """No variables of the machine's, and nothing kept from test to test."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(telemetry, "_complaints", set())
    yield
    telemetry.close()


def billed(world: World) -> tuple[str, str]:
    world.at(at_hour(8.5))
    customer, metric = world.customer(), world.metric()
    world.imports()
    world.use_hours(customer, metric, {1: 5, 3: 7})
    return customer, metric


def test_a_run_is_a_trace_of_steps_walks_batches_and_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    customer, _ = billed(world)
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        result = world.ingest()
        assert result.success, failure(result)
        telemetry.close()
    by_id = {span.span_id: span for span in found.spans}
    assert {span.trace_id for span in found.spans} == {uuid.UUID(result.run_id).bytes}, "the trace is the run"
    (run,) = [span for span in found.spans if not span.parent_span_id]
    assert run.name == "run ingest_usage"
    assert labels(run.attributes)["dagster/asset_partition_range_start"] == "2026-01-05-00:00"
    path = {span.name: by_id[span.parent_span_id].name for span in found.spans if span.parent_span_id}
    assert path["step usage"] == "run ingest_usage"
    assert path["walk usage"] == "step usage"
    assert path["POST /v1/usage"] == "walk usage"
    assert path["batch"] == "step usage"
    assert path["POST /v1/events/ingest-batch"] == "batch"
    assert path["GET /v1/customers"] == "step usage"
    (walk,) = [span for span in found.spans if span.name == "walk usage"]
    assert labels(walk.attributes) == {
        "customer_id": customer,
        "metrics": 1,
        "from": "2026-01-05T00:00:00+00:00",
        "to": "2026-01-06T00:00:00+00:00",
        "pages": 1,
    }
    for span in found.spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert found.resources[0]["service.name"] == "metronome-pipeline"
    assert found.resources[0]["deployment.environment.name"] == "sandbox"
    told = b"".join(request.SerializeToString() for request in found.traces)
    told += b"".join(request.SerializeToString() for request in found.metrics)
    for secret in (world.solvimon.headers["X-API-KEY"], world.metronome.headers["Authorization"].split()[1]):
        assert secret.encode() not in told


def test_metrics_count_requests_waits_events_and_lag(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    customer, metric = billed(world)
    ((refused,),) = world.sql(
        "SELECT ledger.event_reference(%s, %s, %s, %s + interval '1 hour', 'total', 0)",
        customer,
        metric,
        at_hour(3),
        at_hour(3),
    )
    world.solvimon.set(refuse_reference=[refused])
    world.metronome.forget_requests()
    world.solvimon.forget_requests()
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        assert world.ingest().success
        telemetry.close()
    counted: dict[str, int] = {}
    for key, number in found.points("metronome_pipeline.requests").items():
        about = dict(key)
        endpoint = f"{about['system']} {about['endpoint']}"
        counted[endpoint] = counted.get(endpoint, 0) + number
    assert sum(counted.values()) == sum(world.metronome.requests().values()) + sum(world.solvimon.requests().values())
    assert counted["Metronome POST /v1/usage"] == world.metronome.requests()["POST /v1/usage"]
    statuses = {dict(key)["status"] for key in found.points("metronome_pipeline.requests")}
    assert {200, 201} & statuses
    waits = {dict(key)["system"]: point.count for key, point in found.points("metronome_pipeline.pace.wait").items()}
    assert waits["Metronome"] == sum(world.metronome.requests().values())
    outcomes = {dict(key)["outcome"]: number for key, number in found.points("metronome_pipeline.events").items()}
    assert outcomes == {"delivered": 1, "quarantined": 1}
    (lag,) = found.points("metronome_pipeline.lag").values()
    assert lag.count == 1
    assert 6.25 * 3600 <= lag.sum < 6.5 * 3600, "hour 1 closed at 02:15, and it is past 08:30"


def test_each_run_of_a_process_is_a_trace_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    billed(world)
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        runs = [world.ingest().run_id, world.run("import_everything").run_id]
        telemetry.close()
    roots = {span.name: span.trace_id for span in found.spans if not span.parent_span_id}
    assert roots == {
        "run ingest_usage": uuid.UUID(runs[0]).bytes,
        "run import_everything": uuid.UUID(runs[1]).bytes,
    }


def test_a_collector_that_is_down_costs_no_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    customer, metric = billed(world)
    with collector() as found:
        url = found.url
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert world.ingest().success
    assert world.counted(customer, metric) == {1: 5, 3: 7}


def test_without_the_packages_the_run_goes_on_and_the_log_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    billed(world)
    monkeypatch.setenv("METRONOME_PIPELINE_TELEMETRY", "true")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    for _ in range(2):
        assert world.ingest().success
    told = [record.getMessage() for record in logged if record.name == "metronome_pipeline.telemetry"]
    assert told == [telemetry.INSTALL], "once a process"
    assert "pip install" in telemetry.INSTALL


def test_it_is_off_by_default_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from metronome_pipeline.settings import TelemetrySettings  # noqa: PLC0415

    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert not TelemetrySettings.from_environment({}).telemetry_is_on
    assert TelemetrySettings.from_environment(endpoint).telemetry_is_on
    assert TelemetrySettings.from_environment({"METRONOME_PIPELINE_TELEMETRY": "yes"}).telemetry_is_on
    assert not TelemetrySettings.from_environment({**endpoint, "METRONOME_PIPELINE_TELEMETRY": "no"}).telemetry_is_on


def test_loading_the_definitions_imports_nothing_of_it() -> None:
    code = "import sys, metronome_pipeline.definitions; print('opentelemetry' in sys.modules)"
    environment = {**os.environ, "METRONOME_PIPELINE_TELEMETRY": "true"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"


def test_every_attempt_is_observed_once_with_its_status() -> None:
    import asyncio  # noqa: PLC0415

    from metronome_pipeline.http import Attempt  # noqa: PLC0415

    seen: list[Attempt] = []

    async def main() -> None:
        script = Scripted(bad(503), OSError("gone"), ok({}))
        async with session(script.transport()) as http:
            http.observer = seen.append
            await http.send("GET /v1/words", "GET", "/v1/words", decode=lambda body: body)

    asyncio.run(main())
    assert [(each.endpoint, each.status) for each in seen] == [("GET /v1/words", status) for status in (503, 0, 200)]
