"""Hours as Dagster's partitions and as the core's windows, and the words for them."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

import dagster as dg

from metronome_pipeline.ledger.read import Window
from metronome_pipeline.settings import Settings

HOUR = timedelta(hours=1)
KEY = "%Y-%m-%d-%H:%M"
"""The form of a partition's key."""


def hours_of(settings: Settings) -> dg.HourlyPartitionsDefinition:
    """Hourly partitions in UTC, from the cut-over on."""
    return dg.HourlyPartitionsDefinition(start_date=settings.usage_start.replace(tzinfo=None), timezone="UTC")


def hour_windows(hours: Iterable[datetime]) -> list[Window]:
    """Hours, by their starts, as windows of neighbours."""
    windows: list[Window] = []
    for hour in sorted(hours):
        if windows and windows[-1].end == hour:
            windows[-1] = Window(windows[-1].start, hour + HOUR)
        else:
            windows.append(Window(hour, hour + HOUR))
    return windows


def hours_in(window: Window) -> Iterator[datetime]:
    """The hours of a window, by their starts."""
    hour = window.start
    while hour < window.end:
        yield hour
        hour += HOUR


def range_text(window: Window) -> str:
    """A window in words."""
    return f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC"
