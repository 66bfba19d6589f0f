"""The client against the sandbox, over HTTP: what becomes of events that nothing bills, and what they would cost."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from metronome_pipeline.errors import Refused
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import MeterData, Organization
from metronome_pipeline.solvimon.requests import (
    NewCustomer,
    NewMeter,
    NewMeterLink,
    NewMeterValue,
    NewProduct,
    NewProductCategory,
    UsageEvent,
)
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline_tests.loopback import StillTime
from metronome_pipeline_tests.world import Api

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)


@pytest.fixture
def account(sandbox_urls: tuple[str, str]) -> Api:
    """An account whose only meter and customer are made by :func:`ready`."""
    made = Api(sandbox_urls[1], {"X-API-KEY": f"key-{uuid.uuid4()}"})
    made.call("PUT", "/_sandbox/store", {"settings": {"now": NOW.isoformat(), "reprocessing": "manual"}})
    return made


def on(account: Api, story: Callable[[SolvimonApi], Awaitable[None]]) -> None:
    async def main() -> None:
        resource = SolvimonResource(base_url=account.url, api_key=account.headers["X-API-KEY"])
        async with resource.open(clock=StillTime().clock(), random=random.Random(1), run_id="run-1") as api:
            await story(api)

    asyncio.run(main())


async def ready(api: SolvimonApi) -> str:
    """A customer and a meter; the customer's id."""
    acme = NewCustomer(reference="acme", organization=Organization(legal_name="Acme"))
    value = await api.create_meter_value(NewMeterValue(reference="calls_value", name="Calls"))
    links = (NewMeterLink(id=value.id, required=True),)
    await api.create_meter(NewMeter(reference="calls", name="Calls", meter_values=links, meter_properties=()))
    return (await api.create_customer(acme)).id


def usage(hour: int) -> UsageEvent:
    start = datetime(2026, 11, 22, hour, tzinfo=UTC)
    return UsageEvent(f"mn_acme_calls_{hour}", "acme", "calls", start, "calls_value", Decimal(hour))


async def stored(api: SolvimonApi, **filters: Any) -> list[MeterData]:
    return [event async for page in api.events(**filters) for event in page]


def test_what_was_unmatched_is_matched_after_a_subscription_and_a_reprocess(account: Api) -> None:
    async def story(api: SolvimonApi) -> None:
        customer = await ready(api)
        await api.ingest([usage(1), usage(2)], replay=True)
        assert len(await stored(api, customer_id=customer, processed_details_type="NOT_MATCHED")) == 2
        account.call("POST", "/_sandbox/subscriptions", {"customer_reference": "acme"})
        asked = await api.reprocess_not_matched(customer, start_at=usage(2).timestamp)
        assert (await api.reprocess(asked.id)).percentage == 0
        account.call("POST", "/_sandbox/process")
        assert (await api.reprocess(asked.id)).percentage == 100
        assert [one.id async for page in api.reprocesses(kind="NOT_MATCHED") for one in page] == [asked.id]
        [unmatched] = await stored(api, customer_id=customer, processed_details_type="NOT_MATCHED")
        [matched] = await stored(api, processed_details_type="DEFAULT")
        assert (unmatched.reference, matched.reference) == (usage(1).reference, usage(2).reference)
        assert not (await api.event_trace(unmatched.id)).links
        links = (await api.event_trace(matched.id)).links
        assert links
        assert links[0].invoice_id

    on(account, story)


def test_deleted_events_and_duplicates_are_found_by_their_filters(account: Api) -> None:
    async def story(api: SolvimonApi) -> None:
        await ready(api)
        await api.ingest([usage(1), usage(2)], replay=True)
        await api.ingest_one(usage(2), replay=True)
        await api.delete_event(usage(1).reference)
        assert [event.reference for event in await stored(api, deleted=True)] == [usage(1).reference]
        [duplicate] = await stored(api, processed_details_type="DUPLICATE")
        assert duplicate.duplicate_of
        assert len(await stored(api, deleted=False)) == 2

    on(account, story)


@pytest.mark.parametrize("leaves", [False, True])
def test_whether_a_calculation_leaves_an_event_behind_can_be_seen(account: Api, leaves: bool) -> None:
    account.set(calculate_stores=leaves)

    async def story(api: SolvimonApi) -> None:
        await ready(api)
        price = {"quantity": "0.01", "currency": "EUR"}
        account.call("POST", "/_sandbox/subscriptions", {"customer_reference": "acme", "price": price})
        cost = (await api.calculate(usage(5), cost_prediction=True)).cost_prediction
        assert cost is not None
        assert cost.details is not None
        amount = cost.details[0].amount_excluding_tax
        assert amount is not None
        assert (amount.quantity, amount.currency) == ("0.05", "EUR")
        assert bool(await stored(api, reference=usage(5).reference)) is leaves

    on(account, story)


def test_a_forgotten_customer_takes_no_more_events_and_keeps_its_reference(account: Api) -> None:
    async def story(api: SolvimonApi) -> None:
        await ready(api)
        assert (await api.forget_customer("acme")).status == "CLOSED"
        found = await api.find_customer("acme")
        assert found is not None
        assert found.legal_name is None
        with pytest.raises(Refused) as raised:
            await api.ingest([usage(1)], replay=True)
        assert raised.value.code == "RESOURCES_NOT_FOUND"

    on(account, story)


def test_a_draft_is_deleted_and_what_is_active_is_not(account: Api) -> None:
    async def story(api: SolvimonApi) -> None:
        category = await api.upsert_product_category(NewProductCategory(reference="all", name="All"))
        product = NewProduct(reference="api", name="API", category_id=category.id)
        first = await api.upsert_product(product)
        assert (await api.upsert_product(product)).id == first.id
        await api.activate_product("api", with_items=True)
        with pytest.raises(Refused, match="ACTIVE cannot be deleted"):
            await api.delete_product("api")
        assert await api.delete_product("other") is None
        assert (await api.archive_product("api", with_items=True)).status == "ARCHIVED"

    on(account, story)
