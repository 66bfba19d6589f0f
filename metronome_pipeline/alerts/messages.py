"""Messages: what people read of a problem, in the same words on every channel.

Here: pure functions from news to text. Not here: how a channel carries it (``channels.py``).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from metronome_pipeline.alerts.problems import Problem
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.tags import environment_of

_LONGEST_SUBJECT = 180


@dataclass(frozen=True)
class Place:
    """Where a message is from.

    Attributes:
        environment: sandbox, test or live: how much a problem there weighs.
        account: The account's name; "" where there is one account only.
        accounts: The account pair, in words.
        ui: The address of Dagster's UI, without a slash at its end; None: there are no links.
    """

    environment: str
    account: str
    accounts: str
    ui: str | None


@dataclass(frozen=True)
class Message:
    """A subject, which begins with the environment and the account's name, and the rest.

    Plain text: each channel escapes it in its way.
    """

    subject: str
    body: str


def place_of(settings: Settings) -> Place:
    """Where these settings are at home."""
    pair = settings.account_pair
    platform = f", platform {pair.solvimon_platform_id}" if pair.solvimon_platform_id else ""
    accounts = f"{pair.metronome_environment} at {pair.metronome_host} to {pair.solvimon_host}{platform}"
    return Place(environment_of(settings), settings.account_name, accounts, settings.dagster_ui_url)


def told(problem: Problem, place: Place, *, since: datetime | None = None) -> Message:
    """A problem that is new; or that was told before, at ``since``, and has changed."""
    lines = [f"Changed since it was told, {_utc(since)}."] if since else []
    lines += [f"- {each}" for each in problem.records]
    if problem.more:
        lines.append(f"- and {problem.more:,} more")
    lines.append(f"To do: {problem.to_do}")
    if place.ui and problem.page:
        lines.append(f"{place.ui}/{problem.page}")
    return _message(("Still: " if since else "") + problem.headline, lines, place)


def over(headline: str, first_at: datetime, now: datetime, place: Place) -> Message:
    """A problem that was told and is there no longer."""
    lines = [f"Told {_utc(first_at)}, over after {duration(now - first_at)}. Nothing is left to do."]
    return _message(f"Over: {headline}", lines, place)


def duration(time: timedelta) -> str:
    """A time in words, such as ``2 days``, ``3 hours`` or ``5 minutes``."""
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        number = time // length
        if number >= 2 or (number and unit != "day"):
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return "less than a minute"


def _message(headline: str, lines: list[str], place: Place) -> Message:
    subject = f"[{f'{place.environment} {place.account}'.strip()}] {headline}"
    cut = subject if len(subject) <= _LONGEST_SUBJECT else f"{subject[: _LONGEST_SUBJECT - 1]}…"
    whole = [] if cut == subject else [headline]
    return Message(cut, "\n".join([*whole, *lines, f"Accounts: {place.accounts}."]))


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
