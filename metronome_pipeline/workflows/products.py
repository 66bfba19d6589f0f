"""Import products: every Metronome product becomes a product with one item, in the category *Metronome Products*.

Here: the two assets, and how one product is brought over. Not here: the mapping itself (``mapping/products.py``), HTTP, SQL.
"""

import asyncio
from dataclasses import dataclass, field

import dagster as dg
from msgspec import UNSET

from metronome_pipeline.errors import AlreadyExists
from metronome_pipeline.mapping.products import (
    CATEGORY_NAME,
    CATEGORY_REFERENCE,
    NotImported,
    ProductPlan,
    product_plan,
)
from metronome_pipeline.metronome import records as metronome_records
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.solvimon.records import Product, ProductCategory, ProductItem
from metronome_pipeline.solvimon.requests import NewProduct, NewProductCategory, NewProductItem, UsageBasedBy
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import accounts, imports
from metronome_pipeline.storage.imports import ImportedProduct
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.imports import (
    column_schema,
    import_each,
    import_metadata,
    request_metadata,
    table,
)
from metronome_pipeline.workflows.meters import solvimon_meters
from metronome_pipeline.workflows.session import Session, failing_in_a_sentence, open_session

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


@dg.asset(
    key=["metronome", "products"],
    group_name="metronome",
    kinds={"metronome", "postgres"},
    metadata={"dagster/column_schema": METRONOME_COLUMNS, "dagster/table_name": "metronome.products"},
    pool="metronome_api",
)
def metronome_products(
    context: dg.AssetExecutionContext,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
) -> dg.MaterializeResult[None]:
    """Every product of the Metronome account, archived ones too; one row a product, with all its changes over time.

    From `POST /v1/contract-pricing/products/list` with `archive_filter: ALL`: rate cards keep using archived products.
    """

    async def work() -> dg.MaterializeResult[None]:
        async with open_session(metronome, solvimon, store, context.run.run_id) as session:
            products, refused = await read_products(session)
            return dg.MaterializeResult(
                metadata={
                    "dagster/row_count": products,
                    "refused": len(refused),
                    **request_metadata(session.metronome.http.counts()),
                    **({"refused_records": table(("id", "field", "reason"), refused)} if refused else {}),
                }
            )

    with failing_in_a_sentence():
        return asyncio.run(work())


async def read_products(session: Session) -> tuple[int, list[tuple[str, str, str]]]:
    """Walks and stores all products; returns how many, and those refused as (id, field, reason)."""
    products = []
    refused = []
    async for page in session.metronome.products():
        products += page.records
        refused += [(refusal.record_id, refusal.field, refusal.reason) for refusal in page.refused]
    await session.database.run(lambda c: accounts.store_products(c, session.pair.pair_id, products))
    return len(products), refused


@dg.asset(
    key=["solvimon", "products"],
    deps=[metronome_products, solvimon_meters],
    group_name="solvimon",
    kinds={"solvimon", "postgres"},
    metadata={"dagster/column_schema": SOLVIMON_COLUMNS, "dagster/table_name": "solvimon.products"},
    pool="solvimon_api",
)
def solvimon_products(
    context: dg.AssetExecutionContext,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
) -> dg.MaterializeResult[None]:
    """A Solvimon product with one item for each usage and subscription product: `reference` ← id, `name` ← `initial.name`.

    Usage products are linked to the meter value calculation of their billable metric, subscription products become
    recurring items; both are activated. Composite, fixed and professional service products are listed as not imported, and so
    are usage products that convert or round quantities or change their metric over time: a plain link would bill them wrongly.
    A later rename in Metronome is reported, and the first name kept.
    """

    async def work() -> dg.MaterializeResult[None]:
        async with open_session(metronome, solvimon, store, context.run.run_id) as session:
            known = await session.database.run(lambda c: accounts.known_products(c, session.pair.pair_id))
            outcomes = await import_products(session, known)
            return dg.MaterializeResult(metadata=import_metadata(outcomes, session.solvimon.http.counts()))

    with failing_in_a_sentence():
        return asyncio.run(work())


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
            why = reasons.get(plan.metric_id, "The metric has not been imported: run import_meters first.")
            reason = f"Its billable metric {plan.metric_id} has no meter value calculation. {why}"
            return ImportedProduct(plan.reference, plan.name, "refused", reason)
        return await importer.bring(plan, calculations[plan.metric_id][0])

    def refused(product: metronome_records.Product, why: str) -> ImportedProduct:
        return ImportedProduct(product.id, product.initial.name, "refused", why)

    outcomes = await import_each(products, bring, refused=refused, workers=session.workers)
    await session.database.run(lambda c: imports.store_products(c, pair_id, outcomes, run_id=session.run_id))
    return outcomes


async def _category(session: Session) -> ProductCategory:
    """The category of all imported products, by its reference, else by its name: Solvimon's own import may have made it."""
    api = session.solvimon
    found = await api.find_product_category(CATEGORY_REFERENCE)
    if found is not None:
        return found
    async for page in api.search_product_categories(name=CATEGORY_NAME):
        for category in page:
            if category.name == CATEGORY_NAME:
                return category
    return await api.create_product_category(NewProductCategory(reference=CATEGORY_REFERENCE, name=CATEGORY_NAME))


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
        product, made_product = await self._product(plan)
        item, made_item = await self._item(plan, product, calculation_id)
        wrong = _wrong(plan, product, item, calculation_id)
        if wrong:
            return ImportedProduct(plan.reference, plan.name, "refused", wrong, product.id)
        activated = False
        if product.status == "DRAFT":
            await api.activate_product(plan.reference, with_items=True)
            activated = True
            item = await api.find_product_item(plan.item_reference) or item
        if item.status == "DRAFT":
            await api.activate_product_item(plan.item_reference)
            activated = True
        made = made_product or made_item
        renamed = f"Renamed to {plan.renamed_to!r} in Metronome; Solvimon keeps the first name." if plan.renamed_to else None
        return ImportedProduct(
            plan.reference,
            plan.name,
            "created" if made else "updated" if activated else "unchanged",
            renamed,
            product.id,
            item_id=item.id,
            model_type=plan.model_type,
            calculation_id=calculation_id,
        )

    async def _product(self, plan: ProductPlan) -> tuple[Product, bool]:
        api = self.session.solvimon
        if (have := self.products.get(plan.reference)) is not None:
            return have, False
        try:
            new = NewProduct(reference=plan.reference, name=plan.name, category_id=self.category.id)
            return await api.create_product(new), True
        except AlreadyExists:
            have = await api.find_product(plan.reference)
            if have is None:
                raise
            return have, False

    async def _item(self, plan: ProductPlan, product: Product, calculation_id: str | None) -> tuple[ProductItem, bool]:
        api = self.session.solvimon
        if (have := self.items.get(plan.item_reference)) is not None:
            return have, False
        new = NewProductItem(
            reference=plan.item_reference,
            name=plan.name,
            product_id=product.id,
            model_type=plan.model_type,
            usage_based=UsageBasedBy(meter_value_calculation_id=calculation_id) if calculation_id else UNSET,
        )
        try:
            return await api.create_product_item(new), True
        except AlreadyExists:
            have = await api.find_product_item(plan.item_reference)
            if have is None:
                raise
            return have, False


def _wrong(plan: ProductPlan, product: Product, item: ProductItem, calculation_id: str | None) -> str | None:
    """Why what stands under the references can't be used; None when it can."""
    if product.status not in (None, "DRAFT", "ACTIVE"):
        return f"The product {plan.reference} is {product.status} in Solvimon: reactivate it there, then import again."
    if item.model_type != plan.model_type:
        return (
            f"The product item {plan.item_reference} exists in Solvimon as {item.model_type}, where {plan.model_type} is needed. "
            "Archive it or give it another reference there, then import again."
        )
    if calculation_id is not None and item.calculation_id != calculation_id:
        return (
            f"The product item {plan.item_reference} bills by another meter value calculation ({item.calculation_id}) than its "
            f"metric's ({calculation_id}): correct it in Solvimon, then import again."
        )
    return None
