"""One call of Solvimon's client against scripted answers, as the tests of this folder make it. Not here: any test."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from metronome_pipeline.errors import ApiError
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.calls import idempotency_keys
from metronome_pipeline_tests.loopback import Scripted, collected, session


def call(script: Scripted, ask: Callable[[SolvimonApi], Any], **options: Any) -> Any:
    """What a method gives; all pages of a list."""

    async def main() -> Any:
        async with session(script.transport(), policy=RetryPolicy(attempts=3)) as http:
            api = SolvimonApi(http, new_idempotency_key=idempotency_keys(random.Random(1)), **options)
            found = ask(api)
            return await collected(found) if isinstance(found, AsyncIterator) else await found

    return asyncio.run(main())


def error_of(script: Scripted, ask: Callable[[SolvimonApi], Any]) -> ApiError:
    """The error that a method raises."""
    with pytest.raises(ApiError) as raised:
        call(script, ask)
    return raised.value
