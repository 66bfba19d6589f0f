"""The one ``Definitions`` object that Dagster loads, assembled explicitly from the workflows and their automation."""

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
from metronome_pipeline.workflows.code_links import code_links
from metronome_pipeline.workflows.customers import customers_assets
from metronome_pipeline.workflows.freshness import with_freshness
from metronome_pipeline.workflows.grouped_usage import grouped_usage_assets
from metronome_pipeline.workflows.lineage import with_column_lineage
from metronome_pipeline.workflows.meters import meters_assets
from metronome_pipeline.workflows.period_usage import period_usage_assets
from metronome_pipeline.workflows.products import products_assets
from metronome_pipeline.workflows.reconciliation import reconciliation_asset
from metronome_pipeline.workflows.sweep import usage_sweep_asset
from metronome_pipeline.workflows.usage import usage_assets


def build_definitions(settings: Settings, overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Everything of this project for one account pair. ``overrides`` replaces resources by name, for tests."""
    all_jobs = jobs(settings)
    return dg.Definitions(
        assets=[
            _told(settings, asset)
            for asset in (
                *customers_assets(settings),
                *meters_assets(settings),
                *products_assets(settings),
                usage_assets(settings),
                grouped_usage_assets(settings),
                period_usage_assets(settings),
                usage_sweep_asset(settings),
                reconciliation_asset(settings),
                billing_health_asset(settings),
            )
        ],
        jobs=list(all_jobs.values()),
        schedules=schedules(settings, all_jobs),
        sensors=sensors(settings, all_jobs),
        resources={**_resources(settings), **(overrides or {})},
        executor=dg.in_process_executor,
    )


def _told(settings: Settings, asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """The asset with what all of them tell about themselves: its code, where its columns come from, and how fresh."""
    linked = code_links(asset, settings.code_url)

    def told(spec: dg.AssetSpec) -> dg.AssetSpec:
        return with_freshness(settings, with_column_lineage(settings, linked(spec)))

    return asset.map_asset_specs(told)


def metronome_resource(settings: Settings) -> MetronomeResource:
    """Metronome as the settings say, with their credential."""
    return MetronomeResource(
        base_url=settings.metronome_base_url,
        bearer_token=settings.metronome_bearer_token.get_secret_value(),
        environment=settings.metronome_environment,
        requests_per_second=settings.metronome_requests_per_second,
        requests_in_flight=settings.metronome_requests_in_flight,
    )


def solvimon_resource(settings: Settings) -> SolvimonResource:
    """Solvimon as the settings say, with their credential."""
    return SolvimonResource(
        base_url=settings.solvimon_base_url,
        api_key=settings.solvimon_api_key.get_secret_value(),
        platform_id=settings.solvimon_platform_id,
        events_path=settings.solvimon_events_path,
        events_key=settings.solvimon_events_key,
        batch_limit=settings.solvimon_batch_limit,
        requests_in_flight=settings.solvimon_requests_in_flight,
    )


def _resources(settings: Settings) -> dict[str, Any]:
    pair = settings.account_pair
    return {
        "metronome": _fixed(
            metronome_resource(settings),
            f"Metronome's API at {pair.metronome_host}, environment {pair.metronome_environment}.",
        ),
        "solvimon": _fixed(
            solvimon_resource(settings),
            f"Solvimon's API at {pair.solvimon_host}, platform {pair.solvimon_platform_id or 'of the key'}.",
        ),
        "store": _fixed(
            StoreResource(
                metronome_host=pair.metronome_host,
                metronome_environment=pair.metronome_environment,
                solvimon_host=pair.solvimon_host,
                solvimon_platform_id=pair.solvimon_platform_id,
            ),
            "The database of DAGSTER_POSTGRES_URL, or the embedded one: the rows of this account pair in it.",
        ),
        "settings": settings,
    }


def _fixed(resource: dg.ConfigurableResource[Any], description: str) -> dg.ResourceDefinition:
    """A resource as the settings make it, which no run's configuration can change, and Dagster stores nowhere.

    By itself Dagster would offer all of it in the launchpad. Another address there would be given the credential, and a
    tab that was opened before the settings changed would bill another account pair for partitions of this one.
    """

    def from_settings(_: dg.InitResourceContext) -> Any:
        return resource

    return dg.ResourceDefinition(from_settings, config_schema={}, description=f"{description} As the settings say.")


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
    return build_definitions(settings)
