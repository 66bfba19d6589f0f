"""Import products: every Metronome product becomes a product with one item, in the category *Metronome Products*.

Here: the two assets, and how one product is brought over. Not here: the mapping itself
(``mapping/products.py``), HTTP, SQL.
"""

from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from msgspec.structs import replace

from metronome_pipeline.errors import AlreadyExists, Refused
from metronome_pipeline.mapping.products import (
    CATEGORY_NAME,
    CATEGORY_REFERENCE,
    NotImported,
    ProductPlan,
    product_plan,
)
from metronome_pipeline.metronome import records as metronome_records
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.records import Product, ProductCategory, ProductItem
from metronome_pipeline.solvimon.requests import NewProduct, NewProductCategory, NewProductItem, UsageBasedBy
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import accounts, imports
from metronome_pipeline.storage.imports import ImportedProduct
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.imports import (
    Incompatible,
    Listing,
    check_usable,
    clash,
    column_schema,
    find_or_create,
    import_each,
    import_metadata,
    listing_metadata,
    run_in_session,
    walk,
    what_happened,
)
from metronome_pipeline.workflows.naming import asset_key, pool_of
from metronome_pipeline.workflows.session import Session
from metronome_pipeline.workflows.tags import tags_of

METRONOME_COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "product_id": ("uuid", "Metronome's id, and the reference in Solvimon."),
        "type": ("text", "USAGE, SUBSCRIPTION, COMPOSITE, FIXED or PRO_SERVICE."),
        "initial": ("jsonb", "The product as it was created."),
        "current": ("jsonb", "The product as Metronome sums it up now."),
        "updates": ("jsonb", "Its changes, each with the moment from which it holds."),
        "archived_at": ("timestamptz", "Null while active."),
        "first_read_at": ("timestamptz", "When this project met the product."),
        "gone_at": ("timestamptz", "When Metronome first did not list it any more."),
    }
)
SOLVIMON_COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "reference": ("text", "Metronome's product id."),
        "solvimon_id": ("text", "Solvimon's id of the product."),
        "name": ("text", "The name sent: Metronome's first name of it."),
        "item_id": ("text", "Solvimon's id of its product item."),
        "model_type": ("text", "USAGE_BASED or RECURRING."),
        "calculation_id": ("text", "The meter value calculation that a usage product bills by."),
        "outcome": ("text", "created, updated, unchanged or refused, in the last import."),
        "reason": ("text", "Why it was not imported, or what a person should know."),
        "run_id": ("text", "The run that said so."),
        "at": ("timestamptz", "When."),
    }
)


def products_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The two assets of the import."""

    @dg.asset(
        key=asset_key(settings, "metronome", "products"),
        group_name="metronome",
        kinds={"metronome", "postgres"},
        owners=settings.resource_owners,
        tags=tags_of(settings, "import_products"),
        metadata={"dagster/column_schema": METRONOME_COLUMNS, "dagster/table_name": "metronome.products"},
        pool=pool_of(settings, "metronome"),
    )
    def metronome_products(
        context: dg.AssetExecutionContext,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
    ) -> dg.MaterializeResult[None]:
        """Every product of the Metronome account, archived ones too; one row a product, with all its changes.

        **From** `POST /v1/contract-pricing/products/list` with `archive_filter: ALL`: rate cards keep using archived
        products.

        **Fresh:** as old as its last materialization. The sensor `account_changes` requests an import when Metronome's
        audit log tells of a change.

        **If it fails:** a walk that misses most products known so far stores nothing: METRONOME_BEARER_TOKEN is of
        another environment. A record that cannot be kept is listed under `refused_records`: mend it in Metronome.
        """

        async def work(session: Session) -> dict[str, Any]:
            listing = await read_products(session)
            return listing_metadata(listing, session.metronome.http.counts(), name=lambda product: product.initial.name)

        return run_in_session(context, metronome, solvimon, store, work)

    @dg.asset(
        key=asset_key(settings, "solvimon", "products"),
        deps=[asset_key(settings, "metronome", "products"), asset_key(settings, "solvimon", "meters")],
        group_name="solvimon",
        kinds={"solvimon", "postgres"},
        owners=settings.resource_owners,
        tags=tags_of(settings, "import_products"),
        metadata={"dagster/column_schema": SOLVIMON_COLUMNS, "dagster/table_name": "solvimon.products"},
        pool=pool_of(settings, "solvimon"),
    )
    def solvimon_products(
        context: dg.AssetExecutionContext,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
    ) -> dg.MaterializeResult[None]:
        """A Solvimon product with one item for each usage and subscription product.

        **From** `metronome/products`: `reference` ← id, `name` ← `initial.name`, in the category *Metronome Products*.
        Usage products are linked to the meter value calculation of their billable metric (`solvimon/meters`),
        subscription products become recurring items; both are activated.

        **Fresh:** the sensor `account_changes` looks every five minutes for what is to be imported.

        **If one is refused,** `refused_records` says which and why, and what to make by hand in Solvimon: composite,
        fixed and professional service products are not imported, nor usage products that convert or round quantities or
        change their metric over time, since a plain link would bill them wrongly. A later rename in Metronome is under
        `to_note`, and the first name kept. After mending, run `import_products` again.
        """

        async def work(session: Session) -> dict[str, Any]:
            outcomes = await import_known_products(session)
            return import_metadata(outcomes, session.solvimon.http.counts())

        return run_in_session(context, metronome, solvimon, store, work)

    return [metronome_products, solvimon_products]


async def read_products(session: Session) -> Listing[metronome_records.Product]:
    """Walks and stores all products.

    Raises:
        WrongAccount: Metronome lists another environment's products. Nothing was stored.
    """
    listing = await walk(session.metronome.products())
    products, pair_id = list(listing.records.values()), session.pair.pair_id
    await session.database.run(lambda c: accounts.store_products(c, pair_id, products, refused=listing.refused))
    return listing


async def import_known_products(session: Session) -> list[ImportedProduct]:
    """Brings over every product that was read."""
    known = await session.database.run(lambda c: accounts.known_products(c, session.pair.pair_id))
    return await import_products(session, known)


async def import_products(session: Session, products: list[metronome_records.Product]) -> list[ImportedProduct]:
    """Brings products over and remembers the outcomes."""
    pair_id = session.pair.pair_id
    calculations = await session.database.run(lambda c: imports.calculation_ids(c, pair_id))
    reasons = await session.database.run(lambda c: imports.reasons_of_meters(c, pair_id))
    importer = _ProductImporter(session, await _category(session))
    await importer.list_what_exists()

    async def bring(product: metronome_records.Product) -> ImportedProduct:
        plan = product_plan(product)
        if isinstance(plan, NotImported):
            return ImportedProduct(plan.reference, plan.name, "refused", plan.reason)
        if plan.metric_id is None:
            return await importer.bring(plan, None)
        if plan.metric_id not in calculations:
            unknown = (
                "It was not imported: run import_meters, and see that neither USAGE_METRICS nor METRICS_FILE leaves it "
                "out."
            )
            why = reasons.get(plan.metric_id, unknown)
            raise Incompatible(f"Its billable metric {plan.metric_id} has no meter value calculation. {why}")
        return await importer.bring(plan, calculations[plan.metric_id][0])

    def refused(product: metronome_records.Product, why: str) -> ImportedProduct:
        return ImportedProduct(product.id, product.initial.name, "refused", why)

    outcomes = await import_each(products, bring, refused=refused, workers=session.workers)
    await session.database.run(lambda c: imports.store_products(c, pair_id, outcomes, run_id=session.run_id))
    return outcomes


async def _category(session: Session) -> ProductCategory:
    """The category of all imported products, by its reference, else by name: Solvimon's own import may have made it."""
    api = session.solvimon

    async def find() -> ProductCategory | None:
        categories = [category async for page in api.list_product_categories() for category in page]
        by_reference = [category for category in categories if category.reference == CATEGORY_REFERENCE]
        by_name = sorted((c for c in categories if c.name == CATEGORY_NAME), key=lambda category: category.id)
        return next(iter([*by_reference, *by_name]), None)

    new = NewProductCategory(reference=CATEGORY_REFERENCE, name=CATEGORY_NAME)
    category, _ = await find_or_create(await find(), lambda: api.create_product_category(new), find)
    return category


@dataclass
class _ProductImporter:
    """Makes products and their items, knowing what exists."""

    session: Session
    category: ProductCategory
    products: dict[str, Product] = field(default_factory=dict)
    items: dict[str, ProductItem] = field(default_factory=dict)

    async def list_what_exists(self) -> None:
        api = self.session.solvimon
        self.products = {p.reference: p async for page in api.list_products() for p in page if p.reference}
        self.items = {i.reference: i async for page in api.list_product_items() for i in page if i.reference}

    async def bring(self, plan: ProductPlan, calculation_id: str | None) -> ImportedProduct:
        api = self.session.solvimon
        new = NewProduct(reference=plan.reference, name=plan.name, category_id=self.category.id)
        product, made_product = await find_or_create(
            self.products.get(plan.reference), lambda: api.create_product(new), lambda: api.find_product(plan.reference)
        )
        check_usable("product", plan.reference, product.status)
        item, made_item = await find_or_create(
            self.items.get(plan.item_reference),
            lambda: self._create_item(plan, product, calculation_id),
            lambda: api.find_product_item(plan.item_reference),
        )
        _check_item(plan, product, item, calculation_id)
        activated = await self._activate(plan, product, item)
        rename = (
            f"Renamed to {plan.renamed_to!r} in Metronome; Solvimon keeps the first name." if plan.renamed_to else None
        )
        return ImportedProduct(
            plan.reference,
            plan.name,
            what_happened(made=made_product or made_item, changed=activated),
            rename,
            product.id,
            item_id=item.id,
            model_type=plan.model_type,
            calculation_id=calculation_id,
        )

    async def _create_item(self, plan: ProductPlan, product: Product, calculation_id: str | None) -> ProductItem:
        """Creates the item. Its calculation has two places in the API, and either may be refused (its notes, C7)."""
        new = NewProductItem(
            reference=plan.item_reference, name=plan.name, product_id=product.id, model_type=plan.model_type
        )
        if calculation_id is None:
            return await self.session.solvimon.create_product_item(new)
        try:
            nested = replace(new, usage_based=UsageBasedBy(meter_value_calculation_id=calculation_id))
            return await self.session.solvimon.create_product_item(nested)
        except Refused as error:
            if isinstance(error, AlreadyExists) or not (error.field or "").startswith("usage_based"):
                raise
            return await self.session.solvimon.create_product_item(
                replace(new, meter_value_calculation_id=calculation_id)
            )

    async def _activate(self, plan: ProductPlan, product: Product, item: ProductItem) -> bool:
        """Makes both active; whether there was anything to do."""
        api = self.session.solvimon
        if product.status == "DRAFT":
            await api.activate_product(plan.reference, with_items=True)
            item = await api.find_product_item(plan.item_reference) or item
        if item.status == "DRAFT":
            await api.activate_product_item(plan.item_reference)
        return "DRAFT" in (product.status, item.status)


def _check_item(plan: ProductPlan, product: Product, item: ProductItem, calculation_id: str | None) -> None:
    """Passes the item that the plan would make.

    Raises:
        Incompatible: Another one stands under its reference: it would bill otherwise.
    """
    reference = plan.item_reference
    check_usable("product item", reference, item.status)
    if item.model_type != plan.model_type:
        raise clash("product item", reference, f"model type {item.model_type}", plan.model_type)
    if item.product_id != product.id:
        raise clash("product item", reference, f"the product {item.product_id}", product.id)
    if item.calculation_id != calculation_id:
        has = f"the meter value calculation {item.calculation_id}"
        raise clash("product item", reference, has, f"{calculation_id}, of its billable metric,")
