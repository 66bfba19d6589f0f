"""Column lineage: every column that is named exists, on both sides, and people can read it."""

import dagster as dg
import pytest

from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows import lineage
from metronome_pipeline.workflows.lineage import LINEAGE, SCHEMA, with_column_lineage

VARIABLES = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-05T00:00:00Z"}
EVERYTHING = {
    "GROUPED_USAGE_ENABLED": "true",
    "METRIC_CALCULATIONS": '{"3f0c0000-0000-4000-8000-000000000000": "PERIOD_TO_DATE"}',
}
FROM_AN_API_ALONE = {"metronome/customers", "metronome/billable_metrics", "metronome/products"}


def specs(**variables: str) -> dict[str, dg.AssetSpec]:
    definitions = build_definitions(Settings.from_environment({**VARIABLES, **variables}))
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def lineage_of(spec: dg.AssetSpec) -> dict[str, set[str]]:
    made_from = spec.metadata[LINEAGE].deps_by_column
    return {
        column: {f"{each.asset_key.to_user_string()}.{each.column_name}" for each in sources}
        for column, sources in made_from.items()
    }


def columns_of(spec: dg.AssetSpec) -> set[str]:
    return {column.name for column in spec.metadata[SCHEMA].columns}


@pytest.mark.parametrize("variables", [{}, EVERYTHING])
def test_every_column_that_lineage_names_exists(variables: dict[str, str]) -> None:
    found = specs(**variables)
    known = {f"{key}.{column}" for key, spec in found.items() for column in columns_of(spec)}
    for key, spec in found.items():
        if key in FROM_AN_API_ALONE:
            assert LINEAGE not in spec.metadata
            continue
        told = lineage_of(spec)
        assert set(told) <= columns_of(spec), key
        assert told, key
        for column, sources in told.items():
            assert sources, f"{key}.{column}"
            assert sources <= known, f"{key}.{column}"


def test_an_event_is_made_of_its_usage() -> None:
    of_events = lineage_of(specs()["solvimon/usage_events"])
    assert of_events["number"] == {"metronome/usage.value"}
    assert of_events["reference"] == {
        f"metronome/usage.{column}" for column in ("customer_id", "metric_id", "start_at", "end_at")
    }
    of_groups = lineage_of(specs()["solvimon/grouped_usage_events"])
    assert of_groups["properties"] == {"metronome/grouped_usage.properties"}


def test_what_is_made_of_all_events_names_the_workflows_that_are_on() -> None:
    assert lineage_of(specs()["solvimon/billing_health"])["delivered"] == {"solvimon/usage_events.number"}
    everything = lineage_of(specs(**EVERYTHING)["solvimon/billing_health"])
    assert everything["delivered"] == {
        "solvimon/usage_events.number",
        "solvimon/grouped_usage_events.number",
        "solvimon/period_usage_events.number",
    }
    assert "metronome/grouped_usage.value" in everything["metronome"]


def test_each_description_ends_with_where_its_column_comes_from() -> None:
    columns = {column.name: column for column in specs()["solvimon/usage_events"].metadata[SCHEMA].columns}
    assert columns["number"].description == "What was sent. ← metronome/usage: value"
    assert columns["reference"].description.endswith(" ← metronome/usage: customer_id, metric_id, start_at, end_at")
    assert "←" not in columns["run_id"].description
    health = {column.name: column for column in specs()["solvimon/billing_health"].metadata[SCHEMA].columns}
    assert health["difference"].description.endswith(" ← solvimon/usage_events: number; metronome/usage: value")


def test_lineage_stays_within_an_accounts_own_assets() -> None:
    settings = Settings.from_environment(VARIABLES)
    plain = specs()["solvimon/customers"]
    prefixed = with_column_lineage(settings, plain.replace_attributes(key=["acme", "solvimon", "customers"]))
    assert lineage_of(prefixed)["legal_name"] == {"acme/metronome/customers.name"}


def test_an_asset_that_is_not_known_stays_as_it_is() -> None:
    spec = dg.AssetSpec(["metronome", "contracts"])
    assert with_column_lineage(Settings.from_environment(VARIABLES), spec) is spec


def test_every_asset_with_lineage_is_one_that_dagster_loads() -> None:
    assert set(lineage._OF) <= set(specs())
