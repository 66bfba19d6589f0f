"""Telling: each problem once on each channel, again when it has changed after a while, and once more when it is over.

Here: what is due to be told, and the state in Postgres that remembers it. Not here: what is wrong (``of_ledger.py``,
``of_dagster.py``), and how a channel carries a message (``channels.py``).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg

from metronome_pipeline.alerts import messages
from metronome_pipeline.alerts.channels import Channel, NotTaken
from metronome_pipeline.alerts.messages import Message, Place
from metronome_pipeline.alerts.problems import Problem
from metronome_pipeline.storage.database import Database

Connection = psycopg.Connection[Any]

TELLING_LOCK = 0x6D70_0006
_PATIENCE_SECONDS = 25.0


@dataclass(frozen=True)
class Told:
    """A problem that people were told of on a channel, and that is not over yet."""

    problem: str
    headline: str
    state: str
    first_at: datetime
    told_at: datetime


@dataclass(frozen=True)
class News:
    """One thing to tell: a problem that is new (``told`` is None), has changed, or is over (``problem`` is None)."""

    problem: Problem | None
    told: Told | None

    def message(self, now: datetime, place: Place) -> Message:
        """Its words."""
        if self.problem is None:
            assert self.told is not None
            return messages.over(self.told.headline, self.told.first_at, now, place)
        return messages.told(self.problem, place, since=self.told.told_at if self.told else None)


@dataclass(frozen=True)
class Report:
    """What a round of telling did.

    Attributes:
        told: Messages that were taken: of new and of changed problems.
        over: Messages that were taken: of problems that are over.
        waiting: Messages that were not taken: the next round sends them.
        reasons: Why not, as sentences.
        open: Problems that there are.
    """

    told: int = 0
    over: int = 0
    waiting: int = 0
    reasons: tuple[str, ...] = ()
    open: int = 0

    def __str__(self) -> str:
        """The round in a sentence or two."""
        done = [f"told {self.told}"] * bool(self.told) + [f"over {self.over}"] * bool(self.over)
        first = f"{', '.join(done).capitalize()}. " if done else ""
        waiting = f"{self.waiting} not taken, sent again by the next tick: {' '.join(self.reasons)} "
        return f"{first}{waiting if self.waiting else ''}Open now: {self.open}."


def news(problems: Sequence[Problem], told: Sequence[Told], now: datetime, remind_after: timedelta) -> list[News]:
    """What is due to be told on a channel, in this order: new problems, changed ones, and those that are over."""
    before = {each.problem: each for each in told}
    keys = {problem.key for problem in problems}
    new = [News(problem, None) for problem in problems if problem.key not in before]
    changed = [
        News(problem, known)
        for problem in problems
        if (known := before.get(problem.key)) and known.state != problem.state and now - known.told_at >= remind_after
    ]
    return [*new, *changed, *(News(None, each) for each in told if each.problem not in keys)]


def tell(
    database: Database,
    pair_id: int,
    problems: Callable[[], Sequence[Problem]],
    channels: Sequence[Channel],
    place: Place,
    *,
    remind_after: timedelta,
    now: Callable[[], datetime],
    patience: float = _PATIENCE_SECONDS,
) -> Report | None:
    """One round: finds out what is wrong, and tells what is due. None where another process is at it.

    Delivered at least once: what was told is written down once the channel has taken it, so a message may come twice
    after a crash, and is never lost. A channel that is down keeps the others from nothing.

    Args:
        database: At least two connections: one holds the lock.
        pair_id: The account pair.
        problems: Everything that is wrong now. Called under the lock; what it raises ends the round untold.
        channels: Where to tell it.
        place: What messages say of where they are from.
        remind_after: How long a problem that was told may change without being told again.
        now: The database's time.
        patience: Seconds for all messages together; what is left is for the next round.
    """
    with _alone(database, pair_id) as alone:
        if not alone:
            return None
        found = list(problems())
        ends = time.monotonic() + patience
        report = Report(open=len(found))
        for channel in channels:
            with database.transaction() as connection:
                told = _told(connection, pair_id, channel.name)
            due = news(found, told, now(), remind_after)
            report = _through(database, pair_id, channel, due, place, now, ends, report)
        return report


def _through(
    database: Database,
    pair_id: int,
    channel: Channel,
    due: Sequence[News],
    place: Place,
    now: Callable[[], datetime],
    ends: float,
    report: Report,
) -> Report:
    """Sends what is due through one channel, and writes down each message that was taken."""
    for number, each in enumerate(due):
        if time.monotonic() > ends:
            reason = "There was no time for more."
            return replace(report, waiting=report.waiting + len(due) - number, reasons=_with(report, reason))
        try:
            channel.send(each.message(now(), place))
        except NotTaken as error:
            left = len(due) - number if error.down else 1
            report = replace(report, waiting=report.waiting + left, reasons=_with(report, str(error)))
            if error.down:
                return report
            continue
        with database.transaction() as connection:
            _note(connection, pair_id, channel.name, each)
        over = each.problem is None
        report = replace(report, told=report.told + (not over), over=report.over + over)
    return report


def _with(report: Report, reason: str) -> tuple[str, ...]:
    return report.reasons if reason in report.reasons else (*report.reasons, reason)


@contextmanager
def _alone(database: Database, pair_id: int) -> Iterator[bool]:
    """Holds the pair's lock on telling; False where another process holds it. Death frees it."""
    with database.transaction() as connection:
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [TELLING_LOCK, pair_id]).fetchone()
        yield bool(row and row[0])


def _told(connection: Connection, pair_id: int, channel: str) -> list[Told]:
    rows = connection.execute(
        "SELECT problem, headline, state, first_at, told_at FROM ledger.alerts "
        "WHERE pair_id = %s AND channel = %s AND over_at IS NULL ORDER BY alert_id",
        [pair_id, channel],
    )
    return [Told(*row) for row in rows]


def _note(connection: Connection, pair_id: int, channel: str, told: News) -> None:
    """Writes down what a channel has taken."""
    if told.problem is None:
        assert told.told is not None
        connection.execute(_OVER, [pair_id, channel, told.told.problem])
        return
    problem = told.problem
    connection.execute(_TOLD, [pair_id, channel, problem.key, problem.kind.name, problem.headline, problem.state])


_TOLD = """
INSERT INTO ledger.alerts (pair_id, channel, problem, kind, headline, state, first_at, told_at)
SELECT %s, %s, %s, %s, %s, %s, now.at, now.at FROM (SELECT ledger.moment() AS at) AS now
ON CONFLICT (pair_id, channel, problem) WHERE over_at IS NULL
DO UPDATE SET headline = excluded.headline, state = excluded.state, told_at = excluded.told_at
"""

_OVER = """
UPDATE ledger.alerts SET over_at = ledger.moment()
WHERE pair_id = %s AND channel = %s AND problem = %s AND over_at IS NULL
"""
