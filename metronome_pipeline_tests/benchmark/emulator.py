"""Both APIs for the benchmark: Metronome's pages are joined from fragments made beforehand, Solvimon's batches echoed.

Nobody's validation is measured here: the strict emulator is ``metronome_pipeline.sandbox``. What arrives is added up
exactly, so that a run which lost, doubled or rounded anything is not a result.

Run as ``python -m metronome_pipeline_tests.benchmark.emulator``: prints its two URLs, then serves until it is ended.
"""

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import msgspec

from metronome_pipeline_tests.benchmark.workload import HOUR, START, WORKLOADS, Workload, share, value

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, bytes]

PAGE = 200
GROUP_PAGE = 100
BATCH = 50
_CREATED_AT = "2025-12-01T00:00:00Z"


class _Metering(msgspec.Struct):
    """The body of a usage request, as far as it matters here."""

    window_size: str
    starting_on: str
    ending_before: str
    customer_ids: list[str] = []
    billable_metrics: list[dict[str, Any]] = []
    customer_id: str = ""
    billable_metric_id: str = ""
    group_key: list[str] = []


class _Value(msgspec.Struct):
    number: str


class _Property(msgspec.Struct):
    value: str


class _Event(msgspec.Struct):
    reference: str
    customer_reference: str
    meter_reference: str
    timestamp: str
    meter_values: list[_Value]
    meter_properties: list[_Property] = []


class _Batch(msgspec.Struct):
    meter_datas: list[_Event]


class Emulator:
    """The state of one benchmark run."""

    def __init__(self) -> None:
        self._metering = msgspec.json.Decoder(_Metering)
        self._batch = msgspec.json.Decoder(_Batch)
        self.begin("S", 0.0, 0.0)

    def begin(self, workload: str, latency: float, per_second: float) -> None:
        """Forgets everything and serves a workload."""
        self.workload: Workload = WORKLOADS[workload]
        self.latency = latency
        self.per_second = per_second
        self.tokens, self.refilled_at = per_second, time.monotonic()
        self.requests: Counter[str] = Counter()
        self.limited = 0
        self.received: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.references: set[str] = set()
        self.doubled = 0
        self.customers = {key: number for number, key in enumerate(self.workload.customer_ids())}
        self.metrics = {key: number for number, key in enumerate(self.workload.metric_ids())}
        self.fragments: dict[tuple[str, str], list[bytes]] = {}
        starts = [f"{start:%Y-%m-%dT%H:%M:%S+00:00}" for start in self.workload.hour_starts()]
        starts.append(f"{self.workload.end:%Y-%m-%dT%H:%M:%S+00:00}")
        for customer, c in self.customers.items():
            for metric, m in self.metrics.items():
                head = f'{{"customer_id":"{customer}","billable_metric_id":"{metric}","billable_metric_name":"M",'
                self.fragments[customer, metric] = [
                    f'{head}"start_timestamp":"{starts[hour]}","end_timestamp":"{starts[hour + 1]}",'
                    f'"value":{value(c, m, hour)}}}'.encode()
                    for hour in range(self.workload.hours)
                ]

    # Metronome -------------------------------------------------------------------------------------------------------

    async def metronome(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Answer:
        """One request to Metronome."""
        self.requests[f"{method} {path}"] += 1
        if self.per_second and not self._granted():
            self.limited += 1
            return 429, b'{"message":"Too many requests"}'
        cursor = query.get("next_page", ["0"])[0]
        if path == "/v1/usage":
            return 200, self._usage(self._metering.decode(body), cursor)
        if path == "/v1/usage/groups":
            return 200, self._groups(self._metering.decode(body), cursor)
        if path == "/v1/customers":
            archived = "only_archived" in query
            return 200, self._list([] if archived else [self._customer(key) for key in self.customers], cursor)
        if path == "/v1/billable-metrics":
            return 200, self._list([self._metric(key) for key in self.metrics], cursor)
        return 404, b'{"message":"Not found"}'

    def _granted(self) -> bool:
        now = time.monotonic()
        self.tokens = min(self.per_second, self.tokens + (now - self.refilled_at) * self.per_second)
        self.refilled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def _usage(self, asked: _Metering, cursor: str) -> bytes:
        """A page holds one pair: up to 200 of its windows. The cursor says which pair, and from which window on."""
        pairs = [(c, m["id"]) for m in asked.billable_metrics for c in asked.customer_ids]
        first, last = (self._hour(text) for text in (asked.starting_on, asked.ending_before))
        step = 24 if asked.window_size.upper() == "DAY" else 1
        place, _, at = cursor.partition(".")
        pair, begin = int(place), max(first, int(at or first))
        fragments = self.fragments.get(pairs[pair], [])
        end = min(begin + PAGE * step, last)
        rows = fragments[begin:end] if step == 1 else self._days(pairs[pair], begin, end)
        following = f"{pair}.{end}" if end < last else f"{pair + 1}" if pair + 1 < len(pairs) else None
        return b'{"data":[' + b",".join(rows) + b'],"next_page":' + json.dumps(following).encode() + b"}"

    def _days(self, pair: tuple[str, str], begin: int, end: int) -> list[bytes]:
        c, m = self.customers[pair[0]], self.metrics[pair[1]]
        rows = []
        for first in range(begin, end, 24):
            total = sum((value(c, m, hour) for hour in range(first, min(first + 24, self.workload.hours))), Decimal(0))
            start, after = START + first * HOUR, START + (first + 24) * HOUR
            rows.append(
                f'{{"customer_id":"{pair[0]}","billable_metric_id":"{pair[1]}","billable_metric_name":"M",'
                f'"start_timestamp":"{start:%Y-%m-%dT%H:%M:%S+00:00}","end_timestamp":"{after:%Y-%m-%dT%H:%M:%S+00:00}",'
                f'"value":{total}}}'.encode()
            )
        return rows

    def _groups(self, asked: _Metering, cursor: str) -> bytes:
        """A page holds 100 groups of windows."""
        c, m = self.customers[asked.customer_id], self.metrics[asked.billable_metric_id]
        first, last = (self._hour(text) for text in (asked.starting_on, asked.ending_before))
        groups = self.workload.groups
        begin = int(cursor)
        end = min(begin + GROUP_PAGE, (last - first) * groups)
        rows = []
        for number in range(begin, end):
            hour, group = first + number // groups, number % groups
            start, after = START + hour * HOUR, START + (hour + 1) * HOUR
            rows.append(
                f'{{"starting_on":"{start:%Y-%m-%dT%H:%M:%S+00:00}","ending_before":"{after:%Y-%m-%dT%H:%M:%S+00:00}",'
                f'"group":{{"region":"region-{group}"}},"value":{share(value(c, m, hour), groups, group)}}}'.encode()
            )
        following = None if end == (last - first) * groups else str(end)
        return b'{"data":[' + b",".join(rows) + b'],"next_page":' + json.dumps(following).encode() + b"}"

    def _hour(self, text: str) -> int:
        hour = int((datetime.fromisoformat(text) - START) / HOUR)
        return min(max(hour, 0), self.workload.hours)

    def _list(self, rows: list[dict[str, Any]], cursor: str) -> bytes:
        begin = int(cursor)
        following = str(begin + 100) if begin + 100 < len(rows) else None
        return json.dumps({"data": rows[begin : begin + 100], "next_page": following}).encode()

    def _customer(self, key: str) -> dict[str, Any]:
        return {
            "id": key, "name": f"Customer {self.customers[key]}", "external_id": key, "ingest_aliases": [],
            "custom_fields": {}, "customer_config": {"salesforce_account_id": None}, "archived_at": None,
            "created_at": _CREATED_AT, "updated_at": _CREATED_AT,
        }  # fmt: skip

    def _metric(self, key: str) -> dict[str, Any]:
        keys = [["region"]] if self.workload.groups else []
        return {
            "id": key, "name": f"Metric {self.metrics[key]}", "aggregation_type": "SUM", "aggregation_key": "value",
            "group_keys": keys, "event_type_filter": {"in_values": ["use"]}, "property_filters": [],
            "custom_fields": {}, "archived_at": None,
        }  # fmt: skip

    # Solvimon --------------------------------------------------------------------------------------------------------

    async def solvimon(self, method: str, path: str, body: bytes) -> Answer:
        """One request to Solvimon: batches of events alone."""
        self.requests[f"{method} {path}"] += 1
        if path != "/v1/events/ingest-batch":
            return 404, b'{"code":"RESOURCE_NOT_FOUND","message":"Not found"}'
        events = self._batch.decode(body).meter_datas
        if len(events) > BATCH:
            return 400, b'{"code":"TOO_MANY","message":"A batch holds at most 50"}'
        rows = []
        for event in events:
            if event.reference in self.references:
                self.doubled += 1
            self.references.add(event.reference)
            number = event.meter_values[0].number
            self.received[event.customer_reference, event.meter_reference] += Decimal(number)
            rows.append(
                f'{{"object_type":"METER_DATA","id":"mtda_{len(self.references)}","reference":"{event.reference}",'
                f'"customer_reference":"{event.customer_reference}","meter_reference":"{event.meter_reference}",'
                f'"timestamp":"{event.timestamp}","status":"ACTIVE","meter_values":[{{"number":"{number}"}}]}}'
            )
        return 201, ('{"meter_datas":[' + ",".join(rows) + "]}").encode()

    # Control ---------------------------------------------------------------------------------------------------------

    def control(self, path: str, body: bytes) -> Answer:
        """Begin a run, or report one."""
        if path == "/_bench/begin":
            asked = json.loads(body)
            self.begin(asked["workload"], asked["latency"], asked["per_second"])
        expected = self.workload.totals()
        wrong = [key for key, total in expected.items() if self.received.get(key, Decimal(0)) != total]
        report = {
            "requests": dict(self.requests),
            "limited": self.limited,
            "events": len(self.references),
            "doubled": self.doubled,
            "wrong_pairs": len(wrong),
            "cpu_seconds": time.process_time(),
        }
        return 200, json.dumps(report).encode()

    def app(self, system: str) -> Any:
        """One of the two APIs as an ASGI app."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return
            body, more = b"", True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            path, method = scope["path"], scope["method"]
            if path.startswith("/_bench/"):
                status, content = self.control(path, body)
            else:
                if self.latency:
                    await asyncio.sleep(self.latency)
                query = parse_qs(scope["query_string"].decode())
                if system == "metronome":
                    status, content = await self.metronome(method, path, query, body)
                else:
                    status, content = await self.solvimon(method, path, body)
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": content})

        return serve


def main() -> None:
    """Serve until ended."""
    from metronome_pipeline.sandbox.server import listen, serve_forever, url_of  # noqa: PLC0415

    emulator = Emulator()
    metronome, solvimon = listen(), listen()
    sys.stdout.write(f"{url_of(metronome)} {url_of(solvimon)}\n")
    sys.stdout.flush()
    serve_forever({metronome: emulator.app("metronome"), solvimon: emulator.app("solvimon")})


if __name__ == "__main__":
    main()
