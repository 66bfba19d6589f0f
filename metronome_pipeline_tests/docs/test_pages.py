"""README and docs/ against the code: commands, options, checks, alerts, dependencies, links, and every statement."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import dagster as dg
import psycopg
import pytest

from metronome_pipeline.alerts.problems import Kind
from metronome_pipeline.cli import main
from metronome_pipeline.definitions import build_definitions
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.migrations import migrate

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
_COMMAND = re.compile(r"metronome-pipeline ((?:[^`\n#|]|\\\n)+)")
_SETTINGS = {"METRONOME_BEARER_TOKEN": "t", "SOLVIMON_API_KEY": "k", "USAGE_START": "2026-01-05"}


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``metronome-pipeline …`` of the pages: in code, as words."""
    for page, text in TEXTS.items():
        code = re.findall(r"```sh\n(.*?)```|`(metronome-pipeline [^`]+)`", text, re.DOTALL)
        for found in _COMMAND.findall("\n".join(part for parts in code for part in parts)):
            yield page, shlex.split(re.sub(r"\\\n|\[|\]", " ", found.replace("…", " ")))


@pytest.mark.parametrize(("page", "words"), list(_commands()), ids=lambda one: one if isinstance(one, str) else "")
def test_every_command_of_the_pages_exists_with_its_options(page: str, words: list[str]) -> None:
    command: click.Command = main
    context = click.Context(main)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            break
        command, rest = found, rest[1:]
    assert command is not main, f"{page}: metronome-pipeline {' '.join(words)}"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    given = {word for word in rest if word.startswith("--")}
    assert given <= known, f"{page}: metronome-pipeline {' '.join(words)}"


def test_readme_has_every_command() -> None:
    context = click.Context(main)
    named = {words[0] for page, words in _commands() if page == "README.md"}
    # Of a row, the further commands stand alone in code.
    for name in main.list_commands(context):
        assert name in named or f"`{name}`" in TEXTS["README.md"], name


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(Settings.from_environment(_SETTINGS))


def test_every_check_is_in_the_readme_and_in_the_runbook(definitions: dg.Definitions) -> None:
    graph = definitions.get_repository_def().asset_graph
    for check in sorted({key.name for key in graph.asset_check_keys}):
        assert f"check `{check}` is red" in TEXTS["README.md"]
        assert f"* `{check}`" in TEXTS["docs/runbook.md"]


def test_every_kind_of_alert_is_in_the_runbook() -> None:
    for kind in Kind:
        assert f"\n## {kind.value}\n" in TEXTS["docs/runbook.md"]


def test_every_schedule_and_sensor_that_the_pages_name_exists(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    known = {*(one.name for one in repository.schedule_defs), *(one.name for one in repository.sensor_defs)}
    named = {name for text in TEXTS.values() for name in re.findall(r"(?:schedule|sensor) `(\w+)`", text)}
    assert named
    assert named <= known


def test_every_job_is_in_the_readme(definitions: dg.Definitions) -> None:
    jobs = {job.name for job in definitions.get_repository_def().get_all_jobs() if not job.name.startswith("__")}
    assert {job for job in jobs if f"`{job}`" not in TEXTS["README.md"]} == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = TEXTS["README.md"]
    table = text[text.index("## Dependencies") : text.index("## Layout")]
    for dependency in project["dependencies"]:
        name = re.split(r"[\[<>=~]", dependency)[0]
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", table), name


def test_every_package_is_in_the_layout() -> None:
    text = TEXTS["README.md"]
    layout = text[text.index("## Layout") :]
    packages = {path.parent.name for path in (ROOT / "metronome_pipeline").glob("*/__init__.py")}
    assert {name for name in packages if f"{name}/" not in layout} == set()


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, target


def _anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_statement_of_the_pages_runs(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        migrate(connection)
        for page, text in TEXTS.items():
            if page == "docs/extending.md":
                continue
            for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
                for statement in re.sub(r"--.*", "", block).split(";"):
                    if statement.strip():
                        connection.execute(statement.encode())
