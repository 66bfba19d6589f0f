"""Solvimon's catalogue endpoints: product categories, products, product items.

Here: the calls. Not here: pricing plans, which people make; what an import creates (``workflows/``).
"""

from collections.abc import AsyncIterator, Mapping

from metronome_pipeline.solvimon.calls import Calls, Endpoint
from metronome_pipeline.solvimon.records import Product, ProductCategory, ProductItem
from metronome_pipeline.solvimon.requests import (
    NameChange,
    NewProduct,
    NewProductCategory,
    NewProductItem,
    ProductChange,
    ProductItemChange,
)

_CATEGORIES = Endpoint("/v1/product-categories", "PRODUCT_CATEGORY", ProductCategory)
_PRODUCTS = Endpoint("/v1/products", "PRODUCT", Product)
_ITEMS = Endpoint("/v1/product-items", "PRODUCT_ITEM", ProductItem)


class CatalogueCalls(Calls):
    """The catalogue endpoints. ``with_items`` has a product's items follow its status: read them back."""

    async def find_product_category(self, reference: str) -> ProductCategory | None:
        """The product category with that reference."""
        return await self._find(_CATEGORIES, reference)

    async def create_product_category(self, category: NewProductCategory) -> ProductCategory:
        """Create a product category."""
        return await self._create(_CATEGORIES, category)

    async def upsert_product_category(self, category: NewProductCategory) -> ProductCategory:
        """Create the product category with that reference, or replace it whole."""
        return await self._upsert(_CATEGORIES, category)

    async def update_product_category(self, id_or_reference: str, change: NameChange) -> ProductCategory:
        """Rename a product category. It has no status."""
        return await self._update(_CATEGORIES, id_or_reference, change)

    async def delete_product_category(self, id_or_reference: str) -> ProductCategory | None:
        """Delete a product category; None when there is none."""
        return await self._delete(_CATEGORIES, id_or_reference)

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

    async def upsert_product(self, product: NewProduct) -> Product:
        """Create the product with that reference, in DRAFT, or replace it whole."""
        return await self._upsert(_PRODUCTS, product)

    async def update_product(self, id_or_reference: str, change: ProductChange) -> Product:
        """Change a product."""
        return await self._update(_PRODUCTS, id_or_reference, change)

    async def delete_product(self, id_or_reference: str, *, with_items: bool = False) -> Product | None:
        """Delete a product, which must be a DRAFT; None when there is none."""
        return await self._delete(_PRODUCTS, id_or_reference, _aligned(with_items=with_items))

    async def activate_product(self, id_or_reference: str, *, with_items: bool) -> Product:
        """Make a product ACTIVE."""
        return await self._act(_PRODUCTS, "activate", id_or_reference, _aligned(with_items=with_items))

    async def deprecate_product(self, id_or_reference: str, *, with_items: bool) -> Product:
        """Make a product DEPRECATED: it takes no new items."""
        return await self._act(_PRODUCTS, "deprecate", id_or_reference, _aligned(with_items=with_items))

    async def archive_product(self, id_or_reference: str, *, with_items: bool) -> Product:
        """Make a product ARCHIVED: it is hidden from then on."""
        return await self._act(_PRODUCTS, "archive", id_or_reference, _aligned(with_items=with_items))

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

    async def upsert_product_item(self, item: NewProductItem) -> ProductItem:
        """Create the product item with that reference, in DRAFT, or replace it whole."""
        return await self._upsert(_ITEMS, item)

    async def update_product_item(self, id_or_reference: str, change: ProductItemChange) -> ProductItem:
        """Change a product item."""
        return await self._update(_ITEMS, id_or_reference, change)

    async def delete_product_item(self, id_or_reference: str) -> ProductItem | None:
        """Delete a product item; None when there is none."""
        return await self._delete(_ITEMS, id_or_reference)

    async def activate_product_item(self, id_or_reference: str) -> ProductItem:
        """Make a product item ACTIVE."""
        return await self._act(_ITEMS, "activate", id_or_reference)

    async def deprecate_product_item(self, id_or_reference: str) -> ProductItem:
        """Make a product item DEPRECATED."""
        return await self._act(_ITEMS, "deprecate", id_or_reference)

    async def archive_product_item(self, id_or_reference: str) -> ProductItem:
        """Make a product item ARCHIVED."""
        return await self._act(_ITEMS, "archive", id_or_reference)

    def list_product_items(self, *, product_id: str | None = None) -> AsyncIterator[list[ProductItem]]:
        """Every product item, or those of one product."""
        return self._list(_ITEMS, {"product_id": product_id} if product_id else {})

    def search_product_items(self, *, reference: str) -> AsyncIterator[list[ProductItem]]:
        """Product items by exact reference, through the search endpoint."""
        return self._search(_ITEMS, "reference", reference)


def _aligned(*, with_items: bool) -> Mapping[str, str]:
    return {"align_product_item_status": str(with_items).lower()}
