"""How commands present themselves, and how they end."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from metronome_pipeline.cli import main
from metronome_pipeline_tests.cli.commands import command

EVERY_COMMAND = (
    ("demo",),
    ("dev",),
    ("sandbox",),
    ("check",),
    ("plan", "import"),
    ("plan", "usage"),
    ("quarantine", "list"),
    ("quarantine", "retry"),
    ("quarantine", "drop"),
    ("brake", "list"),
    ("brake", "release"),
    ("metrics", "init"),
    ("metrics", "show"),
    ("metrics", "schema"),
    ("slicing", "show"),
    ("slicing", "switch"),
    ("rebuild",),
)


@pytest.mark.parametrize("arguments", EVERY_COMMAND, ids=" ".join)
def test_every_command_shows_an_example(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0
    assert f"Example:\n    metronome-pipeline {' '.join(arguments)}" in result.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from metronome_pipeline.cli import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "print(sorted({'dagster', 'pydantic', 'psycopg', 'httpx', 'rich', 'pandas', 'aiohttp'} & set(sys.modules)))"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - began < 10


def test_a_missing_setting_is_a_sentence_and_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blank = dict.fromkeys(("METRONOME_BEARER_TOKEN", "SOLVIMON_API_KEY", "USAGE_START"), "")
    done = command("check", env=blank)
    assert done.status == 2
    assert "METRONOME_BEARER_TOKEN is not set" in done.err
    assert "Traceback" not in done.err


def test_an_unknown_command_is_wrong_use() -> None:
    assert command("chekc", env={}).status == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("quarantine", "retry"), "--reference"),
        (("quarantine", "retry", "--all", "--reference", "x"), "--all"),
        (("quarantine", "drop", "--reference", "x", "--reason", " "), "--reason is empty"),
        (("demo", "--month", "January"), "2013-01"),
        (("demo", "--month", "2014-01"), "2013"),
        (("sandbox", "--dataset", "flights", "--groups", "3"), "--groups"),
        (("sandbox", "--dataset", "none", "--from", "2013-01-01"), "--from"),
        (("sandbox", "--from", "1 January"), "2013-01-01"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else one,
)
def test_wrong_use_is_a_sentence_and_status_2(arguments: tuple[str, ...], words: str) -> None:
    done = command(*arguments, env={})
    assert done.status == 2
    assert words in done.err


def test_the_emulators_serve_what_was_asked_for_until_sigterm(tmp_path: Path) -> None:
    import httpx  # noqa: PLC0415

    ports = ("--metronome-port", "0", "--solvimon-port", "0")
    arguments = ("sandbox", *ports, "--dataset", "synthetic", "--customers", "3", "--metrics", "2")
    with subprocess.Popen(
        [sys.executable, "-m", "metronome_pipeline.cli", *arguments], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        addresses = {}
        for line in process.stdout:
            words = line.split()
            if words and words[0] in ("Metronome", "Solvimon"):
                addresses[words[0]] = (words[1], words[2])
            if len(addresses) == 2:
                break
        url, token = addresses["Metronome"]
        customers = httpx.get(f"{url}/v1/customers", headers={"Authorization": f"Bearer {token}"}).json()["data"]
        url, key = addresses["Solvimon"]
        assert httpx.get(f"{url}/v1/customers", headers={"X-API-KEY": key}).json()["data"] == []
        process.terminate()
        assert process.wait(20) == 0
    assert len(customers) == 3
