"""Billable metrics to meters: what references and names may look like, for any text that Metronome may hold."""

import re
import unicodedata
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.mapping.customers import customer_from_metronome
from metronome_pipeline.mapping.meters import meter_plan, one_line_name, property_reference, value_reference

METRIC = "9570e4f3-d1da-4b95-ba81-bd40ee002727"
# Lone surrogates and NUL never get this far: their records are refused where they are read.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
awkward = st.text(" \t\u00a0\u2003%.20é")


@given(texts | awkward, texts | awkward)
def test_two_group_keys_never_share_a_reference(one: str, other: str) -> None:
    assert (property_reference(one) == property_reference(other)) == (one == other)


@given(texts | awkward)
def test_a_property_reference_has_no_white_space_and_gives_the_key_back(key: str) -> None:
    reference = property_reference(key)
    assert not re.search(r"\s", reference)
    assert not any(letter.isspace() for letter in reference)
    assert unquote(reference) == key
    assert not key or reference.strip(".")


@given(st.text("abcXYZ019_-:/#é→"))
def test_a_plain_group_key_is_its_own_reference(key: str) -> None:
    assert property_reference(key) == key


@given(texts | st.text(" \r\n\x85\u2028\u2029\x00\x1f", max_size=400))
def test_a_name_is_one_line_of_at_most_256_characters(name: str) -> None:
    line = one_line_name(name)
    assert len(line) <= 256
    assert len(line.splitlines()) <= 1
    assert not any(unicodedata.category(letter) == "Cc" for letter in line)


@given(texts)
def test_a_name_keeps_every_letter_that_is_no_control_character(name: str) -> None:
    kept = [letter for letter in one_line_name(name) if letter != " "]
    wanted = [c for c in name if unicodedata.category(c) != "Cc" and c not in " \u2028\u2029"]
    assert len(name) > 256 or kept == wanted


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Cf"]), min_size=250, max_size=300))
def test_only_the_end_of_a_long_name_is_cut(name: str) -> None:
    line = one_line_name(name)
    assert line == name if len(name) <= 256 else line == name[:255] + "…"
    assert customer_from_metronome(METRIC, name, email=None).organization.legal_name == line


@given(st.lists(st.lists(texts, min_size=1, max_size=3), max_size=4))
def test_a_meter_has_one_property_for_each_distinct_group_key(group_keys: list[list[str]]) -> None:
    plan = meter_plan(METRIC, "Calls", group_keys, "SUM")
    references = [reference for reference, _ in plan.properties]
    assert len(set(references)) == len(references)
    assert set(references) == {property_reference(key) for group_key in group_keys for key in group_key}


def test_references_of_a_meter_and_its_parts_are_these() -> None:
    plan = meter_plan(METRIC, "Calls", [["region"], ["data center", "region"]], "MAX")
    assert plan.reference == METRIC
    assert plan.value_reference == value_reference(METRIC) == f"{METRIC}_value"
    assert plan.calculation_reference == f"{METRIC}_max"
    assert plan.properties == (("region", "region"), ("data%20center", "data center"))
