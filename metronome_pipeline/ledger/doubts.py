"""Doubts: events that may have arrived, and answers that say *duplicate*. Each is settled by reading Solvimon back.

Here: what is looked up and how the answer is judged. Not here: when to look (``deliver.py``).
"""

import json
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import msgspec

from metronome_pipeline.clock import Clock
from metronome_pipeline.errors import Refused
from metronome_pipeline.ledger.claims import LedgerEvent, Receipt
from metronome_pipeline.mapping.meters import property_reference
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import Echo, MeterData

_READ_BACK_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Doubts:
    """Looks events up at the destination."""

    api: SolvimonApi
    clock: Clock
    request_timeout: timedelta

    async def wait_out(self) -> None:
        """Waits until no earlier request can still be under way.

        When the last one left is not known, only when it ended.
        """
        await self.clock.sleep(self.request_timeout.total_seconds())

    async def copies(self, reference: str) -> list[MeterData]:
        """Everything stored under a reference: the original, duplicates, deleted ones."""
        return [data async for page in self.api.events(reference=reference) for data in page]

    async def look_up(self, event: LedgerEvent) -> Receipt | None:
        """The receipt of an event that has arrived; None for one that has not."""
        copies = await self.copies(event.reference)
        originals = [copy for copy in copies if not copy.is_duplicate]
        if not originals:
            return None
        live = [copy for copy in originals if not copy.deleted]
        await self._delete_extra(live)
        return judge(event, live[0] if live else originals[0])

    async def judge_duplicate(self, event: LedgerEvent, echo: Echo) -> Receipt:
        """What a *duplicate* answer means: ours if the original equals ours, else restated as what the original is."""
        copies = await self.copies(event.reference)
        originals = [copy for copy in copies if not copy.is_duplicate]
        named = [copy for copy in originals if copy.id == echo.duplicate_of]
        live = [copy for copy in originals if not copy.deleted]
        if not originals:
            return Receipt(
                event.event_id,
                "quarantined",
                message="Solvimon says duplicate, but shows no original under this reference.",
            )
        return judge(event, (named or live or originals)[0])

    async def keep_one_copy(self, event: LedgerEvent, echo: Echo) -> Receipt:
        """After a second send where nothing ignores duplicates: keeps one live copy and deletes the others by id."""
        copies = await self.copies(event.reference)
        live = [copy for copy in copies if not copy.deleted and not copy.is_duplicate]
        await self._delete_extra(live)
        return judge(event, live[0]) if live else sent(event, echo)

    async def _delete_extra(self, live: list[MeterData]) -> None:
        for extra in live[1:]:
            await self.api.delete_event_by_id(extra.id)

    async def delete(self, deletion: LedgerEvent) -> Receipt:
        """Deletes by reference and reads back until Solvimon shows it deleted; else it waits in quarantine."""
        try:
            await self.api.delete_event(deletion.reference)
        except Refused as error:
            if not await self._is_gone(deletion.reference):
                return Receipt(
                    deletion.event_id, "quarantined", code=error.code, field=error.field, message=error.message
                )
        for pause in _READ_BACK_PAUSES:
            if await self._is_gone(deletion.reference):
                return Receipt(deletion.event_id, "delivered")
            await self.clock.sleep(pause)
        return Receipt(
            deletion.event_id,
            "quarantined",
            message="Solvimon took the deletion, but still shows the event as live. Retry once it shows as deleted.",
        )

    async def _is_gone(self, reference: str) -> bool:
        """Whether Solvimon shows the event, and none of its copies as live. Not to show it at all proves nothing."""
        copies = await self.copies(reference)
        return bool(copies) and all(copy.deleted or copy.is_duplicate for copy in copies)


def sent(event: LedgerEvent, echo: Echo) -> Receipt:
    """The receipt of an event that Solvimon echoed as stored."""
    return Receipt(event.event_id, "delivered", solvimon_id=echo.id)


def judge(event: LedgerEvent, original: MeterData) -> Receipt:
    """What the event stored under our reference means for us.

    Equal in customer, meter, time, properties and number: delivered. Another number in the same slot: that number is
    what is counted. Deleted, or of another slot: nothing is counted for ours. The difference is planned under the next
    revision; that of a deleted one only once a person has released its slot.
    """
    if original.deleted:
        receipt = _restated(event, original, None, "The original under this reference was deleted in Solvimon.")
        return msgspec.structs.replace(receipt, deleted_there=True)
    if _slot(event) != _slot_of(original):
        return _restated(
            event, original, None, "Another event stands in Solvimon under this reference, for another slot."
        )
    number = original.meter_values[0].quantity if original.meter_values else None
    if number != event.number:
        return _restated(
            event, original, number, f"Solvimon already held {number} under this reference instead of {event.number}."
        )
    return Receipt(event.event_id, "delivered", solvimon_id=original.id)


def _slot(event: LedgerEvent) -> tuple[str | None, str | None, object, dict[str | None, str | None]]:
    group = json.loads(event.properties) if event.properties else {}
    properties: dict[str | None, str | None] = {
        property_reference(key): value for key, value in group.items() if value is not None
    }
    return event.customer_id, event.metric_id, event.start, properties


def _slot_of(original: MeterData) -> tuple[str | None, str | None, object, dict[str | None, str | None]]:
    properties = {given.reference: given.value for given in original.meter_properties}
    return original.customer_reference, original.meter_reference, original.timestamp, properties


def _restated(event: LedgerEvent, original: MeterData, counted: Decimal | None, message: str) -> Receipt:
    return Receipt(event.event_id, "restated", solvimon_id=original.id, message=message, restated=True, counted=counted)
