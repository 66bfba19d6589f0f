"""Loading a data set into a store: flights as raw events, synthetic usage as a function.

Here: the bridge between a data set and a store. Not here: the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from metronome_pipeline.sandbox import flights as nyc
from metronome_pipeline.sandbox.metronome.aggregate import Group, Partial
from metronome_pipeline.sandbox.metronome.answers import Refused, read_instant
from metronome_pipeline.sandbox.metronome.events import Event
from metronome_pipeline.sandbox.metronome.store import Fields, Store
from metronome_pipeline.sandbox.synthetic import GROUP_KEY, Synthetic

_EARLY = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SyntheticSource:
    """Synthetic usage, in the parts that the aggregations merge with those of events."""

    account: Synthetic

    def hours(self) -> range:
        """The hours in which there may be usage."""
        return self.account.window_hours()

    def parts(self, customer_id: str, metric_id: str, keys: tuple[str, ...], hour: int) -> Mapping[Group, Partial]:
        """The parts of one hour by group; by another key than the account's, all usage is of the null group."""
        values = list(self.account.values(customer_id, metric_id, hour))
        if keys == (GROUP_KEY,):
            return {(group,): value for group, value in values}
        if not values:
            return {}
        kind = self.account.kind_of(metric_id)
        amounts = [value for _, value in values]
        whole = max(amounts) if kind == "MAX" else sum(amounts, Decimal(0))
        return {(None,) * len(keys): whole}


def load(store: Store, body: dict[str, Any]) -> Fields:
    """Load the data set that ``PUT /_sandbox/dataset`` names; what is there already (by id) stays as it is.

    Answers how many customers, metrics, products and events were added.

    Raises:
        Refused: 400 naming the field that is wrong.
    """
    readers = {"flights": _load_flights, "synthetic": _load_synthetic}
    name = body.get("dataset")
    if name not in readers:
        raise Refused("dataset must be flights or synthetic.")
    return readers[name](store, {field: value for field, value in body.items() if field != "dataset"})


def moment(value: object, name: str) -> datetime | None:
    """A bound: an instant, a date (its midnight in UTC), or nothing."""
    if value is None:
        return None
    if isinstance(value, str) and len(value) == 10:
        try:
            day = date.fromisoformat(value)
        except ValueError as error:
            raise Refused(f"{name} must be a date or an instant.") from error
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    return read_instant(value, name)


def _load_flights(store: Store, options: dict[str, Any]) -> Fields:
    _require_known(options, {"from", "to", "shift_weeks"})
    weeks = _whole(options, "shift_weeks", 0, least=None)
    start, end = moment(options.get("from"), "from"), moment(options.get("to"), "to")
    added = _add_objects(store, nyc.customers(shift_weeks=weeks), nyc.metrics(), nyc.products(shift_weeks=weeks))
    events = store.events
    before = len(events.everything)
    for flight in nyc.flights(start, end, shift_weeks=weeks):
        # Received as it happened: what lies ahead of the store's time is not visible yet.
        events.add(
            Event(
                events.next_number(),
                flight.transaction_id,
                flight.carrier,
                "flight",
                flight.timestamp,
                flight.properties,
                flight.timestamp,
            )
        )
    return {**added, "events": len(events.everything) - before}


def _load_synthetic(store: Store, options: dict[str, Any]) -> Fields:
    _require_known(options, {"customers", "metrics", "hours", "groups", "seed", "start"})
    start = moment(options.get("start"), "start")
    try:
        account = Synthetic(
            customers=_whole(options, "customers", Synthetic.customers),
            metrics=_whole(options, "metrics", Synthetic.metrics),
            hours=_whole(options, "hours", Synthetic.hours),
            groups=_whole(options, "groups", Synthetic.groups),
            seed=_whole(options, "seed", Synthetic.seed),
            start=start or Synthetic.start,
        )
    except ValueError as error:
        raise Refused(str(error)) from error
    added = _add_objects(store, account.customer_fields(), account.metric_fields(), account.product_fields())
    store.sources.append(SyntheticSource(account))
    return {**added, "events": 0}


def _add_objects(store: Store, customers: list[Fields], metrics: list[Fields], products: list[Fields]) -> Fields:
    counts = {"customers": 0, "metrics": 0, "products": 0}
    for fields in customers:
        if fields["id"] not in store.customers:
            store.put_customer(fields, fields["created_at"])
            counts["customers"] += 1
    for fields in metrics:
        if fields["id"] not in store.metrics:
            store.put_metric(fields, _EARLY)
            counts["metrics"] += 1
    for fields in products:
        if fields["id"] not in store.products:
            store.put_product(fields, _EARLY)
            counts["products"] += 1
    return dict(counts)


def _require_known(options: dict[str, Any], known: set[str]) -> None:
    unknown = set(options) - known
    if unknown:
        raise Refused(f"Unknown field {min(unknown)!r}; this data set takes {', '.join(sorted(known))}.")


def _whole(options: dict[str, Any], name: str, default: int, *, least: int | None = 0) -> int:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        raise Refused(f"{name} must be a whole number{'' if least is None else f' from {least}'}, not {value!r}.")
    return value
