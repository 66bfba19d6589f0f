"""A folder for the homes of a deployment's services."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path, which pytest keeps for a while.
    path = Path(tempfile.mkdtemp(prefix="mpd-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
