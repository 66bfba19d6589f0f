"""What Metronome says, as records: customers, billable metrics, products, usage.

Here: the shapes. Not here: how they are read from JSON (``reading.py``), requests (``api.py``), Solvimon, Dagster.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from metronome_pipeline.wire import MOST_DIGITS

R = TypeVar("R")

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
WindowSize = Literal["HOUR", "DAY", "NONE"]

_LENGTHS: dict[WindowSize, timedelta] = {"HOUR": timedelta(hours=1), "DAY": timedelta(days=1)}


class Customer(Struct, frozen=True, kw_only=True):
    """A customer, as ``GET /v1/customers`` lists it. ``archived_at`` is None while it is active."""

    id: str
    name: str
    ingest_aliases: tuple[str, ...]
    custom_fields: dict[str, str]
    created_at: Instant
    updated_at: Instant
    archived_at: Instant | None = None
    external_id: str | None = None


class CreatedCustomer(Struct, frozen=True, kw_only=True):
    """A customer as its creation answers it: the small form, without instants."""

    id: str
    name: str
    ingest_aliases: tuple[str, ...]
    external_id: str
    custom_fields: dict[str, str] = {}


class EventTypeFilter(Struct, frozen=True):
    """Which event types a billable metric counts."""

    in_values: tuple[str, ...] | None = None
    not_in_values: tuple[str, ...] | None = None


class PropertyFilter(Struct, frozen=True):
    """What a property of an event must be for a billable metric to count it."""

    name: str
    exists: bool | None = None
    in_values: tuple[str, ...] | None = None
    not_in_values: tuple[str, ...] | None = None


class BillableMetric(Struct, frozen=True, kw_only=True):
    """A billable metric. Absent and null are one: Metronome leaves out what a metric does not have.

    ``aggregation_type`` is upper case (the API has three spellings) and None for SQL metrics. Each of ``group_keys`` is
    one simple or compound key.
    """

    id: str
    name: str
    aggregation_type: str | None = None
    aggregation_key: str | None = None
    group_keys: tuple[tuple[str, ...], ...] = ()
    event_type_filter: EventTypeFilter | None = None
    property_filters: tuple[PropertyFilter, ...] = ()
    custom_fields: dict[str, str] = {}
    sql: str | None = None
    archived_at: Instant | None = None


class QuantityConversion(Struct, frozen=True):
    """What a product does to a quantity before it is priced. ``operation`` is upper case: MULTIPLY or DIVIDE."""

    conversion_factor: Decimal
    operation: str
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuse a factor that could not be written plainly."""
        factor = self.conversion_factor
        if (
            not factor.is_finite()
            or abs(factor.adjusted()) > MOST_DIGITS
            or len(factor.as_tuple().digits) > MOST_DIGITS
        ):
            raise ValueError(f"conversion_factor is not a number of at most {MOST_DIGITS} digits")
        msgspec.structs.force_setattr(self, "operation", self.operation.upper())


class QuantityRounding(Struct, frozen=True):
    """How a product rounds a quantity before it is priced. ``rounding_method`` is upper case."""

    rounding_method: str
    decimal_places: int

    def __post_init__(self) -> None:
        """One spelling of the method."""
        msgspec.structs.force_setattr(self, "rounding_method", self.rounding_method.upper())


class ProductState(Struct, frozen=True, kw_only=True):
    """A product at its creation (``initial``) or as Metronome sums it up now (``current``)."""

    name: str
    created_at: Instant
    created_by: str
    starting_at: Instant | None = None
    billable_metric_id: str | None = None
    quantity_conversion: QuantityConversion | None = None
    quantity_rounding: QuantityRounding | None = None
    pricing_group_key: tuple[str, ...] | None = None
    presentation_group_key: tuple[str, ...] | None = None
    composite_product_ids: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None


class ProductUpdate(Struct, frozen=True, kw_only=True):
    """One later change of a product, a sparse patch: UNSET is "not changed", None is "taken away".

    ``starting_at`` is when it takes effect, which may be in the past or in the future.
    """

    created_at: Instant
    created_by: str
    starting_at: Instant | None = None
    name: str | UnsetType = UNSET
    billable_metric_id: str | UnsetType | None = UNSET
    quantity_conversion: QuantityConversion | UnsetType | None = UNSET
    quantity_rounding: QuantityRounding | UnsetType | None = UNSET
    pricing_group_key: tuple[str, ...] | UnsetType | None = UNSET
    presentation_group_key: tuple[str, ...] | UnsetType | None = UNSET


class Product(Struct, frozen=True, kw_only=True):
    """A product of a rate card. ``type`` is upper case, such as USAGE, SUBSCRIPTION or COMPOSITE."""

    id: str
    type: str
    initial: ProductState
    current: ProductState
    updates: tuple[ProductUpdate, ...]
    archived_at: Instant | None = None
    custom_fields: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """One spelling of the type."""
        msgspec.structs.force_setattr(self, "type", self.type.upper())


class Usage(Struct, frozen=True):
    """What one customer used of one billable metric in [``start``, ``end``), UTC. ``value`` None: nothing matched."""

    customer_id: str
    metric_id: str
    start: datetime
    end: datetime
    value: Decimal | None


class GroupedUsage(Struct, frozen=True):
    """The same for one group. ``group`` has every asked key; a value is None for events without that property."""

    start: datetime
    end: datetime
    group: dict[str, str | None]
    value: Decimal | None


class SearchedEvent(Struct, frozen=True, kw_only=True):
    """A raw event, as ``POST /v1/events/search`` finds it."""

    id: str
    transaction_id: str
    customer_id: str
    event_type: str
    timestamp: Instant
    processed_at: Instant | None = None
    is_duplicate: bool | None = None


class AuditLog(Struct, frozen=True, kw_only=True):
    """One entry of the audit log: a hint that something changed, not a source of truth."""

    id: str
    timestamp: Instant
    resource_type: str | None = None
    resource_id: str | None = None
    action: str | None = None
    status: str | None = None
    description: str | None = None


class Refusal(Struct, frozen=True):
    """A record that is left out, by name: its id, the field, and what is wrong with that."""

    record_id: str
    field: str
    reason: str


@dataclass(frozen=True)
class Page(Generic[R]):
    """One page of a list: the records that are good, and those that are refused."""

    records: list[R]
    refused: list[Refusal]


@dataclass(frozen=True)
class GroupedUsagePage:
    """One page of grouped usage. A refused row has a group value that cannot be stored: its usage is of the rest."""

    rows: list[GroupedUsage]
    refused: list[Refusal]


@dataclass(frozen=True)
class Bounds:
    """The windows that a usage walk asks for: [``starting_on``, ``ending_before``), both UTC midnights.

    Raises:
        ValueError: A bound is not a UTC midnight, or they are less than a day apart: the API answers 400 to that,
            for every window size.
    """

    starting_on: datetime
    ending_before: datetime
    window_size: WindowSize = "HOUR"

    def __post_init__(self) -> None:
        """Check what the API would check."""
        for name in ("starting_on", "ending_before"):
            bound: datetime = getattr(self, name)
            if bound.utcoffset() is None or bound.astimezone(UTC).time() != datetime.min.time():
                raise ValueError(f"{name} is {bound.isoformat()}: usage is asked for between UTC midnights.")
        if self.ending_before - self.starting_on < timedelta(days=1):
            raise ValueError(f"ending_before is {self.ending_before.isoformat()}: at least a day after starting_on.")

    @property
    def windows(self) -> int:
        """How many windows of one customer and metric there are at most."""
        length = _LENGTHS.get(self.window_size)
        return -(-(self.ending_before - self.starting_on) // length) if length else 1

    def fault_of(self, start: datetime, end: datetime) -> str | None:
        """What is wrong with a window that came back; None when it was asked for."""
        if start < self.starting_on or end > self.ending_before or end <= start:
            return "is outside of what was asked for"
        length = _LENGTHS.get(self.window_size)
        if length and (end - start != length or (start - self.starting_on) % length):
            return f"is not a window of one {self.window_size.lower()}"
        return None
