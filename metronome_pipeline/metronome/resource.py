"""Metronome as a Dagster resource: the settings of a session, and how one is opened.

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
from metronome_pipeline.http import Http, Pacer, Service
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.retries import RetryPolicy

if TYPE_CHECKING:
    import httpx


class MetronomeResource(dg.ConfigurableResource[MetronomeApi]):
    """Metronome's API. The token chooses the environment, for the host is one and the same."""

    base_url: str = Field(default="https://api.metronome.com", description="Scheme and host.")
    bearer_token: str = Field(repr=False, description="The API token of this environment.")
    environment: str = Field(default="production", description="The name that you give the token's environment.")
    requests_per_second: float = Field(default=8.0, gt=0, description="The budget of the whole account.")
    requests_in_flight: int = Field(default=8, ge=1, description="Requests at the same time.")
    timeout_seconds: float = Field(default=60.0, gt=0, description="For one request, to the last byte of its answer.")

    @asynccontextmanager
    async def open(
        self,
        *,
        pacer: Pacer,
        clock: Clock,
        random: random.Random,
        run_id: str,
        transport: "httpx.AsyncBaseTransport | None" = None,
        policy: RetryPolicy | None = None,
    ) -> AsyncIterator[MetronomeApi]:
        """A session, closed at the end of the block. The pacer is the account's, shared by every run."""
        async with Http(
            self.service(),
            transport=transport or self._transport(),
            clock=clock,
            source=random,
            pacer=pacer,
            run_id=run_id,
            timeout_seconds=self.timeout_seconds,
            in_flight=self.requests_in_flight,
            policy=policy,
        ) as http:
            yield MetronomeApi(http)

    def service(self) -> Service:
        """Which API, and as whom."""
        return Service(
            system="Metronome",
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self.bearer_token}"},
            secrets=(self.bearer_token,),
            credential="METRONOME_BEARER_TOKEN",
        )

    def _transport(self) -> "httpx.AsyncBaseTransport | None":
        """What carries requests; None is the network. A test's subclass returns its own."""
        return None
