"""The two accounts of a simulation: sandbox stores filled directly, and what happens to them while runs go on.

Here: customers, metrics, raw usage events, and every trouble that comes from the accounts themselves. Not here:
requests.
"""

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from metronome_pipeline.sandbox.metronome import ingest
from metronome_pipeline.sandbox.metronome.events import Event as RawEvent
from metronome_pipeline.sandbox.metronome.store import Record
from metronome_pipeline.sandbox.metronome.store import Store as MetronomeStore
from metronome_pipeline.sandbox.solvimon.event_store import Event as SolvimonEvent
from metronome_pipeline.sandbox.solvimon.settings import changed
from metronome_pipeline.sandbox.solvimon.store import Store as SolvimonStore
from metronome_pipeline_tests.simulation.metrics import LATER_METRICS, MetricDefinition

HOUR = timedelta(hours=1)
CUSTOMERS = tuple(str(uuid.UUID(int=0x3B24_1101_E2BB_4255_8CAF_0000_0000_0000 + n)) for n in range(5))


_REGIONS = ("eu", "us", "eu", None)
_VALUES = ("1", "2", "7", "0.1", "0.3", "2.75", "0", "19.999", "123456789012345678901234567890.123456789")


@dataclass
class Account:
    """Both accounts of one seed.

    ``tell`` notes in words what happened; ``now`` is virtual.
    """

    metronome: MetronomeStore
    solvimon: SolvimonStore
    draw: random.Random
    start: datetime
    now: Callable[[], datetime]
    tell: Callable[[str], None]
    metrics: list[MetricDefinition] = field(default_factory=list)
    customers: list[str] = field(default_factory=list)
    events: int = 0
    poisoned: list[str] = field(default_factory=list)
    disabled: list[tuple[str, str]] = field(default_factory=list)
    large: list[str] = field(default_factory=list)

    def fill(self, customers: int, metrics: Sequence[MetricDefinition], events: int) -> None:
        """The account as the first run finds it."""
        for _ in range(customers):
            self.add_customer()
        for metric in metrics:
            self.add_metric(metric)
        for _ in range(events):
            self.use()

    def add_customer(self) -> None:
        """One more customer, with an alias of its own."""
        number = len(self.customers)
        if number == len(CUSTOMERS):
            return
        customer = CUSTOMERS[number]
        fields = {
            "id": customer,
            "name": f"Customer {number}",
            "ingest_aliases": [f"alias-{number}"],
            "customer_config": {"salesforce_account_id": None},
            "custom_fields": {},
            "created_at": self.now(),
            "updated_at": self.now(),
            "archived_at": None,
        }
        self.metronome.put_customer(fields, self.now())
        self.customers.append(customer)

    def add_metric(self, metric: MetricDefinition) -> None:
        """One more metric; it counts what was received before, too."""
        self.metronome.put_metric(metric.fields(), datetime.fromisoformat("1970-01-01T00:00:00+00:00"))
        self.metrics.append(metric)

    def use(
        self, value: str | None = None, region: str | None = None, *, metric: MetricDefinition | None = None
    ) -> str:
        """One raw usage event, somewhere between the beginning and now."""
        metric = metric or self.draw.choice(self.metrics)
        number = self.draw.randrange(len(self.customers))
        # Most events meet in a few hours, for only there is anything to correct.
        elapsed = int((self.now() - self.start).total_seconds())
        busy = 3_600 * self.draw.randrange(3) + self.draw.randrange(3_600)
        seconds = busy if self.draw.random() < 0.7 else self.draw.randrange(elapsed)
        team = self.draw.choice(("red", None))
        group = {"region": region or self.draw.choice(_REGIONS), "team": team}
        timestamp = self.start + timedelta(seconds=min(seconds, elapsed))
        sent_for = self.draw.choice((CUSTOMERS[number], f"alias-{number}"))
        return self._receive(sent_for, metric.metric_id, timestamp, value or self.draw.choice(_VALUES), group)

    def _receive(
        self, sent_for: str, metric_id: str, timestamp: datetime, value: str, group: Mapping[str, str | None]
    ) -> str:
        self.events += 1
        event = {
            "transaction_id": f"transaction-{self.events}",
            "customer_id": sent_for,
            "event_type": metric_id,
            "timestamp": timestamp.isoformat(),
            "properties": {"value": value, **group},
        }
        ingest.keep(self.metronome, [ingest.read_event(self.metronome, event, self.now())])
        return str(event["transaction_id"])

    # What happens while runs go on -----------------------------------------------------------------------------------

    def happens(self, kind: str) -> None:
        """One trouble of the accounts, now: one of ``HAPPENINGS``."""
        self.tell(f"{kind} at {self.now():%d %H:%M:%S}")
        _HAPPENINGS[kind](self)

    def _comes_late(self) -> None:
        for _ in range(self.draw.randrange(1, 6)):
            self.use()

    def _counts_negative(self) -> None:
        self.use(self.draw.choice(("-1", "-0.1", "-50")))

    def _is_removed(self) -> None:
        removed = self.draw.sample(range(1, self.events + 1), min(self.events, self.draw.randrange(1, 5)))
        self.metronome.events.remove({f"transaction-{number}" for number in removed})

    def _adds_customer(self) -> None:
        self.add_customer()
        self.use()

    def _archives_customer(self) -> None:
        self._archive(self.metronome.customers[self.draw.choice(self.customers)])

    def _archives_metric(self) -> None:
        self._archive(self.metronome.metrics[self.draw.choice(self.metrics).metric_id])

    def _adds_group(self) -> None:
        self.use(region=f"region-{self.draw.randrange(9)}")

    def _falls(self) -> None:
        """Something large comes, and goes the next time: more than may be taken back unasked."""
        if self.large:
            self.metronome.events.remove({self.large.pop()})
            return
        sums = [metric for metric in self.metrics if metric.aggregation == "SUM"]
        self.large += [self.use("5000", metric=self.draw.choice(sums))] if sums else []

    def _moves_alias(self) -> None:
        alias = f"alias-{self.draw.randrange(len(self.customers))}"
        heir = self.metronome.customers[self.draw.choice(self.customers)]
        self.metronome.set_aliases(heir, list(dict.fromkeys([*heir.fields["ingest_aliases"], alias])))
        # What was added up for the alias's former owner is kept by alias, not by customer: nothing to forget.

    def _archive(self, record: Record) -> None:
        if record.archived_at is None:
            record.fields["archived_at"] = self.now()

    def _adds_metric(self) -> None:
        known = {metric.metric_id for metric in self.metrics}
        left = [metric for metric in LATER_METRICS if metric.metric_id not in known]
        if left:
            self.add_metric(left[0])
            self.use(metric=left[0])

    def _poisons(self) -> None:
        reference = self._some_reference()
        if reference is not None:
            self.poisoned.append(reference + self.draw.choice(("", "", "_r1")))
            self.solvimon.settings = changed(self.solvimon.settings, {"refuse_reference": self.poisoned})

    def _disables_meter(self) -> None:
        self._disable("meters", self.draw.choice(self.metrics).metric_id)

    def _disables_customer(self) -> None:
        self._disable("customers", self.draw.choice(self.customers))

    def _disable(self, path: str, reference: str) -> None:
        """Somebody archives what events need, in Solvimon's console."""
        collection = self.solvimon.collection(path)
        resource = collection.by_reference(reference)
        if resource is not None:
            collection.put({**resource, "status": "ARCHIVED"})
            self.disabled.append((path, reference))

    def heal(self) -> bool:
        """Ends the poison, and makes active again what was disabled; whether there was anything."""
        sick = bool(self.poisoned or self.disabled)
        for path, reference in self.disabled:
            collection = self.solvimon.collection(path)
            resource = collection.by_reference(reference)
            assert resource is not None
            collection.put({**resource, "status": "ACTIVE"})
        self.poisoned, self.disabled = [], []
        self.solvimon.settings = changed(self.solvimon.settings, {"refuse_reference": []})
        return sick

    def _some_reference(self) -> str | None:
        """The reference of the first event of some slot, as it is documented."""
        event = self._some_event()
        if event is None:
            return None
        owner = self.metronome.aliases.get(event.sent_for, event.sent_for)
        hour = event.timestamp.replace(minute=0, second=0, microsecond=0)
        return f"{owner}_{event.event_type}_{hour:%Y%m%dT%H%M%SZ}_{hour + HOUR:%Y%m%dT%H%M%SZ}_total"

    def _some_event(self) -> RawEvent | None:
        """A raw event of a metric that is billed without properties."""
        plain = {metric.metric_id for metric in self.metrics if metric.slicing is None}
        events = [event for event in self.metronome.events.everything if event.event_type in plain]
        return self.draw.choice(events) if events else None

    def _takes_reference(self) -> None:
        """Somebody else sends an event under the reference that the next one of ours will have."""
        first = self._some_reference()
        if first is None:
            return
        references = (first, f"{first}_r1", f"{first}_r2")
        reference = next((each for each in references if each not in self.solvimon.events.by_reference), first)
        if reference in self.solvimon.events.by_reference:
            return
        customer_id, metric_id, hour, *_ = reference.split("_")
        customer = self.solvimon.collection("customers").by_reference(customer_id)
        meter = self.solvimon.collection("meters").by_reference(metric_id)
        value = self.solvimon.collection("meter-values").by_reference(f"{metric_id}_value")
        if customer is None or meter is None or value is None:
            return
        instant = datetime.strptime(hour, "%Y%m%dT%H%M%SZ").replace(tzinfo=self.start.tzinfo)
        event = SolvimonEvent(
            reference=reference,
            customer_id=customer["id"],
            customer_reference=customer_id,
            meter_id=meter["id"],
            meter_reference=metric_id,
            instant=instant,
            values=({"id": value["id"], "reference": value["reference"], "number": "4"},),
            properties=(),
        )
        self.solvimon.events.add(event, at=self.now(), duplicate_of=None)
        self.solvimon.process()
        # So that there is a next one of ours.
        self._receive(customer_id, metric_id, instant + timedelta(minutes=1), self.draw.choice(_VALUES), {})


_HAPPENINGS: Mapping[str, Callable[[Account], None]] = {
    "late_events": Account._comes_late,
    "negative_events": Account._counts_negative,
    "large_fall": Account._falls,
    "removed_events": Account._is_removed,
    "moved_alias": Account._moves_alias,
    "new_customer": Account._adds_customer,
    "archived_customer": Account._archives_customer,
    "new_metric": Account._adds_metric,
    "archived_metric": Account._archives_metric,
    "new_group": Account._adds_group,
    "poisoned_event": Account._poisons,
    "taken_reference": Account._takes_reference,
    "inactive_meter": Account._disables_meter,
    "inactive_customer": Account._disables_customer,
}
HAPPENINGS = frozenset(_HAPPENINGS)
"""Trouble of the accounts that strikes while runs go on."""
