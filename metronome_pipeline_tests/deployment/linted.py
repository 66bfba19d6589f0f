"""The files for containers, held against the linter and the schema of those who read them. No engine is needed.

Run by ``make deployment-test``. What they hold against this project's own code is in ``test_files.py``.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_a_file_for_containers_is_as_its_reader_wants_it(command: list[str]) -> None:
    program, *arguments = command
    said = subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
