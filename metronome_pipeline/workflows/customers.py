"""Import customers: every Metronome customer becomes a Solvimon customer.

Here: the two assets, and how one customer is brought over. Not here: HTTP (``metronome/``, ``solvimon/``), the mapping
itself (``mapping/customers.py``), and SQL (``storage/``).
"""

import asyncio
from collections.abc import Collection

import dagster as dg

from metronome_pipeline.errors import AlreadyExists
from metronome_pipeline.mapping.customers import customer_from_metronome
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.records import Customer
from metronome_pipeline.solvimon.requests import CustomerChange
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline.storage import accounts, imports
from metronome_pipeline.storage.accounts import KnownCustomer
from metronome_pipeline.storage.imports import Outcome
from metronome_pipeline.storage.resource import StoreResource
from metronome_pipeline.workflows.imports import (
    column_schema,
    import_each,
    import_metadata,
    request_metadata,
    table,
)
from metronome_pipeline.workflows.session import Session, failing_in_a_sentence, open_session

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


@dg.asset(
    key=["metronome", "customers"],
    group_name="metronome",
    kinds={"metronome", "postgres"},
    metadata={"dagster/column_schema": METRONOME_COLUMNS, "dagster/table_name": "metronome.customers"},
    pool="metronome_api",
)
def metronome_customers(
    context: dg.AssetExecutionContext,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
) -> dg.MaterializeResult[None]:
    """Every customer of the Metronome account, archived ones too; one row a customer.

    From `GET /v1/customers`, walked twice: active customers first, then archived ones, since the endpoint lists either. A
    walk that misses most customers known so far stores nothing and fails: the token is of another environment.
    """

    async def work() -> dg.MaterializeResult[None]:
        async with open_session(metronome, solvimon, store, context.run.run_id) as session:
            customers, refused = await read_customers(session)
            return dg.MaterializeResult(
                metadata={
                    "dagster/row_count": customers,
                    "refused": len(refused),
                    **request_metadata(session.metronome.http.counts()),
                    **({"refused_records": table(("id", "field", "reason"), refused)} if refused else {}),
                }
            )

    with failing_in_a_sentence():
        return asyncio.run(work())


async def read_customers(session: Session) -> tuple[int, list[tuple[str, str, str]]]:
    """Walks and stores all customers; returns how many, and those refused as (id, field, reason)."""
    customers = {}
    refused = []
    for archived in (False, True):
        async for page in session.metronome.customers(archived=archived):
            customers |= {customer.id: customer for customer in page.records}
            refused += [(refusal.record_id, refusal.field, refusal.reason) for refusal in page.refused]
    await session.database.run(
        lambda connection: accounts.store_customers(connection, session.pair.pair_id, list(customers.values()))
    )
    return len(customers), refused


@dg.asset(
    key=["solvimon", "customers"],
    deps=[metronome_customers],
    group_name="solvimon",
    kinds={"solvimon", "postgres"},
    metadata={"dagster/column_schema": SOLVIMON_COLUMNS, "dagster/table_name": "solvimon.customers"},
    pool="solvimon_api",
)
def solvimon_customers(
    context: dg.AssetExecutionContext,
    metronome: MetronomeResource,
    solvimon: SolvimonResource,
    store: StoreResource,
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult[None]:
    """A Solvimon customer for each Metronome customer: `reference` ← id, `organization.legal_name` ← name.

    Created where missing, renamed where Metronome's name changed, activated where still a draft; else unchanged. What exists
    under the reference but is no organization, or is archived or closed, is refused by name: give it another reference
    in Solvimon, or reactivate it, then run again.
    """

    async def work() -> dg.MaterializeResult[None]:
        async with open_session(metronome, solvimon, store, context.run.run_id) as session:
            known = await session.database.run(lambda c: accounts.known_customers(c, session.pair.pair_id))
            allowed = [customer for customer in known if _allowed(customer.customer_id, settings.usage_customers)]
            outcomes = await import_customers(session, allowed, email=settings.default_customer_email)
            return dg.MaterializeResult(metadata=import_metadata(outcomes, session.solvimon.http.counts()))

    with failing_in_a_sentence():
        return asyncio.run(work())


async def import_customers(session: Session, customers: list[KnownCustomer], *, email: str | None) -> list[Outcome]:
    """Brings customers over and remembers the outcomes. Those that Solvimon lists need no request of their own."""
    listed = {
        customer.reference: customer async for page in session.solvimon.list_customers() for customer in page if customer.reference
    }

    async def bring(customer: KnownCustomer) -> Outcome:
        return await _import_customer(session, customer, listed.get(customer.customer_id), email)

    def refused(customer: KnownCustomer, why: str) -> Outcome:
        return Outcome(customer.customer_id, customer.name, "refused", why)

    outcomes = await import_each(customers, bring, refused=refused, workers=session.workers)
    await session.database.run(
        lambda c: imports.store_customers(c, session.pair.pair_id, outcomes, run_id=session.run_id)
    )
    return outcomes


async def ensure_customers(session: Session, *, email: str | None) -> None:
    """Brings over the customers that have planned events but were never imported: Solvimon refuses events without them."""
    missing = await session.database.run(lambda c: imports.customers_to_create(c, session.pair.pair_id))
    if missing:
        await import_customers(session, missing, email=email)


async def _import_customer(
    session: Session, customer: KnownCustomer, have: Customer | None, email: str | None
) -> Outcome:
    wanted = customer_from_metronome(customer.customer_id, customer.name, email=email)
    legal_name = wanted.organization.legal_name or ""
    api = session.solvimon
    if have is None:
        try:
            created = await api.create_customer(wanted)
        except AlreadyExists:
            have = await api.find_customer(wanted.reference)
            if have is None:
                raise
        else:
            if created.status != "ACTIVE":
                await api.activate_customer(wanted.reference)
            return Outcome(wanted.reference, legal_name, "created", solvimon_id=created.id)
    if have.type != "ORGANIZATION" or have.status not in ("DRAFT", "ACTIVE"):
        return Outcome(
            wanted.reference,
            legal_name,
            "refused",
            f"A customer with this reference exists in Solvimon as {have.type}, {have.status}. It must be an active organization: "
            "give that one another reference, or reactivate it, and import again.",
            have.id,
        )
    changed = False
    if have.legal_name != legal_name:
        await api.update_customer(wanted.reference, CustomerChange(organization=wanted.organization))
        changed = True
    if have.status == "DRAFT":
        await api.activate_customer(wanted.reference)
        changed = True
    return Outcome(wanted.reference, legal_name, "updated" if changed else "unchanged", solvimon_id=have.id)


def _allowed(identifier: str, allow_list: Collection[str]) -> bool:
    return not allow_list or identifier in allow_list
