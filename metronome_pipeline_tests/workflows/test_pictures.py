"""Pictures: small, well-formed, harmless whatever a metric is called, and drawn for numbers of any size."""

import base64
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from metronome_pipeline.ledger.over_time import HourOfMetric
from metronome_pipeline.workflows.pictures import Bar, Mark, hourly_picture, markdown_image, usage_picture
from metronome_pipeline_tests.world import World, failure, metadata

DAY = datetime(2026, 1, 5, tzinfo=UTC)


def _drawn(svg: str, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def test_each_day_has_a_bar_of_either_side_and_a_mark_where_they_differ() -> None:
    svg = usage_picture([
        Bar("1", "Calls", DAY, Decimal(10), Decimal(10)),
        Bar("1", "Calls", DAY + timedelta(days=1), Decimal(20), Decimal(5), frozenset({Mark.differs})),
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


def _hour(
    number: int, value: int | None, *, corrected: bool = False, waits: bool = False, metric: str = "1"
) -> HourOfMetric:
    at = DAY + timedelta(hours=number)
    return HourOfMetric(metric, f"Metric {metric}", at, None if value is None else Decimal(value), corrected, waits)


def test_hours_are_one_outline_a_metric_and_dots_mark_what_was_corrected_or_waits() -> None:
    hours = [_hour(0, 10), _hour(1, 5, corrected=True), _hour(3, None, waits=True)]
    svg = hourly_picture(hours, DAY, DAY + timedelta(hours=4))
    outline, corrected, waits = _drawn(svg, "path")
    assert outline.attrib["d"] == "M0 0v-68h1v34h1v34h1h1v0z", "two hours of 68 and 34 pixels, two without usage"
    assert (corrected.attrib["d"], waits.attrib["d"]) == ("M272 60h0", "M624 67h0")
    assert (corrected.attrib["stroke"], waits.attrib["stroke"]) == (Mark.corrected.colour, Mark.open.colour)


def test_eight_days_of_many_metrics_are_a_small_picture_those_with_dots_first() -> None:
    hours = [_hour(h, h * 7 % 50, metric=str(m), corrected=m == 9) for m in range(10) for h in range(192)]
    svg = hourly_picture(hours, DAY, DAY + timedelta(days=8))
    assert len(svg) < 32_000
    titles = [each.text for each in _drawn(svg, "text") if (each.text or "").startswith("Metric ")]
    assert titles == ["Metric 9", *(f"Metric {number}" for number in range(7))]
    assert any("2 more metrics" in (each.text or "") for each in _drawn(svg, "text"))
    assert _drawn(hourly_picture([], DAY, DAY + timedelta(hours=1)), "rect")


def test_a_run_shows_the_usage_of_its_hours_with_corrections_and_what_waits(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use_hours(customer, metric, {0: 4, 2: 8})
    assert world.ingest(0, 3).success
    world.use(customer, metric, 2, 1)
    result = world.ingest(0, 3)
    assert result.success, failure(result)
    markdown = metadata(result, "solvimon", "usage_events")["picture"]
    svg = base64.b64decode(markdown.rpartition(",")[2][:-1]).decode()
    outline, corrected = _drawn(svg, "path")
    assert outline.attrib["d"].startswith("M0 0v-30h1v30h1v-68h1"), "4 and 9, an hour apart"
    assert corrected.attrib["stroke"] == Mark.corrected.colour
