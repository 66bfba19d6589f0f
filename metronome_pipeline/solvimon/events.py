"""Solvimon's event endpoints: ingest, read back, delete, reprocess.

Here: the calls, and how a stored event is read. Not here: what is sent when, and what an answer means for the bill
(``ledger/``). No call here carries an Idempotency-Key: events are deduplicated by reference, where that is switched on.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial

import msgspec
from msgspec import Raw, Struct

from metronome_pipeline.http import Http
from metronome_pipeline.solvimon.calls import Calls, Endpoint, path_segment
from metronome_pipeline.solvimon.records import (
    EventProperty,
    EventTrace,
    EventValue,
    MeterData,
    ProcessedDetails,
    Reprocess,
)
from metronome_pipeline.solvimon.requests import UsageEvent, event_body, events_body, plain_instant
from metronome_pipeline.wire import NotAsPromised, decoded

INGEST_PATH = "/v1/events/ingest-batch"
INGEST_KEY = "meter_datas"


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


class _StoredEvents(Endpoint[MeterData]):
    """Events, whose bodies are read into another shape."""

    def __init__(self) -> None:
        super().__init__("/v1/events", "METER_DATA", MeterData)
        self._bodies = msgspec.json.Decoder(_EventBody)

    def read(self, content: bytes) -> MeterData:
        """One stored event."""
        body = decoded(self._bodies, content)
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
            timestamp=body.timestamp,
            created_at=body.created_at,
            meter_values=tuple(values),
            meter_properties=body.meter_properties or (),
            processed_details=body.processed_details,
            deleted=bool(body.deleted),
        )


_EVENTS = _StoredEvents()
_TRACE = Endpoint("/v1/events", "EVENT_TRACE", EventTrace)
_REPROCESS = Endpoint("/v1/reprocess", "REPROCESS", Reprocess)
_BATCH = msgspec.json.Decoder(dict[str, Raw])
_ROWS = msgspec.json.Decoder(list[Raw])
_STRING = msgspec.json.Decoder(str)


class EventCalls(Calls):
    """The event endpoints.

    Args:
        http: The session.
        new_idempotency_key: For what is created: not for events.
        events_path: The batch endpoint. Reality and the vendor's schema differ (its notes, C2), so it is a setting.
        events_key: The key of the list in its body.
    """

    def __init__(
        self,
        http: Http,
        *,
        new_idempotency_key: Callable[[], str],
        events_path: str = INGEST_PATH,
        events_key: str = INGEST_KEY,
    ) -> None:
        super().__init__(http, new_idempotency_key=new_idempotency_key)
        self._events_path = events_path
        self._events_key = events_key

    async def ingest(self, events: Sequence[UsageEvent], *, replay: bool) -> list[MeterData]:
        """Send one batch. A bad event refuses the whole batch.

        Args:
            events: At most as many as the endpoint takes.
            replay: Whether the batch may be sent again when no answer came: only where Solvimon is proved to
                deduplicate by reference.

        Returns:
            What Solvimon echoes. It may be shorter than ``events``, and says nothing about being billable: compare the
            references, and look for DUPLICATE.
        """
        body = events_body(events, self._events_key)
        endpoint = f"POST {self._events_path}"
        decode = partial(_read_batch, key=self._events_key)
        return await self.http.send(endpoint, "POST", self._events_path, body=body, decode=decode, replay=replay)

    async def events(
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
        told = {
            "reference": reference,
            "customer_id": customer_id,
            "meter_id": meter_id,
            "deleted": None if deleted is None else str(deleted).lower(),
            "processed_details_type": processed_details_type,
        }
        kind = _EVENTS if reference is None else _EventsOf(reference)
        async for page in self._list(kind, {name: value for name, value in told.items() if value is not None}):
            yield page

    async def event(self, event_id: str) -> MeterData:
        """One stored event by Solvimon's id."""
        return await self._get(_EVENTS, event_id)

    async def event_trace(self, event_id: str) -> EventTrace:
        """Where one event is billed, and whether it is on an invoice."""
        path = f"/v1/events/{path_segment(event_id)}/event_trace"
        return await self.http.send("GET /v1/events/{id}/event_trace", "GET", path, decode=_TRACE.read)

    async def delete_event(self, reference: str) -> MeterData:
        """Delete the event with that reference, softly. Read it back: only ``deleted`` proves it."""
        body = msgspec.json.encode({"reference": reference})
        path = "/v1/events/delete"
        return await self.http.send(f"POST {path}", "POST", path, body=body, decode=_EVENTS.read)

    async def delete_event_by_id(self, event_id: str) -> MeterData:
        """Delete one copy of an event: where two have the same reference, the reference does not say which."""
        path = f"/v1/events/{path_segment(event_id)}/delete"
        return await self.http.send("POST /v1/events/{id}/delete", "POST", path, decode=_EVENTS.read)

    async def calculate(self, event: UsageEvent) -> MeterData:
        """What an event would be matched to and cost. Solvimon stores nothing."""
        body = msgspec.json.encode(event_body(event))
        path = "/v1/events/calculate"
        return await self.http.send(f"POST {path}", "POST", path, body=body, decode=_EVENTS.read)

    async def reprocess_not_matched(
        self, customer_id: str, *, start_at: datetime | None = None, end_at: datetime | None = None
    ) -> Reprocess:
        """Ask Solvimon to match a customer's unmatched events again, after a price or subscription was mended."""
        bounds = {"start_at": start_at, "end_at": end_at}
        within = {name: plain_instant(bound) for name, bound in bounds.items() if bound is not None}
        body = msgspec.json.encode({"type": "NOT_MATCHED", "not_matched": {"customer_id": customer_id, **within}})
        headers = {"Idempotency-Key": self._new_idempotency_key()}
        path = "/v1/reprocess"
        return await self.http.send(f"POST {path}", "POST", path, body=body, headers=headers, decode=_REPROCESS.read)

    async def reprocess(self, reprocess_id: str) -> Reprocess:
        """How far a reprocess has come."""
        return await self._get(_REPROCESS, reprocess_id)


class _EventsOf(_StoredEvents):
    """Events of one reference: any other in the answer means that the filter was not applied."""

    def __init__(self, reference: str) -> None:
        super().__init__()
        self._reference = reference

    def read_row(self, raw: Raw, place: str) -> MeterData:
        """One event, of the asked reference."""
        event = super().read_row(raw, place)
        if event.reference != self._reference:
            raise NotAsPromised(f"{place}.reference", "is not the one asked for: the filter was ignored")
        return event


def _read_batch(content: bytes, key: str) -> list[MeterData]:
    body = decoded(_BATCH, content)
    if key not in body:
        raise NotAsPromised(key, "is missing")
    rows = decoded(_ROWS, bytes(body[key]))
    return [_EVENTS.read_row(raw, f"{key}[{index}]") for index, raw in enumerate(rows)]


def _text(raw: bytes) -> str | None:
    if raw == b"null":
        return None
    return _STRING.decode(raw) if raw.startswith(b'"') else raw.decode("ascii", "replace")
