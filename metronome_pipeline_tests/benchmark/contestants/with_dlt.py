"""dlt from end to end: its REST client as the source, its custom destination as the sink, its own state in between."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import dlt
import httpx
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.paginators import JSONResponseCursorPaginator

from metronome_pipeline_tests.benchmark.contestants.setting import Setting, run
from metronome_pipeline_tests.benchmark.workload import START

_BATCH = 50


def _main(setting: Setting) -> None:
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"
    workload = setting.workload
    client = RESTClient(
        setting.metronome,
        headers={"Authorization": "Bearer token"},
        paginator=JSONResponseCursorPaginator(cursor_path="next_page", cursor_param="next_page"),
        data_selector="data",
    )
    sink = httpx.Client(base_url=setting.solvimon, headers={"X-API-KEY": "key"}, timeout=60)

    @dlt.resource(name="usage", parallelized=True)
    def usage() -> Iterator[Any]:
        for customer in workload.customer_ids():
            body = {
                "window_size": "HOUR",
                "starting_on": f"{START:%Y-%m-%dT00:00:00Z}",
                "ending_before": f"{workload.end:%Y-%m-%dT00:00:00Z}",
                "customer_ids": [customer],
                "billable_metrics": [{"id": metric} for metric in workload.metric_ids()],
            }
            yield from client.paginate("/v1/usage", method="POST", json=body)

    @dlt.destination(batch_size=_BATCH, name="solvimon", naming_convention="direct", skip_dlt_columns_and_tables=True)
    def solvimon(items: list[dict[str, Any]], table: Any) -> None:
        del table
        events = [
            {
                "reference": f"{row['customer_id']}_{row['billable_metric_id']}_{row['start_timestamp']:%Y%m%dT%H}",
                "customer_reference": row["customer_id"],
                "meter_reference": row["billable_metric_id"],
                "timestamp": f"{row['start_timestamp']:%Y-%m-%dT%H:%M:%SZ}",
                "meter_values": [{"reference": "value", "number": str(row["value"])}],
                "meter_properties": [],
            }
            for row in items
        ]
        sink.post("/v1/events/ingest-batch", json={"meter_datas": events}).raise_for_status()

    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline("bench", destination=solvimon, pipelines_dir=folder, dataset_name="bench")
        pipeline.run(usage())


if __name__ == "__main__":
    run(_main)
