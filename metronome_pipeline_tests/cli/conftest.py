"""What tests of commands share: two accounts and a database, without a Dagster instance, which most don't need."""

import uuid
from pathlib import Path
from typing import Any, cast

import pytest

from metronome_pipeline_tests.world import Api, World


@pytest.fixture
def accounts(
    sandbox_urls: tuple[str, str], database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """A world in which nothing can be run, so that it is made in no time. No ``.env`` is near."""
    monkeypatch.chdir(tmp_path)
    metronome = Api(sandbox_urls[0], {"Authorization": f"Bearer token-{uuid.uuid4()}"})
    solvimon = Api(sandbox_urls[1], {"X-API-KEY": f"key-{uuid.uuid4()}"})
    metronome.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
    solvimon.call("PUT", "/_sandbox/store", {})
    return World(metronome, solvimon, database_url, instance=cast("Any", None))
