"""Import customers: every Metronome customer becomes a Solvimon customer.

Here: the two assets, and how one customer is brought over. Not here: HTTP (``metronome/``, ``solvimon/``), the mapping
itself (``mapping/customers.py``), and SQL (``storage/``).
"""

from typing import Any

import dagster as dg
import msgspec

from metronome_pipeline.mapping.customers import customer_from_metronome
from metronome_pipeline.metronome import records as metronome_records
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.records import Customer, Organization
from metronome_pipeline.solvimon.requests import CustomerChange
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import accounts, imports
from metronome_pipeline.storage.accounts import KnownCustomer
from metronome_pipeline.storage.imports import Outcome
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.imports import (
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
        "customer_id": ("uuid", "Metronome's id, and the reference in Solvimon."),
        "name": ("text", "As in Metronome, unshortened."),
        "external_id": ("text", "First ingest alias, or the id."),
        "ingest_aliases": ("text[]", "Names under which usage events arrive."),
        "custom_fields": ("jsonb", "As in Metronome."),
        "created_at": ("timestamptz", "In Metronome."),
        "updated_at": ("timestamptz", "In Metronome."),
        "archived_at": ("timestamptz", "Null while active."),
        "first_read_at": ("timestamptz", "When this project met the customer."),
        "gone_at": ("timestamptz", "When Metronome first did not list it any more."),
        "erased_at": ("timestamptz", "When the names of this customer were erased on request."),
    }
)
SOLVIMON_COLUMNS = column_schema(
    {
        "pair_id": ("int", "The account pair."),
        "reference": ("text", "Metronome's customer id."),
        "solvimon_id": ("text", "Solvimon's own id."),
        "legal_name": ("text", "The name sent: one line, at most 256 characters."),
        "outcome": ("text", "created, updated, unchanged or refused, in the last import."),
        "reason": ("text", "Why it was refused."),
        "run_id": ("text", "The run that said so."),
        "at": ("timestamptz", "When."),
    }
)


def customers_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The two assets of the import."""

    @dg.asset(
        key=asset_key(settings, "metronome", "customers"),
        group_name="metronome",
        kinds={"metronome", "postgres"},
        owners=settings.resource_owners,
        tags=tags_of(settings, "import_customers"),
        metadata={"dagster/column_schema": METRONOME_COLUMNS, "dagster/table_name": "metronome.customers"},
        pool=pool_of(settings, "metronome"),
    )
    def metronome_customers(
        context: dg.AssetExecutionContext,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
    ) -> dg.MaterializeResult[None]:
        """Every customer of the Metronome account, archived ones too; one row a customer.

        **From** `GET /v1/customers`, walked twice: active customers first, then archived ones, since the endpoint lists
        either.

        **Fresh:** every run of usage reads this list too, so the table is an hour old at most. It is materialized when
        the sensor `account_changes` requests an import, for something changed.

        **If it fails:** a walk that misses most customers known so far stores nothing: METRONOME_BEARER_TOKEN is of
        another environment. A record that cannot be kept is listed under `refused_records`: mend it in Metronome.
        """

        async def work(session: Session) -> dict[str, Any]:
            listing = await read_customers(session)
            return listing_metadata(listing, session.metronome.http.counts(), name=lambda customer: customer.name)

        return run_in_session(context, metronome, solvimon, store, work)

    @dg.asset(
        key=asset_key(settings, "solvimon", "customers"),
        deps=[asset_key(settings, "metronome", "customers")],
        group_name="solvimon",
        kinds={"solvimon", "postgres"},
        owners=settings.resource_owners,
        tags=tags_of(settings, "import_customers"),
        metadata={"dagster/column_schema": SOLVIMON_COLUMNS, "dagster/table_name": "solvimon.customers"},
        pool=pool_of(settings, "solvimon"),
    )
    def solvimon_customers(
        context: dg.AssetExecutionContext,
        metronome: MetronomeResource,
        solvimon: SolvimonResource,
        store: StoreResource,
        settings: dg.ResourceParam[Settings],
    ) -> dg.MaterializeResult[None]:
        """A Solvimon customer for each Metronome customer: `reference` ← id, `organization.legal_name` ← name.

        **From** `metronome/customers`, and what Solvimon lists. Created where missing, renamed where Metronome's name
        changed, activated where still a draft; else unchanged.

        **Fresh:** the sensor `account_changes` looks every five minutes for what is to be imported. A run of usage
        creates customers that its events need by itself.

        **If one is refused,** `refused_records` says which and why, and all others went through. What exists under the
        reference but is no organization, or is archived or closed: give it another reference in Solvimon, or reactivate
        it, then run `import_customers` again. Usage that Solvimon refuses meanwhile waits in quarantine.
        """

        async def work(session: Session) -> dict[str, Any]:
            outcomes = await import_known_customers(session, settings)
            return import_metadata(outcomes, session.solvimon.http.counts())

        return run_in_session(context, metronome, solvimon, store, work)

    return [metronome_customers, solvimon_customers]


async def read_customers(session: Session) -> Listing[metronome_records.Customer]:
    """Walks and stores all customers.

    Raises:
        WrongAccount: Metronome lists another environment's customers. Nothing was stored.
    """
    api, pair_id = session.metronome, session.pair.pair_id
    listing = await walk(api.customers(archived=False), api.customers(archived=True))
    customers = list(listing.records.values())
    await session.database.run(lambda c: accounts.store_customers(c, pair_id, customers, refused=listing.refused))
    return listing


async def import_known_customers(session: Session, settings: Settings) -> list[Outcome]:
    """Brings over every customer that was read and that the settings allow."""
    known = await session.database.run(lambda c: accounts.known_customers(c, session.pair.pair_id))
    allowed = [c for c in known if not settings.usage_customers or c.customer_id in settings.usage_customers]
    return await import_customers(session, allowed, email=settings.default_customer_email)


async def import_customers(session: Session, customers: list[KnownCustomer], *, email: str | None) -> list[Outcome]:
    """Brings customers over and remembers the outcomes. Those that Solvimon lists need no request of their own."""
    pages = session.solvimon.list_customers()
    listed = {customer.reference: customer async for page in pages for customer in page if customer.reference}

    async def bring(customer: KnownCustomer) -> Outcome:
        return await _bring(session, customer, listed.get(customer.customer_id), email)

    def refused(customer: KnownCustomer, why: str) -> Outcome:
        return Outcome(customer.customer_id, customer.name, "refused", why)

    outcomes = await import_each(customers, bring, refused=refused, workers=session.workers)
    await session.database.run(
        lambda c: imports.store_customers(c, session.pair.pair_id, outcomes, run_id=session.run_id)
    )
    return outcomes


async def ensure_customers(session: Session, *, email: str | None) -> None:
    """Brings over customers with planned events that were never imported: Solvimon refuses events without them."""
    missing = await session.database.run(lambda c: imports.customers_to_create(c, session.pair.pair_id))
    if missing:
        await import_customers(session, missing, email=email)


async def _bring(session: Session, customer: KnownCustomer, listed: Customer | None, email: str | None) -> Outcome:
    wanted = customer_from_metronome(customer.customer_id, customer.name, email=email)
    reference, legal_name = wanted.reference, wanted.organization.legal_name or ""
    api = session.solvimon
    have, made = await find_or_create(listed, lambda: api.create_customer(wanted), lambda: api.find_customer(reference))
    if have.type != "ORGANIZATION":
        raise clash("customer", reference, f"type {have.type}", "type ORGANIZATION")
    check_usable("customer", reference, have.status)
    changed = False
    if (have.legal_name or "") != legal_name:
        # The whole organization: whether a change keeps the parts that it does not name, such as tax ids, is not known.
        organization = msgspec.structs.replace(have.organization or Organization(), legal_name=legal_name)
        await api.update_customer(reference, CustomerChange(organization=organization))
        changed = True
    if have.status == "DRAFT":
        await api.activate_customer(reference)
        changed = True
    return Outcome(reference, legal_name, what_happened(made=made, changed=changed), solvimon_id=have.id)
