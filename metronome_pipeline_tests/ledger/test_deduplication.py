"""The probe, against every way in which Solvimon may treat a repeated reference."""

import asyncio
import random
import uuid
from typing import Any

import pytest

from metronome_pipeline.clock import Clock
from metronome_pipeline.errors import ApiError
from metronome_pipeline.ledger.deduplication import PROBE, ProbeBlocked, Proof, probe_deduplication
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline_tests.world import Api


@pytest.fixture
def solvimon(sandbox_urls: tuple[str, str]) -> Api:
    api = Api(sandbox_urls[1], {"X-API-KEY": f"key-{uuid.uuid4()}"})
    api.call("PUT", "/_sandbox/store", {})
    return api


def _probe(solvimon: Api, seed: int = 1) -> Proof:
    async def no_wait(_: float) -> None:
        """No pause at all."""

    async def probe() -> Proof:
        clock = Clock(sleep=no_wait)
        resource = SolvimonResource(base_url=solvimon.url, api_key=solvimon.headers["X-API-KEY"], timeout_seconds=5.0)
        async with resource.open(clock=clock, random=random.Random(seed), run_id="test") as api:
            return await probe_deduplication(api, clock, random.Random(seed))

    return asyncio.run(probe())


def _counting(solvimon: Api) -> list[dict[str, Any]]:
    return [event for event in solvimon.call("GET", "/_sandbox/events")["events"] if event["counts"]]


@pytest.mark.parametrize(
    ("knobs", "found"),
    [
        ({}, "proved"),
        ({"duplicate_mode": "409"}, "proved"),
        ({"duplicate_mode": "400"}, "proved"),
        ({"duplicate_flag_sync": False}, "proved"),
        ({"reference_idempotency": "off"}, "off"),
        ({"reference_idempotency": "off", "matching": "manual"}, "off"),
        # It deduplicates, but nothing says so in time: then nobody may rely on it.
        ({"duplicate_flag_sync": False, "matching": "manual"}, "off"),
    ],
    ids=str,
)
def test_what_is_found_and_that_nothing_is_left_that_counts(solvimon: Api, knobs: dict[str, Any], found: str) -> None:
    solvimon.set(**knobs)
    proof = _probe(solvimon)
    assert proof.found == found, proof
    assert proof.left_behind == ()
    assert _counting(solvimon) == []
    assert {event["meter_reference"] for event in solvimon.call("GET", "/_sandbox/events")["events"]} == {PROBE}


def test_an_event_that_cannot_be_deleted_is_named(solvimon: Api) -> None:
    solvimon.set(reference_idempotency="off")
    _probe(solvimon)
    granted = "CUSTOMER.VIEW METER_VALUE.VIEW METER.VIEW METER_DATA.INGEST METER_DATA.VIEW"
    solvimon.call("PUT", "/_sandbox/permissions", granted.split())
    proof = _probe(solvimon, seed=2)
    assert sorted(proof.left_behind) == sorted(event["id"] for event in _counting(solvimon))
    assert len(proof.left_behind) == 2


def test_a_lost_second_answer_says_nothing_and_what_arrived_is_deleted(solvimon: Api) -> None:
    _probe(solvimon)
    rule = {"path": "/v1/events/ingest-batch", "method": "POST", "kind": "reset_after", "rate": "1", "after": 1}
    solvimon.faults(rule)
    with pytest.raises(ApiError):
        _probe(solvimon, seed=2)
    assert _counting(solvimon) == []


def test_an_archived_probe_customer_is_refused_in_a_sentence(solvimon: Api) -> None:
    _probe(solvimon)
    solvimon.call("PATCH", f"/v1/customers/{PROBE}", {"status": "ARCHIVED"})
    with pytest.raises(ProbeBlocked, match="customer metronome_pipeline_probe is ARCHIVED"):
        _probe(solvimon, seed=2)


def test_the_probe_has_no_calculation_so_nothing_can_bill_it(solvimon: Api) -> None:
    _probe(solvimon)
    assert solvimon.call("GET", "/v1/meter-value-calculations")["data"] == []
