"""What Solvimon counts, as exact decimals, computed from the stored events and nothing else.

Not here: how events came to be stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal, Inexact
from fractions import Fraction

from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import JsonObject, instant_text

# Wide enough for any sum in here; an inexact one is an error, never a rounded total.
_EXACT = Context(prec=20_000, traps=[Inexact])


@dataclass
class Numbers:
    """The numbers of one row, added up as they come."""

    total: Decimal = Decimal(0)
    greatest: Decimal | None = None
    least: Decimal | None = None
    count: int = 0
    events: int = 0
    distinct: set[str | None] = field(default_factory=set)

    def add(self, number: Decimal) -> None:
        """Take in one number."""
        self.total = _EXACT.add(self.total, number)
        self.greatest = number if self.greatest is None else max(self.greatest, number)
        self.least = number if self.least is None else min(self.least, number)
        self.count += 1


def counted(
    events: Iterable[Event],
    *,
    start: datetime | None,
    end: datetime | None,
    customer_reference: str | None = None,
    meter_reference: str | None = None,
) -> Iterable[Event]:
    """The events that count (not deleted, no duplicate) in ``[start, end)``, of a customer and meter where named."""
    for event in events:
        if (
            event.counts
            and (start is None or event.instant >= start)
            and (end is None or event.instant < end)
            and customer_reference in (None, event.customer_reference)
            and meter_reference in (None, event.meter_reference)
        ):
            yield event


def truth(events: Iterable[Event]) -> list[JsonObject]:
    """One row per customer, meter, timestamp, properties and meter value: sum, maximum, number of events."""
    rows: dict[tuple[object, ...], Numbers] = {}
    for event in events:
        properties = tuple(sorted((entry["reference"], entry["value"]) for entry in event.properties))
        for value in event.values or ({"reference": None},):
            key = (event.customer_reference, event.meter_reference, event.instant, properties, value["reference"])
            numbers = rows.setdefault(key, Numbers())
            numbers.events += 1
            number = _number(value)
            if number is not None:
                numbers.add(number)
    return [_row(key, numbers) for key, numbers in rows.items()]


def _row(key: tuple[object, ...], numbers: Numbers) -> JsonObject:
    customer, meter, instant, properties, value = key
    assert isinstance(instant, datetime)
    assert isinstance(properties, tuple)
    return {
        "customer_reference": customer,
        "meter_reference": meter,
        "meter_value_reference": value,
        "timestamp": instant_text(instant),
        "properties": dict(properties),
        "sum": plain(numbers.total),
        "max": None if numbers.greatest is None else plain(numbers.greatest),
        "events": numbers.events,
    }


def totals(store: Store, events: Iterable[Event]) -> list[JsonObject]:
    """One row per customer, meter and calculation of that meter, with the value that the calculation gives.

    A meter without calculation has one row with neither calculation nor value: its usage is stored, and nothing bills
    it.
    """
    by_meter: dict[str, list[JsonObject]] = {}
    for calculation in store.collection("meter-value-calculations"):
        by_meter.setdefault(calculation["meter_id"], []).append(calculation)
    rows: dict[tuple[str | None, str, str], tuple[JsonObject, Numbers]] = {}
    for event in events:
        for calculation in by_meter.get(event.meter_id, [{}]):
            key = (event.customer_reference, event.meter_reference, calculation.get("id", ""))
            _take(rows.setdefault(key, (calculation, Numbers()))[1], event, calculation)
    return [
        {
            "customer_reference": customer,
            "meter_reference": meter,
            "calculation_reference": calculation.get("reference"),
            "calculation_type": calculation.get("calculation_type"),
            "value": _value(calculation, numbers),
            "events": numbers.events,
        }
        for (customer, meter, _), (calculation, numbers) in rows.items()
    ]


def _take(numbers: Numbers, event: Event, calculation: JsonObject) -> None:
    numbers.events += 1
    for value in event.values:
        number = _number(value)
        if number is not None and value["id"] == calculation.get("meter_value_id"):
            numbers.add(number)
    for entry in event.properties:
        if entry["id"] == calculation.get("meter_property_id"):
            numbers.distinct.add(entry["value"])


def _number(value: JsonObject) -> Decimal | None:
    text = value.get("number") or (value.get("amount") or {}).get("quantity")
    return None if text is None else Decimal(text)


def _value(calculation: JsonObject, numbers: Numbers) -> str | None:
    match calculation.get("calculation_type"):
        case "SUM":
            return plain(numbers.total)
        case "MAX" if numbers.greatest is not None:
            return plain(numbers.greatest)
        case "MIN" if numbers.least is not None:
            return plain(numbers.least)
        case "AVERAGE" if numbers.count:
            # A fraction such as 10/3 has no exact decimal.
            return str(Fraction(numbers.total) / numbers.count)
        case "UNIQUE":
            return str(len(numbers.distinct))
        case _:
            return None


def plain(number: Decimal) -> str:
    """Plain decimal text without exponent and trailing zeros; zero is ``0``, never ``-0``."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if number == 0 else text
