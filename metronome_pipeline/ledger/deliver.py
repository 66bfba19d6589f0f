"""Deliver: send what is planned, a claim at a time, and write down every answer.

Here: batches in flight, the search for a bad event in a refused batch, and the order claim → send → settle. Not here:
the statements (``claims.py``), events that may have arrived (``doubts.py``), and what is planned (``plan.py``).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from metronome_pipeline.clock import Clock
from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import AlreadyExists, ApiError, Refused, Unanswered, Unavailable
from metronome_pipeline.ledger import claims
from metronome_pipeline.ledger.claims import DELIVERY_LOCK, Claim, LedgerEvent, Parking, Receipt
from metronome_pipeline.ledger.doubts import Doubts, sent
from metronome_pipeline.mapping.usage import usage_event
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import Echo
from metronome_pipeline.solvimon.refusals import batch_limit, refusal_subject, refused_index
from metronome_pipeline.solvimon.requests import UsageEvent
from metronome_pipeline.storage.database import Database

_CLAIM = 10_000
_SAFE_AGE = timedelta(hours=24)
_DOUBT_ROUNDS = 5


@dataclass(frozen=True)
class DeliveryReport:
    """What a delivery did, in events. ``restated``: taken at the destination with another number than ours."""

    delivered: int = 0
    quarantined: int = 0
    restated: int = 0
    deleted: int = 0

    def __add__(self, other: "DeliveryReport") -> "DeliveryReport":
        """Both together."""
        return DeliveryReport(
            self.delivered + other.delivered,
            self.quarantined + other.quarantined,
            self.restated + other.restated,
            self.deleted + other.deleted,
        )


@dataclass(frozen=True)
class Delivery:
    """Delivers the planned events of one account pair.

    ``deduplicated``: the destination was proved to ignore a second event under one reference, so a request without an
    answer may simply be sent again. Otherwise each such event is looked up first. ``restored_at``: the ledger was
    restored from a backup then, so events of earlier hours may have been sent and forgotten, and are looked up too.
    ``parkings``: what was refused as a whole since this delivery was made, so that a run of many steps asks once.
    """

    api: SolvimonApi
    database: Database
    clock: Clock
    pair_id: int
    run_id: str
    deduplicated: bool
    batch_limit: int = 50
    in_flight: int = 8
    request_timeout: timedelta = timedelta(seconds=60)
    restored_at: datetime | None = None
    parkings: list[Parking] = field(default_factory=list)

    async def deliver(self, *, progress: Callable[[DeliveryReport], None] = lambda _: None) -> DeliveryReport:
        """Sends everything that waits for this pair, whichever run planned it, and returns what became of it.

        One delivery a pair at a time; others wait for the lock between two claims, so that none starves. Where nothing
        waits, nobody's end need be waited for: the lock, which takes a connection, is not asked for.
        """
        report = DeliveryReport()
        while await self.database.run(lambda connection: claims.anything_waits(connection, self.pair_id)):
            async with self.database.lock(DELIVERY_LOCK, self.pair_id):
                claim = await self._claim()
                if claim is None:
                    break
                report += await self._send(claim)
            progress(report)
        return report

    async def _claim(self) -> Claim | None:
        left_behind = await self.database.run(lambda c: claims.claim_left_behind(c, self.pair_id, self.run_id))
        if left_behind is not None:
            return left_behind
        return await self.database.run(lambda c: claims.claim_next(c, self.pair_id, self.run_id, _CLAIM))

    async def _send(self, claim: Claim) -> DeliveryReport:
        sending = _Sending(self, claim)
        try:
            await sending.run()
        except ApiError:
            await self._settle(sending)
            raise
        return await self._settle(sending)

    async def _settle(self, sending: "_Sending") -> DeliveryReport:
        quarantined = await self.database.run(
            lambda connection: claims.settle(
                connection,
                sending.claim,
                sending.receipts,
                self.parkings,
                sending.in_doubt,
                pair_id=self.pair_id,
                run_id=self.run_id,
            )
        )
        outcomes = [receipt.outcome for receipt in sending.receipts]
        return DeliveryReport(
            delivered=outcomes.count("delivered"),
            quarantined=quarantined,
            restated=outcomes.count("restated"),
            deleted=outcomes.count("deleted"),
        )


@dataclass
class _Sending:
    """One claim on its way: what is known of its events so far."""

    delivery: Delivery
    claim: Claim
    receipts: list[Receipt] = field(default_factory=list)
    doubtful: dict[int, LedgerEvent] = field(default_factory=dict)
    limit: int = 0

    @property
    def in_doubt(self) -> list[LedgerEvent]:
        return list(self.doubtful.values())

    @property
    def doubts(self) -> Doubts:
        return Doubts(self.delivery.api, self.delivery.clock, self.delivery.request_timeout)

    async def run(self) -> None:
        self.limit = self.delivery.batch_limit
        events = await self._events_to_send()
        waiting = [event for event in events if event.kind != "deletion"]
        for _ in range(_DOUBT_ROUNDS):
            unanswered = await self._send_batches(waiting)
            if not unanswered:
                break
            waiting = unanswered
            if not self.delivery.deduplicated:
                await self.doubts.wait_out()
                waiting = await self._look_up(unanswered)
        else:
            raise Unavailable(
                f"Solvimon gave no answer to {len(waiting)} events in {_DOUBT_ROUNDS} attempts. They are looked up "
                "and sent by the next run.",
                system="Solvimon",
                endpoint="POST events",
                may_have_arrived=True,
            )
        # Last, for each is read back until it shows: nothing else need wait for that.
        for deletion in [event for event in events if event.kind == "deletion"]:
            await self._delete(deletion)

    async def _events_to_send(self) -> list[LedgerEvent]:
        """The claim's events without those that have arrived, which are settled."""
        events, restored_at = list(self.claim.events), self.delivery.restored_at
        if self.claim.attempted_ago is not None:
            # Written down before anything that can fail: none of these may be forgotten as "never sent".
            self.doubtful = {event.event_id: event for event in events}
            if not self.delivery.deduplicated or self.claim.attempted_ago >= _SAFE_AGE:
                await self.doubts.wait_out()
                return await self._look_up(events)
        if restored_at is not None and (old := [event for event in events if event.start < restored_at]):
            self.doubtful |= {event.event_id: event for event in old}
            return [*await self._look_up(old), *(event for event in events if event.start >= restored_at)]
        return events

    async def _look_up(self, events: Sequence[LedgerEvent]) -> list[LedgerEvent]:
        """Settles those that have arrived, and returns those that have not."""
        missing = []
        for event in events:
            if event.kind == "deletion":
                missing.append(event)
                continue
            receipt = await self.doubts.look_up(event)
            if receipt is None:
                missing.append(event)
            else:
                self._note(event, receipt)
        return missing

    async def _delete(self, deletion: LedgerEvent) -> None:
        assert deletion.deletes is not None
        self.doubtful[deletion.event_id] = deletion
        receipt = await self.doubts.delete(deletion)
        self._note(deletion, receipt)
        if receipt.outcome == "delivered":
            self.receipts.append(Receipt(deletion.deletes, "deleted", restated=True, counted=None))

    async def _send_batches(self, events: Sequence[LedgerEvent]) -> list[LedgerEvent]:
        """Sends all events in batches and returns those whose requests got no answer."""
        unanswered: list[LedgerEvent] = []
        waiting = await self._without_parked(events)
        while waiting:
            queue = deque(_batches(waiting, self.limit))
            for batch, error in await self._send_until_refused(queue, unanswered):
                unanswered += await self._isolate(batch, error)
            waiting = await self._without_parked([event for batch in queue for event in batch])
        return unanswered

    async def _send_until_refused(
        self, queue: deque[list[LedgerEvent]], unanswered: list[LedgerEvent]
    ) -> list[tuple[list[LedgerEvent], Refused]]:
        """Sends batches off the queue, several at once, and stops taking more when one is refused.

        What is wrong is found out before any more is sent: a whole meter's events would be refused batch by batch.
        """
        refused: list[tuple[list[LedgerEvent], Refused]] = []

        async def work() -> None:
            while queue and not refused:
                batch = queue.popleft()
                try:
                    unanswered.extend(await self._send_batch(batch))
                except Refused as error:
                    refused.append((batch, error))

        await work_together(work, self.delivery.in_flight)
        return refused

    async def _send_batch(self, batch: Sequence[LedgerEvent]) -> list[LedgerEvent]:
        """Sends one batch, notes what the answer says, and returns the events that it leaves in doubt."""
        resent = {event.event_id for event in batch if event.event_id in self.doubtful}
        self.doubtful.update({event.event_id: event for event in batch})
        try:
            echoes = await self.delivery.api.ingest(
                [_usage_event(event) for event in batch], replay=self.delivery.deduplicated
            )
        except Unanswered:
            return list(batch)
        except Refused as error:
            if not error.may_have_arrived:
                for event in batch:
                    if event.event_id not in resent:
                        self.doubtful.pop(event.event_id)
            raise
        try:
            return await self._read_echoes(batch, echoes, resent)
        except Refused as error:
            # A look-up or a deletion was refused, not the batch, which was taken: it must not be split and sent again.
            raise Unavailable(
                f"What became of a batch could not be read back. {error}",
                system="Solvimon",
                endpoint=error.endpoint,
                status=error.status,
                may_have_arrived=True,
            ) from None

    async def _read_echoes(
        self, batch: Sequence[LedgerEvent], echoes: Sequence[Echo], resent: set[int]
    ) -> list[LedgerEvent]:
        echoed = {echo.reference: echo for echo in echoes}
        in_doubt = []
        for event in batch:
            echo = echoed.get(event.reference)
            if echo is None:
                in_doubt.append(event)
            elif echo.is_duplicate:
                self._note(event, await self.doubts.judge_duplicate(event, echo))
            elif event.event_id in resent and not self.delivery.deduplicated:
                self._note(event, await self.doubts.keep_one_copy(event, echo))
            else:
                self._note(event, sent(event, echo))
        return in_doubt

    async def _isolate(self, batch: list[LedgerEvent], error: Refused) -> list[LedgerEvent]:
        """Splits a refused batch until the bad event stands alone in quarantine and the others have gone through."""
        self.limit = min(self.limit, batch_limit(error) or self.limit)
        unanswered: list[LedgerEvent] = []
        pieces: list[tuple[list[LedgerEvent], Refused]] = [(batch, error)]
        while pieces:
            piece, why = pieces.pop()
            remaining = await self._without_parked(piece)
            if len(remaining) == 1 and len(piece) == 1:
                await self._end_refused(piece[0], why)
                continue
            for part in [remaining] if len(remaining) < len(piece) else _split(piece, why, self.limit):
                still = await self._without_parked(part)
                if not still:
                    continue
                try:
                    unanswered += await self._send_batch(still)
                except Refused as refused:
                    if len(still) == 1:
                        await self._end_refused(still[0], refused)
                    else:
                        pieces.append((still, refused))
        return unanswered

    async def _end_refused(self, event: LedgerEvent, error: Refused) -> None:
        """Quarantine, but for an event that may stand in Solvimon already: that one is judged by what stands there."""
        if isinstance(error, AlreadyExists) or event.event_id in self.doubtful:
            receipt = await self.doubts.look_up(event)
            if receipt is not None:
                self._note(event, receipt)
                return
        self._note(event, _quarantined(event, error))
        subject = refusal_subject(error)
        if subject != "event":
            self.delivery.parkings.append(Parking(subject, event, error.code, error.field, error.message))

    async def _without_parked(self, events: Sequence[LedgerEvent]) -> list[LedgerEvent]:
        """The events that no parking concerns.

        Of the others, those in doubt are settled here by what stands in Solvimon.
        """
        kept = []
        for event in events:
            parking = next((parking for parking in self.delivery.parkings if parking.concerns(event)), None)
            if parking is None:
                kept.append(event)
            elif event.event_id in self.doubtful:
                refused = Receipt(
                    event.event_id, "quarantined", code=parking.code, field=parking.field, message=parking.message
                )
                self._note(event, await self.doubts.look_up(event) or refused)
        return kept

    def _note(self, event: LedgerEvent, receipt: Receipt) -> None:
        self.receipts.append(receipt)
        self.doubtful.pop(event.event_id, None)


def _usage_event(event: LedgerEvent) -> UsageEvent:
    assert event.number is not None
    return usage_event(
        reference=event.reference,
        customer_id=event.customer_id,
        metric_id=event.metric_id,
        start=event.start,
        number=event.number,
        properties=event.properties,
    )


def _batches(events: Sequence[LedgerEvent], limit: int) -> list[list[LedgerEvent]]:
    return [list(events[first : first + limit]) for first in range(0, len(events), limit)]


def _split(batch: list[LedgerEvent], error: Refused, limit: int) -> list[list[LedgerEvent]]:
    """The parts to send next: the event that the error points at and the others, or halves."""
    if (most := batch_limit(error)) is not None and most < len(batch):
        return _batches(batch, most)
    index = refused_index(error)
    if index is not None and index < len(batch):
        return [[batch[index]], batch[:index] + batch[index + 1 :]]
    middle = len(batch) // 2
    return [batch[:middle], batch[middle:]]


def _quarantined(event: LedgerEvent, error: ApiError) -> Receipt:
    return Receipt(event.event_id, "quarantined", code=error.code, field=error.field, message=error.message)
