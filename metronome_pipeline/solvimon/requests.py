"""What Solvimon is sent: new resources, changes of them, usage events. The structs are the bodies, field by field.

Here: shapes, and how a moment and a number are written. UNSET fields are left out of the body. Not here: answers
(``records.py``), which name or reference something gets (``mapping/``).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from metronome_pipeline.solvimon.records import Organization, ReprocessScope, ReprocessType

Status = Literal["DRAFT", "ACTIVE", "ARCHIVED", "DEPRECATED"]


class NewCustomer(Struct, frozen=True, kw_only=True):
    """An organization: the least that Solvimon's own Metronome import sets. A null email is left out, never sent."""

    reference: str
    organization: Organization
    email: str | UnsetType = UNSET
    type: Literal["ORGANIZATION"] = "ORGANIZATION"
    status: Status = "ACTIVE"


class CustomerChange(Struct, frozen=True, kw_only=True):
    """A change of a customer; what is not set stays."""

    organization: Organization | UnsetType = UNSET
    email: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET


class NewMeterValue(Struct, frozen=True, kw_only=True):
    """A meter value, active at once: meter resources have no activation endpoint."""

    reference: str
    name: str
    type: Literal["NUMBER"] = "NUMBER"
    status: Status = "ACTIVE"


class NewMeterProperty(Struct, frozen=True, kw_only=True):
    """A meter property. Always STRING: an ENUM would make any new value fail its whole batch."""

    reference: str
    name: str
    type: Literal["STRING"] = "STRING"
    status: Status = "ACTIVE"


class NewMeterLink(Struct, frozen=True, kw_only=True):
    """A meter value or property as a meter is to hold it."""

    id: str
    required: bool


class NewMeter(Struct, frozen=True, kw_only=True):
    """A meter with its values and properties, linked by id."""

    reference: str
    name: str
    meter_values: tuple[NewMeterLink, ...]
    meter_properties: tuple[NewMeterLink, ...]
    status: Status = "ACTIVE"


class NewMeterValueCalculation(Struct, frozen=True, kw_only=True):
    """A calculation over a meter's value. Not persisted: it starts afresh in each billing period."""

    reference: str
    name: str
    calculation_type: Literal["SUM", "MAX"]
    meter_id: str
    meter_value_id: str
    persist: bool = False


class NewProductCategory(Struct, frozen=True, kw_only=True):
    """A product category."""

    reference: str
    name: str


class NewProduct(Struct, frozen=True, kw_only=True):
    """A product; DRAFT until it is activated."""

    reference: str
    name: str
    category_id: str
    product_type: Literal["DEFAULT"] = "DEFAULT"


class UsageBasedBy(Struct, frozen=True, kw_only=True):
    """Which calculation a usage-based product item bills by."""

    meter_value_calculation_id: str


class NewProductItem(Struct, frozen=True, kw_only=True):
    """A product item; DRAFT until it is activated (``status`` is read-only in this body)."""

    reference: str
    name: str
    product_id: str
    model_type: Literal["USAGE_BASED", "RECURRING"]
    usage_based: UsageBasedBy | UnsetType = UNSET
    meter_value_calculation_id: str | UnsetType = UNSET
    type: Literal["REVENUE"] = "REVENUE"


class NameChange(Struct, frozen=True, kw_only=True):
    """A change of anything that has a name and perhaps a status; what is not set stays."""

    name: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET


class MeterChange(Struct, frozen=True, kw_only=True):
    """A change of a meter. A list must be complete: whether the API merges or replaces it is not documented."""

    name: str | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    meter_values: tuple[NewMeterLink, ...] | UnsetType = UNSET
    meter_properties: tuple[NewMeterLink, ...] | UnsetType = UNSET


class ProductChange(Struct, frozen=True, kw_only=True):
    """A change of a product; what is not set stays."""

    name: str | UnsetType = UNSET
    category_id: str | UnsetType = UNSET


class ProductItemChange(Struct, frozen=True, kw_only=True):
    """A change of a product item; what is not set stays."""

    name: str | UnsetType = UNSET
    usage_based: UsageBasedBy | UnsetType = UNSET


class NewReprocess(Struct, frozen=True, kw_only=True):
    """A reprocess: its type, and the scope in the field of that type."""

    type: ReprocessType
    not_matched: ReprocessScope | UnsetType = UNSET
    customer: ReprocessScope | UnsetType = UNSET
    invoice: ReprocessScope | UnsetType = UNSET


class NewPersistData(Struct, frozen=True, kw_only=True):
    """Usage to carry over. The five ids are required; ``timestamp`` is written by ``plain_instant``."""

    customer_id: str
    pricing_id: str
    pricing_item_id: str
    pricing_item_config_id: str
    pricing_plan_subscription_id: str
    reference: str | UnsetType = UNSET
    persist_usage: str | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET


class UsageEvent(Struct, frozen=True):
    """One usage record for Solvimon.

    Attributes:
        reference: 10 to 256 characters: what Solvimon deduplicates by, where that is switched on.
        customer_reference: The customer's reference.
        meter_reference: The meter's reference.
        timestamp: An aware instant, whole seconds: fractions are rejected.
        value_reference: The meter value's reference.
        number: The quantity; negative for corrections.
        properties: (reference of the meter property, value), at most one a property.
    """

    reference: str
    customer_reference: str
    meter_reference: str
    timestamp: datetime
    value_reference: str
    number: Decimal
    properties: tuple[tuple[str, str], ...] = ()


class _Quantity(Struct, frozen=True):
    reference: str
    number: str


class _Property(Struct, frozen=True):
    reference: str
    value: str


class EventBody(Struct, frozen=True):
    """A usage event as it is sent. Without ``id``: a client's own id is no promise of deduplication."""

    reference: str
    customer_reference: str
    meter_reference: str
    timestamp: str
    meter_values: tuple[_Quantity, ...]
    meter_properties: tuple[_Property, ...]


def event_body(event: UsageEvent) -> EventBody:
    """A usage event in the API's shape."""
    return EventBody(
        event.reference,
        event.customer_reference,
        event.meter_reference,
        plain_instant(event.timestamp),
        (_Quantity(event.value_reference, plain_number(event.number)),),
        tuple(_Property(reference, value) for reference, value in event.properties),
    )


def events_body(events: Sequence[UsageEvent], key: str) -> bytes:
    """A batch of usage events, under the key that the batch endpoint wants."""
    return msgspec.json.encode({key: [event_body(event) for event in events]})


# A batch is about few hours: most of its instants were written before.
@lru_cache(maxsize=4096)
def plain_instant(moment: datetime) -> str:
    """``YYYY-MM-DDThh:mm:ssZ``.

    Raises:
        ValueError: No time zone, or a fraction of a second: Solvimon would book it elsewhere, or reject it.
    """
    if moment.utcoffset() is None or moment.microsecond:
        raise ValueError(f"{moment.isoformat()} is not an aware instant of whole seconds.")
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def plain_number(number: Decimal) -> str:
    """The exact decimal text: no exponent, no trailing zeros after the point, no negative zero.

    Raises:
        ValueError: Not finite.
    """
    if not number.is_finite():
        raise ValueError(f"{number} is not a finite number.")
    if not number:
        return "0"
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
