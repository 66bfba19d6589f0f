"""A Solvimon that is only rehearsed: what is no known read never leaves."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from metronome_pipeline.clock import SYSTEM_CLOCK
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import Organization
from metronome_pipeline.solvimon.rehearsed import NotRehearsed, RehearsedHttp, rehearsed_solvimon
from metronome_pipeline.solvimon.requests import CustomerChange, NewCustomer, NewProduct, UsageEvent
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline_tests.world import Api

Rehearsed = Callable[[SolvimonApi], Awaitable[Any]]
EVENT = UsageEvent("a-reference-1", "c", "m", datetime(2026, 1, 5, tzinfo=UTC), "v", Decimal(1))


def rehearse(url: str, *calls: Rehearsed) -> tuple[list[Any], RehearsedHttp]:
    account = Api(url, {"X-API-KEY": f"key-{uuid.uuid4()}"})
    account.call("PUT", "/_sandbox/store", {})

    async def ask() -> tuple[list[Any], RehearsedHttp]:
        resource = SolvimonResource(base_url=url, api_key=account.headers["X-API-KEY"])
        source = random.Random(0)
        async with resource.open(clock=SYSTEM_CLOCK, random=source, run_id="test") as api:
            rehearsed, http = rehearsed_solvimon(api)
            return [await call(rehearsed) for call in calls], http

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "write",
    [
        lambda api: api.ingest([EVENT], replay=False),
        lambda api: api.ingest_one(EVENT, replay=False),
        lambda api: api.delete_event("a-reference-1"),
        lambda api: api.delete_event_by_id("metd_1"),
        lambda api: api.upsert_product(NewProduct(reference="p", name="P", category_id="c")),
        lambda api: api.delete_product("p"),
        lambda api: api.archive_customer("c"),
    ],
)
def test_a_write_that_cannot_be_foreseen_is_refused_and_not_sent(
    sandbox_urls: tuple[str, str], write: Rehearsed
) -> None:
    with pytest.raises(NotRehearsed):
        rehearse(sandbox_urls[1], write)


def test_what_would_be_made_is_found_changed_and_activated_again(sandbox_urls: tuple[str, str]) -> None:
    organization = Organization(legal_name="Acme")
    (made, changed, found, product, active, other), http = rehearse(
        sandbox_urls[1],
        lambda api: api.create_customer(NewCustomer(reference="r-1", organization=organization)),
        lambda api: api.update_customer("r-1", CustomerChange(organization=Organization(legal_name="Acme Ltd"))),
        lambda api: api.find_customer("r-1"),
        lambda api: api.create_product(NewProduct(reference="p-1", name="P", category_id="c")),
        lambda api: api.activate_product("p-1", with_items=True),
        lambda api: api.find_customer("r-2"),
    )
    assert (made.reference, made.status, changed.legal_name, found.legal_name) == (
        "r-1",
        "ACTIVE",
        "Acme Ltd",
        "Acme Ltd",
    )
    assert (product.status, active.status, active.id) == ("DRAFT", "ACTIVE", product.id)
    assert other is None
    assert [write.endpoint.split(" ")[0] for write in http.writes] == ["POST", "PATCH", "POST", "POST"]
    assert http.requests == 6
    # Whether a reference is taken is asked once more for each create; nothing else leaves.
    assert http.counts().requests == 3
