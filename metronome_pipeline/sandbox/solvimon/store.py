"""Everything that belongs to one API key: its resources, events, knobs, faults and log. No store sees another.

Here: what a store consists of. Not here: what the endpoints do with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from metronome_pipeline.sandbox.faults import FaultInjector
from metronome_pipeline.sandbox.solvimon.canned import CannedAnswer
from metronome_pipeline.sandbox.solvimon.collection import Collection
from metronome_pipeline.sandbox.solvimon.event_store import Event, EventStore
from metronome_pipeline.sandbox.solvimon.idempotency import IdempotencyKeys
from metronome_pipeline.sandbox.solvimon.request_log import RequestLog
from metronome_pipeline.sandbox.solvimon.settings import Settings
from metronome_pipeline.sandbox.solvimon.wire import IdSource, JsonObject

COLLECTIONS = {
    "customers": ("CUSTOMER", "cust"),
    "meter-values": ("METER_VALUE", "metv"),
    "meter-properties": ("METER_PROPERTY", "metp"),
    "meters": ("METER", "metr"),
    "meter-value-calculations": ("METER_VALUE_CALCULATION", "bmet"),
    "product-categories": ("PRODUCT_CATEGORY", "prca"),
    "products": ("PRODUCT", "prod"),
    "product-items": ("PRODUCT_ITEM", "prit"),
    "reprocess": ("REPROCESS", "repr"),
    "persist-data": ("PERSIST_DATA", "pers"),
}
"""Object type and id prefix by path.

Those of category, item and reprocess are not published; nobody should parse them.
"""


@dataclass(frozen=True)
class Subscription:
    """What makes a customer's events match: a plan that covers some meters, or all (``None``).

    ``price`` is one for all of them: an amount of a currency for each unit; ``None`` is no price.
    """

    id: str
    reference: str | None
    customer_reference: str
    meter_references: frozenset[str] | None
    price: tuple[Decimal, str] | None = None

    def invoice_at(self, instant: datetime) -> str:
        """The invoice for usage of that instant: one a month, enough to show that usage lies on one."""
        return f"invo_{self.id.partition('_')[2]}{instant:%Y%m}"

    def covers(self, event: Event) -> bool:
        """Whether this event of its customer is billed through the subscription."""
        if event.subscription_id is not None and event.subscription_id != self.id:
            return False
        return self.meter_references is None or event.meter_reference in self.meter_references

    def as_json(self) -> JsonObject:
        """The subscription, as the control route shows it."""
        meters = None if self.meter_references is None else sorted(self.meter_references)
        return {
            "id": self.id,
            "reference": self.reference,
            "customer_reference": self.customer_reference,
            "meter_references": meters,
            "price": None if self.price is None else {"quantity": self.price[0], "currency": self.price[1]},
        }


@dataclass
class RateWindow:
    """How many requests were let through in the current second."""

    second: int = 0
    taken: int = 0

    def take(self, second: int, limit: int) -> bool:
        """Count one request; ``False`` when the second is full."""
        if second != self.second:
            self.second, self.taken = second, 0
        self.taken += 1
        return self.taken <= limit


@dataclass
class Store:
    """One account, found by its API key."""

    salt: str
    clock: Callable[[], datetime]
    settings: Settings = field(default_factory=Settings)
    permissions: frozenset[str] | None = None
    subscriptions: list[Subscription] = field(default_factory=list)
    faults: FaultInjector = field(default_factory=FaultInjector)
    log: RequestLog = field(default_factory=RequestLog)
    keys: IdempotencyKeys = field(default_factory=IdempotencyKeys)
    canned: list[CannedAnswer] = field(default_factory=list)
    rate: RateWindow = field(default_factory=RateWindow)
    reprocesses: list[Callable[[], int]] = field(default_factory=list)
    ids: IdSource = field(init=False)
    events: EventStore = field(init=False)
    _collections: dict[str, Collection] = field(init=False)
    _subscriptions_of: dict[str, list[Subscription]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.ids = IdSource(self.salt)
        self.events = EventStore(self.ids)
        self._collections = {path: Collection(*kind, self.ids) for path, kind in COLLECTIONS.items()}

    def collection(self, path: str) -> Collection:
        """The resources behind a path, such as ``meter-values``."""
        return self._collections[path]

    def now(self) -> datetime:
        """The time in this store: the knob ``now``, else the clock."""
        return self.settings.now or self.clock()

    def subscription_for(self, event: Event) -> Subscription | None:
        """The subscription that bills an event: the latest that covers it, which is the documented fallback."""
        mine = self._subscriptions_of.get(event.customer_reference or "", ())
        return next((one for one in reversed(mine) if one.covers(event)), None)

    def add_subscription(self, subscription: Subscription) -> None:
        """Store a subscription. Events that were processed before stay as they are until they are reprocessed."""
        self.subscriptions.append(subscription)
        self._subscriptions_of.setdefault(subscription.customer_reference, []).append(subscription)

    def matches(self, event: Event) -> bool:
        """Whether an event finds a subscription."""
        return self.settings.match_all or self.subscription_for(event) is not None

    def process(self) -> int:
        """The asynchronous step after ingestion. Gives how many events it settled."""
        return self.events.process(self.matches, at=self.now())

    def reprocess(self) -> int:
        """Do the reprocesses that wait. Gives how many events they settled anew."""
        waiting, self.reprocesses = self.reprocesses, []
        return sum(work() for work in waiting)

    def snapshot(self) -> dict[str, Any]:
        """The configuration as it is, to go back to when a batch is refused half way."""
        return {path: collection.snapshot() for path, collection in self._collections.items()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot of the configuration."""
        for path, state in snapshot.items():
            self._collections[path].restore(state)
