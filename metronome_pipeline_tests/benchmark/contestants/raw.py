"""The floor: the least code that reads, maps and posts the same rows. Nothing is checked, kept or tried again.

Plain asyncio streams, eight connections a side, JSON by msgspec without types.
"""

import asyncio
from typing import Any

import msgspec

from metronome_pipeline_tests.benchmark.contestants.setting import Setting, run
from metronome_pipeline_tests.benchmark.workload import START

_IN_FLIGHT = 8
_BATCH = 50


class _Connection:
    """One connection, one request at a time."""

    def __init__(self, url: str, header: str) -> None:
        self._host, _, self._port = url.removeprefix("http://").partition(":")
        self._header = header

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))

    async def post(self, path: str, body: bytes) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\n{self._header}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
        return await self._reader.readexactly(length)


class _Row(msgspec.Struct):
    customer_id: str
    billable_metric_id: str
    start_timestamp: str
    end_timestamp: str
    value: msgspec.Raw


class _Page(msgspec.Struct):
    data: list[_Row]
    next_page: str | None


def _event(row: _Row) -> dict[str, Any]:
    start = row.start_timestamp.replace("+00:00", "Z")
    reference = f"{row.customer_id}_{row.billable_metric_id}_{start}".replace(":", "")
    return {
        "reference": reference,
        "customer_reference": row.customer_id,
        "meter_reference": row.billable_metric_id,
        "timestamp": start,
        "meter_values": [{"reference": f"{row.billable_metric_id}_value", "number": bytes(row.value).decode()}],
        "meter_properties": [],
    }


async def _work(setting: Setting) -> None:
    workload, pages, events = setting.workload, msgspec.json.Decoder(_Page), msgspec.json.Encoder()
    customers = iter(workload.customer_ids())
    bounds = {"starting_on": f"{START:%Y-%m-%dT00:00:00Z}", "ending_before": f"{workload.end:%Y-%m-%dT00:00:00Z}"}
    metrics = [{"id": metric} for metric in workload.metric_ids()]

    async def both() -> None:
        source = _Connection(setting.metronome, "Authorization: Bearer token")
        destination = _Connection(setting.solvimon, "X-API-KEY: key")
        await source.open()
        await destination.open()
        for customer in customers:
            asked = {"window_size": "HOUR", **bounds, "customer_ids": [customer], "billable_metrics": metrics}
            body, waiting = events.encode(asked), []
            cursor: str | None = "0"
            while cursor is not None:
                page = pages.decode(await source.post(f"/v1/usage?next_page={cursor}", body))
                waiting += [_event(row) for row in page.data]
                cursor = page.next_page
                while len(waiting) >= _BATCH or (cursor is None and waiting):
                    await destination.post("/v1/events/ingest-batch", events.encode({"meter_datas": waiting[:_BATCH]}))
                    del waiting[:_BATCH]

    await asyncio.gather(*[both() for _ in range(_IN_FLIGHT)])


def _main(setting: Setting) -> None:
    asyncio.run(_work(setting))


if __name__ == "__main__":
    run(_main)
