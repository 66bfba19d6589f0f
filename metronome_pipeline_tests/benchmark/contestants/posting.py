"""What posting alone costs: the same batches, made beforehand, through this project's own transport."""

import asyncio
from collections.abc import Iterator, Sequence

import msgspec

from metronome_pipeline.transport import MOST_BYTES, Answer, Request, exchange, open_client
from metronome_pipeline_tests.benchmark.contestants.setting import Mark, Setting, mark, run
from metronome_pipeline_tests.benchmark.workload import Workload, value

_IN_FLIGHT = 8
_BATCH = 50


def _bodies(workload: Workload) -> Iterator[bytes]:
    starts = [f"{start:%Y-%m-%dT%H:%M:%SZ}" for start in workload.hour_starts()]
    waiting: list[dict[str, object]] = []
    for c, customer in enumerate(workload.customer_ids()):
        for m, metric in enumerate(workload.metric_ids()):
            for hour, start in enumerate(starts):
                number = {"reference": f"{metric}_value", "number": f"{value(c, m, hour)}"}
                event: dict[str, object] = {
                    "reference": f"{customer}_{metric}_{hour}",
                    "customer_reference": customer,
                    "meter_reference": metric,
                    "timestamp": start,
                    "meter_values": [number],
                    "meter_properties": [],
                }
                waiting.append(event)
                if len(waiting) == _BATCH:
                    yield msgspec.json.encode({"meter_datas": waiting})
                    waiting.clear()
    if waiting:
        yield msgspec.json.encode({"meter_datas": waiting})


async def _post(setting: Setting, bodies: Sequence[bytes]) -> None:
    left = iter(bodies)
    url = f"{setting.solvimon}/v1/events/ingest-batch"
    headers = {"X-API-KEY": "key", "Content-Type": "application/json"}
    async with open_client(None, {}, 60, _IN_FLIGHT) as client:

        async def post() -> None:
            for body in left:
                request = Request("POST /v1/events/ingest-batch", "POST", url, None, body, headers)
                answer = await exchange(client, request, timeout_seconds=60, most_bytes=MOST_BYTES)
                if not isinstance(answer, Answer):
                    raise SystemExit(f"not taken: {answer}")

        await asyncio.gather(*[post() for _ in range(_IN_FLIGHT)])


def _main(setting: Setting) -> Mark:
    bodies = list(_bodies(setting.workload))
    began = mark()
    asyncio.run(_post(setting, bodies))
    return began


if __name__ == "__main__":
    run(_main)
