"""Whether an event is one that Solvimon takes: each of its fields, with its own refusal.

Here: from the JSON of one event to an :class:`Event`, or the error that refuses it. Not here: batches, duplicates and
storage (events.py).
"""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from metronome_pipeline.sandbox.solvimon.customers import takes_events
from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, invalid, missing, not_found
from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.meters import MeterShape, shape_of
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import JsonObject, parse_instant

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_ONE_LINE = re.compile(r"[^\n\r\u0085\u2028\u2029]{10,256}")

_KNOWN = frozenset(
    {
        *("object_type", "id", "reference", "type", "timestamp", "created_at", "meter_values", "meter_properties"),
        *("customer_id", "customer_reference", "customer", "meter_id", "meter_reference"),
        *("pricing_plan_subscription_id", "pricing_plan_subscription_reference", "pricing_plan_subscription_selector"),
        *("cost_prediction", "processed_details", "deleted"),
    }
)
_KNOWN_IN_VALUE = frozenset({"id", "reference", "number", "amount", "count", "dynamic_validation_settings"})
_KNOWN_IN_PROPERTY = frozenset({"id", "reference", "value", "dynamic_validation_settings"})


class EventReader:
    """Reads the events of one request. Look-ups of customers and meters are remembered for as long as it lives.

    Args:
        store: The account.
        now: The instant of the request.
        dynamic: Called with an event's meter reference and the event before its meter is looked up
            (``meter_validation=DYNAMIC``).
    """

    def __init__(
        self, store: Store, *, now: datetime, dynamic: Callable[[Store, JsonObject], None] | None = None
    ) -> None:
        self._store = store
        self._settings = store.settings
        self._now = now
        self._latest = now + timedelta(seconds=store.settings.future_limit_s)
        self._dynamic = dynamic
        self._refused = frozenset(store.settings.refuse_reference)
        self._customers: dict[tuple[object, object], JsonObject] = {}
        self._meters: dict[tuple[object, object], tuple[JsonObject, MeterShape]] = {}

    def read(self, raw: object, where: str) -> Event:
        """The event that a JSON value describes.

        Args:
            raw: Decoded JSON.
            where: Dotted path of the event in the body, with a dot at its end, or empty for a body that is one event.

        Raises:
            ApiProblem: The refusal, with the path of the field where the API is known or assumed to name one.
        """
        place = where if self._settings.error_field_index else ""
        if not isinstance(raw, dict):
            raise invalid(place.rstrip(".") or None, "must be an object")
        strange = raw.keys() - _KNOWN
        if strange and self._settings.unknown_fields == "refused":
            raise invalid(place + min(strange), "unknown field")
        reference = self._reference(raw, place)
        customer = self._customer(raw)
        meter, shape = self._meter(raw, place)
        return Event(
            reference=reference,
            customer_id=customer["id"],
            customer_reference=customer.get("reference"),
            meter_id=meter["id"],
            meter_reference=meter["reference"],
            instant=self._instant(raw.get("timestamp"), place),
            values=tuple(self._values(raw.get("meter_values") or [], shape, place)),
            properties=tuple(self._properties(raw.get("meter_properties") or [], shape, place)),
            subscription_id=self._pinned(raw, customer, place),
        )

    def _reference(self, raw: JsonObject, place: str) -> str:
        reference = raw.get("reference")
        if reference is None:
            raise missing(f"{place}reference")
        if not isinstance(reference, str) or _ONE_LINE.fullmatch(reference) is None:
            raise invalid(f"{place}reference", "must be one line of 10 to 256 characters")
        if reference in self._refused:
            raise invalid(f"{place}reference", "is refused in this sandbox (refuse_reference)")
        return reference

    def _customer(self, raw: JsonObject) -> JsonObject:
        key = (raw.get("customer_id"), raw.get("customer_reference"))
        customer = self._customers.get(key) if all(isinstance(part, str | None) for part in key) else None
        if customer is None:
            customer = _named(self._store, "customers", *key)
            drafts = self._settings.accept_draft_customers
            if customer is None or not takes_events(customer, drafts=drafts):
                # Observed: no field, so the answer does not say which event it is about.
                raise not_found("CUSTOMER", status=self._settings.ingest_not_found_status, code="RESOURCES_NOT_FOUND")
            self._customers[key] = customer
        return customer

    def _meter(self, raw: JsonObject, place: str) -> tuple[JsonObject, MeterShape]:
        if self._dynamic is not None:
            self._dynamic(self._store, raw)
            self._meters.clear()
        key = (raw.get("meter_id"), raw.get("meter_reference"))
        known = self._meters.get(key) if all(isinstance(part, str | None) for part in key) else None
        if known is None:
            meter = _named(self._store, "meters", *key)
            if meter is None or meter["status"] != "ACTIVE":
                status = self._settings.ingest_not_found_status
                raise not_found("METER", status=status, field=f"{place}meter_reference")
            known = self._meters[key] = (meter, shape_of(self._store, meter))
        return known

    def _instant(self, text: object, place: str) -> datetime:
        if text is None:
            return self._now.replace(microsecond=0)
        allowed = self._settings.allow_millis
        instant = parse_instant(text, fractions=allowed) if isinstance(text, str) else None
        if instant is None:
            raise invalid(f"{place}timestamp", "must be like 2024-07-01T10:50:00Z or 2024-07-01T10:50:00+02:00")
        if instant > self._latest:
            raise invalid(f"{place}timestamp", f"is more than {self._settings.future_limit_s} seconds in the future")
        return instant

    def _values(self, entries: object, shape: MeterShape, place: str) -> Iterator[JsonObject]:
        seen: set[str] = set()
        for entry, at in _objects(entries, f"{place}meter_values", self._known(_KNOWN_IN_VALUE)):
            value = shape.values.get(entry.get("id") or entry.get("reference") or "")
            if value is None:
                raise invalid(f"{at}.reference", "is no active value of the meter")
            if value["id"] in seen:
                raise invalid(f"{at}.reference", "is given twice")
            seen.add(value["id"])
            yield {"id": value["id"], "reference": value["reference"], **self._quantity(entry, value, at)}
        if not shape.required_values <= seen:
            raise invalid(f"{place}meter_values", "a required value is missing")

    def _quantity(self, entry: JsonObject, value: JsonObject, at: str) -> JsonObject:
        counted = {} if entry.get("count") is None else {"count": self._number(entry["count"], f"{at}.count")}
        if value["type"] == "NUMBER":
            return {"number": self._number(entry.get("number"), f"{at}.number"), **counted}
        amount = entry.get("amount")
        if not isinstance(amount, dict) or not isinstance(amount.get("currency"), str):
            raise invalid(f"{at}.amount", "must be an object of quantity and currency")
        quantity = self._number(amount.get("quantity"), f"{at}.amount.quantity")
        return {"amount": {"quantity": quantity, "currency": amount["currency"]}, **counted}

    def _number(self, number: object, at: str) -> str:
        if number is None:
            raise invalid(at, "value required, but not set")
        if self._settings.lenient_numbers and isinstance(number, int | Decimal) and not isinstance(number, bool):
            return format(Decimal(number), "f")
        if not isinstance(number, str) or _NUMBER.fullmatch(number) is None:
            raise invalid(at, "must be a decimal number as a string, without exponent")
        return number

    def _properties(self, entries: object, shape: MeterShape, place: str) -> Iterator[JsonObject]:
        seen: set[str] = set()
        for entry, at in _objects(entries, f"{place}meter_properties", self._known(_KNOWN_IN_PROPERTY)):
            known = shape.properties.get(entry.get("id") or entry.get("reference") or "")
            value = entry.get("value")
            if known is None:
                raise invalid(f"{at}.value", "is of no active property of the meter")
            if known["id"] in seen:
                raise invalid(f"{at}.value", "is given twice")
            if value is None and known["id"] in shape.required_properties:
                raise invalid(f"{at}.value", "value required, but not set")
            if value is not None and not _fits(value, known):
                raise invalid(f"{at}.value", f"is no value of a property of type {known['type']}")
            seen.add(known["id"])
            yield {"id": known["id"], "reference": known["reference"], "value": value}
        if not shape.required_properties <= seen:
            raise invalid(f"{place}meter_properties.{len(seen)}.value", "value required, but not set")

    def _known(self, names: frozenset[str]) -> frozenset[str] | None:
        return names if self._settings.unknown_fields == "refused" else None

    def _pinned(self, raw: JsonObject, customer: JsonObject, place: str) -> str | None:
        identifier, reference = raw.get("pricing_plan_subscription_id"), raw.get("pricing_plan_subscription_reference")
        if identifier is None and reference is None:
            return None
        for subscription in self._store.subscriptions:
            mine = subscription.customer_reference == customer.get("reference")
            if mine and (subscription.id == identifier or (identifier is None and subscription.reference == reference)):
                return subscription.id
        field = f"{place}pricing_plan_subscription_{'reference' if identifier is None else 'id'}"
        status = self._settings.ingest_not_found_status
        raise not_found("PRICING_PLAN_SUBSCRIPTION", status=status, code="RESOURCES_NOT_FOUND", field=field)


def _named(store: Store, path: str, identifier: object, reference: object) -> JsonObject | None:
    """The resource with this id, or else this reference; where both are given they must be the same one's."""
    collection = store.collection(path)
    if identifier is None:
        return collection.by_reference(reference) if isinstance(reference, str) else None
    resource = collection.by_id(identifier) if isinstance(identifier, str) else None
    return resource if resource is not None and reference in (None, resource.get("reference")) else None


def _objects(entries: object, where: str, known: frozenset[str] | None) -> Iterator[tuple[JsonObject, str]]:
    if not isinstance(entries, list):
        raise invalid(where, "must be a list")
    for index, entry in enumerate(entries):
        at = f"{where}.{index}"
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(key), str | None) for key in ("id", "reference")
        ):
            raise invalid(at, "must be an object with an id or a reference")
        if known is not None and entry.keys() - known:
            raise invalid(f"{at}.{min(entry.keys() - known)}", "unknown field")
        yield entry, at


def _fits(value: object, known: JsonObject) -> bool:
    if not isinstance(value, str):
        return False
    if known["type"] == "ENUM":
        return value in known["enum_values"]
    return known["type"] == "STRING" or _NUMBER.fullmatch(value) is not None


def refusal_of_size(count: int, limit: int, key: str) -> ApiProblem:
    """The refusal of a batch that is too large, worded as it was observed."""
    return invalid(key, f"value holds too many items ({count}, maximum allowed: {limit})")
