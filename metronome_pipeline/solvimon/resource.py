"""Solvimon as a Dagster resource: the settings of a session, and how one is opened.

Here: wiring. Not here: endpoints (``api.py``). Dagster rebuilds a resource from its settings for every run, so it holds
nothing else; a test overrides ``_transport``.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from metronome_pipeline.clock import Clock
from metronome_pipeline.http import Http, Pacer, Service, Unpaced
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.calls import idempotency_keys
from metronome_pipeline.solvimon.events import INGEST_KEY, INGEST_PATH

if TYPE_CHECKING:
    import httpx


class SolvimonResource(dg.ConfigurableResource[SolvimonApi]):
    """Solvimon's API, for one platform and environment."""

    base_url: str = Field(
        default="https://test.api.solvimon.com", description="Scheme and host; the test environment by default."
    )
    api_key: str = Field(repr=False, description="The API key of this environment.")
    platform_id: str = Field(default="", description="Sent as x-platform-id where one key serves several platforms.")
    events_path: str = Field(default=INGEST_PATH, description="The endpoint that takes batches of events.")
    events_key: str = Field(default=INGEST_KEY, description="The key of the list in a batch's body.")
    batch_limit: int = Field(default=50, ge=1, description="Events that a batch may hold.")
    requests_in_flight: int = Field(default=8, ge=1, description="Requests at the same time.")
    timeout_seconds: float = Field(default=60.0, gt=0, description="For one request, to the last byte of its answer.")

    @asynccontextmanager
    async def open(
        self,
        *,
        clock: Clock,
        random: random.Random,
        run_id: str,
        pacer: Pacer | None = None,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> AsyncIterator[SolvimonApi]:
        """A session, closed at the end of the block. Without a pacer only Solvimon's own 429 slows it down."""
        async with Http(
            self.service(),
            transport=transport or self._transport(),
            clock=clock,
            source=random,
            pacer=pacer or Unpaced(clock),
            run_id=run_id,
            timeout_seconds=self.timeout_seconds,
            in_flight=self.requests_in_flight,
        ) as http:
            yield SolvimonApi(
                http,
                new_idempotency_key=idempotency_keys(random),
                events_path=self.events_path,
                events_key=self.events_key,
            )

    def service(self) -> Service:
        """Which API, and as whom."""
        platform = {"x-platform-id": self.platform_id} if self.platform_id else {}
        return Service(
            system="Solvimon",
            base_url=self.base_url,
            headers={"X-API-KEY": self.api_key, **platform},
            secrets=(self.api_key,),
            credential="SOLVIMON_API_KEY",
        )

    def _transport(self) -> "httpx.AsyncBaseTransport | None":
        """What carries requests; None is the network. A test's subclass returns its own."""
        return None
