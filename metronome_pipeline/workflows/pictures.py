"""Pictures for Dagster's UI: rows of numbers as an SVG, small enough to travel inside an event's metadata.

Pure functions. An SVG in a data URI is shown by the UI's markdown: its sanitizer lets images have ``data`` addresses,
and an image runs no script. Not here: where the numbers come from.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from html import escape

_PANEL_WIDTH, _PANEL_HEIGHT, _TOP, _BOTTOM = 720, 120, 40, 20
_MOST_PANELS = 8
_METRONOME, _DELIVERED, _DIFFERS, _TEXT, _LINE = "#9aa5b1", "#2563eb", "#dc2626", "#6b7280", "#d1d5db"


@dataclass(frozen=True)
class Bar:
    """One day of one metric: what Metronome says beside what was delivered. None: nothing."""

    metric_id: str
    name: str
    day: datetime
    metronome: Decimal | None
    delivered: Decimal | None
    differs: bool = False


def usage_picture(bars: Sequence[Bar]) -> str:
    """A panel for each metric: two bars a day, Metronome's and what was delivered, and a mark where they differ.

    At most 8 metrics, those that differ first. Heights are for looking only: the figures are in the table.
    """
    by_metric: dict[str, list[Bar]] = {}
    for bar in sorted(bars, key=lambda bar: bar.day):
        by_metric.setdefault(bar.metric_id, []).append(bar)
    panels = sorted(by_metric.values(), key=lambda panel: (not any(bar.differs for bar in panel), panel[0].name))
    shown = panels[:_MOST_PANELS]
    days = sorted({bar.day for bar in bars})
    height = _TOP + len(shown) * _PANEL_HEIGHT
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_PANEL_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_PANEL_WIDTH} {height}" font-family="sans-serif" font-size="11">'
        ),
        _legend(len(panels) - len(shown)),
    ]
    for number, panel in enumerate(shown):
        parts += _panel(panel, days, _TOP + number * _PANEL_HEIGHT)
    return "".join([*parts, "</svg>"])


def markdown_image(svg: str, words: str) -> str:
    """An SVG as markdown; ``words`` are shown where it is not."""
    plain = "".join(letter if letter.isalnum() or letter in " ,.:-" else " " for letter in words)
    return f"![{plain}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _legend(left_out: int) -> str:
    words = f", {left_out} more metrics are not drawn" if left_out else ""
    return (
        f'<rect x="8" y="10" width="10" height="10" fill="{_METRONOME}"/>'
        f'<text x="23" y="19" fill="{_TEXT}">Metronome</text>'
        f'<rect x="100" y="10" width="10" height="10" fill="{_DELIVERED}"/>'
        f'<text x="115" y="19" fill="{_TEXT}">delivered to Solvimon</text>'
        f'<circle cx="255" cy="15" r="4" fill="{_DIFFERS}"/>'
        f'<text x="264" y="19" fill="{_TEXT}">differs{words}</text>'
    )


def _panel(bars: Sequence[Bar], days: Sequence[datetime], top: int) -> list[str]:
    base = top + _PANEL_HEIGHT - _BOTTOM
    tallest = max((abs(value) for bar in bars for value in (bar.metronome, bar.delivered) if value), default=None)
    step = (_PANEL_WIDTH - 16) / max(len(days), 1)
    parts = [
        f'<text x="8" y="{top + 12}" fill="{_TEXT}" font-weight="bold">{escape(bars[0].name[:80])}</text>',
        f'<line x1="8" y1="{base}" x2="{_PANEL_WIDTH - 8}" y2="{base}" stroke="{_LINE}"/>',
        f'<text x="8" y="{base + 14}" fill="{_TEXT}">{days[0]:%Y-%m-%d}</text>',
    ]
    if len(days) > 1:
        last = f"{days[-1]:%Y-%m-%d}"
        parts.append(f'<text x="{_PANEL_WIDTH - 8}" y="{base + 14}" fill="{_TEXT}" text-anchor="end">{last}</text>')
    by_day = {bar.day: bar for bar in bars}
    for number, day in enumerate(days):
        if (bar := by_day.get(day)) is None:
            continue
        left, width = 8 + number * step, max(min(step, 60) * 0.4, 0.5)
        for value, colour, shift in ((bar.metronome, _METRONOME, 0.0), (bar.delivered, _DELIVERED, width)):
            tall = _height(value, tallest)
            if tall:
                place = f'x="{left + shift:.1f}" y="{base - tall:.1f}" width="{width:.1f}" height="{tall:.1f}"'
                parts.append(f'<rect {place} fill="{colour}"/>')
        if bar.differs:
            parts.append(f'<circle cx="{left + width:.1f}" cy="{top + 22}" r="4" fill="{_DIFFERS}"/>')
    return parts


def _height(value: Decimal | None, tallest: Decimal | None) -> float:
    """Pixels of a bar. A quantity is drawn by its share of the tallest, so that no number is too large for a float."""
    if not value or not tallest:
        return 0.0
    return max(float(abs(value) / tallest) * (_PANEL_HEIGHT - _BOTTOM - 32), 1.0)
