"""Usage to events: slots that are different have different names, and numbers arrive as they are."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.mapping.usage import (
    UNGROUPED,
    BilledMetric,
    Calculation,
    calculation_of,
    canonical_properties,
    exact_sum,
    slice_of,
    slicing_of,
    usage_event,
)
from metronome_pipeline.solvimon.requests import event_body

START = datetime(2026, 1, 5, 7, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.text(
    "a\"',:{}", max_size=5
)
groups = st.dictionaries(texts, st.none() | texts, max_size=4)
numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40, places=40)


@given(groups, groups)
def test_two_groups_share_a_slice_only_if_they_are_equal(
    one: dict[str, str | None], other: dict[str, str | None]
) -> None:
    assert (canonical_properties(one) == canonical_properties(other)) == (one == other)
    assert (slice_of(canonical_properties(one)) == slice_of(canonical_properties(other))) == (one == other)


def test_null_absent_and_empty_group_values_are_different_slices() -> None:
    groups: list[dict[str, str | None]] = [{}, {"a": None}, {"a": ""}, {"a": "null"}, {"a": "", "b": None}, {"a,b": ""}]
    assert len({slice_of(canonical_properties(group)) for group in groups}) == len(groups)


@given(groups)
def test_the_order_of_properties_does_not_matter_and_they_can_be_read_back(group: dict[str, str | None]) -> None:
    text = canonical_properties(group)
    assert canonical_properties(dict(reversed(group.items()))) == text
    assert json.loads(text) == group
    assert re.fullmatch("g[0-9a-f]{32}", slice_of(text))


def test_the_slice_of_a_group_never_changes_between_versions() -> None:
    assert canonical_properties({"tier": None, "region": "eu→"}) == '{"region":"eu→","tier":null}'
    assert slice_of('{"region":"eu→","tier":null}') == "g99196adc8ff993ab6bf209e05d817077"


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_two_group_keys_are_two_slicings(one: list[str], other: list[str]) -> None:
    assert (slicing_of(one) == slicing_of(other)) == (one == other)
    assert BilledMetric("m", "n", "SUM", slicing_of(one)).group_key == tuple(one)
    assert (slicing_of(one) == UNGROUPED) == (not one)


@given(st.lists(numbers | st.just(Decimal("1e99")) | st.just(Decimal("1e-99")), max_size=20))
def test_a_sum_is_exact_however_long(addends: list[Decimal]) -> None:
    total = sum((Fraction(number) for number in addends), Fraction(0))
    assert Fraction(exact_sum(addends)) == total
    assert exact_sum(addends) == exact_sum(reversed(addends))


@pytest.mark.parametrize(
    ("aggregation", "chosen", "calculation"),
    [
        ("COUNT", None, "SUM"),
        ("SUM", None, "SUM"),
        ("MAX", None, "MAX"),
        ("SUM", "MAX", "SUM"),  # a setting never replaces what is exact
        ("LATEST", None, None),
        ("LATEST", "MAX", "MAX"),
        ("UNIQUE", "SUM", "SUM"),
        (None, None, None),
        (None, "SUM", "SUM"),
        ("AVERAGE", None, None),
    ],
)
def test_only_hours_that_add_up_have_a_calculation_of_their_own(
    aggregation: str | None, chosen: Calculation | None, calculation: Calculation | None
) -> None:
    assert calculation_of(aggregation, chosen) == calculation


@given(numbers)
def test_a_number_arrives_to_the_last_digit_as_plain_text(number: Decimal) -> None:
    event = usage_event(reference="r" * 10, customer_id="c", metric_id="m", start=START, number=number, properties=None)
    body: dict[str, Any] = msgspec.to_builtins(event_body(event))
    (value,) = body["meter_values"]
    assert value["reference"] == "m_value"
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", value["number"])
    assert Fraction(value["number"]) == Fraction(number)


def test_an_event_carries_its_group_values_but_no_null_ones() -> None:
    properties = canonical_properties({"data center": "eu 1", "tier": None, "team": ""})
    event = usage_event(
        reference="r" * 10, customer_id="c", metric_id="m", start=START, number=Decimal(1), properties=properties
    )
    assert msgspec.json.decode(msgspec.json.encode(event_body(event))) == {
        "reference": "r" * 10,
        "customer_reference": "c",
        "meter_reference": "m",
        "timestamp": "2026-01-05T07:00:00Z",
        "meter_values": [{"reference": "m_value", "number": "1"}],
        "meter_properties": [
            {"reference": "data%20center", "value": "eu 1"},
            {"reference": "team", "value": ""},
        ],
    }
