"""Metronome's writing endpoints: customers, billable metrics, products, events.

The pipeline itself only reads Metronome. These are for those who set an account up: tests, demonstrations, probes.
Here: the calls. Not here: reads (``api.py``), the bodies (``requests.py``).

No request carries an Idempotency-Key (see ``api.py``). So what would have its effect twice when it is repeated is sent
once: without an answer it raises ``Unanswered``. What leaves the same state however often it is sent is repeated; a
``Refused`` with ``may_have_arrived`` may then mean that an attempt before had done it.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import quote

import msgspec

from metronome_pipeline.http import Http
from metronome_pipeline.metronome.reading import read_created_customer, read_id, read_nothing
from metronome_pipeline.metronome.records import CreatedCustomer
from metronome_pipeline.metronome.requests import (
    NewBillableMetric,
    NewCustomer,
    NewEvent,
    NewLegacyBillableMetric,
    NewProduct,
    ProductChange,
)

T = TypeVar("T")

MOST_EVENTS = 100
"""Events that one request to ``POST /v1/ingest`` may hold."""

_JSON = msgspec.json.Encoder(decimal_format="number")


class WriteCalls:
    """The writing endpoints."""

    def __init__(self, http: Http) -> None:
        self.http = http

    async def create_customer(self, customer: NewCustomer) -> CreatedCustomer:
        """Create a customer. Sent once."""
        return await self._post("/v1/customers", customer, read_created_customer, replay=False)

    async def archive_customer(self, customer_id: str) -> str:
        """Archive a customer, for good: its contracts end and their invoices are voided. Gives its id."""
        return await self._post("/v1/customers/archive", {"id": customer_id}, read_id)

    async def set_ingest_aliases(self, customer_id: str, aliases: Sequence[str]) -> None:
        """Replace all ingest aliases of a customer. Usage sent for an alias moves with it, past usage too."""
        path = f"/v1/customers/{quote(customer_id, safe='')}/setIngestAliases"
        endpoint = "POST /v1/customers/{id}/setIngestAliases"
        body = msgspec.json.encode({"ingest_aliases": list(aliases)})
        await self.http.send(endpoint, "POST", path, body=body, decode=read_nothing)

    async def create_billable_metric(self, metric: NewBillableMetric) -> str:
        """Create a billable metric, which counts events received from now on. Sent once. Gives its id."""
        return await self._post("/v1/billable-metrics/create", metric, read_id, replay=False)

    async def create_legacy_billable_metric(self, metric: NewLegacyBillableMetric) -> str:
        """Create a billable metric through the older endpoint. Sent once. Gives its id."""
        return await self._post("/v1/billable-metrics", metric, read_id, replay=False)

    async def rename_billable_metric(self, metric_id: str, name: str) -> str:
        """Change the name of a billable metric: all that can be changed of it. Gives its id."""
        path = f"/v1/billable-metrics/{quote(metric_id, safe='')}"
        body = msgspec.json.encode({"name": name})
        return await self.http.send("PUT /v1/billable-metrics/{id}", "PUT", path, body=body, decode=read_id)

    async def archive_billable_metric(self, metric_id: str) -> str:
        """Archive a billable metric. Products that use it go on metering by it. Gives its id."""
        return await self._post("/v1/billable-metrics/archive", {"id": metric_id}, read_id)

    async def create_product(self, product: NewProduct) -> str:
        """Create a product. Sent once. Gives its id."""
        return await self._post("/v1/contract-pricing/products/create", product, read_id, replay=False)

    async def update_product(self, change: ProductChange) -> str:
        """Change a product from an hour on. Sent once, for each change is kept in its history. Gives its id."""
        return await self._post("/v1/contract-pricing/products/update", change, read_id, replay=False)

    async def archive_product(self, product_id: str) -> str:
        """Archive a product, for good. Rate cards go on using it. Gives its id."""
        return await self._post("/v1/contract-pricing/products/archive", {"product_id": product_id}, read_id)

    async def ingest(self, events: Sequence[NewEvent]) -> None:
        """Send raw events. One bad event refuses them all. Repeated freely: transaction ids are deduplicated.

        Raises:
            ValueError: None, or more than a request may hold.
        """
        if not 1 <= len(events) <= MOST_EVENTS:
            raise ValueError(f"A request holds 1 to {MOST_EVENTS} events, not {len(events)}.")
        await self._post("/v1/ingest", list(events), read_nothing)

    async def _post(self, path: str, body: object, decode: Callable[[bytes], T], *, replay: bool = True) -> T:
        content = _JSON.encode(body)
        return await self.http.send(f"POST {path}", "POST", path, body=content, decode=decode, replay=replay)
