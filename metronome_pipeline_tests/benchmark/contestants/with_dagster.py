"""This project as its users run it: a backfill over a range of partitions, in a real Dagster run on a real Postgres."""

import os
from datetime import timedelta

from metronome_pipeline_tests.benchmark.contestants.setting import Mark, Setting, mark, run

_KEY = "%Y-%m-%d-%H:%M"


def _main(setting: Setting) -> Mark:
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
    # Only now: what these cost to import is not the others' either.
    from metronome_pipeline.definitions import build_definitions  # noqa: PLC0415
    from metronome_pipeline.metronome.resource import MetronomeResource  # noqa: PLC0415
    from metronome_pipeline.settings import Settings  # noqa: PLC0415
    from metronome_pipeline.solvimon.resource import SolvimonResource  # noqa: PLC0415
    from metronome_pipeline.storage.database import Database  # noqa: PLC0415
    from metronome_pipeline.storage.resource import StoreResource  # noqa: PLC0415
    from metronome_pipeline_tests.benchmark.imported import prepare  # noqa: PLC0415
    from metronome_pipeline_tests.benchmark.workload import START  # noqa: PLC0415
    from metronome_pipeline_tests.world import instance_on  # noqa: PLC0415

    settings = Settings.from_environment(
        {
            "METRONOME_BASE_URL": setting.metronome,
            "METRONOME_BEARER_TOKEN": "token",
            "METRONOME_ENVIRONMENT": "bench",
            "METRONOME_REQUESTS_PER_SECOND": str(setting.per_second or 1000),
            "SOLVIMON_BASE_URL": setting.solvimon,
            "SOLVIMON_API_KEY": "key",
            "USAGE_START": START.isoformat(),
            "GROUPED_USAGE_ENABLED": "true" if setting.workload.groups else "false",
        }
    )
    pair = settings.account_pair
    resources = {
        "metronome": MetronomeResource(
            base_url=settings.metronome_base_url,
            bearer_token="token",
            environment="bench",
            requests_per_second=settings.metronome_requests_per_second,
        ),
        "solvimon": SolvimonResource(base_url=settings.solvimon_base_url, api_key="key"),
        "store": StoreResource(
            metronome_host=pair.metronome_host,
            metronome_environment=pair.metronome_environment,
            solvimon_host=pair.solvimon_host,
            solvimon_platform_id=pair.solvimon_platform_id,
            database_url=setting.database_url,
        ),
    }
    with Database(setting.database_url) as database:
        prepare(database, setting)
    definitions = build_definitions(settings, resources)
    job = definitions.resolve_job_def("ingest_grouped_usage" if setting.workload.groups else "ingest_usage")
    last = setting.workload.end - timedelta(hours=1)
    tags = {
        "dagster/asset_partition_range_start": START.strftime(_KEY),
        "dagster/asset_partition_range_end": last.strftime(_KEY),
    }
    with instance_on(setting.database_url) as instance:
        began = mark()
        result = job.execute_in_process(instance=instance, tags=tags, run_config={"loggers": {}})
    if not result.success:
        raise SystemExit("the run failed")
    return began


if __name__ == "__main__":
    run(_main)
