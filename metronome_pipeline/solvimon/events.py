"""Solvimon's event endpoints under ``/v1/events``: ingest, read back, delete, calculate.

Here: the calls. Not here: how a stored event is read (``stored_events.py``), what is sent when, and what an answer
means for the bill (``ledger/``).
"""

from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from metronome_pipeline.http import Http
from metronome_pipeline.solvimon.records import Echo, EventTrace, MeterData
from metronome_pipeline.solvimon.requests import UsageEvent, event_body
from metronome_pipeline.solvimon.stored_events import CalculatedEvents, EventRoutes, StoredEvents

INGEST_PATH = "/v1/events/ingest-batch"
INGEST_KEY = "meter_datas"

_EVENTS = StoredEvents("/v1/events")
_CALCULATED = CalculatedEvents("/v1/events")


class EventCalls(EventRoutes):
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

    async def ingest(self, events: Sequence[UsageEvent], *, replay: bool) -> list[Echo]:
        """Send one batch to the endpoint of the settings. A bad event refuses the whole batch.

        Args:
            events: At most as many as the endpoint takes.
            replay: Whether the batch may be sent again when no answer came: only where Solvimon is proved to
                deduplicate by reference.

        Returns:
            What Solvimon echoes. It may be shorter than ``events``, and says nothing about being billable: compare the
            references, and look for DUPLICATE.
        """
        return await self._send_batch(self._events_path, self._events_key, events, replay=replay)

    async def ingest_list(self, events: Sequence[UsageEvent], *, replay: bool) -> list[Echo]:
        """Send one batch to the endpoint of the vendor's schema, whatever the settings say. As ``ingest``."""
        return await self._send_batch("/v1/events/ingest-list", "meter_datas", events, replay=replay)

    async def ingest_one(self, event: UsageEvent, *, replay: bool) -> MeterData:
        """Send one event alone; ``replay`` as in ``ingest``."""
        return await self._send_one(_EVENTS, "/v1/events/ingest", event, replay=replay)

    def events(
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
            _EVENTS,
            reference=reference,
            customer_id=customer_id,
            meter_id=meter_id,
            deleted=deleted,
            processed_details_type=processed_details_type,
        )

    async def event(self, event_id: str) -> MeterData:
        """One stored event by Solvimon's id."""
        return await self._get(_EVENTS, event_id)

    async def event_trace(self, event_id: str) -> EventTrace:
        """Where one event is billed, and whether it is on an invoice."""
        return await self._trace(_EVENTS, event_id)

    async def delete_event(self, reference: str) -> MeterData:
        """Delete the event with that reference, softly. Read it back: only ``deleted`` proves it."""
        return await self._delete_reference(_EVENTS, reference)

    async def delete_event_by_id(self, event_id: str) -> MeterData:
        """Delete one copy of an event: where two have the same reference, the reference does not say which."""
        return await self._delete_copy(_EVENTS, event_id)

    async def calculate(self, event: UsageEvent, *, cost_prediction: bool | None = None) -> MeterData:
        """What an event would be matched to and, in ``cost_prediction`` of the result, cost.

        That nothing is stored is assumed and not documented: prove it before an account with real bills is asked.

        Args:
            event: As it would be ingested.
            cost_prediction: Whether to ask for the cost; None leaves it to Solvimon.
        """
        body = msgspec.json.encode(event_body(event))
        path = "/v1/events/calculate"
        params = {} if cost_prediction is None else {"cost_prediction": str(cost_prediction).lower()}
        return await self.http.send(f"POST {path}", "POST", path, params=params, body=body, decode=_CALCULATED.read)
