import asyncio
import random

import dagster as dg
import httpx
import pytest

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.http import Unpaced
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline_tests.loopback import SECRET, StillTime, ok

SEEN: list[httpx.Request] = []


def answer(request: httpx.Request) -> httpx.Response:
    SEEN.append(request)
    return ok({"data": [], "next_page": None})


class Offline(MetronomeResource):
    def _transport(self) -> httpx.AsyncBaseTransport:
        return httpx.MockTransport(answer)


def test_a_run_opens_a_session_and_no_repr_shows_the_token() -> None:
    @dg.asset
    def customers(metronome: MetronomeResource) -> None:
        async def main() -> None:
            clock = StillTime().clock()
            async with metronome.open(pacer=Unpaced(clock), clock=clock, random=random.Random(1), run_id="r") as api:
                assert [page async for page in api.customers(archived=False)]
                assert api.http.counts().requests == 1

        asyncio.run(main())

    resource = Offline(bearer_token=SECRET, environment="sandbox")
    assert SECRET not in repr(resource) + str(resource)
    assert dg.materialize([customers], resources={"metronome": resource}).success
    assert str(SEEN[-1].url) == "https://api.metronome.com/v1/customers?limit=100"
    assert SEEN[-1].headers["Authorization"] == f"Bearer {SECRET}"


def test_a_token_with_a_line_break_is_refused_by_the_name_of_its_setting() -> None:
    with pytest.raises(PipelineError, match="METRONOME_BEARER_TOKEN") as raised:
        MetronomeResource(bearer_token=f"{SECRET}\n").service()
    assert SECRET not in str(raised.value)
