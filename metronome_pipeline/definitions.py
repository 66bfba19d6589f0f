"""The one ``Definitions`` object that Dagster loads, assembled explicitly from the workflows and their automation."""

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from metronome_pipeline.automation.jobs import jobs
from metronome_pipeline.automation.schedules import schedules
from metronome_pipeline.automation.sensors import sensors
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings, SettingsError
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.billing_health import billing_health_asset
from metronome_pipeline.workflows.customers import metronome_customers, solvimon_customers
from metronome_pipeline.workflows.grouped_usage import grouped_usage_assets
from metronome_pipeline.workflows.meters import metronome_billable_metrics, solvimon_meters
from metronome_pipeline.workflows.period_usage import period_usage_assets
from metronome_pipeline.workflows.products import metronome_products, solvimon_products
from metronome_pipeline.workflows.reconciliation import reconciliation_asset
from metronome_pipeline.workflows.sweep import usage_sweep_asset
from metronome_pipeline.workflows.usage import usage_assets


def build_definitions(settings: Settings, overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Everything of this project for one account pair. ``overrides`` replaces resources by name, for tests."""
    imports = [
        asset.map_asset_specs(lambda spec: spec.replace_attributes(owners=settings.resource_owners))
        for asset in (
            metronome_customers,
            solvimon_customers,
            metronome_billable_metrics,
            solvimon_meters,
            metronome_products,
            solvimon_products,
        )
    ]
    all_jobs = jobs(settings.resource_owners)
    return dg.Definitions(
        assets=[
            *imports,
            usage_assets(settings),
            grouped_usage_assets(settings),
            period_usage_assets(settings),
            usage_sweep_asset(settings),
            reconciliation_asset(settings),
            billing_health_asset(settings),
        ],
        jobs=list(all_jobs.values()),
        schedules=schedules(settings, all_jobs),
        sensors=sensors(settings, all_jobs),
        resources={**_resources(settings), **(overrides or {})},
        executor=dg.in_process_executor,
    )


def _resources(settings: Settings) -> dict[str, Any]:
    pair = settings.account_pair
    return {
        "metronome": MetronomeResource(
            base_url=settings.metronome_base_url,
            bearer_token=dg.EnvVar("METRONOME_BEARER_TOKEN"),
            environment=settings.metronome_environment,
            requests_per_second=settings.metronome_requests_per_second,
            requests_in_flight=settings.metronome_requests_in_flight,
        ),
        "solvimon": SolvimonResource(
            base_url=settings.solvimon_base_url,
            api_key=dg.EnvVar("SOLVIMON_API_KEY"),
            platform_id=settings.solvimon_platform_id,
            events_path=settings.solvimon_events_path,
            events_key=settings.solvimon_events_key,
            batch_limit=settings.solvimon_batch_limit,
            requests_in_flight=settings.solvimon_requests_in_flight,
        ),
        "store": StoreResource(
            metronome_host=pair.metronome_host,
            metronome_environment=pair.metronome_environment,
            solvimon_host=pair.solvimon_host,
            solvimon_platform_id=pair.solvimon_platform_id,
        ),
        "settings": settings,
    }


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads: the definitions of the account pair that the environment names.

    Raises:
        SettingsError: A sentence for each variable that is missing or wrong.
    """
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        raise SettingsError(f"{error} For a look without any account, run `metronome-pipeline dev` instead.") from None
    # Dagster resolves the two credentials from the process's environment, and `.env` may be where they stand.
    os.environ.setdefault("METRONOME_BEARER_TOKEN", settings.metronome_bearer_token.get_secret_value())
    os.environ.setdefault("SOLVIMON_API_KEY", settings.solvimon_api_key.get_secret_value())
    return build_definitions(settings)
