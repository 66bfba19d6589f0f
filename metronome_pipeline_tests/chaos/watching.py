"""What a run does, seen from outside: in the tables, and in the counters of both sandboxes.

Here: looking, while it goes on and once it is dead. Not here: what follows from it (``kills.py``, ``scenes.py``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from metronome_pipeline_tests.chaos.account import Account

PHASES = (
    "starting",
    "reading",
    "read, nothing planned",
    "planned, not claimed",
    "claimed, nothing answered",
    "answered, not written down",
    "all written down",
)
"""What a run was at when it was killed, as its traces show."""

_FACTS = """
SELECT (SELECT coalesce(max(reading_id), 0) FROM metronome.readings),
       (SELECT coalesce(max(event_id), 0) FROM ledger.events),
       (SELECT count(*) FROM ledger.receipts),
       (SELECT count(*) FROM ledger.open_events WHERE state = 'planned'),
       (SELECT count(*) FROM ledger.claims)
"""
_DOUBTFUL = """
SELECT reference FROM ledger.claims, unnest(event_ids) AS claimed (event_id) JOIN ledger.events USING (event_id)
WHERE kind <> 'deletion'
"""
READS, POSTS, LOOKS = "POST /v1/usage", "POST /v1/events/ingest-batch", "GET /v1/events"
"""Endpoints as the sandboxes name them."""


@dataclass(frozen=True)
class Facts:
    """What a run has left behind so far, in the tables and at both APIs."""

    readings: int
    events: int
    receipts: int
    planned: int
    claims: int
    asked: int
    reads: int
    posts: int


class Watch:
    """Looks at what a run does, from outside."""

    def __init__(self, account: Account, connection: psycopg.Connection[Any]) -> None:
        self._account = account
        self._connection = connection

    def facts(self, *, by_requests: bool = True) -> Facts:
        """What there is now; without the counters of requests, which take longer, where nobody needs them."""
        row = self._connection.execute(_FACTS).fetchone()
        assert row is not None
        readings, events, receipts, planned, claims = row
        asked = self._account.world.metronome.requests() if by_requests else {}
        told = self._account.world.solvimon.requests() if by_requests else {}
        reads, posts = asked.get(READS, 0), told.get(POSTS, 0)
        return Facts(readings, events, receipts, planned, claims, sum(asked.values()), reads, posts)

    def doubtful(self) -> list[str]:
        """The references of what is claimed: where nobody sends, these may have arrived."""
        return [reference for (reference,) in self._account.world.sql(_DOUBTFUL)]

    def requests(self) -> list[dict[str, Any]]:
        """Every request to Solvimon since they were last forgotten."""
        log: list[dict[str, Any]] = self._account.world.solvimon.call("GET", "/_sandbox/requests/log")["requests"]
        return log


@contextmanager
def watching(account: Account) -> Iterator[Watch]:
    with psycopg.connect(account.world.database_url, autocommit=True) as connection:
        yield Watch(account, connection)


def phase(then: Facts, now: Facts) -> str:
    """What a killed run was at. ``then``: before it began."""
    if now.claims:
        return PHASES[5] if now.posts > then.posts or now.receipts > then.receipts else PHASES[4]
    if now.planned:
        return PHASES[3]
    if now.events > then.events:
        return PHASES[6]
    if now.readings > then.readings:
        return PHASES[2]
    return PHASES[1] if now.asked > then.asked else PHASES[0]
