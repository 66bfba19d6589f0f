"""``metronome-pipeline init``: from two credentials to a checked ``.env`` and the plan of the first import.

Here: what is asked, in which order, and what follows. Not here: the file's text (``env_file.py``), the checks
(``connections.py``), the plan (``plan.py``).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say

_FILE = ".env"
_EVERYONE = "all"


@dataclass(frozen=True)
class _Question:
    """One variable: what is asked, the name of the function of ``setting_values`` that reads it, and its default.

    ``default`` None: an answer is needed. A secret is neither shown nor taken from an option.
    """

    variable: str
    text: str
    read: str
    default: str | None = None
    secret: bool = False


_QUESTIONS = (
    _Question("METRONOME_BASE_URL", "Metronome's API", "base_url", "https://api.metronome.com"),
    _Question("METRONOME_BEARER_TOKEN", "Metronome's API token; reading is enough", "secret", secret=True),
    _Question("METRONOME_ENVIRONMENT", "A name of yours for that token's environment", "name", "production"),
    _Question("SOLVIMON_BASE_URL", "Solvimon's API", "base_url", "https://test.api.solvimon.com"),
    _Question("SOLVIMON_API_KEY", "Solvimon's API key, of that environment", "secret", secret=True),
    _Question("USAGE_START", "The first hour to bill, a date or a UTC hour: nothing before it ever is", "hour"),
    _Question("USAGE_CUSTOMERS", "For a pilot, only these customers (Metronome's ids, by comma)", "ids", ""),
    _Question("DAGSTER_POSTGRES_URL", "Postgres; without one, a server is embedded", "postgres_url", "", secret=True),
)


@click.command(
    "init",
    short_help="Write .env from a few answers, check it, and plan the first import.",
    epilog=example("init", "init --usage-start 2026-11-01 --environment staging --yes"),
)
@click.option("--metronome-url", metavar="URL", help="Metronome's API.  [default: https://api.metronome.com]")
@click.option("--environment", metavar="NAME", help="Your name for the token's environment.  [default: production]")
@click.option("--solvimon-url", metavar="URL", help="Solvimon's API.  [default: https://test.api.solvimon.com]")
@click.option("--live", is_flag=True, help="--solvimon-url is live: events sent there become invoices.")
@click.option("--usage-start", metavar="HOUR", help="The cut-over: a date or a UTC hour.")
@click.option("--customers", metavar="IDS", help="A pilot: only these customers, by comma. 'all': every one.")
@click.option("--yes", is_flag=True, help="Ask nothing: take options, the environment, .env, then defaults.")
def command(
    metronome_url: str | None,
    environment: str | None,
    solvimon_url: str | None,
    live: bool,  # noqa: FBT001 - click's flags
    usage_start: str | None,
    customers: str | None,
    yes: bool,  # noqa: FBT001
) -> None:
    """Ask for what a connection needs, write it into .env, check it, and show what a first import would do.

    The file is made readable for you alone. In one that exists, what you answer is changed and all else kept, once
    you agree. The token, the key and Postgres's URL are asked for without being shown, or taken from the environment
    (METRONOME_BEARER_TOKEN, SOLVIMON_API_KEY, DAGSTER_POSTGRES_URL), never from an option.

    Nothing is imported. On Solvimon's test host the check sends two events of a probe customer and deletes them.
    """
    given = {
        "METRONOME_BASE_URL": metronome_url,
        "METRONOME_ENVIRONMENT": environment,
        "SOLVIMON_BASE_URL": solvimon_url,
        "USAGE_START": usage_start,
        "USAGE_CUSTOMERS": customers,
    }
    path = Path.cwd() / _FILE
    before = _read(path)
    in_file = _values(before)
    answers = _answers({name: text for name, text in given.items() if text is not None}, in_file, ask=not yes)
    answers["SOLVIMON_LIVE"] = _live(answers["SOLVIMON_BASE_URL"], said=live, ask=not yes)
    changes = {name: value for name, value in answers.items() if value != in_file.get(name, "")}
    _refuse_what_disagrees({**in_file, **answers})
    _write(path, before, changes, ask=not yes)
    _warn_of_the_environment(answers)
    _check_and_plan()


def _answers(given: Mapping[str, str], in_file: Mapping[str, str], *, ask: bool) -> dict[str, str]:
    """A checked value for each question: an option's, an answer, or the one that stands; "" for none."""
    answers: dict[str, str] = {}
    for question in _QUESTIONS:
        name = question.variable
        stands = os.environ.get(name, "").strip() or in_file.get(name, "").strip() or None
        if name in given:
            answers[name] = _checked(question, given[name])
        elif ask:
            answers[name] = _asked(question, stands)
        elif stands or question.default is not None:
            answers[name] = _checked(question, stands or question.default or "")
        else:
            where = "the environment" if question.secret else "the environment, or as an option"
            raise WrongUse(f"{name} is not set, and --yes asks nothing: put it into {where}.")
    return answers


def _checked(question: _Question, text: str) -> str:
    """The text itself, once the setting's own reader takes it.

    Raises:
        WrongUse: It does not.
    """
    from metronome_pipeline import setting_values  # noqa: PLC0415 - so that help is instant

    text = text.strip()
    if question.variable == "USAGE_CUSTOMERS" and text == _EVERYONE:
        text = ""
    read: Callable[[str], Any] = getattr(setting_values, question.read)
    if text or question.default is None:
        try:
            read(text)
        except ValueError as error:
            raise WrongUse(f"{question.variable} {error}.") from None
    return text


def _asked(question: _Question, stands: str | None) -> str:
    """Asks until the answer is right. An empty answer takes what stands, else the default."""
    default = stands if stands is not None else question.default
    hint = ""
    if question.secret:
        hint = " (hidden; empty: as it stands)" if stands else " (hidden)"
    elif default:
        hint = f" [{default}]" if question.variable != "USAGE_CUSTOMERS" else f" [{default}; 'all' for everyone]"
    elif question.default == "":
        hint = " [all]"
    while True:
        text = str(
            click.prompt(question.text + hint, default="", show_default=False, hide_input=question.secret, err=True)
        )
        try:
            return _checked(question, text.strip() or default or "")
        except WrongUse as error:
            say(error.message)


def _live(solvimon_url: str, *, said: bool, ask: bool) -> str:
    """SOLVIMON_LIVE: true only for a host that needs it, and only when a person has said so."""
    from metronome_pipeline.setting_values import base_url, host, is_loopback  # noqa: PLC0415
    from metronome_pipeline.settings import TEST_HOST  # noqa: PLC0415

    url = base_url(solvimon_url)
    if is_loopback(url) or host(url) == TEST_HOST:
        return "false"
    if not said and ask:
        say(f"{host(url)} is not Solvimon's test host: events sent there become invoices.")
        said = str(click.prompt(f"Write {host(url)} to go on", default="", show_default=False, err=True)) == host(url)
    if not said:
        raise WrongUse(f"Nothing was written. If {host(url)} is to become live, say --live; else use {TEST_HOST}.")
    return "true"


def _refuse_what_disagrees(values: Mapping[str, str]) -> None:
    """Looks at the settings as a whole, before anything is written.

    Raises:
        SettingsError: A sentence for each that is wrong.
    """
    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    Settings.from_environment(values)


def _read(path: Path) -> str:
    """The text of ``.env``; where there is none, that of ``.env.example``, whose comments explain every setting."""
    from metronome_pipeline.cli.runs import PROJECT  # noqa: PLC0415

    for each in (path, PROJECT / ".env.example"):
        try:
            return each.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise Failed(f"{each} can't be read ({type(error).__name__}): move it away, or correct it.") from None
    return ""


def _values(text: str) -> dict[str, str]:
    from io import StringIO  # noqa: PLC0415

    from dotenv import dotenv_values  # noqa: PLC0415

    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}


def _write(path: Path, before: str, changes: Mapping[str, str], *, ask: bool) -> None:
    from metronome_pipeline.cli import env_file  # noqa: PLC0415

    exists = path.exists()
    if not changes and exists:
        say(f"{path} says all of this already.")
        return
    try:
        text = env_file.with_values(before, changes)
    except ValueError as error:
        raise Failed(f"Nothing was written to {path}: {error}.") from None
    if exists and ask:
        say(f"{path} exists. These would change: {', '.join(changes)}. All other lines stay.")
        if not click.confirm("Change them?", err=True):
            raise WrongUse(f"{path} is as it was.")
    try:
        env_file.write(path, text)
    except OSError as error:
        raise Failed(f"{path} can't be written ({error.strerror}).") from None
    say(f"{path} is written, readable for you alone. It holds credentials: never commit it.")


def _warn_of_the_environment(answers: Mapping[str, str]) -> None:
    for name, value in answers.items():
        # An empty variable wins, too: it hides the one of the file.
        if os.environ.get(name, value).strip() != value:
            say(f"Beware: {name} is set otherwise in the environment, which wins over {_FILE}. Unset it there.")


def _check_and_plan() -> None:
    from metronome_pipeline.cli import check, plan  # noqa: PLC0415

    context = click.get_current_context()
    say("")
    try:
        context.invoke(check.command, probe=False, yes=False)
    except Failed as error:
        raise Failed(
            f"{error.message} Mend them, or correct {_FILE} with another `metronome-pipeline init`, and go on with "
            "`metronome-pipeline check`, then `metronome-pipeline plan import`."
        ) from None
    say("")
    try:
        context.invoke(plan.import_, what=None, everything=False, as_json=False)
    except click.exceptions.Exit as ended:
        if ended.exit_code != plan.SOMETHING_STAYS:
            raise
        say("What would be refused is listed with its reason; everything else would be imported.")
    say(
        "Next: docs/going-live.md. Beware: once Dagster runs (`dagster dev`), its sensor account_changes makes this "
        "import, and the schedule hourly_usage sends all usage since USAGE_START, unless USAGE_ENABLED=false."
    )
