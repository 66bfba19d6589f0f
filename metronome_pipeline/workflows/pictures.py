"""Pictures for Dagster's UI: rows of numbers as an SVG, small enough to travel inside an event's metadata.

Pure functions. An SVG in a data URI is shown by the UI's markdown, behind its link *Show Markdown*: its sanitizer lets
images have ``data`` addresses, and an image runs no script. Not here: where the numbers come from.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from html import escape
from typing import Protocol, TypeVar

from metronome_pipeline.ledger.over_time import HourOfMetric

_WIDTH, _PANEL_HEIGHT, _TOP, _BOTTOM, _MARGIN = 720, 120, 40, 20, 8
_PLOT = _WIDTH - 2 * _MARGIN
_MOST_PANELS = 8
_METRONOME, _DELIVERED, _TEXT, _LINE = "#9aa5b1", "#2563eb", "#6b7280", "#d1d5db"
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class Mark(Enum):
    """A dot over a day or an hour: its words in the legend, and its colour."""

    differs = ("differs", "#dc2626")
    corrected = ("corrected", "#d97706")
    open = ("open", "#7c3aed")
    late = ("late", "#be185d")

    @property
    def words(self) -> str:
        """As the legend says it."""
        return self.value[0]

    @property
    def colour(self) -> str:
        """As the dot has it."""
        return self.value[1]


@dataclass(frozen=True)
class Bar:
    """One day of one metric: what Metronome says beside what was delivered. None: nothing."""

    metric_id: str
    name: str
    day: datetime
    metronome: Decimal | None
    delivered: Decimal | None
    marks: frozenset[Mark] = frozenset()


class _OfMetric(Protocol):
    @property
    def metric_id(self) -> str: ...
    @property
    def name(self) -> str: ...


OfMetric = TypeVar("OfMetric", bound=_OfMetric)


def usage_picture(bars: Sequence[Bar], marks: Sequence[Mark] = (Mark.differs,)) -> str:
    """A panel for each metric: two bars a day, Metronome's and what was delivered, and dots for what the day has.

    At most 8 metrics, those with such dots first. Heights are for looking only: the figures are in the table.
    """
    panels = _by_metric(sorted(bars, key=lambda bar: bar.day))
    panels.sort(key=lambda panel: not any(bar.marks & set(marks) for bar in panel))
    days = sorted({bar.day for bar in bars})
    legend = [(_METRONOME, "Metronome"), (_DELIVERED, "delivered to Solvimon")]
    return _picture(legend, marks, panels, lambda panel, top: _daily_panel(panel, days, marks, top))


def hourly_picture(hours: Sequence[HourOfMetric], start: datetime, end: datetime) -> str:
    """A panel for each metric: its usage by hour in ``[start, end)``, and dots where it was corrected or waits.

    At most 8 metrics, those with such dots first. A line a day; what is missing at the right edge has no usage.
    """
    marks = (Mark.corrected, Mark.open)
    panels = _by_metric(hours)
    panels.sort(key=lambda panel: not any(hour.corrected or hour.waits for hour in panel))
    legend = [(_DELIVERED, f"usage by hour, {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")]
    return _picture(legend, marks, panels, lambda panel, top: _hourly_panel(panel, start, end, top))


def markdown_image(svg: str, words: str) -> str:
    """An SVG as markdown; ``words`` are shown where it is not."""
    plain = "".join(letter if letter.isalnum() or letter in " ,.:-" else " " for letter in words)
    return f"![{plain}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _by_metric(each: Sequence[OfMetric]) -> list[list[OfMetric]]:
    found: dict[str, list[OfMetric]] = {}
    for one in each:
        found.setdefault(one.metric_id, []).append(one)
    return sorted(found.values(), key=lambda panel: panel[0].name)


def _picture(
    legend: Sequence[tuple[str, str]],
    marks: Sequence[Mark],
    panels: Sequence[Sequence[OfMetric]],
    draw: Callable[[Sequence[OfMetric], int], list[str]],
) -> str:
    shown = panels[:_MOST_PANELS]
    height = _TOP + len(shown) * _PANEL_HEIGHT
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11">'
        ),
        *_legend(legend, marks, len(panels) - len(shown)),
    ]
    for number, panel in enumerate(shown):
        parts += [_title(panel[0].name, _TOP + number * _PANEL_HEIGHT), *draw(panel, _TOP + number * _PANEL_HEIGHT)]
    return "".join([*parts, "</svg>"])


def _legend(squares: Sequence[tuple[str, str]], marks: Sequence[Mark], left_out: int) -> list[str]:
    parts, left = [], _MARGIN
    for colour, words in squares:
        parts.append(f'<rect x="{left}" y="10" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{left + 15}" y="19" fill="{_TEXT}">{words}</text>')
        left += 37 + 6 * len(words)
    for mark in marks:
        parts.append(f'<circle cx="{left + 4}" cy="15" r="4" fill="{mark.colour}"/>')
        parts.append(f'<text x="{left + 13}" y="19" fill="{_TEXT}">{mark.words}</text>')
        left += 35 + 6 * len(mark.words)
    if left_out:
        parts.append(f'<text x="{left}" y="19" fill="{_TEXT}">{left_out} more metrics are not drawn</text>')
    return parts


def _title(name: str, top: int) -> str:
    return f'<text x="{_MARGIN}" y="{top + 12}" fill="{_TEXT}" font-weight="bold">{escape(name[:80])}</text>'


def _axis(first: str, last: str | None, base: int) -> list[str]:
    end = _WIDTH - _MARGIN
    parts = [
        f'<line x1="{_MARGIN}" y1="{base}" x2="{end}" y2="{base}" stroke="{_LINE}"/>',
        f'<text x="{_MARGIN}" y="{base + 14}" fill="{_TEXT}">{first}</text>',
    ]
    if last is not None:
        parts.append(f'<text x="{end}" y="{base + 14}" fill="{_TEXT}" text-anchor="end">{last}</text>')
    return parts


def _daily_panel(bars: Sequence[Bar], days: Sequence[datetime], marks: Sequence[Mark], top: int) -> list[str]:
    base = top + _PANEL_HEIGHT - _BOTTOM
    tallest = _tallest([value for bar in bars for value in (bar.metronome, bar.delivered)])
    step = _PLOT / max(len(days), 1)
    parts = _axis(f"{days[0]:%Y-%m-%d}", f"{days[-1]:%Y-%m-%d}" if len(days) > 1 else None, base)
    by_day = {bar.day: bar for bar in bars}
    for number, day in enumerate(days):
        if (bar := by_day.get(day)) is None:
            continue
        left, width = _MARGIN + number * step, max(min(step, 60) * 0.4, 0.5)
        for value, colour, shift in ((bar.metronome, _METRONOME, 0.0), (bar.delivered, _DELIVERED, width)):
            tall = _height(value, tallest)
            if tall:
                place = f'x="{left + shift:.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
                parts.append(f'<rect {place} fill="{colour}"/>')
        for lane, mark in enumerate(mark for mark in marks if mark in bar.marks):
            parts.append(f'<circle cx="{left + 3 + 7 * lane:.1f}" cy="{top + 22}" r="3" fill="{mark.colour}"/>')
    return parts


def _hourly_panel(hours: Sequence[HourOfMetric], start: datetime, end: datetime, top: int) -> list[str]:
    """One path for all hours, and one for the dots of each kind: a step has up to 192 hours of 8 metrics."""
    base = top + _PANEL_HEIGHT - _BOTTOM
    count = max(int((end - start) / _HOUR), 1)
    step = _PLOT / count
    tallest = _tallest([hour.value for hour in hours])
    tall = {hour.hour: round(_height(hour.value, tallest)) for hour in hours}
    parts = [*_axis(f"{start:%Y-%m-%d}", f"{end - _HOUR:%Y-%m-%d}", base)]
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY
    while midnight < end:
        across = _MARGIN + (midnight - start) / _HOUR * step
        line = f'x1="{across:.1f}" y1="{top + 30}" x2="{across:.1f}" y2="{base}" stroke="{_LINE}"'
        parts.append(f'<line {line} stroke-dasharray="2 3"/>')
        midnight += _DAY
    parts.append(
        f'<path transform="translate({_MARGIN} {base}) scale({step:.4f} 1)" fill="{_DELIVERED}" '
        f'd="{_steps(start, count, tall)}"/>'
    )
    kinds: Mapping[Mark, list[datetime]] = {
        Mark.corrected: [hour.hour for hour in hours if hour.corrected],
        Mark.open: [hour.hour for hour in hours if hour.waits],
    }
    for lane, (mark, found) in enumerate(kinds.items()):
        if dots := "".join(
            f"M{_MARGIN + ((at - start) / _HOUR + 0.5) * step:.0f} {top + 20 + 7 * lane}h0" for at in found
        ):
            parts.append(f'<path d="{dots}" stroke="{mark.colour}" stroke-width="6" stroke-linecap="round"/>')
    return parts


def _steps(start: datetime, count: int, tall: Mapping[datetime, int]) -> str:
    """The outline of all hours as one path, an hour wide each: up or down to each hour's height, and back to 0."""
    path, at = ["M0 0"], 0
    for number in range(count):
        height = tall.get(start + number * _HOUR, 0)
        path.append(f"v{at - height}h1" if height != at else "h1")
        at = height
    return "".join([*path, f"v{at}z"])


def _tallest(values: Sequence[Decimal | None]) -> Decimal | None:
    return max((abs(value) for value in values if value), default=None)


def _height(value: Decimal | None, tallest: Decimal | None) -> float:
    """Pixels of a bar. A quantity is drawn by its share of the tallest, so that no number is too large for a float."""
    if not value or not tallest:
        return 0.0
    return max(float(abs(value) / tallest) * (_PANEL_HEIGHT - _BOTTOM - 32), 1.0)
