"""Solvimon's meter endpoints: meter values, meter properties, meters, meter value calculations.

Here: the calls. Not here: which of them an import needs (``workflows/``), retries (``http.py``).
"""

from collections.abc import AsyncIterator

from metronome_pipeline.solvimon.calls import Calls, Endpoint, path_segment
from metronome_pipeline.solvimon.records import Meter, MeterProperty, MeterValue, MeterValueCalculation
from metronome_pipeline.solvimon.requests import (
    MeterChange,
    NameChange,
    NewMeter,
    NewMeterProperty,
    NewMeterValue,
    NewMeterValueCalculation,
)
from metronome_pipeline.wire import NotAsPromised

_METER_VALUES = Endpoint("/v1/meter-values", "METER_VALUE", MeterValue)
_METER_PROPERTIES = Endpoint("/v1/meter-properties", "METER_PROPERTY", MeterProperty)
_METERS = Endpoint("/v1/meters", "METER", Meter)
_CALCULATIONS = Endpoint("/v1/meter-value-calculations", "METER_VALUE_CALCULATION", MeterValueCalculation)


class MeterCalls(Calls):
    """The meter endpoints."""

    async def find_meter_value(self, reference: str) -> MeterValue | None:
        """The meter value with that reference."""
        return await self._find(_METER_VALUES, reference)

    async def create_meter_value(self, value: NewMeterValue) -> MeterValue:
        """Create a meter value, ACTIVE at once."""
        return await self._create(_METER_VALUES, value)

    async def update_meter_value(self, id_or_reference: str, change: NameChange) -> MeterValue:
        """Change a meter value, also its status: there is no activation endpoint."""
        return await self._update(_METER_VALUES, id_or_reference, change)

    async def delete_meter_value(self, id_or_reference: str) -> MeterValue | None:
        """Delete a meter value; None when there is none."""
        return await self._delete(_METER_VALUES, id_or_reference)

    def list_meter_values(self) -> AsyncIterator[list[MeterValue]]:
        """Every meter value."""
        return self._list(_METER_VALUES)

    async def find_meter_property(self, reference: str) -> MeterProperty | None:
        """The meter property with that reference. Properties are shared by all meters."""
        return await self._find(_METER_PROPERTIES, reference)

    async def create_meter_property(self, meter_property: NewMeterProperty) -> MeterProperty:
        """Create a meter property, ACTIVE at once."""
        return await self._create(_METER_PROPERTIES, meter_property)

    async def update_meter_property(self, id_or_reference: str, change: NameChange) -> MeterProperty:
        """Change a meter property, also its status: there is no activation endpoint."""
        return await self._update(_METER_PROPERTIES, id_or_reference, change)

    async def delete_meter_property(self, id_or_reference: str) -> MeterProperty | None:
        """Delete a meter property, which other meters may share; None when there is none."""
        return await self._delete(_METER_PROPERTIES, id_or_reference)

    def list_meter_properties(self) -> AsyncIterator[list[MeterProperty]]:
        """Every meter property."""
        return self._list(_METER_PROPERTIES)

    async def find_meter(self, reference: str) -> Meter | None:
        """The meter with that reference."""
        return await self._find(_METERS, reference)

    async def create_meter(self, meter: NewMeter) -> Meter:
        """Create a meter, ACTIVE at once."""
        return await self._create(_METERS, meter)

    async def update_meter(self, id_or_reference: str, change: MeterChange) -> Meter:
        """Change a meter: its name, its status, or its complete list of values or properties."""
        return await self._update(_METERS, id_or_reference, change)

    async def delete_meter(self, id_or_reference: str) -> Meter | None:
        """Delete a meter; None when there is none. Later events of it are refused with their whole batch."""
        return await self._delete(_METERS, id_or_reference)

    def list_meters(self) -> AsyncIterator[list[Meter]]:
        """Every meter."""
        return self._list(_METERS)

    async def meter_data_file(self, id_or_reference: str) -> bytes:
        """The template of a file of events for a meter: a line of CSV with the names of its columns.

        Raises:
            Malformed: It is a page for people.
        """
        path = f"/v1/meters/{path_segment(id_or_reference)}/meter-data-file"
        accept = {"Accept": "application/octet-stream"}
        endpoint = "GET /v1/meters/{id}/meter-data-file"
        return await self.http.send(endpoint, "GET", path, headers=accept, decode=_read_file)

    async def meter_value_calculation(self, calculation_id: str) -> MeterValueCalculation:
        """A calculation by Solvimon's id: its path takes no reference."""
        return await self._get(_CALCULATIONS, calculation_id)

    async def create_meter_value_calculation(self, calculation: NewMeterValueCalculation) -> MeterValueCalculation:
        """Create a calculation. Keep its id."""
        return await self._create(_CALCULATIONS, calculation)

    async def update_meter_value_calculation(self, calculation_id: str, change: NameChange) -> MeterValueCalculation:
        """Rename a calculation. It has no status."""
        return await self._update(_CALCULATIONS, calculation_id, change)

    async def delete_meter_value_calculation(self, calculation_id: str) -> MeterValueCalculation | None:
        """Delete a calculation, by id only; None when there is none."""
        return await self._delete(_CALCULATIONS, calculation_id)

    def list_meter_value_calculations(self) -> AsyncIterator[list[MeterValueCalculation]]:
        """Every calculation: the only way to one whose id is not known."""
        return self._list(_CALCULATIONS)


def _read_file(content: bytes) -> bytes:
    if content.lstrip()[:1] == b"<":
        raise NotAsPromised("body", "is a page of HTML, not a file")
    return content
