"""Usage that Solvimon stores and does not bill: what was not matched, whose it is, and matching it again.

An event is *not matched* when no subscription of its customer has an item for it, or no condition of a price holds
(Solvimon API notes, section 3.3). Nothing about it changes by itself once that is mended: Solvimon has to be asked to
match it again. Here: the reads and the asking. Not here: words for people (``cli/``). Nothing here writes to the
database.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg

from metronome_pipeline.clock import Clock
from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import Malformed, Refused, Unauthorised
from metronome_pipeline.mapping.usage import exact_sum
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import MeterData, Reprocess
from metronome_pipeline.statements.returned import COUNTED, UNMATCHED, number_of, state_of

Connection = psycopg.Connection[Any]
Say = Callable[[str], None]

NOT_MATCHED = "NOT_MATCHED"
_PAGES_A_LINE = 100
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0


@dataclass(frozen=True)
class KnownMeter:
    """A meter of ours: the metric's name, and whether its usage is billed as a maximum."""

    metric_id: str
    name: str
    maximum: bool


@dataclass(frozen=True)
class Known:
    """What the database knows of references: meters by Solvimon's id and by reference, customers likewise."""

    meters: Mapping[str, KnownMeter]
    customers: Mapping[str, str]
    names: Mapping[str, str]

    @property
    def solvimon_ids(self) -> Mapping[str, str]:
        """Solvimon's ids of customers, by reference."""
        return {reference: solvimon_id for solvimon_id, reference in self.customers.items()}


def known(connection: Connection, pair_id: int) -> Known:
    """Names and references, as they were imported."""
    meters = connection.execute(
        "SELECT t.reference, t.solvimon_id, m.name, t.calculation_type IS NOT DISTINCT FROM 'MAX' "
        "FROM solvimon.meters t JOIN metronome.billable_metrics m "
        "ON m.pair_id = t.pair_id AND m.metric_id::text = t.reference WHERE t.pair_id = %s",
        [pair_id],
    )
    rows = [(KnownMeter(reference, name, maximum), solvimon_id) for reference, solvimon_id, name, maximum in meters]
    customers = connection.execute(
        "SELECT solvimon_id, reference FROM solvimon.customers WHERE pair_id = %s AND solvimon_id IS NOT NULL",
        [pair_id],
    )
    names = connection.execute(
        "SELECT customer_id::text, name FROM metronome.customers WHERE pair_id = %s ORDER BY customer_id", [pair_id]
    )
    by_id = {solvimon_id: meter for meter, solvimon_id in rows if solvimon_id}
    return Known(
        {**by_id, **{meter.metric_id: meter for meter, _ in rows}}, dict(customers.fetchall()), dict(names.fetchall())
    )


@dataclass(frozen=True)
class Range:
    """Events with a timestamp in ``[start, end)``; None is no bound."""

    start: datetime | None = None
    end: datetime | None = None

    def holds(self, moment: datetime | None) -> bool:
        """Whether a timestamp is in it. An event without one is in no range but the one without bounds."""
        if moment is None:
            return self.start is None and self.end is None
        return (self.start is None or moment >= self.start) and (self.end is None or moment < self.end)


@dataclass
class UnmatchedUsage:
    """The unmatched usage of one customer and metric. ``quantity``: their sum, of a maximum the highest."""

    metric_id: str
    metric: str
    maximum: bool
    events: int = 0
    quantity: Decimal | None = None
    unreadable: int = 0
    first: datetime | None = None
    last: datetime | None = None

    def add(self, number: Decimal | None, moment: datetime | None) -> None:
        """Takes in one event."""
        self.events += 1
        if moment is not None:
            self.first = moment if self.first is None else min(self.first, moment)
            self.last = moment if self.last is None else max(self.last, moment)
        if number is None:
            self.unreadable += 1
        elif self.quantity is None:
            self.quantity = number
        else:
            self.quantity = max(self.quantity, number) if self.maximum else exact_sum((self.quantity, number))


@dataclass
class UnmatchedCustomer:
    """A customer with unmatched usage. ``customer_id`` is Metronome's, or Solvimon's reference of somebody else's.

    ``subscribed``: True when Solvimon shows a subscription of the customer (which then does not cover this usage),
    False when it shows none, None when that was not asked.
    """

    customer_id: str
    name: str
    solvimon_id: str
    usage: dict[str, UnmatchedUsage] = field(default_factory=dict)
    subscribed: bool | None = None

    @property
    def events(self) -> int:
        """How many events are not matched."""
        return sum(usage.events for usage in self.usage.values())


@dataclass(frozen=True)
class Unmatched:
    """Every customer with unmatched usage of our meters, by name. ``others``: unmatched events of other meters."""

    customers: Sequence[UnmatchedCustomer]
    others: int

    @property
    def events(self) -> int:
        """How many events are not matched."""
        return sum(customer.events for customer in self.customers)


async def unmatched_usage(
    api: SolvimonApi, known: Known, within: Range, say: Say, *, customers: Sequence[str] | None = None
) -> Unmatched:
    """Reads Solvimon's list of unmatched events. It has no filter by date: all of its pages are read.

    Args:
        api: Solvimon.
        known: Names, and which meters are ours.
        within: Only events of these hours.
        say: Told now and then how far the list is read.
        customers: Only these, by Solvimon's id, each with a list of its own. None: one list of everybody's.

    Raises:
        Malformed: A customer's list holds another's event: the filter was ignored.
    """
    found: dict[str, UnmatchedCustomer] = {}
    read, pages, others = 0, 0, 0
    for customer_id in customers if customers is not None else (None,):
        async for page in api.events(customer_id=customer_id, deleted=False, processed_details_type=NOT_MATCHED):
            if any(customer_id is not None and event.customer_id not in (None, customer_id) for event in page):
                sentence = "Solvimon listed an event of another customer than the one asked for: nothing was done."
                raise Malformed(sentence, system="Solvimon", endpoint="GET /v1/events", field="customer_id")
            read, pages = read + len(page), pages + 1
            others += sum(not _take(event, known, within, found) for event in page)
            if pages % _PAGES_A_LINE == 0:
                say(f"{read:,} unmatched events read, in {pages:,} pages")
    in_order = sorted(found.values(), key=lambda customer: (customer.name, customer.customer_id))
    return Unmatched(in_order, others)


def _take(event: MeterData, known: Known, within: Range, found: dict[str, UnmatchedCustomer]) -> bool:
    """Adds an event to its customer's; whether it is one of a meter of ours. Others than unmatched ones are passed."""
    meter = known.meters.get(event.meter_reference or "") or known.meters.get(event.meter_id or "")
    if meter is None:
        return False
    moment = event.timestamp
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if state_of(event) != UNMATCHED or not within.holds(moment):
        return True
    reference = event.customer_reference or known.customers.get(event.customer_id or "") or event.customer_id or ""
    solvimon_id = event.customer_id or known.solvimon_ids.get(reference, "")
    customer = found.setdefault(
        reference, UnmatchedCustomer(reference, known.names.get(reference, reference), solvimon_id)
    )
    usage = customer.usage.setdefault(meter.metric_id, UnmatchedUsage(meter.metric_id, meter.name, meter.maximum))
    usage.add(number_of(event, meter.metric_id), moment)
    return True


async def note_subscriptions(api: SolvimonApi, customers: Sequence[UnmatchedCustomer], workers: int) -> None:
    """Finds out for each customer whether Solvimon shows a subscription of it: two requests a customer at most.

    There is no list of subscriptions in the APIs at hand. A customer's entitlements name the subscriptions that they
    come from, and an event that was matched was matched to one. The latter is looked for on the first page of the
    customer's events only.
    """
    waiting = iter(customers)

    async def work() -> None:
        for customer in waiting:
            if customer.solvimon_id:
                customer.subscribed = await _subscribed(api, customer.solvimon_id)

    await work_together(work, workers)


async def _subscribed(api: SolvimonApi, solvimon_id: str) -> bool:
    try:
        found = await api.entitlements(solvimon_id)
    except Refused:
        subscriptions = False
    except Unauthorised as error:
        # 403 is about this one read; 401 is about the key.
        if error.status != 403:
            raise
        subscriptions = False
    else:
        subscriptions = bool(found.pricing_plan_subscription_entitlements)
    if subscriptions:
        return True
    page: list[MeterData] = await anext(api.events(customer_id=solvimon_id), [])
    return any(state_of(event) == COUNTED and event.processed_details is not None for event in page)


@dataclass(frozen=True)
class Asked:
    """One customer's reprocess. ``refused``: Solvimon's sentence, where it took none."""

    customer: UnmatchedCustomer
    reprocess: Reprocess | None = None
    refused: str | None = None


async def ask(api: SolvimonApi, customers: Sequence[UnmatchedCustomer], within: Range, workers: int) -> list[Asked]:
    """Asks Solvimon to match the unmatched events of each customer again. No event's value changes by it.

    A refusal of one customer is told and keeps no other from being asked for.
    """
    waiting, asked = iter(customers), list[Asked]()

    async def work() -> None:
        for customer in waiting:
            if not customer.solvimon_id:
                asked.append(Asked(customer, refused="Solvimon's events do not say which customer's they are."))
                continue
            try:
                started = await api.reprocess_not_matched(
                    customer.solvimon_id, start_at=within.start, end_at=within.end
                )
            except Refused as error:
                asked.append(Asked(customer, refused=str(error)))
            else:
                asked.append(Asked(customer, started))

    await work_together(work, workers)
    return sorted(asked, key=lambda one: (one.customer.name, one.customer.customer_id))


async def wait_for(api: SolvimonApi, asked: Sequence[Asked], clock: Clock, longest: float, say: Say) -> list[Asked]:
    """Waits until Solvimon says of each reprocess that it is at 100 per cent, ``longest`` seconds at most.

    The values of ``status`` are not published, so that only ``percentage`` ends the wait; a reprocess that never gets
    there is returned as it was last.
    """
    deadline = clock.monotonic() + longest
    wait = _FIRST_WAIT
    latest = list(asked)
    while True:
        open_ = [one for one in latest if one.reprocess is not None and not finished(one.reprocess)]
        if not open_ or clock.monotonic() >= deadline:
            return latest
        say(f"{len(latest) - len(open_):,} of {len(latest):,} customers are done; looking again in {wait:.0f} s")
        await clock.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
        latest = [await _looked_at(api, one) for one in latest]


async def _looked_at(api: SolvimonApi, one: Asked) -> Asked:
    if one.reprocess is None or finished(one.reprocess):
        return one
    return Asked(one.customer, await api.reprocess(one.reprocess.id))


def finished(reprocess: Reprocess) -> bool:
    """Whether Solvimon says that it is done."""
    return reprocess.percentage is not None and reprocess.percentage >= 100
