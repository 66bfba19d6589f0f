"""Import meters: every billable metric becomes a meter with its value, its properties and its calculation.

Here: the two assets, and how one metric is brought over. Not here: the mapping itself (``mapping/meters.py``), HTTP, SQL.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import dagster as dg

from metronome_pipeline.errors import AlreadyExists
from metronome_pipeline.mapping.meters import LONGEST_REFERENCE, MeterPlan, meter_plan
from metronome_pipeline.mapping.usage import Calculation, calculation_of
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.records import Meter, MeterProperty, MeterValue, MeterValueCalculation
from metronome_pipeline.solvimon.requests import (
    MeterChange,
    NameChange,
    NewMeter,
    NewMeterLink,
    NewMeterProperty,
    NewMeterValue,
    NewMeterValueCalculation,
)
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import accounts, imports
from metronome_pipeline.storage.accounts import KnownMetric
from metronome_pipeline.storage.imports import ImportedMeter
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.imports import (
    column_schema,
    import_each,
    import_metadata,
    request_metadata,
    table,
)
from metronome_pipeline.workflows.session import Session, failing_in_a_sentence, open_session

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


@dg.asset(
    key=["metronome", "billable_metrics"],
    group_name="metronome",
    kinds={"metronome", "postgres"},
    metadata={"dagster/column_schema": METRONOME_COLUMNS, "dagster/table_name": "metronome.billable_metrics"},
    pool="metronome_api",
)
def metronome_billable_metrics(
    context: dg.AssetExecutionContext,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
) -> dg.MaterializeResult[None]:
    """Every billable metric of the Metronome account, archived ones too; one row a metric.

    From `GET /v1/billable-metrics?include_archived=true`: an archived metric may still meter a live product.
    """

    async def work() -> dg.MaterializeResult[None]:
        async with open_session(metronome, solvimon, store, context.run.run_id) as session:
            metrics, refused = await read_metrics(session)
            return dg.MaterializeResult(
                metadata={
                    "dagster/row_count": metrics,
                    "refused": len(refused),
                    **request_metadata(session.metronome.http.counts()),
                    **({"refused_records": table(("id", "field", "reason"), refused)} if refused else {}),
                }
            )

    with failing_in_a_sentence():
        return asyncio.run(work())


async def read_metrics(session: Session) -> tuple[int, list[tuple[str, str, str]]]:
    """Walks and stores all billable metrics; returns how many, and those refused as (id, field, reason)."""
    metrics = []
    refused = []
    async for page in session.metronome.billable_metrics():
        metrics += page.records
        refused += [(refusal.record_id, refusal.field, refusal.reason) for refusal in page.refused]
    await session.database.run(lambda c: accounts.store_metrics(c, session.pair.pair_id, metrics))
    return len(metrics), refused


@dg.asset(
    key=["solvimon", "meters"],
    deps=[metronome_billable_metrics],
    group_name="solvimon",
    kinds={"solvimon", "postgres"},
    metadata={"dagster/column_schema": SOLVIMON_COLUMNS, "dagster/table_name": "solvimon.meters"},
    pool="solvimon_api",
)
def solvimon_meters(
    context: dg.AssetExecutionContext,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult[None]:
    """A Solvimon meter for each billable metric: `reference` ← id, `name` ← name, a meter value, a property for each group key.

    COUNT and SUM metrics get a SUM calculation, MAX metrics a MAX. Hourly values of LATEST, UNIQUE and SQL metrics do not add
    up, so these meters get no calculation until METRIC_CALCULATIONS names one, and their usage is not sent. What exists
    under a reference with another type is refused by name.
    """

    async def work() -> dg.MaterializeResult[None]:
        async with open_session(metronome, solvimon, store, context.run.run_id) as session:
            known = await session.database.run(lambda c: accounts.known_metrics(c, session.pair.pair_id))
            allowed = [m for m in known if not settings.usage_metrics or m.metric_id in settings.usage_metrics]
            outcomes = await import_meters(session, allowed, settings.metric_calculations)
            return dg.MaterializeResult(metadata=import_metadata(outcomes, session.solvimon.http.counts()))

    with failing_in_a_sentence():
        return asyncio.run(work())


async def import_meters(
    session: Session, metrics: list[KnownMetric], calculations: Mapping[str, Calculation]
) -> list[ImportedMeter]:
    """Brings metrics over, one after the other: they share meter properties. Remembers the outcomes."""
    importer = _MeterImporter(session)
    await importer.list_what_exists()

    async def bring(metric: KnownMetric) -> ImportedMeter:
        calculation = calculation_of(metric.aggregation_type, calculations.get(metric.metric_id))
        plan = meter_plan(metric.metric_id, metric.name, metric.group_keys, calculation)
        outcome = await importer.bring(plan)
        if calculation is None and outcome.outcome != "refused":
            kind = "SQL" if metric.is_sql else metric.aggregation_type or "unknown"
            return _with_reason(
                outcome,
                f"Hourly values of a {kind} metric do not add up to the value of a billing period, so it has no calculation and "
                "its usage is not sent. METRIC_CALCULATIONS can name one.",
            )
        return outcome

    def refused(metric: KnownMetric, why: str) -> ImportedMeter:
        return ImportedMeter(metric.metric_id, metric.name, "refused", why)

    outcomes = await import_each(metrics, bring, refused=refused, workers=1)
    await session.database.run(
        lambda c: imports.store_meters(c, session.pair.pair_id, outcomes, run_id=session.run_id)
    )
    return outcomes


class _Incompatible(Exception):
    """Something else already stands under a reference that a meter needs."""


@dataclass
class _MeterImporter:
    """Makes meters, knowing what exists. Lists are read once; what they do not show is found when its creation conflicts."""

    session: Session
    values: dict[str, MeterValue] = field(default_factory=dict)
    properties: dict[str, MeterProperty] = field(default_factory=dict)
    meters: dict[str, Meter] = field(default_factory=dict)
    calculations: dict[str, MeterValueCalculation] = field(default_factory=dict)
    made: bool = False
    changed: bool = False

    async def list_what_exists(self) -> None:
        api = self.session.solvimon
        self.values = {v.reference: v async for page in api.list_meter_values() for v in page if v.reference}
        self.properties = {p.reference: p async for page in api.list_meter_properties() for p in page if p.reference}
        self.meters = {m.reference: m async for page in api.list_meters() for m in page if m.reference}
        self.calculations = {
            c.reference: c async for page in api.list_meter_value_calculations() for c in page if c.reference
        }

    async def bring(self, plan: MeterPlan) -> ImportedMeter:
        self.made = self.changed = False
        try:
            value = await self._value(plan)
            properties = [await self._property(reference, name) for reference, name in plan.properties]
            meter = await self._meter(plan, value, properties)
            calculation = await self._calculation(plan, meter, value) if plan.calculation else None
        except _Incompatible as error:
            return ImportedMeter(plan.reference, plan.name, "refused", str(error))
        return ImportedMeter(
            plan.reference,
            plan.name,
            "created" if self.made else "updated" if self.changed else "unchanged",
            solvimon_id=meter.id,
            calculation_id=calculation.id if calculation else None,
            calculation_type=plan.calculation,
            properties=tuple(reference for reference, _ in plan.properties),
        )

    async def _value(self, plan: MeterPlan) -> MeterValue:
        api, reference = self.session.solvimon, plan.value_reference
        value = self.values.get(reference)
        if value is None:
            try:
                value = await api.create_meter_value(NewMeterValue(reference=reference, name=plan.name))
                self.made = True
            except AlreadyExists:
                value = await api.find_meter_value(reference)
                if value is None:
                    raise
            self.values[reference] = value
        if value.type != "NUMBER":
            raise _Incompatible(_clash("meter value", reference, f"type {value.type}", "type NUMBER"))
        if value.status == "DRAFT":
            await api.update_meter_value(reference, NameChange(status="ACTIVE"))
            self.changed = True
        return value

    async def _property(self, reference: str, name: str) -> MeterProperty:
        api = self.session.solvimon
        if len(reference) > LONGEST_REFERENCE:
            raise _Incompatible(
                f"The group key {reference[:40]}… is longer than the {LONGEST_REFERENCE} characters that Solvimon takes as reference."
            )
        found = self.properties.get(reference)
        if found is None:
            try:
                found = await api.create_meter_property(NewMeterProperty(reference=reference, name=name))
                self.made = True
            except AlreadyExists:
                found = await api.find_meter_property(reference)
                if found is None:
                    raise
            self.properties[reference] = found
        if found.type != "STRING":
            raise _Incompatible(_clash("meter property", reference, f"type {found.type}", "type STRING"))
        if found.status == "DRAFT":
            await api.update_meter_property(reference, NameChange(status="ACTIVE"))
            self.changed = True
        return found

    async def _meter(self, plan: MeterPlan, value: MeterValue, properties: list[MeterProperty]) -> Meter:
        api = self.session.solvimon
        links = tuple(NewMeterLink(id=linked.id, required=False) for linked in properties)
        meter = self.meters.get(plan.reference)
        if meter is None:
            new = NewMeter(
                reference=plan.reference,
                name=plan.name,
                meter_values=(NewMeterLink(id=value.id, required=True),),
                meter_properties=links,
            )
            try:
                self.made = True
                return await api.create_meter(new)
            except AlreadyExists:
                self.made = False
                meter = await api.find_meter(plan.reference)
                if meter is None:
                    raise
        if meter.status not in ("DRAFT", "ACTIVE"):
            raise _Incompatible(_clash("meter", plan.reference, f"status {meter.status}", "status ACTIVE"))
        if all(value.id != link.id for link in meter.meter_values or ()):
            raise _Incompatible(
                _clash("meter", plan.reference, "other meter values", f"the meter value {plan.value_reference}")
            )
        linked = {link.id for link in meter.meter_properties or ()}
        missing = [link for link in links if link.id not in linked]
        if missing or meter.name != plan.name or meter.status == "DRAFT":
            # Complete lists: whether Solvimon merges or replaces them is not documented.
            kept = tuple(
                NewMeterLink(id=link.id, required=bool(link.required)) for link in meter.meter_properties or () if link.id
            )
            change = MeterChange(name=plan.name, status="ACTIVE")
            if missing:
                change = MeterChange(name=plan.name, status="ACTIVE", meter_properties=(*kept, *missing))
            await api.update_meter(plan.reference, change)
            self.changed = True
        return meter

    async def _calculation(self, plan: MeterPlan, meter: Meter, value: MeterValue) -> MeterValueCalculation:
        assert plan.calculation is not None
        reference = plan.calculation_reference
        found = self.calculations.get(reference)
        if found is None:
            self.made = True
            return await self.session.solvimon.create_meter_value_calculation(
                NewMeterValueCalculation(
                    reference=reference,
                    name=plan.name,
                    calculation_type=plan.calculation,
                    meter_id=meter.id,
                    meter_value_id=value.id,
                )
            )
        has = (found.calculation_type, found.meter_id, found.meter_value_id)
        if has != (plan.calculation, meter.id, value.id):
            raise _Incompatible(
                _clash(
                    "meter value calculation",
                    reference,
                    f"{found.calculation_type} over another meter or value",
                    f"{plan.calculation} over this meter's value",
                )
            )
        return found


def _clash(what: str, reference: str, has: str, needs: str) -> str:
    return (
        f"A {what} with the reference {reference} exists in Solvimon with {has}, where {needs} is needed. Archive it or give it "
        "another reference in Solvimon, then import again."
    )


def _with_reason(outcome: ImportedMeter, reason: str) -> ImportedMeter:
    return ImportedMeter(
        outcome.reference,
        outcome.name,
        outcome.outcome,
        reason,
        outcome.solvimon_id,
        properties=outcome.properties,
    )
