"""Solvimon's reprocessing endpoints: match or price stored events again. No event's value changes by it.

Here: the calls. Not here: when it is asked for, and what is still unmatched afterwards.
"""

from collections.abc import AsyncIterator
from datetime import datetime

from metronome_pipeline.solvimon.calls import Calls, Endpoint
from metronome_pipeline.solvimon.records import Reprocess, ReprocessScope, ReprocessType
from metronome_pipeline.solvimon.requests import NewReprocess, plain_instant

_REPROCESS = Endpoint("/v1/reprocess", "REPROCESS", Reprocess)


class ReprocessCalls(Calls):
    """The reprocessing endpoints. Bounds are of the events' timestamps, in whole seconds."""

    async def reprocess_not_matched(
        self, customer_id: str, *, start_at: datetime | None = None, end_at: datetime | None = None
    ) -> Reprocess:
        """Ask Solvimon to match a customer's unmatched events again, after a price or subscription was mended."""
        scope = _scope(customer_id, start_at, end_at)
        return await self._create(_REPROCESS, NewReprocess(type="NOT_MATCHED", not_matched=scope))

    async def reprocess_customer(
        self, customer_id: str, *, start_at: datetime | None = None, end_at: datetime | None = None
    ) -> Reprocess:
        """Ask Solvimon to match and price all events of a customer again, also those that are matched."""
        scope = _scope(customer_id, start_at, end_at)
        return await self._create(_REPROCESS, NewReprocess(type="CUSTOMER", customer=scope))

    async def reprocess_invoice(self, invoice_id: str) -> Reprocess:
        """Ask Solvimon to make an invoice again from its events."""
        return await self._create(
            _REPROCESS, NewReprocess(type="INVOICE", invoice=ReprocessScope(invoice_id=invoice_id))
        )

    async def reprocess(self, reprocess_id: str) -> Reprocess:
        """How far a reprocess has come."""
        return await self._get(_REPROCESS, reprocess_id)

    def reprocesses(
        self,
        *,
        kind: ReprocessType | None = None,
        status: str | None = None,
    ) -> AsyncIterator[list[Reprocess]]:
        """Every reprocess, or those of a type or status, page by page. The values of ``status`` are not published."""
        told = {"type": kind, "status": status}
        return self._list(_REPROCESS, {name: value for name, value in told.items() if value is not None})


def _scope(customer_id: str, start_at: datetime | None, end_at: datetime | None) -> ReprocessScope:
    bounds = {"start_at": start_at, "end_at": end_at}
    told = {name: plain_instant(bound) for name, bound in bounds.items() if bound is not None}
    return ReprocessScope(customer_id=customer_id, **told)
