"""``init``: what it asks, what it writes, and what it then runs. On emulators, in a folder of the test's own."""

import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.cli import env_file
from metronome_pipeline.cli.init import command as init
from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.world import World

SECRETS = ("METRONOME_BEARER_TOKEN", "SOLVIMON_API_KEY", "DAGSTER_POSTGRES_URL")


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a new machine. Blank would not do: an empty variable hides the one of ``.env``."""
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)


def _environment(world: World, *names: str) -> dict[str, str]:
    """Of the variables of a world those named."""
    return {name: value for name, value in variables(world).items() if name in names}


def _answers(world: World, **changed: str) -> str:
    """What a person types: a line for each question."""
    right = variables(world)
    answers = {
        "METRONOME_BASE_URL": right["METRONOME_BASE_URL"],
        "METRONOME_BEARER_TOKEN": right["METRONOME_BEARER_TOKEN"],
        "METRONOME_ENVIRONMENT": "sandbox",
        "SOLVIMON_BASE_URL": right["SOLVIMON_BASE_URL"],
        "SOLVIMON_API_KEY": right["SOLVIMON_API_KEY"],
        "USAGE_START": "2026-01-05",
        "USAGE_CUSTOMERS": "",
        "DAGSTER_POSTGRES_URL": right["DAGSTER_POSTGRES_URL"],
        **changed,
    }
    return "".join(f"{line}\n" for line in answers.values())


def _written() -> dict[str, str | None]:
    return dotenv_values(Path.cwd() / ".env")


def test_answers_become_a_private_env_file_that_is_checked_and_planned_with(accounts: World) -> None:
    accounts.customer("Acme")
    accounts.metric(name="Calls")
    done = command("init", env=_environment(accounts), answer=_answers(accounts))
    assert done.status == 0, done.err
    right = variables(accounts)
    written = _written()
    assert {name: written[name] for name in SECRETS} == {name: right[name] for name in SECRETS}
    assert (written["USAGE_START"], written["SOLVIMON_LIVE"]) == ("2026-01-05", "false")
    assert stat.S_IMODE((Path.cwd() / ".env").stat().st_mode) == 0o600
    # The comments of .env.example come along: every other setting is explained there.
    assert "# BRAKE_SHARE=0.20" in (Path.cwd() / ".env").read_text()
    assert "checks are ok" in done.out
    assert "Acme create" in done.out
    assert "Calls create" in done.out
    assert "docs/going-live.md" in done.err


def test_nothing_but_the_probe_is_made_in_solvimon(accounts: World) -> None:
    customer = accounts.customer("Acme")
    assert command("init", env=_environment(accounts), answer=_answers(accounts)).status == 0
    assert [row["reference"] for row in accounts.solvimon.call("GET", "/v1/customers")["data"]] != []
    assert customer not in str(accounts.solvimon.call("GET", "/v1/customers"))
    assert accounts.sql("SELECT count(*) FROM metronome.customers") == [(0,)]


def test_no_secret_is_shown_or_taken_from_an_option(accounts: World) -> None:
    done = command("init", env=_environment(accounts), answer=_answers(accounts))
    right = variables(accounts)
    for name in SECRETS:
        assert right[name] not in done.out + done.err
    options = " ".join(option for each in init.params for option in each.opts)
    assert not any(word in options for word in ("token", "key", "secret", "postgres"))


def test_a_wrong_answer_is_a_sentence_and_asked_again(accounts: World) -> None:
    answers = _answers(accounts, USAGE_START="tomorrow\n2026-01-05T06:00Z", SOLVIMON_API_KEY="with space\nkey-1")
    done = command("init", env=_environment(accounts), answer=answers)
    assert "write a date or a whole UTC hour" in done.err
    assert "SOLVIMON_API_KEY holds a space" in done.err
    assert "with space" not in done.err
    assert _written()["USAGE_START"] == "2026-01-05T06:00Z"


def test_a_file_that_exists_is_only_changed_when_asked_and_keeps_its_other_lines(accounts: World) -> None:
    path = Path.cwd() / ".env"
    before = "# mine\nexport OTHER='two\nlines'\nUSAGE_START=2025-01-01 # old\nBRAKE_SHARE=0.5\n"
    path.write_text(before)
    path.chmod(0o644)
    declined = command("init", env=_environment(accounts), answer=_answers(accounts) + "n\n")
    assert declined.status == 2
    assert "These would change" in declined.err
    assert path.read_text() == before

    agreed = command("init", env=_environment(accounts), answer=_answers(accounts) + "y\n")
    assert agreed.status == 0, agreed.err
    lines = path.read_text().splitlines()
    assert lines[:5] == ["# mine", "export OTHER='two", "lines'", "USAGE_START=2026-01-05", "BRAKE_SHARE=0.5"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_time_an_empty_answer_keeps_what_stands(accounts: World) -> None:
    assert command("init", env=_environment(accounts), answer=_answers(accounts)).status == 0
    before = (Path.cwd() / ".env").read_text()
    again = command("init", env=_environment(accounts), answer="\n" * 8)
    assert again.status == 0, again.err
    assert "says all of this already" in again.err
    assert (Path.cwd() / ".env").read_text() == before


def test_with_yes_nothing_is_asked(accounts: World) -> None:
    options = ("--metronome-url", accounts.metronome.url, "--solvimon-url", accounts.solvimon.url)
    customer = accounts.customer("Acme")
    pilot = ("--usage-start", "2026-01-05", "--customers", customer)
    done = command("init", *options, *pilot, "--yes", env=_environment(accounts, *SECRETS))
    assert done.status == 0, done.err
    assert _written()["USAGE_CUSTOMERS"] == customer

    done = command("init", *options, "--customers", "all", "--yes", env=_environment(accounts))
    assert done.status == 0, done.err
    assert _written()["USAGE_CUSTOMERS"] == ""


def test_with_yes_what_is_missing_is_named_and_nothing_is_written(accounts: World) -> None:
    done = command("init", "--yes", env=_environment(accounts))
    assert done.status == 2
    assert "METRONOME_BEARER_TOKEN is not set" in done.err
    assert not (Path.cwd() / ".env").exists()


def test_a_live_host_needs_a_person_who_says_so(accounts: World) -> None:
    options = ("--metronome-url", accounts.metronome.url, "--usage-start", "2026-01-05")
    live = ("--solvimon-url", "https://api.solvimon.com")
    env = _environment(accounts, *SECRETS)
    refused = command("init", *options, *live, "--yes", env=env)
    assert refused.status == 2
    assert "say --live" in refused.err
    # Agreeing with Enter, or with yes, is not enough.
    for answer in ("", "y", "yes"):
        given = command("init", *options, *live, env=env, answer="\n" * 5 + f"{answer}\n")
        assert given.status == 2
        assert "become invoices" in given.err
    assert not (Path.cwd() / ".env").exists()


def test_live_is_switched_off_again_with_the_host(accounts: World) -> None:
    (Path.cwd() / ".env").write_text("SOLVIMON_LIVE=true\nSOLVIMON_BASE_URL=https://api.solvimon.com\n")
    answers = _answers(accounts) + "y\n"
    assert command("init", env=_environment(accounts), answer=answers).status == 0
    assert _written()["SOLVIMON_LIVE"] == "false"


def test_a_check_that_is_not_ok_ends_it_and_the_file_stands(accounts: World) -> None:
    answers = _answers(accounts, METRONOME_BEARER_TOKEN="of-nobody")
    done = command("init", env=_environment(accounts), answer=answers)
    assert done.status == 1
    assert "another `metronome-pipeline init`" in done.err
    assert "What imports would do" not in done.out
    assert _written()["METRONOME_BEARER_TOKEN"] == "of-nobody"


def test_settings_that_disagree_are_named_before_anything_is_written(accounts: World) -> None:
    path = Path.cwd() / ".env"
    path.write_text('CUSTOMER_USAGE_STARTS={"3b241101-e2bb-4255-8caf-4136c566a962": "2025-01-01"}\n')
    before = path.read_text()
    done = command("init", env=_environment(accounts), answer=_answers(accounts))
    assert done.status == 2
    assert "CUSTOMER_USAGE_STARTS is before USAGE_START" in done.err
    assert path.read_text() == before


def test_what_a_first_import_would_refuse_is_listed_and_no_failure(accounts: World) -> None:
    metric = accounts.metric("UNIQUE", name="Users")
    accounts.product(type="USAGE", initial={"name": "By user", "billable_metric_id": metric})
    done = command("init", env=_environment(accounts), answer=_answers(accounts))
    assert done.status == 0, done.err
    assert "listed with its reason" in done.err


def test_a_variable_of_the_environment_that_wins_is_told(accounts: World) -> None:
    env = {"METRONOME_ENVIRONMENT": "another", "USAGE_START": ""}
    done = command("init", env=env, answer=_answers(accounts))
    for name in env:
        assert f"{name} is set otherwise in the environment" in done.err


def test_a_line_that_cannot_be_read_is_named(accounts: World) -> None:
    (Path.cwd() / ".env").write_text("A=1\n'broken\n")
    done = command("init", env=_environment(accounts), answer=_answers(accounts))
    assert done.status == 1
    assert "line 2" in done.err


def test_a_value_that_would_be_filled_in_is_not_written(accounts: World) -> None:
    done = command("init", env=_environment(accounts), answer=_answers(accounts, SOLVIMON_API_KEY="a${HOME}b"))
    assert done.status == 1
    assert "put it into the environment instead" in done.err
    assert not (Path.cwd() / ".env").exists()


def test_a_new_value_goes_under_the_comment_that_shows_its_default() -> None:
    text = env_file.with_values("# A=\nB=1\n\n# A=2 is the default.\n# A=1\n", {"A": "x", "C": "y"})
    assert text == "# A=\nA=x\nB=1\n\n# A=2 is the default.\n# A=1\nC=y\n"


def test_of_two_lines_of_a_variable_one_is_left() -> None:
    assert env_file.with_values("A=1\nB=2\n\nA=3\n", {"A": "4"}) == "B=2\n\nA=4\n"


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)).filter(lambda text: "${" not in text))
def test_any_credential_is_read_back_as_it_is(value: str) -> None:
    before = "# first\nOTHER=1\n\n# last, without an end"
    text = env_file.with_values(before, {"SECRET": value})
    assert text.startswith(before)
    assert env_file.with_values(text, {"SECRET": value}) == text


def test_a_link_is_followed_and_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, link = tmp_path / "real.env", tmp_path / ".env"
    real.write_text("A=1\n")
    link.symlink_to(real)
    env_file.write(link, "A=2\n")
    assert (real.read_text(), link.is_symlink()) == ("A=2\n", True)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        env_file.write(link, "A=3\n")
    assert real.read_text() == "A=2\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env", "real.env"]
