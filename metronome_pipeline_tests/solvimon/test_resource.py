import asyncio
import random
import subprocess
import sys

import dagster as dg
import httpx
import pytest

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.solvimon.resource import SolvimonResource
from metronome_pipeline_tests.loopback import SECRET, StillTime, bad, ok

SEEN: list[httpx.Request] = []


def answer(request: httpx.Request) -> httpx.Response:
    SEEN.append(request)
    return bad(404, {"code": "RESOURCE_NOT_FOUND"}) if request.method == "GET" else ok({"id": "x"})


class Offline(SolvimonResource):
    def _transport(self) -> httpx.AsyncBaseTransport:
        return httpx.MockTransport(answer)


def test_a_run_opens_a_session_and_no_repr_shows_the_key() -> None:
    @dg.asset
    def customers(solvimon: SolvimonResource) -> None:
        async def main() -> None:
            async with solvimon.open(clock=StillTime().clock(), random=random.Random(1), run_id="r") as api:
                assert await api.find_customer("c") is None

        asyncio.run(main())

    resource = Offline(api_key=SECRET, platform_id="plat_1", base_url="https://pay.example/v1")
    assert SECRET not in repr(resource) + str(resource)
    assert dg.materialize([customers], resources={"solvimon": resource}).success
    assert str(SEEN[-1].url) == "https://pay.example/v1/customers/c"
    assert (SEEN[-1].headers["X-API-KEY"], SEEN[-1].headers["x-platform-id"]) == (SECRET, "plat_1")
    assert "run r" in SEEN[-1].headers["User-Agent"]


def test_an_empty_key_is_refused_by_the_name_of_its_setting() -> None:
    with pytest.raises(PipelineError, match="SOLVIMON_API_KEY is empty"):
        SolvimonResource(api_key="").service()


def test_loading_the_resources_loads_no_http_library() -> None:
    code = (
        "import dagster, sys, metronome_pipeline.solvimon.resource, metronome_pipeline.metronome.resource;"
        "sys.exit(any(name in sys.modules for name in ('httpx', 'aiohttp', 'httpx_aiohttp')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
