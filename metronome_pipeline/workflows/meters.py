"""Import meters: every billable metric becomes a meter with its value, its properties and its calculation.

Here: the two assets. Not here: making one meter (``meter_parts.py``), the mapping itself
(``mapping/meters.py``), HTTP, SQL.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg

from metronome_pipeline.mapping.meters import ChosenCalculation, meter_plan, meter_value_calculation
from metronome_pipeline.mapping.usage import calculation_of
from metronome_pipeline.metronome.records import BillableMetric
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import accounts, imports
from metronome_pipeline.storage.accounts import KnownMetric
from metronome_pipeline.storage.imports import ImportedMeter
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.imports import (
    Listing,
    column_schema,
    import_each,
    import_metadata,
    listing_metadata,
    run_in_session,
    walk,
)
from metronome_pipeline.workflows.meter_parts import MeterImporter
from metronome_pipeline.workflows.naming import asset_key, pool_of
from metronome_pipeline.workflows.session import Session
from metronome_pipeline.workflows.tags import tags_of

METRONOME_COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "metric_id": ("uuid", "Metronome's id, and the meter's reference in Solvimon."),
        "name": ("text", "As in Metronome, unshortened."),
        "aggregation_type": ("text", "COUNT, SUM, MAX, LATEST or UNIQUE; null for SQL metrics."),
        "aggregation_key": ("text", "The property that is aggregated."),
        "group_keys": ("jsonb", "Declared group keys, simple and compound."),
        "sql": ("text", "The query of a SQL metric."),
        "archived_at": ("timestamptz", "Null while active."),
        "first_read_at": ("timestamptz", "When this project met the metric."),
        "gone_at": ("timestamptz", "When Metronome first did not list it any more."),
    }
)
SOLVIMON_COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "reference": ("text", "Metronome's metric id."),
        "solvimon_id": ("text", "Solvimon's id of the meter."),
        "name": ("text", "The name sent."),
        "calculation_id": ("text", "Its meter value calculation; null: usage of the metric is not billed."),
        "calculation_type": ("text", "SUM or MAX."),
        "properties": ("text[]", "References of its meter properties."),
        "outcome": ("text", "created, updated, unchanged or refused, in the last import."),
        "reason": ("text", "Why it was refused, or has no calculation."),
        "run_id": ("text", "The run that said so."),
        "at": ("timestamptz", "When."),
    }
)


def meters_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The two assets of the import."""

    @dg.asset(
        key=asset_key(settings, "metronome", "billable_metrics"),
        group_name="metronome",
        kinds={"metronome", "postgres"},
        owners=settings.resource_owners,
        tags=tags_of(settings, "import_meters"),
        metadata={"dagster/column_schema": METRONOME_COLUMNS, "dagster/table_name": "metronome.billable_metrics"},
        pool=pool_of(settings, "metronome"),
    )
    def metronome_billable_metrics(
        context: dg.AssetExecutionContext,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
    ) -> dg.MaterializeResult[None]:
        """Every billable metric of the Metronome account, archived ones too; one row a metric.

        **From** `GET /v1/billable-metrics?include_archived=true`: an archived metric may still meter a live product.

        **Fresh:** every run of usage reads this list too, so the table is an hour old at most. It is materialized when
        the sensor `account_changes` requests an import, for something changed.

        **If it fails:** a walk that misses most metrics known so far stores nothing: METRONOME_BEARER_TOKEN is of
        another environment. A record that cannot be kept is listed under `refused_records`: mend it in Metronome.
        """

        async def work(session: Session) -> dict[str, Any]:
            listing = await read_metrics(session)
            return listing_metadata(listing, session.metronome.http.counts(), name=lambda metric: metric.name)

        return run_in_session(context, metronome, solvimon, store, work)

    @dg.asset(
        key=asset_key(settings, "solvimon", "meters"),
        deps=[asset_key(settings, "metronome", "billable_metrics")],
        group_name="solvimon",
        kinds={"solvimon", "postgres"},
        owners=settings.resource_owners,
        tags=tags_of(settings, "import_meters"),
        metadata={"dagster/column_schema": SOLVIMON_COLUMNS, "dagster/table_name": "solvimon.meters"},
        pool=pool_of(settings, "solvimon"),
    )
    def solvimon_meters(
        context: dg.AssetExecutionContext,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> dg.MaterializeResult[None]:
        """A Solvimon meter for each billable metric: `reference` ← id, `name` ← name.

        **From** `metronome/billable_metrics`, and what Solvimon lists. With a meter value, a meter property for each
        group key, and a calculation: COUNT and SUM metrics get a SUM, MAX metrics a MAX.

        **Fresh:** the sensor `account_changes` looks every five minutes for what is to be imported.

        **If one is refused,** `refused_records` says which and why, and all others went through. What exists under a
        reference with another type: give it another reference in Solvimon, then run `import_meters` again.

        **If one is under `to_note`,** its usage is not sent: hourly values of LATEST, UNIQUE and SQL metrics do not add
        up, so such a meter gets no calculation until METRICS_FILE or METRIC_CALCULATIONS names one. PERIOD_TO_DATE is
        exact.
        """

        async def work(session: Session) -> dict[str, Any]:
            outcomes = await import_known_metrics(session, settings)
            return import_metadata(outcomes, session.solvimon.http.counts())

        return run_in_session(context, metronome, solvimon, store, work)

    return [metronome_billable_metrics, solvimon_meters]


async def read_metrics(session: Session) -> Listing[BillableMetric]:
    """Walks and stores all billable metrics.

    Raises:
        WrongAccount: Metronome lists another environment's metrics. Nothing was stored.
    """
    listing = await walk(session.metronome.billable_metrics())
    metrics, pair_id = list(listing.records.values()), session.pair.pair_id
    await session.database.run(lambda c: accounts.store_metrics(c, pair_id, metrics, refused=listing.refused))
    return listing


async def import_known_metrics(session: Session, settings: Settings) -> list[ImportedMeter]:
    """Brings over every metric that was read and that the settings allow."""
    known = await session.database.run(lambda c: accounts.known_metrics(c, session.pair.pair_id))
    allowed = [m for m in known if m.metric_id in settings.permitted_metrics]
    return await import_meters(session, allowed, settings.metric_calculations)


async def import_meters(
    session: Session, metrics: list[KnownMetric], calculations: Mapping[str, ChosenCalculation]
) -> list[ImportedMeter]:
    """Brings metrics over, one after the other: they share meter properties. Remembers the outcomes."""
    importer = MeterImporter(session)
    await importer.list_what_exists()

    async def bring(metric: KnownMetric) -> ImportedMeter:
        chosen = meter_value_calculation(calculations.get(metric.metric_id))
        calculation = calculation_of(metric.aggregation_type, chosen)
        outcome = await importer.bring(meter_plan(metric.metric_id, metric.name, metric.group_keys, calculation))
        return outcome if calculation else replace(outcome, reason=_why_not_billed(metric))

    def refused(metric: KnownMetric, why: str) -> ImportedMeter:
        return ImportedMeter(metric.metric_id, metric.name, "refused", why)

    outcomes = await import_each(metrics, bring, refused=refused, workers=1)
    await session.database.run(lambda c: imports.store_meters(c, session.pair.pair_id, outcomes, run_id=session.run_id))
    return outcomes


def _why_not_billed(metric: KnownMetric) -> str:
    kind = "SQL" if metric.is_sql else metric.aggregation_type or "unknown"
    return (
        f"Hourly values of a {kind} metric do not add up to the value of a billing period, so it has no calculation "
        "and its usage is not sent. METRICS_FILE or METRIC_CALCULATIONS can name one: PERIOD_TO_DATE is exact."
    )
