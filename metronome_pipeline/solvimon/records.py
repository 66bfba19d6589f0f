"""What Solvimon has: customers, meters, the catalog and stored events, as its answers say it.

Here: the shapes of answers; only ``id`` is required, for the vendor's schema requires no more. Not here: what is sent
(``requests.py``), amounts (``money.py``), the endpoints (``api.py``), Metronome, Dagster.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from metronome_pipeline.solvimon.money import CostPrediction
from metronome_pipeline.wire import exact_number

Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class Organization(Struct, frozen=True, kw_only=True):
    """The organization behind a customer. What is not ``legal_name`` is sent back as it came, byte by byte."""

    legal_name: str | None = None
    tax_id: Raw | UnsetType = UNSET
    tax_ids: Raw | UnsetType = UNSET
    registration_number: Raw | UnsetType = UNSET
    tax_exempt: Raw | UnsetType = UNSET
    tax_exempt_note: Raw | UnsetType = UNSET
    registered_address: Raw | UnsetType = UNSET
    tax_registrations: Raw | UnsetType = UNSET


class Customer(Struct, frozen=True, kw_only=True):
    """A customer. ``status`` is DRAFT, ACTIVE, ARCHIVED, DEPRECATED or CLOSED."""

    id: str
    reference: str | None = None
    status: str | None = None
    type: str | None = None
    email: str | None = None
    organization: Organization | None = None

    @property
    def legal_name(self) -> str | None:
        """The organization's legal name; None for individuals."""
        return self.organization.legal_name if self.organization else None


class MeterValue(Struct, frozen=True, kw_only=True):
    """A meter value: what an event counts. ``type`` is NUMBER or AMOUNT."""

    id: str
    reference: str | None = None
    name: str | None = None
    type: str | None = None
    status: str | None = None


class MeterProperty(Struct, frozen=True, kw_only=True):
    """A meter property, shared by all meters. ``type`` is STRING, NUMBER or ENUM."""

    id: str
    reference: str | None = None
    name: str | None = None
    type: str | None = None
    status: str | None = None
    enum_values: tuple[str, ...] | None = None


class MeterLink(Struct, frozen=True, kw_only=True):
    """A meter value or property as a meter holds it."""

    id: str | None = None
    reference: str | None = None
    required: bool | None = None


class Meter(Struct, frozen=True, kw_only=True):
    """A meter. Only an ACTIVE one takes events."""

    id: str
    reference: str | None = None
    name: str | None = None
    status: str | None = None
    meter_values: tuple[MeterLink, ...] | None = None
    meter_properties: tuple[MeterLink, ...] | None = None


class MeterValueCalculation(Struct, frozen=True, kw_only=True):
    """How a meter value becomes a quantity: SUM, MAX, MIN, AVERAGE or UNIQUE. It can be read by id only."""

    id: str
    reference: str | None = None
    name: str | None = None
    calculation_type: str | None = None
    meter_id: str | None = None
    meter_value_id: str | None = None
    meter_property_id: str | None = None
    persist: bool | None = None


class ProductCategory(Struct, frozen=True, kw_only=True):
    """A product category. It has no status."""

    id: str
    reference: str | None = None
    name: str | None = None


class Product(Struct, frozen=True, kw_only=True):
    """A product of the catalog. DRAFT until activated."""

    id: str
    reference: str | None = None
    name: str | None = None
    status: str | None = None
    category_id: str | None = None
    product_type: str | None = None


class UsageBased(Struct, frozen=True, kw_only=True):
    """The usage-based part of a product item."""

    meter_value_calculation_id: str | None = None


class ProductItem(Struct, frozen=True, kw_only=True):
    """A product item: what a pricing plan prices. ``model_type`` is USAGE_BASED, RECURRING or another."""

    id: str
    reference: str | None = None
    name: str | None = None
    status: str | None = None
    product_id: str | None = None
    model_type: str | None = None
    type: str | None = None
    usage_based: UsageBased | None = None
    meter_value_calculation_id: str | None = None

    @property
    def calculation_id(self) -> str | None:
        """The meter value calculation that it bills by, in either of the two places that the API has for it."""
        nested = self.usage_based.meter_value_calculation_id if self.usage_based else None
        return nested or self.meter_value_calculation_id


class EventValue(Struct, frozen=True, kw_only=True):
    """One value of a stored event. ``number`` is the text as Solvimon has it."""

    id: str | None = None
    reference: str | None = None
    number: str | None = None

    @property
    def quantity(self) -> Decimal | None:
        """``number`` as a Decimal; None when there is none, or when it is no plain number."""
        try:
            return exact_number(self.number.encode()) if self.number is not None else None
        except ValueError:
            return None


class EventProperty(Struct, frozen=True, kw_only=True):
    """One property of a stored event."""

    id: str | None = None
    reference: str | None = None
    value: str | None = None


class Duplicate(Struct, frozen=True, kw_only=True):
    """Which stored event a duplicate repeats."""

    of_meter_data_id: str | None = None


class NotMatched(Struct, frozen=True, kw_only=True):
    """Why an event is not billed."""

    variant: str | None = None


class ProcessedDetails(Struct, frozen=True, kw_only=True):
    """What became of an event: DEFAULT, NOT_MATCHED or DUPLICATE. Set asynchronously: a 201 proves none of them."""

    type: str | None = None
    duplicate: Duplicate | None = None
    duplicate_of_meter_data_id: str | None = None
    not_matched: NotMatched | None = None


class Echo(Struct, frozen=True, kw_only=True):
    """What a batch's answer says of one event: all of it that a delivery needs, of a body with much more."""

    id: str
    reference: str | None = None
    processed_details: ProcessedDetails | None = None

    @property
    def is_duplicate(self) -> bool:
        """Whether Solvimon says that this copy counts for nothing. False may only mean "not yet processed"."""
        return self.processed_details is not None and self.processed_details.type == "DUPLICATE"

    @property
    def duplicate_of(self) -> str | None:
        """The id of the event that this one repeats, in either of the two places that the API has for it."""
        details = self.processed_details
        if details is None:
            return None
        return (details.duplicate and details.duplicate.of_meter_data_id) or details.duplicate_of_meter_data_id


class MeterData(Echo, frozen=True, kw_only=True):
    """A stored event ("meter data"). ``cost_prediction`` is read of calculated events alone."""

    customer_id: str | None = None
    customer_reference: str | None = None
    meter_id: str | None = None
    meter_reference: str | None = None
    timestamp: datetime | None = None
    created_at: str | None = None
    meter_values: tuple[EventValue, ...] = ()
    meter_properties: tuple[EventProperty, ...] = ()
    deleted: bool = False
    cost_prediction: CostPrediction | None = None


class TraceLink(Struct, frozen=True, kw_only=True):
    """One place where an event is billed. ``invoice_id`` tells whether it is on an invoice."""

    meter_value_calculation_ids: tuple[str, ...] | None = None
    product_item_ids: tuple[str, ...] | None = None
    pricing_plan_subscription_id: str | None = None
    invoice_id: str | None = None


class EventTrace(Struct, frozen=True, kw_only=True):
    """What became of one event, and when."""

    meter_data_id: str | None = None
    customer_id: str | None = None
    ingest_time: str | None = None
    received_time: str | None = None
    processed_time: str | None = None
    links: tuple[TraceLink, ...] | None = None


ReprocessType = Literal["NOT_MATCHED", "CUSTOMER", "INVOICE"]


class ReprocessScope(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which events are processed again: a customer's, within bounds, or an invoice's. In requests and in answers."""

    customer_id: str | None = None
    invoice_id: str | None = None
    start_at: str | None = None
    end_at: str | None = None


class Reprocess(Struct, frozen=True, kw_only=True):
    """A request to match or price stored events again. It changes no event's value.

    The values of ``status`` are not published; ``percentage`` counts to 100. The scope is in the field of the type.
    """

    id: str
    type: str | None = None
    status: str | None = None
    percentage: int | None = None
    created_at: str | None = None
    not_matched: ReprocessScope | None = None
    customer: ReprocessScope | None = None
    invoice: ReprocessScope | None = None


class PersistData(Struct, frozen=True, kw_only=True):
    """Usage that is carried over into a later period of a subscription."""

    id: str
    reference: str | None = None
    customer_id: str | None = None
    pricing_plan_subscription_id: str | None = None
    persist_usage: str | None = None
    timestamp: str | None = None
