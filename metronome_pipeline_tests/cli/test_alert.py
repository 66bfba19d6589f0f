"""The command that tries out the channels."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from metronome_pipeline.alerts.problems import Kind
from metronome_pipeline.cli import main
from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.alerts.receivers import hook, post
from metronome_pipeline_tests.cli.commands import command

REQUIRED = {"METRONOME_BEARER_TOKEN": "a-token", "SOLVIMON_API_KEY": "a-key", "USAGE_START": "2026-01-01"}


@pytest.fixture(autouse=True)
def _no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def environment(**variables: str) -> dict[str, str]:
    blanks = {field.alias: "" for field in Settings.model_fields.values() if field.alias}
    return {**blanks, **REQUIRED, **variables}


def test_each_kind_is_sent_to_each_channel_and_says_that_it_is_a_test() -> None:
    with hook() as receiver, post() as server:
        env = environment(
            ALERT_WEBHOOK_URL=receiver.url,
            ALERT_EMAIL_TO="ops@example.com",
            ALERT_EMAIL_FROM="pipeline@example.com",
            SMTP_URL=server.url,
        )
        done = command("alert", "test", env=env)
    assert done.status == 0, done.err
    assert done.out.count("taken") == 2 * (len(Kind) + 1)
    assert receiver.subjects == [str(mail["Subject"]) for mail in server.mails]
    assert [subject.partition(": ")[0] for subject in receiver.subjects] == [
        *(f"[test] Test. {kind.value}" for kind in Kind),
        "[test] Test. Over",
    ]


def test_a_channel_that_is_down_is_said_once_and_ends_with_status_1() -> None:
    with hook() as receiver:
        receiver.statuses = [503]
        done = command("alert", "test", env=environment(ALERT_WEBHOOK_URL=receiver.url))
    assert done.status == 1
    assert "answered 503" in done.out
    assert "s3cret" not in done.out + done.err
    assert receiver.bodies == []


def test_without_a_channel_it_says_what_to_set() -> None:
    done = command("alert", "test", env=environment())
    assert done.status == 2
    assert "ALERT_WEBHOOK_URL" in done.err


def test_help_shows_an_example() -> None:
    assert "Example:\n    metronome-pipeline alert test" in CliRunner().invoke(main, ["alert", "test", "--help"]).stdout
