"""The pacer of one Metronome account, shared by every run on every machine through Postgres.

Each request takes the next free moment of the account, by the database's clock, so that all runs together keep to one
budget. Not here: retries (``retries.py``).
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg

from metronome_pipeline.clock import Clock
from metronome_pipeline.storage.database import Database


@dataclass(frozen=True)
class SharedPacer:
    """At most ``requests_per_second`` requests to ``account``, evenly spaced, over all processes."""

    database: Database
    clock: Clock
    account: str
    requests_per_second: float
    # Of this process one request asks at a time: several would wait for each other in Postgres, each with a connection
    # and a thread, and which of them comes next is a race there.
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def wait(self) -> float:
        """Waits for this request's turn and returns the seconds waited."""
        spacing = timedelta(seconds=1 / self.requests_per_second)
        async with self._asking:
            wait = await self.database.run(lambda connection: _take(connection, self.account, spacing))
        seconds = max(wait.total_seconds(), 0.0)
        if seconds:
            await self.clock.sleep(seconds)
        return seconds

    async def back_off(self, seconds: float) -> None:
        """Keeps everybody from asking for so long: the API said 429."""
        await self.database.run(lambda connection: _push_back(connection, self.account, timedelta(seconds=seconds)))


def _take(connection: psycopg.Connection[Any], account: str, spacing: timedelta) -> timedelta:
    # The row lock is short: one statement, one commit. `next_at` is when the request after this one may leave.
    row = connection.execute(
        "INSERT INTO ledger.pace AS p (account, next_at) VALUES (%(account)s, ledger.moment() + %(spacing)s) "
        "ON CONFLICT (account) DO UPDATE SET next_at = greatest(p.next_at, ledger.moment()) + %(spacing)s "
        "RETURNING next_at - %(spacing)s - ledger.moment()",
        {"account": account, "spacing": spacing},
    ).fetchone()
    assert row is not None
    wait: timedelta = row[0]
    return wait


def _push_back(connection: psycopg.Connection[Any], account: str, pause: timedelta) -> None:
    connection.execute(
        "INSERT INTO ledger.pace AS p (account, next_at) VALUES (%(account)s, ledger.moment() + %(pause)s) "
        "ON CONFLICT (account) DO UPDATE SET next_at = greatest(p.next_at, excluded.next_at)",
        {"account": account, "pause": pause},
    )
