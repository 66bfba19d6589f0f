"""Billable metrics → meters: what stands in Solvimon for a metric, its value, its properties and its calculation.

Pure functions from Metronome records to Solvimon records. Not here: what exists already, and making it
(``workflows/meter_parts.py``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ChosenCalculation = Literal["SUM", "MAX", "PERIOD_TO_DATE"]
"""What a setting may choose for a metric whose hourly values do not add up."""
LONGEST_NAME = 256
LONGEST_REFERENCE = 256
_LINE_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True)
class MeterPlan:
    """The meter that a metric should have. ``properties``: (reference, name) of each distinct group key, in order."""

    reference: str
    name: str
    value_reference: str
    properties: tuple[tuple[str, str], ...]
    calculation: Literal["SUM", "MAX"] | None

    @property
    def calculation_reference(self) -> str:
        """The reference of its meter value calculation."""
        return f"{self.reference}_{(self.calculation or 'none').lower()}"


def meter_plan(
    metric_id: str, name: str, group_keys: Sequence[Sequence[str]], calculation: Literal["SUM", "MAX"] | None
) -> MeterPlan:
    """The meter of a metric: ``reference`` ← id, ``name`` ← name, a property for each group key of any grouping."""
    keys = dict.fromkeys(key for group_key in group_keys for key in group_key)
    return MeterPlan(
        reference=metric_id,
        name=one_line_name(name),
        value_reference=value_reference(metric_id),
        properties=tuple((property_reference(key), one_line_name(key)) for key in keys),
        calculation=calculation,
    )


def meter_value_calculation(chosen: ChosenCalculation | None) -> Literal["SUM", "MAX"] | None:
    """What Solvimon calculates where a setting chose for a metric: the increases of a period's days are summed."""
    return "SUM" if chosen == "PERIOD_TO_DATE" else chosen


def value_reference(metric_id: str) -> str:
    """The reference of the meter value that holds a metric's quantities."""
    return f"{metric_id}_value"


def property_reference(group_key: str) -> str:
    """A group key as the reference of a meter property, where white space is not allowed.

    White space, and the percent sign itself, become percent-encoded UTF-8, so that two keys never share a reference,
    and ``urllib.parse.unquote`` gives the key back. So do the dots of a key of dots alone, which no path could carry.
    """
    only_dots = not group_key.strip(".")

    def written(letter: str) -> str:
        encode = only_dots or letter.isspace() or letter == "%"
        return "".join(f"%{byte:02X}" for byte in letter.encode()) if encode else letter

    return "".join(map(written, group_key))


def one_line_name(name: str) -> str:
    """A name as Solvimon takes it: one line of at most 256 characters.

    Line breaks and other control characters become spaces. The end of a longer name gives way to "…".
    """
    line = _LINE_BREAKS.sub(" ", name)
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"
