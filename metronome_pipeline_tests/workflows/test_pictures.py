"""Pictures: small, well-formed, harmless whatever a metric is called, and drawn for numbers of any size."""

import base64
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from metronome_pipeline.workflows.pictures import Bar, markdown_image, usage_picture

DAY = datetime(2026, 1, 5, tzinfo=UTC)


def _drawn(svg: str, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def test_each_day_has_a_bar_of_either_side_and_a_mark_where_they_differ() -> None:
    svg = usage_picture([
        Bar("1", "Calls", DAY, Decimal(10), Decimal(10)),
        Bar("1", "Calls", DAY + timedelta(days=1), Decimal(20), Decimal(5), differs=True),
    ])  # fmt: skip
    legend = 2
    heights = [float(each.attrib["height"]) for each in _drawn(svg, "rect")[legend:]]
    assert len(heights) == 4
    assert heights[2] == max(heights)
    assert heights[0] == heights[1] == 2 * heights[3]
    assert len(_drawn(svg, "circle")) == 2, "one in the legend, one in the panel"


def test_names_are_text_and_numbers_may_have_any_size() -> None:
    svg = usage_picture([Bar("1", '<script>alert("1")</script>&', DAY, Decimal("1e90"), Decimal("-1e-90"))])
    assert "<script" not in svg
    assert any("<script>" in (each.text or "") for each in _drawn(svg, "text"))


def test_metrics_of_one_name_have_panels_of_their_own() -> None:
    svg = usage_picture([Bar("1", "Calls", DAY, Decimal(1), None), Bar("2", "Calls", DAY, Decimal(2), None)])
    assert sum("Calls" in (each.text or "") for each in _drawn(svg, "text")) == 2


def test_no_bars_and_many_metrics_are_pictures_too() -> None:
    assert _drawn(usage_picture([]), "rect")
    many = usage_picture([Bar(str(number), f"Metric {number}", DAY, Decimal(1), None) for number in range(11)])
    assert any("3 more metrics" in (each.text or "") for each in _drawn(many, "text"))
    busy = [
        Bar(str(m), f"Metric {m}", DAY + timedelta(days=d), Decimal(d), Decimal(m)) for m in range(8) for d in range(31)
    ]
    assert len(usage_picture(busy)) < 64_000


def test_markdown_carries_the_picture_as_a_data_address() -> None:
    text = markdown_image("<svg/>", "a [strange](x) name\n")
    assert text.startswith("![a  strange  x  name ](data:image/svg+xml;base64,")
    assert base64.b64decode(text.rpartition(",")[2][:-1]) == b"<svg/>"
