"""The windows of a usage request: midnight bounds, three sizes, nine spellings.

Here: reading and cutting the range. Not here: usage.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from metronome_pipeline.sandbox.metronome.answers import Refused, read_instant
from metronome_pipeline.sandbox.metronome.events import hour_of

SIZES = {spelled: size for size in ("HOUR", "DAY", "NONE") for spelled in (size, size.lower(), size.title())}
"""The nine spellings of a window size."""


@dataclass(frozen=True)
class Windows:
    """A range of hours (counted from 1970), cut into windows of so many hours; the whole range for NONE."""

    hours: range
    width: int

    def __len__(self) -> int:
        return len(self.hours) // self.width

    def at(self, index: int) -> range:
        """The hours of one window."""
        start = self.hours.start + index * self.width
        return range(start, start + self.width)


def instant_of(hour: int) -> datetime:
    """The start of an hour."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour)


def read_windows(body: dict[str, Any]) -> Windows:
    """The windows that a request asks for.

    Raises:
        Refused: 400 for another size, and (whatever the size) for bounds that are no UTC midnights or within a day.
    """
    given = body.get("window_size")
    size = SIZES.get(given) if isinstance(given, str) else None
    if size is None:
        raise Refused("window_size must be HOUR, DAY or NONE.")
    start = _midnight(body, "starting_on")
    end = _midnight(body, "ending_before")
    if end < start + timedelta(days=1):
        raise Refused("ending_before must be at least one day after starting_on.")
    hours = range(hour_of(start), hour_of(end))
    return Windows(hours, {"HOUR": 1, "DAY": 24, "NONE": len(hours)}[size])


def _midnight(body: dict[str, Any], name: str) -> datetime:
    instant = read_instant(body.get(name), name)
    if (instant.hour, instant.minute, instant.second, instant.microsecond) != (0, 0, 0, 0):
        raise Refused(f"{name} must be aligned to UTC midnight.")
    return instant
