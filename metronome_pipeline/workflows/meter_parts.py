"""Making one meter in Solvimon with its parts: the meter value, the meter properties, the calculation.

Here: what exists already, and what is made or changed. Not here: which parts a meter has (``mapping/meters.py``), the
assets (``meters.py``).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import UNSET

from metronome_pipeline.mapping.meters import LONGEST_REFERENCE, MeterPlan
from metronome_pipeline.mapping.usage import Calculation
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
from metronome_pipeline.storage.imports import ImportedMeter
from metronome_pipeline.workflows.imports import HasId, Incompatible, check_usable, clash, find_or_create, what_happened
from metronome_pipeline.workflows.session import Session

Stored = TypeVar("Stored", bound=HasId)


@dataclass
class MeterImporter:
    """Makes meters, knowing what exists. ``made`` and ``changed`` are about the metric that is being brought over."""

    session: Session
    values: dict[str, MeterValue] = field(default_factory=dict)
    properties: dict[str, MeterProperty] = field(default_factory=dict)
    meters: dict[str, Meter] = field(default_factory=dict)
    calculations: dict[str, MeterValueCalculation] = field(default_factory=dict)
    made: bool = False
    changed: bool = False

    async def list_what_exists(self) -> None:
        """Reads all lists once, so that what is there costs no request of its own."""
        api = self.session.solvimon
        self.values = {v.reference: v async for page in api.list_meter_values() for v in page if v.reference}
        self.properties = {p.reference: p async for page in api.list_meter_properties() for p in page if p.reference}
        self.meters = {m.reference: m async for page in api.list_meters() for m in page if m.reference}
        await self._list_calculations()

    async def _list_calculations(self) -> None:
        pages = self.session.solvimon.list_meter_value_calculations()
        self.calculations = {c.reference: c async for page in pages for c in page if c.reference}

    async def bring(self, plan: MeterPlan) -> ImportedMeter:
        """Makes what a meter lacks, and brings names up to date.

        Raises:
            Incompatible, Refused: It cannot be made, as a sentence. What was made before stays.
        """
        self.made = self.changed = False
        value = await self._value(plan)
        properties = [await self._property(reference, name) for reference, name in plan.properties]
        meter = await self._meter(plan, value, properties)
        calculation = await self._calculation(plan, plan.calculation, meter, value) if plan.calculation else None
        return ImportedMeter(
            plan.reference,
            plan.name,
            what_happened(made=self.made, changed=self.changed),
            solvimon_id=meter.id,
            calculation_id=calculation.id if calculation else None,
            calculation_type=plan.calculation,
            properties=tuple(reference for reference, _ in plan.properties),
        )

    async def _standing(
        self,
        listed: Stored | None,
        create: Callable[[], Awaitable[Stored]],
        find: Callable[[], Awaitable[Stored | None]],
    ) -> Stored:
        found, made = await find_or_create(listed, create, find)
        self.made = self.made or made
        return found

    async def _value(self, plan: MeterPlan) -> MeterValue:
        api, reference = self.session.solvimon, plan.value_reference
        value = await self._standing(
            self.values.get(reference),
            lambda: api.create_meter_value(NewMeterValue(reference=reference, name=plan.name)),
            lambda: api.find_meter_value(reference),
        )
        if value.type != "NUMBER":
            raise clash("meter value", reference, f"type {value.type}", "type NUMBER")
        check_usable("meter value", reference, value.status)
        if value.status == "DRAFT" or value.name != plan.name:
            value = await api.update_meter_value(reference, NameChange(name=plan.name, status="ACTIVE"))
            self.changed = True
        return value

    async def _property(self, reference: str, name: str) -> MeterProperty:
        api = self.session.solvimon
        if len(reference) > LONGEST_REFERENCE:
            raise Incompatible(
                f"Its group key {name[:40]}… makes a reference of {len(reference)} characters, and Solvimon takes "
                f"{LONGEST_REFERENCE}: group by a shorter property."
            )
        found = await self._standing(
            self.properties.get(reference),
            lambda: api.create_meter_property(NewMeterProperty(reference=reference, name=name)),
            lambda: api.find_meter_property(reference),
        )
        if found.type != "STRING":
            raise clash("meter property", reference, f"type {found.type}", "type STRING")
        check_usable("meter property", reference, found.status)
        if found.status == "DRAFT":
            found = await api.update_meter_property(reference, NameChange(status="ACTIVE"))
            self.changed = True
        self.properties[reference] = found
        return found

    async def _meter(self, plan: MeterPlan, value: MeterValue, properties: list[MeterProperty]) -> Meter:
        api = self.session.solvimon
        links = tuple(NewMeterLink(id=linked.id, required=False) for linked in properties)
        new = NewMeter(
            reference=plan.reference,
            name=plan.name,
            meter_values=(NewMeterLink(id=value.id, required=True),),
            meter_properties=links,
        )
        meter = await self._standing(
            self.meters.get(plan.reference), lambda: api.create_meter(new), lambda: api.find_meter(plan.reference)
        )
        check_usable("meter", plan.reference, meter.status)
        _check_takes_our_events(plan, meter, value, properties)
        linked = {link.id for link in meter.meter_properties or ()}
        missing = tuple(link for link in links if link.id not in linked)
        if missing or meter.name != plan.name or meter.status == "DRAFT":
            # Complete lists: whether Solvimon merges or replaces them is not documented.
            kept = [NewMeterLink(id=k.id, required=bool(k.required)) for k in meter.meter_properties or () if k.id]
            complete = (*kept, *missing) if missing else UNSET
            change = MeterChange(name=plan.name, status="ACTIVE", meter_properties=complete)
            meter = await api.update_meter(plan.reference, change)
            self.changed = True
        return meter

    async def _calculation(
        self, plan: MeterPlan, kind: Calculation, meter: Meter, value: MeterValue
    ) -> MeterValueCalculation:
        api, reference = self.session.solvimon, plan.calculation_reference
        new = NewMeterValueCalculation(
            reference=reference, name=plan.name, calculation_type=kind, meter_id=meter.id, meter_value_id=value.id
        )

        async def find() -> MeterValueCalculation | None:
            # No path leads to a calculation by its reference.
            await self._list_calculations()
            return self.calculations.get(reference)

        found = await self._standing(
            self.calculations.get(reference), lambda: api.create_meter_value_calculation(new), find
        )
        if (found.calculation_type, found.meter_id, found.meter_value_id) != (kind, meter.id, value.id):
            has = f"{found.calculation_type} over another meter or value"
            raise clash("meter value calculation", reference, has, f"{kind} over the value of this meter")
        if found.persist:
            raise clash("meter value calculation", reference, "persist", "one that starts afresh in each period")
        if found.name != plan.name:
            await api.update_meter_value_calculation(found.id, NameChange(name=plan.name))
            self.changed = True
        return found


def _check_takes_our_events(plan: MeterPlan, meter: Meter, value: MeterValue, properties: list[MeterProperty]) -> None:
    """Passes a meter whose events may be what this project sends: one value, and the metric's properties.

    Raises:
        Incompatible: It lacks the value, or requires what no event of ours has: it would refuse every one of them.
    """
    if all(link.id != value.id for link in meter.meter_values or ()):
        raise clash("meter", plan.reference, "other meter values", f"the meter value {plan.value_reference}")
    ours = {value.id, *(linked.id for linked in properties)}
    links = [*(meter.meter_values or ()), *(meter.meter_properties or ())]
    required = [link.reference or link.id or "?" for link in links if link.required and link.id not in ours]
    if required:
        has = f"{' and '.join(required)} as required"
        raise clash("meter", plan.reference, has, "a meter that requires nothing but the metric's own")
