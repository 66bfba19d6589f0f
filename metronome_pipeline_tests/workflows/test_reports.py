"""What Dagster is told of checks: a table that fits the page, and references to copy."""

import dagster as dg

from metronome_pipeline.workflows.reports import _check
from metronome_pipeline_tests.world import rows

KEY = dg.AssetKey(["solvimon", "usage_events"])


def test_references_stand_apart_from_the_table() -> None:
    check = _check(
        KEY, "nothing_late", [("Acme", 5, "a" * 130), ("Initech", 7, "b" * 130)], ("customer", "n", "reference")
    )
    assert not check.passed
    assert check.metadata["references"].value == ["a" * 130, "b" * 130]
    assert rows(check.metadata["list"].value) == [
        {"customer": "Acme", "n": "5"},
        {"customer": "Initech", "n": "7"},
    ]


def test_a_hundred_of_many_are_listed_and_all_are_counted() -> None:
    check = _check(KEY, "nothing_late", [("Acme", str(number)) for number in range(250)], ("customer", "reference"))
    assert check.metadata["found"].value == 250
    assert len(rows(check.metadata["list"].value)) == 100
    assert check.metadata["references"].value == [str(number) for number in range(100)]


def test_a_green_check_has_no_table() -> None:
    check = _check(KEY, "nothing_late", [], ("customer", "reference"), {"requests": 3})
    assert check.passed
    assert set(check.metadata) == {"found", "requests"}
