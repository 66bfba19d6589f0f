"""Solvimon's events under their older name, ``/v1/ingest/...``, and the persist data beside them.

Here: the second path of every event endpoint, for accounts or gateways that serve only this one. Not here: the path
that the pipeline takes (``events.py``), how a stored event is read (``stored_events.py``).
"""

from collections.abc import AsyncIterator, Sequence

import msgspec

from metronome_pipeline.solvimon.calls import Endpoint
from metronome_pipeline.solvimon.records import Echo, EventTrace, MeterData, PersistData
from metronome_pipeline.solvimon.requests import NewPersistData, UsageEvent
from metronome_pipeline.solvimon.stored_events import EventRoutes, StoredEvents

_METER_DATA = StoredEvents("/v1/ingest/meter-data")
_PERSIST_DATA = Endpoint("/v1/ingest/persist-data", "PERSIST_DATA", PersistData)


class MeterDataCalls(EventRoutes):
    """The event endpoints under their older name. Each does what its namesake in ``EventCalls`` does."""

    async def ingest_meter_data(self, event: UsageEvent, *, replay: bool) -> MeterData:
        """Send one event alone. ``replay``: whether it may be sent again when no answer came."""
        return await self._send_one(_METER_DATA, _METER_DATA.path, event, replay=replay)

    async def ingest_meter_datas(self, events: Sequence[UsageEvent], *, replay: bool) -> list[Echo]:
        """Send one batch; a bad event refuses it whole. The answer may be shorter: compare the references."""
        return await self._send_batch("/v1/ingest/meter-datas", "meter_datas", events, replay=replay)

    def meter_datas(
        self,
        *,
        reference: str | None = None,
        customer_id: str | None = None,
        meter_id: str | None = None,
        deleted: bool | None = None,
        processed_details_type: str | None = None,
    ) -> AsyncIterator[list[MeterData]]:
        """Stored events, page by page. There is no filter by date.

        Raises:
            Malformed: An event of another reference than the one asked for: the filter was ignored.
        """
        return self._stored(
            _METER_DATA,
            reference=reference,
            customer_id=customer_id,
            meter_id=meter_id,
            deleted=deleted,
            processed_details_type=processed_details_type,
        )

    async def meter_data(self, event_id: str) -> MeterData:
        """One stored event by Solvimon's id."""
        return await self._get(_METER_DATA, event_id)

    async def meter_data_trace(self, event_id: str) -> EventTrace:
        """Where one event is billed, and whether it is on an invoice."""
        return await self._trace(_METER_DATA, event_id)

    async def delete_meter_data(self, reference: str) -> MeterData:
        """Delete the event with that reference, softly."""
        return await self._delete_reference(_METER_DATA, reference)

    async def delete_meter_data_by_id(self, event_id: str) -> MeterData:
        """Delete one copy of an event, softly."""
        return await self._delete_copy(_METER_DATA, event_id)

    async def ingest_persist_data(self, persisted: NewPersistData, *, replay: bool) -> PersistData:
        """Send usage to be carried over into a later period of a subscription.

        An endpoint of the vendor's own use (its notes, 3.2): the pipeline does not call it. ``replay``: whether it may
        be sent again when no answer came.
        """
        body = msgspec.json.encode(persisted)
        path = _PERSIST_DATA.path
        return await self.http.send(f"POST {path}", "POST", path, body=body, decode=_PERSIST_DATA.read, replay=replay)
