"""The metrics of simulated accounts, and the documented name of a group. Not here: events (``account.py``)."""

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MetricDefinition:
    """A metric of the simulated account, and how it is billed: ``slicing`` as the setting says it."""

    metric_id: str
    aggregation: str
    group_keys: tuple[tuple[str, ...], ...] = ()
    slicing: tuple[str, ...] | None = None

    @property
    def is_maximum(self) -> bool:
        """Whether hours of it are maxima."""
        return self.aggregation == "MAX"

    def fields(self) -> dict[str, Any]:
        """As Metronome has it."""
        return {
            "id": self.metric_id,
            "name": f"{self.aggregation} of {self.metric_id[-2:]}",
            "aggregation_type": self.aggregation,
            "event_type_filter": {"in_values": [self.metric_id]},
            **({} if self.aggregation == "COUNT" else {"aggregation_key": "value"}),
            **({"group_keys": [list(key) for key in self.group_keys]} if self.group_keys else {}),
        }


def _metric(number: int, aggregation: str, slicing: tuple[str, ...] | None = None) -> MetricDefinition:
    keys = (("region",), ("region", "team")) if slicing else ()
    metric_id = str(uuid.UUID(int=0x9C9A_4A71_171E_41F9_B8DA_0000_0000_0000 + number))
    return MetricDefinition(metric_id, aggregation, keys, slicing)


METRICS = (
    _metric(1, "SUM"),
    _metric(2, "COUNT"),
    _metric(3, "MAX"),
    _metric(4, "SUM", ("region",)),
    _metric(5, "MAX", ("region",)),
    _metric(6, "SUM", ("region", "team")),
)
LATER_METRICS = (_metric(7, "SUM"), _metric(8, "COUNT"), _metric(9, "MAX"))
"""Metrics that come while runs go on: their meters are made then."""


def slice_name(group: dict[str, str | None]) -> str:
    """The name of a group's slots in references, as it is documented."""
    spelled = json.dumps(group, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return "g" + hashlib.sha256(spelled.encode()).hexdigest()[:32]
