"""Prices of a plan: Solvimon's own calculation of what the events that a run would send cost.

Here: differences by billing period, the proof that calculating stores nothing, and what was calculated or could not be.
Not here: the rehearsal that finds the events (``rehearsal.py``), the terminal.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from metronome_pipeline.clock import Clock
from metronome_pipeline.concurrency import work_together
from metronome_pipeline.errors import PipelineError, Refused
from metronome_pipeline.ledger.proposals import Proposal
from metronome_pipeline.mapping.periods import period_of
from metronome_pipeline.mapping.usage import Calculation, exact_sum, usage_event
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.money import Amount
from metronome_pipeline.solvimon.records import MeterData
from metronome_pipeline.wire import exact_number

# An event that was stored after all may show only some time after the answer.
_PAUSES = (0.0, 0.5, 1.0, 2.0)


class CalculatingStores(PipelineError):
    """Solvimon kept an event that was only to be calculated."""


@dataclass(frozen=True)
class Difference:
    """What would be added to one billing period of a customer, metric and group.

    Attributes:
        customer_id: Metronome's id.
        metric_id: Metronome's id.
        properties: The group as canonical JSON; None without.
        at: The latest hour that changes: it lies in the period.
        number: The sum of the events; of a MAX meter the highest.
        deletions: Events that would be deleted: no calculation can tell what that costs.
    """

    customer_id: str
    metric_id: str
    properties: str | None
    at: datetime
    number: Decimal | None
    deletions: int = 0


@dataclass(frozen=True)
class Priced:
    """A difference and what it costs, without tax, by currency."""

    difference: Difference
    amounts: Mapping[str, Decimal]


@dataclass(frozen=True)
class Unpriced:
    """A difference that has no price, and why."""

    difference: Difference
    reason: str


@dataclass(frozen=True)
class Prices:
    """What was calculated, and what could not be."""

    priced: Sequence[Priced]
    unpriced: Sequence[Unpriced]

    @property
    def totals(self) -> dict[tuple[str, str], Decimal]:
        """Amounts without tax by customer and currency."""
        totals: dict[tuple[str, str], Decimal] = {}
        for each in self.priced:
            for currency, amount in each.amounts.items():
                key = (each.difference.customer_id, currency)
                totals[key] = exact_sum([totals.get(key, Decimal(0)), amount])
        return totals


@dataclass
class Differences:
    """Adds events up by customer, metric, group and billing period, as they come.

    A tier of a price then counts the whole difference, and one request prices it, however many events it has.
    """

    anchor_day: int
    calculations: Mapping[str, Calculation]
    _found: dict[tuple[str, str, str | None, datetime], Difference] = field(default_factory=dict)

    def add(self, proposal: Proposal) -> None:
        """Takes one event that would be sent."""
        period = period_of(proposal.start, self.anchor_day)
        key = (proposal.customer_id, proposal.metric_id, proposal.properties, period.start)
        known = self._found.get(key) or Difference(*key[:3], proposal.start, None)
        numbers = [number for number in (known.number, proposal.number) if number is not None]
        highest = self.calculations.get(proposal.metric_id) == "MAX"
        self._found[key] = replace(
            known,
            at=max(known.at, proposal.start),
            number=(max(numbers) if highest else exact_sum(numbers)) if numbers else None,
            deletions=known.deletions + (proposal.kind == "deletion"),
        )

    @property
    def all(self) -> list[Difference]:
        """Every difference that is none of zero."""
        return [each for each in self._found.values() if each.number or each.deletions or self._is_maximum(each)]

    def _is_maximum(self, difference: Difference) -> bool:
        return self.calculations.get(difference.metric_id) == "MAX"


async def price(api: SolvimonApi, clock: Clock, differences: Sequence[Difference], *, workers: int) -> Prices:
    """Prices every difference, once the first that Solvimon answers has proved that nothing is stored.

    Raises:
        CalculatingStores: It is. Nothing more was asked.
    """
    priced: list[Priced] = []
    unpriced: list[Unpriced] = []
    waiting = iter(differences)

    async def take(difference: Difference) -> None:
        outcome = await _price(api, difference)
        if isinstance(outcome, Priced):
            priced.append(outcome)
        else:
            unpriced.append(outcome)

    for difference in waiting:
        if difference.deletions or difference.number is None:
            await take(difference)
        elif (refusal := await _prove_that_nothing_is_stored(api, clock, difference)) is not None:
            unpriced.append(Unpriced(difference, refusal))
        else:
            await take(difference)
            break

    async def work() -> None:
        for each in waiting:
            await take(each)

    await work_together(work, workers)
    return Prices(priced, unpriced)


async def _prove_that_nothing_is_stored(api: SolvimonApi, clock: Clock, like: Difference) -> str | None:
    """Calculates an event of quantity 0 and looks for it. Returns why Solvimon refused it; None once it is proved.

    That nothing is stored is documented nowhere. Were it stored, the 0 would change no bill.
    """
    reference = _new_reference()
    if await _stored(api, reference):
        raise CalculatingStores(f"Solvimon already has an event {reference}, which nobody has sent: nothing is proved.")
    try:
        answer = await _calculate(api, like, reference, Decimal(0))
    except Refused as error:
        return str(error)
    for pause in _PAUSES:
        await clock.sleep(pause)
        if await _stored(api, reference) or await _is_there(api, answer.id):
            raise CalculatingStores(
                f"Solvimon stored the event {reference} ({answer.id}, quantity 0), which was only to be calculated: "
                "prices cannot be asked for without changing bills. Delete the event in Solvimon."
            )
    return None


async def _stored(api: SolvimonApi, reference: str) -> bool:
    return any([page async for page in api.events(reference=reference)])


async def _is_there(api: SolvimonApi, event_id: str) -> bool:
    try:
        await api.event(event_id)
    except Refused:
        return False
    return True


async def _price(api: SolvimonApi, difference: Difference) -> Priced | Unpriced:
    if difference.deletions:
        return Unpriced(difference, f"{difference.deletions} events of a maximum would be deleted.")
    try:
        answer = await _calculate(api, difference, _new_reference(), difference.number or Decimal(0))
    except Refused as error:
        return Unpriced(difference, str(error))
    cost = answer.cost_prediction
    if cost is None or cost.response != "OK":
        said = cost.response if cost else "no cost"
        return Unpriced(difference, f"Solvimon answered {said}: most likely no subscription prices it.")
    amounts = [detail.amount_excluding_tax for detail in cost.details or ()]
    by_currency: dict[str, Decimal] = {}
    for amount in amounts:
        currency, quantity = _read(amount)
        if currency is None or quantity is None:
            return Unpriced(difference, "Solvimon's answer holds no amount without tax.")
        by_currency[currency] = exact_sum([by_currency.get(currency, Decimal(0)), quantity])
    if not by_currency:
        return Unpriced(difference, "Solvimon's answer holds no amount.")
    return Priced(difference, by_currency)


def _read(amount: Amount | None) -> tuple[str | None, Decimal | None]:
    if amount is None or amount.quantity is None:
        return None, None
    try:
        return amount.currency, exact_number(amount.quantity.encode())
    except ValueError:
        return None, None


async def _calculate(api: SolvimonApi, difference: Difference, reference: str, number: Decimal) -> MeterData:
    event = usage_event(
        reference=reference,
        customer_id=difference.customer_id,
        metric_id=difference.metric_id,
        start=difference.at,
        number=number,
        properties=difference.properties,
    )
    return await api.calculate(event, cost_prediction=True)


def _new_reference() -> str:
    """One that no event will ever have: were it stored, none of ours would be a duplicate of it."""
    return f"metronome_pipeline_price_{secrets.token_hex(16)}"
