"""What assets say of themselves in Dagster's catalog: what, from where, how fresh, and what to do; and it is so."""

import re
from collections.abc import Iterator

import click
import dagster as dg
import pytest

from metronome_pipeline import cli
from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.settings import Settings

VARIABLES = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-05T00:00:00Z"}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(Settings.from_environment(VARIABLES))


def texts(definitions: dg.Definitions) -> Iterator[tuple[str, str]]:
    """Every description in the catalog, of assets and of their checks."""
    for spec in definitions.resolve_all_asset_specs():
        yield spec.key.to_user_string(), spec.description or ""
    graph = definitions.resolve_asset_graph()
    for key in graph.asset_check_keys:
        yield key.to_user_string(), graph.get_check_spec(key).description or ""


def test_every_asset_says_what_from_where_how_fresh_and_what_to_do_when_it_goes_wrong(
    definitions: dg.Definitions,
) -> None:
    for spec in definitions.resolve_all_asset_specs():
        name = spec.key.to_user_string()
        what, *others = (spec.description or "").split("\n\n")
        assert what.endswith("."), name
        assert len(what) <= 200, f"{name}: the catalog shows its first line"
        assert others[0].startswith("**From** "), name
        assert others[1].startswith("**Fresh:** "), name
        assert re.match(r"\*\*(If|What) ", others[2]), name


def test_what_descriptions_name_exists(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    known = {
        "schedule": {schedule.name for schedule in repository.schedule_defs},
        "sensor": {sensor.name for sensor in repository.sensor_defs},
        "run": {job.name for job in repository.get_all_jobs()},
        "check": {key.name for key in definitions.resolve_asset_graph().asset_check_keys},
    }
    assets = {spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()}
    commands = cli.main
    assert isinstance(commands, click.Group)
    found = 0
    for name, text in texts(definitions):
        for kind, each in re.findall(r"\b(schedule|sensor|run|check) `(\w+)`", text):
            assert each in known[kind], f"{name}: {kind} {each}"
            found += 1
        for each in re.findall(r"`((?:metronome|solvimon)/\w+)`", text):
            assert each in assets, f"{name}: {each}"
        for each, sub in re.findall(r"`metronome-pipeline (\w+) ?(\w+)?", text):
            command = commands.get_command(click.Context(commands), each)
            assert command is not None, f"{name}: metronome-pipeline {each}"
            if sub and isinstance(command, click.Group):
                assert command.get_command(click.Context(command), sub) is not None, f"{name}: {each} {sub}"
    assert found > 10
