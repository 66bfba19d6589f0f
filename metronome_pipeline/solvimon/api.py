"""Solvimon's API, a method per endpoint in scope.

Here: customers, meters and the product catalog; the event endpoints come with ``EventCalls``. Not here: retries
(``http.py``), which name or reference something gets (``mapping/``), Metronome, Dagster.

``find_*`` looks up by reference and gives None when there is none. ``create_*`` raises ``AlreadyExists`` where the
reference is taken. ``update_*`` sends what is set and leaves the rest.
"""

from collections.abc import AsyncIterator

from metronome_pipeline.solvimon.calls import Endpoint
from metronome_pipeline.solvimon.events import EventCalls
from metronome_pipeline.solvimon.records import (
    Customer,
    Meter,
    MeterProperty,
    MeterValue,
    MeterValueCalculation,
    Product,
    ProductCategory,
    ProductItem,
)
from metronome_pipeline.solvimon.requests import (
    CustomerChange,
    MeterChange,
    NameChange,
    NewCustomer,
    NewMeter,
    NewMeterProperty,
    NewMeterValue,
    NewMeterValueCalculation,
    NewProduct,
    NewProductCategory,
    NewProductItem,
    ProductChange,
    ProductItemChange,
)

_CUSTOMERS = Endpoint("/v1/customers", "CUSTOMER", Customer)
_METER_VALUES = Endpoint("/v1/meter-values", "METER_VALUE", MeterValue)
_METER_PROPERTIES = Endpoint("/v1/meter-properties", "METER_PROPERTY", MeterProperty)
_METERS = Endpoint("/v1/meters", "METER", Meter)
_CALCULATIONS = Endpoint("/v1/meter-value-calculations", "METER_VALUE_CALCULATION", MeterValueCalculation)
_CATEGORIES = Endpoint("/v1/product-categories", "PRODUCT_CATEGORY", ProductCategory)
_PRODUCTS = Endpoint("/v1/products", "PRODUCT", Product)
_ITEMS = Endpoint("/v1/product-items", "PRODUCT_ITEM", ProductItem)


class SolvimonApi(EventCalls):
    """One session's typed client."""

    async def find_customer(self, reference: str) -> Customer | None:
        """The customer with that reference."""
        return await self._find(_CUSTOMERS, reference)

    async def create_customer(self, customer: NewCustomer) -> Customer:
        """Create an organization."""
        return await self._create(_CUSTOMERS, customer)

    async def update_customer(self, id_or_reference: str, change: CustomerChange) -> Customer:
        """Change a customer."""
        return await self._update(_CUSTOMERS, id_or_reference, change)

    async def activate_customer(self, id_or_reference: str) -> Customer:
        """Make a DRAFT customer ACTIVE."""
        return await self._activate(_CUSTOMERS, id_or_reference)

    def list_customers(self) -> AsyncIterator[list[Customer]]:
        """Every customer, page by page."""
        return self._list(_CUSTOMERS)

    def search_customers(self, *, reference: str) -> AsyncIterator[list[Customer]]:
        """Customers by exact reference, through the search endpoint."""
        return self._search(_CUSTOMERS, "reference", reference)

    async def find_meter_value(self, reference: str) -> MeterValue | None:
        """The meter value with that reference."""
        return await self._find(_METER_VALUES, reference)

    async def create_meter_value(self, value: NewMeterValue) -> MeterValue:
        """Create a meter value, ACTIVE at once."""
        return await self._create(_METER_VALUES, value)

    async def update_meter_value(self, id_or_reference: str, change: NameChange) -> MeterValue:
        """Change a meter value, also its status: there is no activation endpoint."""
        return await self._update(_METER_VALUES, id_or_reference, change)

    def list_meter_values(self) -> AsyncIterator[list[MeterValue]]:
        """Every meter value."""
        return self._list(_METER_VALUES)

    async def find_meter_property(self, reference: str) -> MeterProperty | None:
        """The meter property with that reference. Properties are shared by all meters."""
        return await self._find(_METER_PROPERTIES, reference)

    async def create_meter_property(self, meter_property: NewMeterProperty) -> MeterProperty:
        """Create a meter property, ACTIVE at once."""
        return await self._create(_METER_PROPERTIES, meter_property)

    async def update_meter_property(self, id_or_reference: str, change: NameChange) -> MeterProperty:
        """Change a meter property, also its status: there is no activation endpoint."""
        return await self._update(_METER_PROPERTIES, id_or_reference, change)

    def list_meter_properties(self) -> AsyncIterator[list[MeterProperty]]:
        """Every meter property."""
        return self._list(_METER_PROPERTIES)

    async def find_meter(self, reference: str) -> Meter | None:
        """The meter with that reference."""
        return await self._find(_METERS, reference)

    async def create_meter(self, meter: NewMeter) -> Meter:
        """Create a meter, ACTIVE at once."""
        return await self._create(_METERS, meter)

    async def update_meter(self, id_or_reference: str, change: MeterChange) -> Meter:
        """Change a meter: its name, its status, or its complete list of values or properties."""
        return await self._update(_METERS, id_or_reference, change)

    def list_meters(self) -> AsyncIterator[list[Meter]]:
        """Every meter."""
        return self._list(_METERS)

    async def meter_value_calculation(self, calculation_id: str) -> MeterValueCalculation:
        """A calculation by Solvimon's id: its path takes no reference."""
        return await self._get(_CALCULATIONS, calculation_id)

    async def create_meter_value_calculation(self, calculation: NewMeterValueCalculation) -> MeterValueCalculation:
        """Create a calculation. Keep its id."""
        return await self._create(_CALCULATIONS, calculation)

    async def update_meter_value_calculation(self, calculation_id: str, change: NameChange) -> MeterValueCalculation:
        """Rename a calculation. It has no status."""
        return await self._update(_CALCULATIONS, calculation_id, change)

    def list_meter_value_calculations(self) -> AsyncIterator[list[MeterValueCalculation]]:
        """Every calculation: the only way to one whose id is not known."""
        return self._list(_CALCULATIONS)

    async def find_product_category(self, reference: str) -> ProductCategory | None:
        """The product category with that reference."""
        return await self._find(_CATEGORIES, reference)

    async def create_product_category(self, category: NewProductCategory) -> ProductCategory:
        """Create a product category."""
        return await self._create(_CATEGORIES, category)

    async def update_product_category(self, id_or_reference: str, change: NameChange) -> ProductCategory:
        """Rename a product category. It has no status."""
        return await self._update(_CATEGORIES, id_or_reference, change)

    def list_product_categories(self) -> AsyncIterator[list[ProductCategory]]:
        """Every product category."""
        return self._list(_CATEGORIES)

    def search_product_categories(self, *, name: str) -> AsyncIterator[list[ProductCategory]]:
        """Product categories by exact name: one made by Solvimon's own import has a reference that is not known."""
        return self._search(_CATEGORIES, "name", name)

    async def find_product(self, reference: str) -> Product | None:
        """The product with that reference."""
        return await self._find(_PRODUCTS, reference)

    async def create_product(self, product: NewProduct) -> Product:
        """Create a product, in DRAFT."""
        return await self._create(_PRODUCTS, product)

    async def update_product(self, id_or_reference: str, change: ProductChange) -> Product:
        """Change a product."""
        return await self._update(_PRODUCTS, id_or_reference, change)

    async def activate_product(self, id_or_reference: str, *, with_items: bool) -> Product:
        """Make a product ACTIVE; ``with_items`` aligns its items' status too. Read the items back."""
        return await self._activate(_PRODUCTS, id_or_reference, {"align_product_item_status": str(with_items).lower()})

    def list_products(self) -> AsyncIterator[list[Product]]:
        """Every product."""
        return self._list(_PRODUCTS)

    def search_products(self, *, reference: str) -> AsyncIterator[list[Product]]:
        """Products by exact reference, through the search endpoint."""
        return self._search(_PRODUCTS, "reference", reference)

    async def find_product_item(self, reference: str) -> ProductItem | None:
        """The product item with that reference."""
        return await self._find(_ITEMS, reference)

    async def create_product_item(self, item: NewProductItem) -> ProductItem:
        """Create a product item, in DRAFT."""
        return await self._create(_ITEMS, item)

    async def update_product_item(self, id_or_reference: str, change: ProductItemChange) -> ProductItem:
        """Change a product item."""
        return await self._update(_ITEMS, id_or_reference, change)

    async def activate_product_item(self, id_or_reference: str) -> ProductItem:
        """Make a product item ACTIVE."""
        return await self._activate(_ITEMS, id_or_reference)

    def list_product_items(self, *, product_id: str | None = None) -> AsyncIterator[list[ProductItem]]:
        """Every product item, or those of one product."""
        return self._list(_ITEMS, {"product_id": product_id} if product_id else {})

    def search_product_items(self, *, reference: str) -> AsyncIterator[list[ProductItem]]:
        """Product items by exact reference, through the search endpoint."""
        return self._search(_ITEMS, "reference", reference)
