"""Solvimon's customer endpoints: customers, and what they own.

Here: the calls. Not here: subscriptions, plans and invoices, which are not in scope; retries (``http.py``).
"""

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from metronome_pipeline.solvimon.calls import Calls, Endpoint, path_segment
from metronome_pipeline.solvimon.money import Entitlements, TaxIdValidation, TaxIdValidations, WalletBalances
from metronome_pipeline.solvimon.records import Customer
from metronome_pipeline.solvimon.requests import CustomerChange, NewCustomer, plain_instant

_CUSTOMERS = Endpoint("/v1/customers", "CUSTOMER", Customer)
_ENTITLEMENTS = Endpoint("/v1/customers", "CUSTOMER", Entitlements)
_BALANCES = Endpoint("/v1/customers", "CUSTOMER", WalletBalances)
_TAX_IDS = Endpoint("/v1/customers/validate-tax-id", "CUSTOMER", TaxIdValidations)


class CustomerCalls(Calls):
    """The customer endpoints."""

    async def find_customer(self, reference: str) -> Customer | None:
        """The customer with that reference."""
        return await self._find(_CUSTOMERS, reference)

    async def create_customer(self, customer: NewCustomer) -> Customer:
        """Create an organization."""
        return await self._create(_CUSTOMERS, customer)

    async def upsert_customer(self, customer: NewCustomer) -> Customer:
        """Create the organization with that reference, or replace it whole: what people edited may go with it."""
        return await self._upsert(_CUSTOMERS, customer)

    async def update_customer(self, id_or_reference: str, change: CustomerChange) -> Customer:
        """Change a customer."""
        return await self._update(_CUSTOMERS, id_or_reference, change)

    async def delete_customer(self, id_or_reference: str) -> Customer | None:
        """Delete a customer; None when there is none. Later events of it are refused with their whole batch."""
        return await self._delete(_CUSTOMERS, id_or_reference)

    async def activate_customer(self, id_or_reference: str) -> Customer:
        """Make a DRAFT customer ACTIVE."""
        return await self._act(_CUSTOMERS, "activate", id_or_reference)

    async def deprecate_customer(self, id_or_reference: str) -> Customer:
        """Make a customer DEPRECATED."""
        return await self._act(_CUSTOMERS, "deprecate", id_or_reference)

    async def archive_customer(self, id_or_reference: str) -> Customer:
        """Make a customer ARCHIVED."""
        return await self._act(_CUSTOMERS, "archive", id_or_reference)

    async def forget_customer(self, id_or_reference: str) -> Customer:
        """Have what is personal about a customer removed, for good. Later events of it are refused."""
        return await self._act(_CUSTOMERS, "forget", id_or_reference)

    def list_customers(self) -> AsyncIterator[list[Customer]]:
        """Every customer, page by page."""
        return self._list(_CUSTOMERS)

    def search_customers(self, *, reference: str) -> AsyncIterator[list[Customer]]:
        """Customers by exact reference, through the search endpoint."""
        return self._search(_CUSTOMERS, "reference", reference)

    async def entitlements(self, id_or_reference: str) -> Entitlements:
        """What a customer may use, and through which of its subscriptions."""
        path = f"/v1/customers/{path_segment(id_or_reference)}/entitlements"
        endpoint = "GET /v1/customers/{id}/entitlements"
        return await self.http.send(endpoint, "GET", path, decode=_ENTITLEMENTS.read)

    async def wallet_balances(self, id_or_reference: str, *, balance_at: datetime | None = None) -> WalletBalances:
        """What is in a customer's wallets, now or at another moment. A read, though it is a POST."""
        path = f"/v1/customers/{path_segment(id_or_reference)}/wallets/balance"
        body = msgspec.json.encode({} if balance_at is None else {"balance_at": plain_instant(balance_at)})
        endpoint = "POST /v1/customers/{id}/wallets/balance"
        return await self.http.send(endpoint, "POST", path, body=body, decode=_BALANCES.read)

    async def validate_tax_ids(self, customer: NewCustomer) -> tuple[TaxIdValidation, ...]:
        """Whether the tax ids in the body of a customer are valid. Nothing is created."""
        body = msgspec.json.encode(customer)
        answer = await self.http.send(f"POST {_TAX_IDS.path}", "POST", _TAX_IDS.path, body=body, decode=_TAX_IDS.read)
        return answer.data
