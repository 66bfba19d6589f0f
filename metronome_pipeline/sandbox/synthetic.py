"""Made-up usage of any size: a pure function of seed, customer, metric, hour and group, so that nothing is stored.

Here: the function, and the customers, metrics and products it is for. Not here: reading it through the API.
"""

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

GROUP_KEY = "segment"
"""The property that synthetic usage is grouped by."""

KINDS = ("SUM", "COUNT", "MAX")
"""The aggregations of the metrics, in turn."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:sandbox:synthetic")


@dataclass(frozen=True)
class Synthetic:
    """A synthetic account.

    Attributes:
        customers: How many customers.
        metrics: How many billable metrics: SUM, COUNT, MAX in turn.
        hours: How many hours of usage, from ``start`` on.
        groups: How many values the group key has; 0 means that the metrics have none.
        seed: Another seed is another account.
        start: The first hour; a full hour in UTC.

    Raises:
        ValueError: Naming the size that is negative, or a start that is no full hour in UTC.
    """

    customers: int = 10
    metrics: int = 3
    hours: int = 24 * 31
    groups: int = 0
    seed: int = 1
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    _customer_at: dict[str, int] = field(init=False, repr=False, compare=False)
    _metric_at: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("customers", "metrics", "hours", "groups"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be a whole number from 0, not {getattr(self, name)}.")
        if self.start.utcoffset() != timedelta(0) or self.start.timestamp() % 3600:
            raise ValueError(f"start must be a full hour in UTC, not {self.start}.")
        object.__setattr__(self, "_customer_at", {self.customer_id(at): at for at in range(self.customers)})
        object.__setattr__(self, "_metric_at", {self.metric_id(at): at for at in range(self.metrics)})

    def customer_id(self, at: int) -> str:
        """The UUID of a customer by position."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.seed}:customer:{at}"))

    def metric_id(self, at: int) -> str:
        """The UUID of a metric by position."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.seed}:metric:{at}"))

    def kind_of(self, metric_id: str) -> str:
        """The aggregation of one of the account's metrics."""
        return KINDS[self._metric_at[metric_id] % len(KINDS)]

    def window_hours(self) -> range:
        """The hours with usage, counted from 1970 in UTC."""
        first = int(self.start.timestamp()) // 3600
        return range(first, first + self.hours)

    def values(self, customer_id: str, metric_id: str, hour: int) -> Iterator[tuple[str | None, Decimal]]:
        """The value of each group that has usage in an hour; the group is ``None`` when there are no groups.

        About one value in eight is missing. SUM has up to three decimals and may exceed a million; COUNT and MAX are
        whole.
        """
        customer, metric = self._customer_at.get(customer_id), self._metric_at.get(metric_id)
        if customer is None or metric is None or hour not in self.window_hours():
            return
        kind = KINDS[metric % len(KINDS)]
        for group in range(max(1, self.groups)):
            drawn = self._draw(customer, metric, hour, group)
            if drawn % 8:
                value = Decimal((drawn >> 8) % 10**10).scaleb(-3) if kind == "SUM" else Decimal((drawn >> 8) % 5000 + 1)
                yield (f"segment-{group:05d}" if self.groups else None), value

    def _draw(self, *what: int) -> int:
        text = ":".join(map(str, (self.seed, *what)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def customer_fields(self) -> list[dict[str, Any]]:
        """The customers as the API spells them."""
        since = self.start - timedelta(days=365)
        return [
            {
                "id": self.customer_id(at),
                "ingest_aliases": [f"synthetic-{at:06d}"],
                "name": f"Synthetic customer {at + 1}",
                "customer_config": {"salesforce_account_id": None},
                "custom_fields": {},
                "created_at": since,
                "updated_at": since,
                "archived_at": None,
            }
            for at in range(self.customers)
        ]

    def metric_fields(self) -> list[dict[str, Any]]:
        """The billable metrics as the API spells them; raw events of type ``synthetic`` add to them."""
        return [
            {
                "id": self.metric_id(at),
                "name": f"Synthetic {KINDS[at % len(KINDS)].lower()} {at + 1}",
                "aggregation_type": KINDS[at % len(KINDS)],
                **({} if KINDS[at % len(KINDS)] == "COUNT" else {"aggregation_key": "amount"}),
                "event_type_filter": {"in_values": ["synthetic"]},
                "property_filters": [
                    {"name": name, "exists": True} for name in ("amount", *([GROUP_KEY] if self.groups else []))
                ],
                "group_keys": [[GROUP_KEY]] if self.groups else [],
                "custom_fields": {},
            }
            for at in range(self.metrics)
        ]

    def product_fields(self) -> list[dict[str, Any]]:
        """A USAGE product for each metric."""
        stamp: Mapping[str, object] = {"created_at": self.start - timedelta(days=365), "created_by": "sandbox"}
        return [
            {
                "id": str(uuid.uuid5(_NAMESPACE, f"{self.seed}:product:{at}")),
                "type": "USAGE",
                "initial": {"name": f"Synthetic product {at + 1}", "billable_metric_id": self.metric_id(at), **stamp},
                "updates": [],
                "archived_at": None,
                "custom_fields": {},
            }
            for at in range(self.metrics)
        ]
