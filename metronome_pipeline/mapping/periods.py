"""Billing periods, and the values of a period at its midnights as increases from day to day.

Pure functions over instants and decimals. Not here: reading the values (``ledger/periods.py``), and which metrics are
billed by them (``workflows/due.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from metronome_pipeline.mapping.usage import exact_sum

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Period:
    """A billing period ``[start, end)``: both are midnights UTC on the anchor day of neighbouring months."""

    start: datetime
    end: datetime


def period_of(moment: datetime, anchor_day: int) -> Period:
    """The billing period in which an instant lies; the same as ``ledger.period_end`` says in the database.

    ``anchor_day`` is 1 to 28, so every month has it.
    """
    before_anchor = (anchor_day - 1) * DAY
    month = (moment.astimezone(UTC) - before_anchor).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Period(month + before_anchor, (month + 31 * DAY).replace(day=1) + before_anchor)


def periods_within(start: datetime, end: datetime, anchor_day: int) -> Iterator[Period]:
    """The billing periods that overlap ``[start, end)``, oldest first."""
    while start < end:
        period = period_of(start, anchor_day)
        yield period
        start = period.end


def last_midnight(moment: datetime) -> datetime:
    """The midnight UTC at or before an instant."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def first_midnight(moment: datetime) -> datetime:
    """The midnight UTC at or after an instant."""
    midnight = last_midnight(moment)
    return midnight if midnight == moment else midnight + DAY


def midnights(start: datetime, end: datetime) -> list[datetime]:
    """The midnights from ``start`` to ``end``, both among them; none where ``end`` comes first."""
    return [start + number * DAY for number in range((end - start) // DAY + 1)]


def increases(values: Sequence[Decimal | None]) -> list[Decimal | None]:
    """What each value adds to the one before it, so that they sum up to the last minus the first, to the last digit.

    None is no value, and counts as 0; between two of them there is nothing. A value that falls gives a negative one.
    """
    return [_increase(before, after) for before, after in pairwise(values)]


def _increase(before: Decimal | None, after: Decimal | None) -> Decimal | None:
    if before is None and after is None:
        return None
    # Python's own minus sign would round to 28 digits.
    return exact_sum([after or Decimal(0), (before or Decimal(0)).copy_negate()])
