"""All that one credential sees: customers, metrics, products, events, audit rows, knobs, faults and the request log.

Here: the state and how its parts find each other. Not here: the requests that read and change it.
"""

import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from metronome_pipeline.sandbox.faults import FaultInjector, Sleep
from metronome_pipeline.sandbox.metronome.aggregate import Definition, Group, Partial
from metronome_pipeline.sandbox.metronome.answers import Answer
from metronome_pipeline.sandbox.metronome.events import EventLog
from metronome_pipeline.sandbox.metronome.settings import Settings

Fields = dict[str, Any]
"""One object as the API spells it, instants as ``datetime``."""

LOG_LENGTH = 10_000
"""How many requests the log keeps."""


class UsageSource(Protocol):
    """Usage from a function instead of events: nothing is stored, so a million windows need little memory."""

    def hours(self) -> range:
        """The hours (counted from 1970) in which there may be usage."""

    def parts(self, customer_id: str, metric_id: str, keys: tuple[str, ...], hour: int) -> Mapping[Group, Partial]:
        """The parts of one hour by group, as the metric's aggregation merges them; empty where there is no usage."""


@dataclass
class Record:
    """A customer, metric or product: its fields, and when it came to be."""

    number: int
    fields: Fields
    created_at: datetime
    events_before: int = 0

    @property
    def id(self) -> str:
        """The object's id."""
        return str(self.fields["id"])

    @property
    def archived_at(self) -> datetime | None:
        """When it was archived, if it was."""
        archived: datetime | None = self.fields.get("archived_at")
        return archived


@dataclass
class Metric(Record):
    """A billable metric with what it counts; for a SQL metric that is the stand-in named on creation."""

    definition: Definition = field(default_factory=lambda: Definition(""))


@dataclass
class RequestLog:
    """What was asked of a store and what was answered; statuses as text, or the kind of a fault that leaves none."""

    total: int = 0
    by_endpoint: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    last: deque[Fields] = field(default_factory=lambda: deque(maxlen=LOG_LENGTH))

    def note(self, endpoint: str, outcome: str, entry: Fields) -> None:
        """Write down one request."""
        self.total += 1
        self.by_endpoint[endpoint][outcome] += 1
        self.last.append(entry)


@dataclass
class Bucket:
    """A token bucket: it starts full."""

    tokens: float
    at: datetime


@dataclass(frozen=True)
class StoredAnswer:
    """An answer kept under an idempotency key: for which request, and when."""

    request: str
    at: datetime
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass
class CannedAnswer:
    """An answer that a test put in place of the next ones of an endpoint."""

    method: str
    path: str
    status: int
    body: bytes
    headers: dict[str, str]
    times: int | None


class Store:
    """The isolated world of one credential."""

    def __init__(self, clock: Callable[[], datetime], sleep: Sleep) -> None:
        self._clock = clock
        self.settings = Settings()
        self.faults = FaultInjector(sleep=sleep)
        self.log = RequestLog()
        self.customers: dict[str, Record] = {}
        self.metrics: dict[str, Metric] = {}
        self.products: dict[str, Record] = {}
        self.aliases: dict[str, str] = {}
        self.events = EventLog()
        self.sources: list[UsageSource] = []
        self.audit: list[Fields] = []
        self.buckets: dict[str, Bucket] = {}
        self.idempotency: dict[str, StoredAnswer] = {}
        self.canned: list[CannedAnswer] = []
        self.parts: dict[str, dict[tuple[str, tuple[str, ...]], dict[int, dict[Group, Partial]]]] = {}
        self._numbers = 0

    def now(self) -> datetime:
        """The store's time: the knob ``now``, or the app's clock."""
        return self.settings.now or self._clock()

    def wall(self) -> datetime:
        """The app's clock, whatever the knob ``now`` says: rates go by it."""
        return self._clock()

    def number(self) -> int:
        """The next of a series of numbers that this store never repeats."""
        self._numbers += 1
        return self._numbers

    def change_settings(self, changes: object) -> None:
        """Change knobs; what was added up under the old ones is forgotten."""
        self.settings = self.settings.changed(changes)
        self.buckets.clear()
        self.parts.clear()

    def put_customer(self, fields: Fields, created_at: datetime) -> Record:
        """Add a customer, or replace the one with the same id in its place."""
        known = self.customers.get(str(fields["id"]))
        record = Record(known.number if known else self.number(), fields, created_at)
        self.customers[record.id] = record
        self.set_aliases(record, list(fields.get("ingest_aliases") or ()))
        return record

    def set_aliases(self, customer: Record, aliases: list[str]) -> None:
        """Replace a customer's ingest aliases; whoever had one loses it."""
        for alias in [alias for alias, owner in self.aliases.items() if owner == customer.id]:
            del self.aliases[alias]
        for alias in aliases:
            previous = self.customers.get(self.aliases.get(alias, ""))
            if previous is not None and previous is not customer:
                previous.fields["ingest_aliases"].remove(alias)
            self.aliases[alias] = customer.id
        customer.fields["ingest_aliases"] = aliases

    def put_metric(self, fields: Fields, created_at: datetime, events_before: int = 0) -> Metric:
        """Add a metric, or replace the one with the same id; ``sandbox`` in the fields is a SQL metric's stand-in."""
        stands_for = fields.pop("sandbox", None) or fields
        known = self.metrics.get(str(fields["id"]))
        number = known.number if known else self.number()
        metric = Metric(number, fields, created_at, events_before, definition=Definition.of(stands_for))
        self.metrics[metric.id] = metric
        self.parts.clear()
        return metric

    def put_product(self, fields: Fields, created_at: datetime) -> Record:
        """Add a product, or replace the one with the same id in its place."""
        known = self.products.get(str(fields["id"]))
        record = Record(known.number if known else self.number(), fields, created_at)
        self.products[record.id] = record
        return record

    def write_audit(self, action: str, resource_type: str, resource_id: str) -> None:
        """Note a change for ``GET /v1/auditLogs``."""
        row: Fields = {
            "id": str(uuid.uuid4()),
            "timestamp": self.now(),
            "request": {"id": str(uuid.uuid4())},
            "actor": {"id": "sandbox", "name": "Sandbox"},
            "resource_type": resource_type,
            "resource_id": resource_id,
            "action": action,
            "status": "success",
        }
        self.audit.append(row)

    def horizon(self) -> datetime:
        """Events received until then are visible."""
        return self.now() - timedelta(seconds=float(self.settings.ingestion_lag_s))

    def sent_for(self, customer: Record) -> Iterator[str]:
        """The ids that events of a customer carry: its own, then its aliases."""
        yield customer.id
        for alias in customer.fields.get("ingest_aliases") or ():
            if alias != customer.id:
                yield alias


@dataclass
class Stores:
    """The stores by credential."""

    clock: Callable[[], datetime]
    sleep: Sleep
    by_token: dict[str, Store] = field(default_factory=dict)

    def create(self, token: str) -> Store:
        """A new, empty store for the token, in place of the one it had."""
        self.by_token[token] = Store(self.clock, self.sleep)
        return self.by_token[token]

    def find(self, token: str | None) -> Store | None:
        """The store of a token, if it has one."""
        return None if token is None else self.by_token.get(token)


def utc_now() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Call:
    """One request to the API, decoded: what every handler gets beside the store.

    Attributes:
        endpoint: Method and path template, ``GET /v1/customers/{id}``.
        ids: Path parameters.
        query: Every value given for each name.
        body: The JSON tree; ``None`` when there is no body.
        fault: A fault that changes pages (``empty_page``, ``duplicate_page``, ``repeated_cursor``, ``null_for_zero``).
    """

    endpoint: str
    ids: Mapping[str, str]
    query: Mapping[str, list[str]]
    body: Any
    fault: str | None = None


Handler = Callable[[Store, Call], Answer]
"""Answers one endpoint."""
