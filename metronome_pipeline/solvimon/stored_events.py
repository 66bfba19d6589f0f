"""How Solvimon's events are sent and read, whichever of its two paths they are reached by.

The vendor serves ``/v1/events`` and ``/v1/ingest/meter-data`` as two names for one thing (its notes, section 3). Here:
what both have in common. Not here: the endpoints (``events.py``, ``meter_data.py``), and what an answer means for the
bill (``ledger/``). No call here carries an Idempotency-Key: events are deduplicated by reference, where that is on.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial

import msgspec
from msgspec import Raw, Struct

from metronome_pipeline.solvimon.calls import MOST_PAGES, Calls, Endpoint, check_id, path_segment
from metronome_pipeline.solvimon.money import CostPrediction
from metronome_pipeline.solvimon.records import (
    Echo,
    EventProperty,
    EventTrace,
    EventValue,
    MeterData,
    ProcessedDetails,
)
from metronome_pipeline.solvimon.requests import UsageEvent, event_body, events_body
from metronome_pipeline.wire import BEYOND, NotAsPromised, decoded, field_and_reason, in_utc, visible


class _ValueBody(Struct, frozen=True, kw_only=True):
    id: str | None = None
    reference: str | None = None
    number: Raw = Raw(b"null")


class _EventBody(Struct, frozen=True, kw_only=True):
    """A stored event as it comes. A JSON number in ``number`` is read too: after a 201 nothing may hang on quotes."""

    id: str
    reference: str | None = None
    customer_id: str | None = None
    customer_reference: str | None = None
    meter_id: str | None = None
    meter_reference: str | None = None
    timestamp: datetime | None = None
    created_at: str | None = None
    meter_values: tuple[_ValueBody, ...] | None = None
    meter_properties: tuple[EventProperty, ...] | None = None
    processed_details: ProcessedDetails | None = None
    deleted: bool | None = None


class StoredEvents(Endpoint[MeterData]):
    """Events under a path. Their bodies are read into another shape."""

    most_pages = MOST_PAGES

    def __init__(self, path: str) -> None:
        super().__init__(path, "METER_DATA", MeterData)
        self._bodies = msgspec.json.Decoder(_EventBody)

    def read(self, content: bytes) -> MeterData:
        """One stored event."""
        body = decoded(self._bodies, visible(content))
        check_id(body.id)
        values = (
            EventValue(id=value.id, reference=value.reference, number=_text(bytes(value.number)))
            for value in body.meter_values or ()
        )
        return MeterData(
            id=body.id,
            reference=body.reference,
            customer_id=body.customer_id,
            customer_reference=body.customer_reference,
            meter_id=body.meter_id,
            meter_reference=body.meter_reference,
            timestamp=_instant(body.timestamp),
            created_at=body.created_at,
            meter_values=tuple(values),
            meter_properties=body.meter_properties or (),
            processed_details=body.processed_details,
            deleted=bool(body.deleted),
        )


class EventsOf(StoredEvents):
    """Events of one reference: any other in the answer means that the filter was not applied."""

    def __init__(self, path: str, reference: str) -> None:
        super().__init__(path)
        self._reference = reference

    def read_row(self, raw: Raw, place: str) -> MeterData:
        """One event, of the asked reference."""
        event = super().read_row(raw, place)
        if event.reference != self._reference:
            raise NotAsPromised(f"{place}.reference", "is not the one asked for: the filter was ignored")
        return event


class _Priced(Struct, frozen=True):
    cost_prediction: CostPrediction | None = None


class CalculatedEvents(StoredEvents):
    """Events that were calculated and not stored, with what they would cost."""

    def read(self, content: bytes) -> MeterData:
        """One calculated event."""
        cost = decoded(_PRICED, content).cost_prediction
        return msgspec.structs.replace(super().read(content), cost_prediction=cost)


_PRICED = msgspec.json.Decoder(_Priced)
_TRACE = Endpoint("/v1/events", "EVENT_TRACE", EventTrace)
_BATCH = msgspec.json.Decoder(dict[str, Raw])
_ECHOES = msgspec.json.Decoder(list[Echo])
_STRING = msgspec.json.Decoder(str)


class EventRoutes(Calls):
    """The calls for events, given the path that they are reached by."""

    async def _send_one(self, kind: StoredEvents, path: str, event: UsageEvent, *, replay: bool) -> MeterData:
        body = msgspec.json.encode(event_body(event))
        return await self.http.send(f"POST {path}", "POST", path, body=body, decode=kind.read, replay=replay)

    async def _send_batch(self, path: str, key: str, events: Sequence[UsageEvent], *, replay: bool) -> list[Echo]:
        body = events_body(events, key)
        decode = partial(_read_batch, key=key)
        return await self.http.send(f"POST {path}", "POST", path, body=body, decode=decode, replay=replay)

    def _stored(
        self,
        kind: StoredEvents,
        *,
        reference: str | None,
        customer_id: str | None,
        meter_id: str | None,
        deleted: bool | None,
        processed_details_type: str | None,
    ) -> AsyncIterator[list[MeterData]]:
        told = {
            "reference": reference,
            "customer_id": customer_id,
            "meter_id": meter_id,
            "deleted": None if deleted is None else str(deleted).lower(),
            "processed_details_type": processed_details_type,
        }
        asked = kind if reference is None else EventsOf(kind.path, reference)
        return self._list(asked, {name: value for name, value in told.items() if value is not None})

    async def _trace(self, kind: StoredEvents, event_id: str) -> EventTrace:
        path = f"{kind.path}/{path_segment(event_id)}/event_trace"
        return await self.http.send(f"GET {kind.path}/{{id}}/event_trace", "GET", path, decode=_TRACE.read)

    async def _delete_reference(self, kind: StoredEvents, reference: str) -> MeterData:
        body = msgspec.json.encode({"reference": reference})
        path = f"{kind.path}/delete"
        return await self.http.send(f"POST {path}", "POST", path, body=body, decode=kind.read)

    async def _delete_copy(self, kind: StoredEvents, event_id: str) -> MeterData:
        path = f"{kind.path}/{path_segment(event_id)}/delete"
        return await self.http.send(f"POST {kind.path}/{{id}}/delete", "POST", path, decode=kind.read)


def _read_batch(content: bytes, key: str) -> list[Echo]:
    body = decoded(_BATCH, content)
    if key not in body:
        raise NotAsPromised(key, "is missing")
    try:
        return decoded(_ECHOES, visible(bytes(body[key])))
    except msgspec.ValidationError as error:
        field, reason = field_and_reason(error)
        raise NotAsPromised(f"{key}{field}" if field.startswith("[") else key, reason) from None


def _instant(moment: datetime | None) -> datetime | None:
    """An event's time in UTC. Without an offset it is UTC's: that of this machine would move the event."""
    try:
        return moment and in_utc(moment)
    except OverflowError:
        raise NotAsPromised("timestamp", BEYOND) from None


def _text(raw: bytes) -> str | None:
    if raw == b"null":
        return None
    return _STRING.decode(raw) if raw.startswith(b'"') else raw.decode("ascii", "replace")
