"""What Metronome can be sent: new customers, billable metrics, products, and events. The structs are the bodies.

Here: shapes, and what can be checked before a request. UNSET fields are left out of the body. Not here: answers
(``records.py``), the endpoints (``writing.py``).
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from metronome_pipeline.metronome.records import QuantityRounding

Aggregation = Literal["COUNT", "LATEST", "MAX", "SUM", "UNIQUE"]
ProductType = Literal["USAGE", "SUBSCRIPTION", "COMPOSITE", "FIXED", "PRO_SERVICE"]


class NewCustomer(Struct, frozen=True, kw_only=True):
    """A customer. An alias has 1 to 128 characters; one that another customer has is refused with 409."""

    name: str
    ingest_aliases: tuple[str, ...] = ()
    custom_fields: dict[str, str] | UnsetType = UNSET


class EventTypes(Struct, frozen=True, kw_only=True):
    """Which event types a new billable metric counts: these, or all but these."""

    in_values: tuple[str, ...] | UnsetType = UNSET
    not_in_values: tuple[str, ...] | UnsetType = UNSET


class PropertyRule(Struct, frozen=True, kw_only=True):
    """What a property of an event must be for a new billable metric to count it. All that is set must hold."""

    name: str
    exists: bool | UnsetType = UNSET
    in_values: tuple[str, ...] | UnsetType = UNSET
    not_in_values: tuple[str, ...] | UnsetType = UNSET


class NewBillableMetric(Struct, frozen=True, kw_only=True):
    """A billable metric: either ``sql``, or an aggregation with its filters. Only its name can be changed later.

    A property that is aggregated or grouped by needs a filter that says that it exists.
    """

    name: str
    aggregation_type: Aggregation | UnsetType = UNSET
    aggregation_key: str | UnsetType = UNSET
    event_type_filter: EventTypes | UnsetType = UNSET
    property_filters: tuple[PropertyRule, ...] | UnsetType = UNSET
    group_keys: tuple[tuple[str, ...], ...] | UnsetType = UNSET
    sql: str | UnsetType = UNSET
    custom_fields: dict[str, str] | UnsetType = UNSET


class NewLegacyBillableMetric(Struct, frozen=True, kw_only=True):
    """A billable metric as the older endpoint takes it: ``filter`` is a JSON schema that an event must fit."""

    name: str
    aggregate: Aggregation
    filter: dict[str, Any]
    aggregate_key: str | UnsetType = UNSET
    group_keys: tuple[str, ...] | UnsetType = UNSET
    group_values: tuple[str, ...] | UnsetType = UNSET


class Conversion(Struct, frozen=True, kw_only=True):
    """What a product is to do to a quantity before it is priced. The factor is sent as a JSON number."""

    conversion_factor: Decimal
    operation: Literal["MULTIPLY", "DIVIDE"]
    name: str | UnsetType = UNSET


class NewProduct(Struct, frozen=True, kw_only=True):
    """A product. One of type USAGE names its billable metric."""

    name: str
    type: ProductType
    billable_metric_id: str | UnsetType = UNSET
    composite_product_ids: tuple[str, ...] | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    pricing_group_key: tuple[str, ...] | UnsetType = UNSET
    presentation_group_key: tuple[str, ...] | UnsetType = UNSET
    quantity_conversion: Conversion | UnsetType = UNSET
    quantity_rounding: QuantityRounding | UnsetType = UNSET
    custom_fields: dict[str, str] | UnsetType = UNSET


class ProductChange(Struct, frozen=True, kw_only=True):
    """A change of a product from an hour on, in the past or in the future; what is not set stays.

    Raises:
        ValueError: ``starting_at`` is not an aware full hour.
    """

    product_id: str
    starting_at: datetime
    name: str | UnsetType = UNSET
    billable_metric_id: str | UnsetType = UNSET
    composite_product_ids: tuple[str, ...] | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    pricing_group_key: tuple[str, ...] | UnsetType = UNSET
    presentation_group_key: tuple[str, ...] | UnsetType = UNSET
    quantity_conversion: Conversion | UnsetType = UNSET
    quantity_rounding: QuantityRounding | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Check what the API would check."""
        start = self.starting_at
        if start.utcoffset() is None or (start.minute, start.second, start.microsecond) != (0, 0, 0):
            raise ValueError(f"starting_at is {start.isoformat()}: a product changes on a full hour, with an offset.")


class NewEvent(Struct, frozen=True, kw_only=True):
    """A raw usage event. Numbers in properties are sent as texts, as the vendor advises.

    Attributes:
        transaction_id: 1 to 128 characters; a repetition within 34 days is ignored.
        customer_id: A customer's id or one of its ingest aliases, which need not exist yet.
        event_type: What billable metrics filter by.
        timestamp: An aware instant, at most 34 days ago and 24 hours ahead.
        properties: At most 256 bytes a value.

    Raises:
        ValueError: ``timestamp`` has no time zone.
    """

    transaction_id: str
    customer_id: str
    event_type: str
    timestamp: datetime
    properties: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Refuse a moment that could be any of twenty-four."""
        if self.timestamp.utcoffset() is None:
            raise ValueError(f"timestamp is {self.timestamp.isoformat()}, without a time zone.")
