"""What a person at the desk has: Dagster's UI on emulated accounts, and the emulators to change things in.

Here: the services of ``metronome-pipeline dev``, on free ports, in a folder that is gone afterwards. Not here: the
browser (``conftest.py``), and what is looked at (``using_the_ui.py``).
"""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from metronome_pipeline.cli import dev, local
from metronome_pipeline.sandbox.server import listen, url_of

UNITED, MILES = "United Air Lines Inc.", "Miles"
_KEY = "%Y-%m-%d-%H:%M"


@dataclass(frozen=True)
class Desk:
    """Running services, with two weeks of flights to bill and none of them billed.

    Attributes:
        today: This UTC midnight.
        minute: Of each hour, at which the schedule ticks.
    """

    url: str
    services: local.Services
    today: datetime
    minute: int

    def hour(self, days_ago: int, hour: int = 0) -> datetime:
        return self.today - timedelta(days=days_ago) + timedelta(hours=hour)

    def key(self, days_ago: int, hour: int = 0) -> str:
        """The partition of an hour."""
        return self.hour(days_ago, hour).strftime(_KEY)

    def day(self, days_ago: int) -> str:
        """The partition of a day."""
        return f"{self.hour(days_ago):%Y-%m-%d}"

    def last_tick(self, now: datetime) -> str:
        """When the schedule last ticked, or would have, as Dagster's UI writes it."""
        tick = self._last_tick(now)
        return f"{tick:%b} {tick.day}, {tick.hour % 12 or 12}:{tick:%M %p} UTC"

    def newest_hour(self, now: datetime) -> str:
        """The partition of the hour that was the last to be closed at that tick."""
        return (self._last_tick(now) - timedelta(hours=1)).strftime("%Y-%m-%d-%H:00")

    def _last_tick(self, now: datetime) -> datetime:
        tick = now.replace(minute=self.minute, second=0, microsecond=0)
        return tick if tick <= now else tick - timedelta(hours=1)

    def fly(self, at: datetime, miles: int) -> None:
        """A flight of United that Metronome hears of only now."""
        event = {
            "transaction_id": str(uuid.uuid4()),
            "customer_id": self._id("customers", UNITED),
            "event_type": "flight",
            "timestamp": (at + timedelta(minutes=7)).isoformat(),
            "properties": {"carrier": "UA", "origin": "JFK", "dest": "SFO", "distance": str(miles), "dep_delay": "1"},
        }
        self.services.metronome.call("POST", "events", [event])

    def refuse(self, at: datetime) -> None:
        """From now on Solvimon refuses United's miles of an hour."""
        ((reference,),) = self._sql(
            "SELECT ledger.event_reference(%s, %s, %s, %s, 'total', 0)",
            self._id("customers", UNITED),
            self._id("billable_metrics", MILES),
            at,
            at + timedelta(hours=1),
        )
        self.services.solvimon.call("PATCH", "settings", {"refuse_reference": [reference]})

    def _id(self, table: str, name: str) -> str:
        column = {"customers": "customer_id", "billable_metrics": "metric_id"}[table]
        ((found,),) = self._sql(f"SELECT {column}::text FROM metronome.{table} WHERE name = %s", name)
        return str(found)

    def _sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.services.postgres_url) as connection:
            return connection.execute(statement, parameters).fetchall()


@contextmanager
def open_desk() -> Iterator[Desk]:
    """Starts all that `metronome-pipeline dev` does. No schedule of usage ticks before an hour has nearly gone."""
    now = datetime.now(UTC)
    with listen() as free:
        port = int(url_of(free).rpartition(":")[2])
    with tempfile.TemporaryDirectory(prefix="desk-") as folder, local.local_services(Path(folder) / "dev") as services:
        minute = (now.minute - 5) % 60
        variables = {**dev._prepare(services, now), "USAGE_CLOSE_MINUTES": str(minute)}
        with dev._dagster(services, variables, port) as process:
            dev._wait_until_up(process, services, port)
            yield Desk(
                f"http://127.0.0.1:{port}", services, now.replace(hour=0, minute=0, second=0, microsecond=0), minute
            )
