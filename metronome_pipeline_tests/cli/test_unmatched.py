"""Usage that no subscription bills, as a person meets it: listed, mended in Solvimon, matched again."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from metronome_pipeline.clock import Clock
from metronome_pipeline.solvimon.records import Reprocess
from metronome_pipeline.statements.unmatched import Asked, UnmatchedCustomer, wait_for
from metronome_pipeline_tests.cli.commands import Command, command, variables
from metronome_pipeline_tests.world import World, failure


@pytest.fixture(autouse=True)
def _no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _ingest(world: World) -> None:
    result = world.ingest(0, 5)
    assert result.success, failure(result)


def _run(world: World, *arguments: str, answer: str | None = None) -> Command:
    return command(*arguments, env=variables(world), answer=answer)


def _subscribe(world: World, customer: str, *metrics: str) -> None:
    body: dict[str, Any] = {"customer_reference": customer, **({"meter_references": metrics} if metrics else {})}
    world.solvimon.call("POST", "/_sandbox/subscriptions", body)


def _listed(world: World, *arguments: str) -> list[dict[str, Any]]:
    done = command("unsubscribed", "--json", *arguments, env=variables(world))
    found: dict[str, Any] = json.loads(done.out)
    assert done.status == (1 if found["customers"] else 0)
    assert found["events"] == sum(one["events"] for customer in found["customers"] for one in customer["metrics"])
    return list(found["customers"])


def test_usage_without_subscription_is_listed_by_customer_and_metric(world: World) -> None:
    billed, none, partly = world.customer("Billed"), world.customer("Größe 株式会社"), world.customer("Partly")
    calls, peak = world.metric(name="Calls"), world.metric("MAX", name="Peak")
    world.imported()
    _subscribe(world, billed)
    _subscribe(world, partly, calls)
    for customer in (billed, none, partly):
        world.use(customer, calls, 1, "0.1")
        world.use(customer, calls, 2, "0.20")
        world.use(customer, peak, 1, 7)
        world.use(customer, peak, 2, 3)
    _ingest(world)

    shown = _run(world, "unsubscribed")
    assert shown.status == 1
    assert "Größe 株式会社" in shown.out
    assert "Billed" not in shown.out
    found = {one["customer"]: one for one in _listed(world)}
    assert {name: one["subscription"] for name, one in found.items()} == {"Größe 株式会社": "none", "Partly": "other"}
    assert found["Größe 株式会社"]["customer_id"] == none
    numbers = {one["metric"]: (one["events"], Decimal(one["quantity"])) for one in found["Größe 株式会社"]["metrics"]}
    assert numbers == {"Calls": (2, Decimal("0.3")), "Peak": (2, Decimal(7))}
    (of_partly,) = found["Partly"]["metrics"]
    assert (of_partly["metric"], of_partly["first"], of_partly["last"]) == (
        "Peak",
        "2026-01-05T01:00:00Z",
        "2026-01-05T02:00:00Z",
    )
    assert len(_listed(world, "--month", "2026-01")) == 2
    assert _listed(world, "--month", "2026-02") == []
    assert _run(world, "unsubscribed", "--month", "2026-13").status == 2


def test_deleted_events_and_those_of_other_meters_are_not_listed(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    _ingest(world)
    (event,) = world.stored_events()
    world.solvimon.call("POST", "/_sandbox/events/delete-by-hand", {"id": event["id"]})
    foreign = {"reference": "of-somebody-else", "customer_reference": customer, "meter_reference": "theirs"}
    value = {"reference": "theirs_value", "name": "V", "type": "NUMBER", "status": "ACTIVE"}
    made = world.solvimon.call("POST", "/v1/meter-values", value)
    meter = {"reference": "theirs", "status": "ACTIVE", "meter_values": [{"id": made["id"], "required": True}]}
    world.solvimon.call("POST", "/v1/meters", meter)
    values = [{"reference": "theirs_value", "number": "4"}]
    sent = {**foreign, "timestamp": "2026-01-06T00:00:00Z", "meter_values": values}
    world.solvimon.call("POST", "/v1/events/ingest", sent)
    done = _run(world, "unsubscribed")
    assert done.status == 0
    assert "1 unmatched events are of meters that this pipeline does not fill" in done.err


def test_what_was_unmatched_is_matched_once_the_subscription_is_there(world: World) -> None:
    customer, other, metric = world.customer("Mended"), world.customer("Not yet"), world.metric()
    world.imported()
    for one in (customer, other):
        world.use(one, metric, 1, 5)
        world.use(one, metric, 4, 2)
    _ingest(world)
    _subscribe(world, customer)
    assert len(_listed(world)) == 2

    declined = _run(world, "reprocess", answer="n\n")
    assert declined.status == 1
    assert world.solvimon.call("GET", "/v1/reprocess")["data"] == []

    hours = ("--from", "2026-01-05", "--to", "2026-01-05T04:00Z")
    some = _run(world, "reprocess", "--customer", "Mended", *hours, "--wait", "--yes")
    assert some.status == 0, some.err
    assert "All 1 events are matched" in some.out
    (made,) = world.solvimon.call("GET", "/v1/reprocess")["data"]
    assert made["not_matched"]["start_at"] == "2026-01-05T00:00:00Z"
    assert made["not_matched"]["end_at"] == "2026-01-05T04:00:00Z"
    assert {one["customer"]: one["metrics"][0]["events"] for one in _listed(world)} == {"Mended": 1, "Not yet": 2}

    rest = _run(world, "reprocess", "--wait", "--yes")
    assert rest.status == 1
    assert "2 events are still not matched, of Not yet" in rest.err
    assert [one["customer"] for one in _listed(world)] == ["Not yet"]
    assert world.counted(customer, metric) == {1: Decimal(5), 4: Decimal(2)}
    nothing = _run(world, "reprocess", "--customer", "Mended", "--yes")
    assert (nothing.status, "nothing to do" in nothing.out) == (0, True)


def test_without_wait_solvimon_is_asked_and_left_to_its_work(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    _ingest(world)
    world.solvimon.set(reprocessing="manual")
    _subscribe(world, customer)
    done = _run(world, "reprocess", "--yes")
    assert done.status == 0
    assert "at work" in done.out
    assert len(_listed(world)) == 1
    world.solvimon.call("POST", "/_sandbox/process")
    assert _listed(world) == []


def test_a_customer_that_is_refused_is_named_and_the_others_are_asked_for(world: World) -> None:
    first, second, metric = world.customer("First"), world.customer("Second"), world.metric()
    world.imported()
    world.imported()
    for one in (first, second):
        world.use(one, metric, 1, 5)
    _ingest(world)
    _subscribe(world, first)
    _subscribe(world, second)
    refusal = {"type": "INVALID_REQUEST", "code": "CUSTOMER_NOT_FOUND", "message": "Not this one"}
    answer = {"method": "POST", "path": "/v1/reprocess", "status": 400, "body": refusal, "times": 1}
    world.solvimon.call("PUT", "/_sandbox/answers", [answer])
    done = _run(world, "reprocess", "--wait", "--yes")
    assert done.status == 1
    assert "Not this one" in done.out
    assert len(_listed(world)) == 1


def test_wrong_bounds_and_unknown_customers_are_wrong_use(accounts: World) -> None:
    assert _run(accounts, "reprocess", "--from", "yesterday").status == 2
    assert _run(accounts, "reprocess", "--from", "2026-01-02", "--to", "2026-01-02").status == 2
    assert _run(accounts, "reprocess", "--customer", "Nobody").status == 2
    nothing = _run(accounts, "reprocess", "--yes")
    assert (nothing.status, "nothing to do" in nothing.out) == (0, True)


class _Slow:
    """A Solvimon whose reprocess is done at a look of its own number."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    async def reprocess(self, reprocess_id: str) -> Reprocess:
        self.left -= 1
        return Reprocess(id=reprocess_id, status="BUSY", percentage=100 if self.left <= 0 else 100 - self.left)


def _fake_clock(waited: list[float]) -> Clock:
    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    wait: Callable[[float], Awaitable[None]] = sleep
    return Clock(now=lambda: datetime(2026, 1, 1, tzinfo=UTC), monotonic=lambda: sum(waited), sleep=wait)


def test_waiting_looks_less_and_less_often_and_ends() -> None:
    waited: list[float] = []
    started = [Asked(UnmatchedCustomer("c", "Acme", "cust_1"), Reprocess(id="repr_1", percentage=0))]
    api: Any = _Slow(7)
    done = asyncio.run(wait_for(api, started, _fake_clock(waited), 1_800, lambda _: None))
    assert waited == [1, 2, 4, 8, 16, 30, 30]
    assert done[0].reprocess is not None
    assert done[0].reprocess.percentage == 100

    waited.clear()
    never: Any = _Slow(10**9)
    asyncio.run(wait_for(never, started, _fake_clock(waited), 100, lambda _: None))
    assert sum(waited) < 100 + 30
