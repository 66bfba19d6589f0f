"""Workloads: who used how much in which hour. Every number follows from its place, so nothing needs to be stored."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
_NAMES = uuid.UUID("8a3f0f0e-6f0d-4a57-9a55-3c1b2f9a6d10")


@dataclass(frozen=True)
class Workload:
    """So many customers, metrics and hours; every (customer, metric, hour) is one row, or ``groups`` rows."""

    name: str
    customers: int
    metrics: int
    hours: int
    groups: int = 0

    @property
    def pairs(self) -> int:
        """Customers times metrics."""
        return self.customers * self.metrics

    @property
    def rows(self) -> int:
        """Usage records that must arrive."""
        return self.pairs * self.hours * max(self.groups, 1)

    @property
    def end(self) -> datetime:
        """Where its hours end."""
        return START + self.hours * HOUR

    def customer_ids(self) -> list[str]:
        """Ids, in order."""
        return [str(uuid.uuid5(_NAMES, f"customer {number}")) for number in range(self.customers)]

    def metric_ids(self) -> list[str]:
        """Ids, in order."""
        return [str(uuid.uuid5(_NAMES, f"metric {number}")) for number in range(self.metrics)]

    def totals(self) -> Mapping[tuple[str, str], Decimal]:
        """What each pair must add up to at the destination, exactly."""
        return {
            (customer, metric): sum((value(c, m, hour) for hour in range(self.hours)), Decimal(0))
            for c, customer in enumerate(self.customer_ids())
            for m, metric in enumerate(self.metric_ids())
        }

    def hour_starts(self) -> Iterator[datetime]:
        """The hours, by their starts."""
        return (START + number * HOUR for number in range(self.hours))


def value(customer: int, metric: int, hour: int) -> Decimal:
    """The usage of one hour: positive, with three decimals, so that a float would show."""
    return Decimal(1 + (customer * 7919 + metric * 104_729 + hour * 1_299_709) % 1_000_003).scaleb(-3)


def share(of: Decimal, groups: int, group: int) -> Decimal:
    """The part of one group; the last takes what is left."""
    each = (of / groups).quantize(Decimal("0.000001"))
    return of - each * (groups - 1) if group == groups - 1 else each


S = Workload("S", 50, 4, 720)
M = Workload("M", 200, 5, 720)
L = Workload("L", 2_000, 10, 24)
G8 = Workload("G8", 50, 4, 168, groups=8)
G250 = Workload("G250", 50, 4, 168, groups=250)
WORKLOADS = {workload.name: workload for workload in (S, M, L, G8, G250)}
