"""Bodies of any kind, to every endpoint that is read: one of our errors, by name, or a record that can be kept."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.errors import ApiError, Malformed
from metronome_pipeline.metronome import reading, records
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.solvimon import records as solvimon
from metronome_pipeline.solvimon import stored_events
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.calls import idempotency_keys
from metronome_pipeline.solvimon.money import Entitlements, WalletBalances
from metronome_pipeline.solvimon.requests import UsageEvent
from metronome_pipeline.wire import MOST_DIGITS, field_beyond
from metronome_pipeline_tests.hostile.shapes import HUNT, REFERENCE, UUID, numbers, shapeless, spoiled, texts, written
from metronome_pipeline_tests.loopback import Scripted, collected, session

DAY = datetime(2026, 1, 5, tzinfo=UTC)
EVENT = UsageEvent(
    reference="mn_0123456789",
    customer_reference=UUID,
    meter_reference=UUID,
    timestamp=DAY,
    value_reference=f"{UUID}_value",
    number=Decimal("1.5"),
)


def one(shape: Any) -> Any:
    return {"data": shape}


@dataclass(frozen=True)
class Case:
    """A call, and the shape of the answer to it: a struct, or a dict or list with one inside."""

    system: str
    shape: Any
    call: Callable[[Any], Any]
    wrapped: Callable[[Any], Any] = lambda tree: tree
    last: bytes = b'{"data": [], "next_page": null, "total_number_of_pages": 1}'


def _page(tree: Any) -> Any:
    return {"data": [tree], "next_page": None, "total_number_of_pages": 1}


def _usage(api: MetronomeApi) -> Any:
    return api.usage(customer_id=UUID, metric_ids=[UUID], starting_on=DAY, ending_before=DAY + timedelta(days=1))


def _groups(api: MetronomeApi) -> Any:
    return api.grouped_usage(
        customer_id=UUID,
        metric_id=UUID,
        group_key=["region"],
        starting_on=DAY,
        ending_before=DAY + timedelta(days=1),
    )


CASES = {
    "customers": Case("Metronome", records.Customer, lambda api: api.customers(archived=False), _page),
    "customer": Case("Metronome", records.Customer, lambda api: api.customer(UUID), one),
    "metrics": Case("Metronome", reading._MetricBody, lambda api: api.billable_metrics(), _page),
    "products": Case("Metronome", records.Product, lambda api: api.products(), _page),
    "audit log": Case("Metronome", records.AuditLog, lambda api: api.audit_logs(), _page),
    "usage": Case("Metronome", reading._UsageRows, _usage),
    "groups": Case("Metronome", reading._GroupRows, _groups),
    "search": Case("Metronome", records.SearchedEvent, lambda api: api.search_events(["t"]), lambda tree: [tree]),
    "solvimon customers": Case("Solvimon", solvimon.Customer, lambda api: api.list_customers(), _page),
    "found customer": Case("Solvimon", solvimon.Customer, lambda api: api.find_customer("r")),
    "meters": Case("Solvimon", solvimon.Meter, lambda api: api.list_meters(), _page),
    "calculations": Case(
        "Solvimon", solvimon.MeterValueCalculation, lambda api: api.list_meter_value_calculations(), _page
    ),
    "items": Case("Solvimon", solvimon.ProductItem, lambda api: api.list_product_items(), _page),
    "batch": Case(
        "Solvimon", solvimon.Echo, lambda api: api.ingest([EVENT], replay=False), lambda tree: {"meter_datas": [tree]}
    ),
    "events": Case("Solvimon", stored_events._EventBody, lambda api: api.events(), _page),
    "events of one": Case("Solvimon", stored_events._EventBody, lambda api: api.events(reference=REFERENCE), _page),
    "priced event": Case("Solvimon", stored_events._EventBody, lambda api: api.calculate(EVENT)),
    "trace": Case("Solvimon", solvimon.EventTrace, lambda api: api.event_trace("metd_1")),
    "reprocess": Case("Solvimon", solvimon.Reprocess, lambda api: api.reprocess("rep_1")),
    "balances": Case("Solvimon", WalletBalances, lambda api: api.wallet_balances("r")),
    "entitlements": Case("Solvimon", Entitlements, lambda api: api.entitlements("r")),
}


@dataclass
class Bench:
    """Both clients on one transport, whose first answer is the body at hand, and its others empty pages."""

    runner: asyncio.Runner
    script: Scripted = field(default_factory=lambda: Scripted(httpx.Response(200)))
    apis: dict[str, Any] = field(default_factory=dict)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self) -> None:
        for system in ("Metronome", "Solvimon"):
            http = session(self.script.transport(), system=system, policy=RetryPolicy(attempts=2))
            await self.stack.enter_async_context(http)
            new_key = idempotency_keys(random.Random(1))
            self.apis[system] = (
                MetronomeApi(http) if system == "Metronome" else SolvimonApi(http, new_idempotency_key=new_key)
            )

    def outcome(self, case: Case, content: bytes, status: int = 200) -> Any:
        """What the call gives, or the error of ours. Any other error passes through, and so does a hang."""
        hostile = httpx.Response(status, content=content)
        self.script.answers = [hostile, hostile, httpx.Response(200, content=case.last)]
        self.script.requests.clear()

        async def main() -> Any:
            async with asyncio.timeout(20):
                try:
                    found = case.call(self.apis[case.system])
                    return await collected(found) if isinstance(found, AsyncIterator) else await found
                except ApiError as error:
                    return error

        return self.runner.run(main())


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        made = Bench(runner)
        runner.run(made.open())
        yield made
        runner.run(made.stack.aclose())


def assert_stated(error: ApiError, case: Case) -> None:
    """A sentence for a person: whose answer, to what, and where in it; in one line, and not long."""
    sentence = str(error)
    assert sentence.startswith(case.system)
    assert error.endpoint in sentence
    assert sentence.isprintable()
    assert len(sentence) < 2_000
    if isinstance(error, Malformed):
        assert error.field


def assert_kept(found: Any) -> None:
    """What passed can be stored, compared and billed: no NUL, no float, no instant or number beyond what there is."""
    for text in texts(found):
        assert "\0" not in text
        text.encode()
    for number in numbers(found):
        assert isinstance(number, Decimal)
        assert number.is_finite()
        assert len(number.as_tuple().digits) <= MOST_DIGITS
    pages = found if isinstance(found, list) else [found]
    for page in pages:
        for record in getattr(page, "records", None) or getattr(page, "rows", None) or (page,):
            assert field_beyond(record) is None


@pytest.mark.parametrize("name", CASES)
def test_a_spoiled_answer_is_an_error_of_ours_or_a_record_that_can_be_kept(bench: Bench, name: str) -> None:
    case = CASES[name]
    passed: list[bool] = []

    @HUNT
    @given(spoiled(case.shape), st.integers(0, 9))
    def check(content: bytes, bare: int) -> None:
        body = content if bare == 9 else written(case.wrapped("@")).replace(b'"@"', content)
        outcome = bench.outcome(case, body)
        passed.append(not isinstance(outcome, ApiError))
        if isinstance(outcome, ApiError):
            assert_stated(outcome, case)
        else:
            assert_kept(outcome)
        assert len(bench.script.requests) <= 4

    check()
    assert True in passed, "no example was good: the shape is not what the client reads"
    assert False in passed, "no example was refused"


@pytest.mark.parametrize("name", CASES)
def test_a_body_of_no_shape_is_an_error_of_ours_whatever_its_status(bench: Bench, name: str) -> None:
    case = CASES[name]

    @HUNT
    @given(shapeless, st.sampled_from([200, 201, 400, 401, 404, 409, 422, 429, 500, 503]))
    def check(content: bytes, status: int) -> None:
        outcome = bench.outcome(case, content, status)
        if isinstance(outcome, ApiError):
            assert_stated(outcome, case)
        else:
            assert_kept(outcome)
        assert len(bench.script.requests) <= 4

    check()
