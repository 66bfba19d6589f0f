"""An account whose usage changes between runs: late, negative and removed events, maxima that fall, new customers.

Here: the two accounts of one world, and their runs. Not here: whether the numbers are right (``books.py``).
"""

import random
import uuid
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import dagster as dg

from metronome_pipeline_tests.chaos.servers import Postgres
from metronome_pipeline_tests.elsewhere import Run, Work
from metronome_pipeline_tests.world import START, Api, World

HOURS = 12
_MOST_CUSTOMERS = 6
_BATCH = 4
_VALUES = ("1", "2", "7", "0.1", "0.3", "2.75", "0", "19.999", "123456789012345678901234567890.123456789")
_NEGATIVE = ("-1", "-0.1", "-50")
_REGIONS = ("eu", "us", "ap", None)


@dataclass
class Account:
    """One Metronome account, one Solvimon account and a database, with the draws that change them.

    ``world.instance`` is not there: runs are processes of their own, with an instance each.

    Attributes:
        deduplicated: Solvimon ignores a second event under one reference, and this was proved. Else it counts both.
        grouped: Billed with properties, through the other workflow.
        through: The addresses that runs ask, where they are others.
        first_hour: The first of its hours, counted from the worlds' START.
    """

    world: World
    draw: random.Random
    deduplicated: bool
    grouped: bool
    through: tuple[str, str] | None = None
    first_hour: int = 0
    customers: list[str] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)
    transactions: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        database_url: str,
        metronome: str,
        solvimon: str,
        folder: Path,
        draw: random.Random,
        *,
        deduplicated: bool,
        grouped: bool = False,
        through: tuple[str, str] | None = None,
        first_hour: int = 0,
    ) -> Self:
        """An account with usage in both systems, of which no run knows yet."""
        source = Api(metronome, {"Authorization": f"Bearer token-{uuid.uuid4()}"})
        destination = Api(solvimon, {"X-API-KEY": f"key-{uuid.uuid4()}"})
        source.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
        idempotency = "on" if deduplicated else "off"
        destination.call("PUT", "/_sandbox/store", {"settings": {"reference_idempotency": idempotency}})
        # Small batches, so that there are many requests; and what is taken back here is meant.
        environment = {"SOLVIMON_BATCH_LIMIT": str(_BATCH), "BRAKE_SHARE": "1"}
        environment["USAGE_START"] = (START + timedelta(hours=first_hour)).isoformat()
        if grouped:
            environment["GROUPED_USAGE_ENABLED"] = "true"
        world = World(source, destination, database_url, cast("dg.DagsterInstance", None), environment, folder)
        account = cls(world, draw, deduplicated, grouped, through, first_hour)
        keys = {"group_keys": [["region"]]} if grouped else {}
        for kind in ("SUM", "MAX", "COUNT"):
            account.metrics[kind] = world.metric(kind, name=kind, **keys)
        for _ in range(3):
            account.add_customer()
        account.use(60)
        return account

    @classmethod
    def imported(
        cls,
        postgres: Postgres,
        urls: tuple[str, str],
        folder: Path,
        draw: random.Random,
        *,
        deduplicated: bool,
        grouped: bool = False,
        through: tuple[str, str] | None = None,
        first_hour: int = 0,
    ) -> Self:
        """The same in a new database, with its meters and customers imported."""
        folder.mkdir()
        account = cls.open(
            postgres.database(),
            *urls,
            folder,
            draw,
            deduplicated=deduplicated,
            grouped=grouped,
            through=through,
            first_hour=first_hour,
        )
        failed = account.start("import_everything").end()
        if failed:
            raise RuntimeError(f"The import failed: {failed}")
        if deduplicated:
            account.world.prove_deduplication()
        return account

    @property
    def job(self) -> str:
        return "ingest_grouped_usage" if self.grouped else "ingest_usage"

    def start(self, job: str | None = None) -> Run:
        """A run in a process of its own, of all hours unless it is an import."""
        last = self.first_hour + HOURS - 1
        if job is None:
            work: Work = partial(World.ingest, first=self.first_hour, last=last, job=self.job)
        else:
            work = partial(World.run, job=job)
        return Run.start(self.world if self.through is None else _asking(self.world, self.through), work)

    # What changes ----------------------------------------------------------------------------------------------------

    def change(self) -> None:
        """What happens to usage until the next run: there is always something to plan and to send."""
        self.use(self.draw.randint(6, 25))
        if self.draw.random() < 0.3:
            self.use(self.draw.randint(1, 4), _NEGATIVE)
        if self.draw.random() < 0.4:
            self._remove(self.draw.randint(1, 6))
        if self.draw.random() < 0.15 and len(self.customers) < _MOST_CUSTOMERS:
            self.add_customer()
            self.use(3)
        # Some answers take their time, so that kills find requests under way.
        seconds = self.draw.choice((0.05, 0.2, 0.5))
        slow = {"kind": "slow", "path": "/v1/events*", "rate": "0.5", "seconds": seconds}
        self.world.solvimon.faults(*([slow] if self.draw.random() < 0.7 else []), seed=self.draw.randrange(10**6))

    def slow_down(self, seconds: float) -> None:
        """Every answer about events takes so long, until usage changes again."""
        self.world.solvimon.faults({"kind": "slow", "path": "/v1/events*", "rate": 1, "seconds": seconds})

    def add_customer(self) -> None:
        self.customers.append(self.world.customer(f"Customer {len(self.customers)}"))

    def use(self, count: int, values: tuple[str, ...] = _VALUES) -> None:
        """Raw events somewhere in the account's hours."""
        events = [self._event(values) for _ in range(count)]
        self.transactions += [event["transaction_id"] for event in events]
        self.world.metronome.call("POST", "/_sandbox/events", events)

    def _event(self, values: tuple[str, ...]) -> dict[str, Any]:
        region = self.draw.choice(_REGIONS)
        hour = self.first_hour + self.draw.randrange(HOURS)
        return {
            "transaction_id": str(uuid.UUID(int=self.draw.getrandbits(128))),
            "customer_id": self.draw.choice(self.customers),
            "event_type": self.draw.choice(sorted(self.metrics.values())),
            "timestamp": (START + timedelta(hours=hour, seconds=self.draw.randrange(3_600))).isoformat(),
            "properties": {"value": self.draw.choice(values), **({"region": region} if region else {})},
        }

    def _remove(self, count: int) -> None:
        """Events that Metronome never counted, as far as it says now: sums and maxima fall."""
        gone = self.draw.sample(self.transactions, min(count, len(self.transactions)))
        self.transactions = [each for each in self.transactions if each not in set(gone)]
        self.world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": gone})


def _asking(world: World, through: tuple[str, str]) -> World:
    metronome, solvimon = through
    return replace(
        world, metronome=replace(world.metronome, url=metronome), solvimon=replace(world.solvimon, url=solvimon)
    )
