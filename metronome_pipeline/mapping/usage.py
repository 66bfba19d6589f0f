"""Usage → events: which metrics can be billed exactly, through which slicing, and what an event of theirs looks like.

Pure functions from Metronome records to Solvimon records. Not here: which events are due (``ledger/plan.py``).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import reduce
from typing import Literal

from metronome_pipeline.mapping.meters import property_reference, value_reference
from metronome_pipeline.solvimon.requests import UsageEvent

Calculation = Literal["SUM", "MAX"]
UNGROUPED = "ungrouped"
PERIOD_TO_DATE = "period_to_date"
"""The slicing of a metric that does not add up: the increase of its billing period's value, day by day."""
EXACT_CALCULATIONS: Mapping[str, Calculation] = {"COUNT": "SUM", "SUM": "SUM", "MAX": "MAX"}

# Python rounds to 28 digits by default. This context raises before it would round.
_EXACT = Context(prec=2_000, traps=[Inexact, InvalidOperation])


@dataclass(frozen=True)
class BilledMetric:
    """A metric whose usage is sent: its meter value calculation and the one slicing that it is billed through.

    ``slicing`` is ``ungrouped``, ``period_to_date``, or the group key as a JSON list such as ``["region","team"]``.
    """

    metric_id: str
    name: str
    calculation: Calculation
    slicing: str

    @property
    def group_key(self) -> tuple[str, ...]:
        """The properties of its usage, in the metric's own order; empty when ungrouped."""
        return () if self.slicing in (UNGROUPED, PERIOD_TO_DATE) else tuple(json.loads(self.slicing))


def slicing_of(group_key: Sequence[str]) -> str:
    """The name of a slicing: ``ungrouped`` without a group key, else the key as a compact JSON list."""
    return json.dumps(list(group_key), ensure_ascii=False, separators=(",", ":")) if group_key else UNGROUPED


def calculation_of(aggregation_type: str | None, chosen: Calculation | None) -> Calculation | None:
    """The exact calculation over hourly values, or None where hours do not add up and no setting chose one.

    COUNT and SUM add up over hours, and the highest hour is the MAX of a period. LATEST, UNIQUE and SQL metrics have no
    exact calculation over their hourly values (Solvimon API notes, section 4).
    """
    return EXACT_CALCULATIONS.get(aggregation_type or "", chosen)


def exact_sum(numbers: Iterable[Decimal]) -> Decimal:
    """The sum to the last digit, however long."""
    return reduce(_EXACT.add, numbers, Decimal(0))


def canonical_properties(group: Mapping[str, str | None]) -> str:
    """The one spelling of a group: JSON with sorted keys. Null, absent and empty values differ."""
    return json.dumps(dict(group), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def slice_of(properties: str) -> str:
    """The name of a group among the slots of its hour: ``g`` and 128 bits of the hash of its canonical properties."""
    return "g" + hashlib.sha256(properties.encode()).hexdigest()[:32]


def usage_event(
    *,
    reference: str,
    customer_id: str,
    metric_id: str,
    start: datetime,
    number: Decimal,
    properties: str | None,
) -> UsageEvent:
    """The Solvimon event of one slot.

    ``timestamp`` is the hour's start: its end would fall into the next billing period. ``number`` is sent as plain
    decimal text. A null group value is sent as no property, since a property's value is always text.
    """
    group: Mapping[str, str | None] = json.loads(properties) if properties else {}
    return UsageEvent(
        reference=reference,
        customer_reference=customer_id,
        meter_reference=metric_id,
        timestamp=start,
        value_reference=value_reference(metric_id),
        number=number,
        properties=tuple((property_reference(key), value) for key, value in group.items() if value is not None),
    )
