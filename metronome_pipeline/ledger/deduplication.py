"""Whether Solvimon ignores a second event under one reference: proved by sending one twice.

Deduplication by reference is an option of the account that no endpoint tells (Solvimon API notes, 1.4): only two equal
events show it. Here: the probe, of a customer and a meter of its own, without calculation, so that nothing can be
billed. Not here: who asks for it, and where the answer is kept (``storage/accounts.py``).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from metronome_pipeline.clock import Clock
from metronome_pipeline.errors import AlreadyExists, ApiError, PipelineError, Refused
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import Echo, MeterData, Organization
from metronome_pipeline.solvimon.requests import (
    MeterChange,
    NameChange,
    NewCustomer,
    NewMeter,
    NewMeterLink,
    NewMeterValue,
    UsageEvent,
)

PROBE = "metronome_pipeline_probe"
"""The reference of the probe's customer, meter and meter value, and the beginning of its events'."""

# Matching is asynchronous, so a duplicate may be marked some time after it was taken.
_PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)

Found = Literal["proved", "off", "unknown"]


class ProbeBlocked(PipelineError):
    """The probe's own customer or meter cannot be used."""


@dataclass(frozen=True)
class Proof:
    """What the probe found, and why.

    Attributes:
        found: ``proved``: one of two equal events counts. ``off``: both do. ``unknown``: neither was seen.
        because: The evidence, as a sentence.
        left_behind: Ids of events of the probe that could not be deleted.
    """

    found: Found
    because: str
    left_behind: tuple[str, ...] = ()


async def probe_deduplication(api: SolvimonApi, clock: Clock, source: random.Random) -> Proof:
    """Sends one event twice under one new reference, reads both back, and deletes them.

    Makes the probe's customer and meter where they are missing; they stay. ``source`` must not repeat itself between
    probes: a reference that was used before would look like deduplication.

    Raises:
        ApiError: Solvimon could not be asked. What was stored until then is deleted where it can be.
        ProbeBlocked: The probe's customer or meter exists and cannot take events.
    """
    await _ensure_customer(api)
    await _ensure_meter(api)
    event = UsageEvent(
        reference=f"{PROBE}_{source.getrandbits(128):032x}",
        customer_reference=PROBE,
        meter_reference=PROBE,
        timestamp=clock.now().replace(minute=0, second=0, microsecond=0),
        value_reference=PROBE,
        number=Decimal(1),
    )
    echoes: list[Echo] = []
    try:
        echoes += await api.ingest([event], replay=False)
        refused = not await _send_again(api, event, echoes)
        found, because = await _judge(api, clock, event.reference, echoes, refused=refused)
    finally:
        left_behind = await _delete_all(api, event.reference, [echo.id for echo in echoes])
    return Proof(found, because, left_behind)


async def _send_again(api: SolvimonApi, event: UsageEvent, echoes: list[Echo]) -> bool:
    """Sends the same event once more; False when Solvimon refuses it because its reference exists."""
    try:
        echoes += await api.ingest([event], replay=False)
    except AlreadyExists:
        return False
    return True


async def _judge(
    api: SolvimonApi, clock: Clock, reference: str, echoes: Sequence[Echo], *, refused: bool
) -> tuple[Found, str]:
    ids = {echo.id for echo in echoes}
    counting: list[MeterData] = []
    for pause in _PAUSES:
        await clock.sleep(pause)
        copies = await _copies(api, reference, ids)
        counting = [copy for copy in copies if not copy.is_duplicate]
        if len(counting) < len(copies):
            return "proved", "The second of two equal events was marked DUPLICATE."
        if len(counting) == 1 and refused:
            return "proved", "The second of two equal events was refused: its reference exists."
        # A list that lags behind shows one event as well; only the same id twice says that there is one.
        if len(counting) == 1 and len(echoes) > 1 and len(ids) == 1:
            return "proved", "The second of two equal events was answered with the first one."
        if len(counting) > 1 and all(copy.processed_details is not None for copy in counting):
            return "off", "Two equal events under one reference both count."
    if len(counting) > 1:
        return "off", f"Two equal events are stored, and none was marked DUPLICATE within {sum(_PAUSES):.0f} seconds."
    return "unknown", f"Only {len(counting)} of two equal events was seen, and nothing says what became of the other."


async def _copies(api: SolvimonApi, reference: str, ids: set[str]) -> list[MeterData]:
    """Everything stored under the reference: as listed, and by id where the list does not show it (yet)."""
    copies = {copy.id: copy async for page in api.events(reference=reference) for copy in page}
    for event_id in ids - copies.keys():
        try:
            copies[event_id] = await api.event(event_id)
        except Refused:
            continue
    return list(copies.values())


async def _delete_all(api: SolvimonApi, reference: str, ids: Sequence[str]) -> tuple[str, ...]:
    """Deletes every copy and returns those that still count; never raises, as the finding matters more."""
    try:
        copies = await _copies(api, reference, set(ids))
    except ApiError:
        return tuple(ids)
    left = []
    for copy in copies:
        if copy.deleted:
            continue
        try:
            await api.delete_event_by_id(copy.id)
        except ApiError:
            if not copy.is_duplicate:
                left.append(copy.id)
    return tuple(left)


async def _ensure_customer(api: SolvimonApi) -> None:
    customer = await api.find_customer(PROBE)
    if customer is None:
        name = Organization(legal_name="Probe of metronome-pipeline, never billed")
        customer = await api.create_customer(NewCustomer(reference=PROBE, organization=name))
    if customer.status == "DRAFT":
        customer = await api.activate_customer(PROBE)
    _require_active("customer", customer.status)


async def _ensure_meter(api: SolvimonApi) -> None:
    value = await api.find_meter_value(PROBE)
    if value is None:
        value = await api.create_meter_value(NewMeterValue(reference=PROBE, name=PROBE))
    if value.status == "DRAFT":
        value = await api.update_meter_value(PROBE, NameChange(status="ACTIVE"))
    _require_active("meter value", value.status)
    meter = await api.find_meter(PROBE)
    if meter is None:
        link = NewMeterLink(id=value.id, required=True)
        meter = await api.create_meter(NewMeter(reference=PROBE, name=PROBE, meter_values=(link,), meter_properties=()))
    if meter.status == "DRAFT":
        meter = await api.update_meter(PROBE, MeterChange(status="ACTIVE"))
    _require_active("meter", meter.status)


def _require_active(kind: str, status: str | None) -> None:
    if status != "ACTIVE":
        raise ProbeBlocked(
            f"Whether Solvimon ignores repeated references was not tried: its {kind} {PROBE} is {status}. Make it "
            "active in Solvimon, or give it another reference, then check again."
        )
