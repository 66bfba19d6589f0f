"""What README says of settings and commands is what the code has."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from metronome_pipeline.settings import Settings

README = Path(__file__).parents[1] / "README.md"
_BEGIN, _END = "<!-- settings: kept equal to metronome_pipeline/settings.py by a test -->\n", "<!-- /settings -->"


def settings_table() -> str:
    """Every setting with its default and its meaning, as README shows it."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for field in Settings.model_fields.values():
        default = "required" if field.default is PydanticUndefined else _shown(field.default)
        rows.append(f"| `{field.alias}` | {default} | {field.description} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


def _shown(default: object) -> str:
    if default is None or default in ("", (), frozenset(), {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    return f"`{default}`"


def test_readme_lists_every_setting_as_it_is() -> None:
    text = README.read_text(encoding="utf-8")
    written = text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)]
    assert written == settings_table(), f"put this into README.md:\n{settings_table()}"


def test_the_first_screen_shows_the_two_commands() -> None:
    first_screen = README.read_text(encoding="utf-8").splitlines()[:24]
    commands = [line.split("#")[0].strip() for line in first_screen if line.startswith("make ")]
    assert commands == ["make demo", "make test"]
