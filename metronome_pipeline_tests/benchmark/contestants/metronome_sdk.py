"""Metronome's own Python library, reading only: every customer's usage, page by page, eight customers at a time."""

import asyncio

from metronome import AsyncMetronome

from metronome_pipeline_tests.benchmark.contestants.setting import Setting, run
from metronome_pipeline_tests.benchmark.workload import START

_IN_FLIGHT = 8


async def _work(setting: Setting) -> None:
    workload = setting.workload
    customers, rows = iter(workload.customer_ids()), 0
    async with AsyncMetronome(bearer_token="token", base_url=setting.metronome, max_retries=10) as client:

        async def read() -> None:
            nonlocal rows
            for customer in customers:
                page = await client.v1.usage.list(
                    starting_on=START,
                    ending_before=workload.end,
                    window_size="HOUR",
                    customer_ids=[customer],
                    billable_metrics=[{"id": metric} for metric in workload.metric_ids()],
                )
                async for _ in page:
                    rows += 1

        await asyncio.gather(*[read() for _ in range(_IN_FLIGHT)])
    if rows != workload.rows:
        raise SystemExit(f"read {rows} of {workload.rows} rows")


def _main(setting: Setting) -> None:
    asyncio.run(_work(setting))


if __name__ == "__main__":
    run(_main)
