"""``python -m metronome_pipeline_tests.benchmark.loading``: what the code location costs beyond ``import dagster``."""

import os
import subprocess
import sys
from statistics import median

import click

from metronome_pipeline.cli.terminal import show_table

_SETTINGS = {
    "METRONOME_BASE_URL": "http://127.0.0.1:9",
    "METRONOME_BEARER_TOKEN": "token",
    "SOLVIMON_BASE_URL": "http://127.0.0.1:9",
    "SOLVIMON_API_KEY": "key",
    "USAGE_START": "2026-01-01T00:00:00Z",
}
_PROGRAM = """
import time
began = time.perf_counter()
import dagster
imported = time.perf_counter()
import metronome_pipeline.definitions
metronome_pipeline.definitions.defs
print(imported - began, time.perf_counter() - imported)
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 50), default=7, show_default=True)
def main(rounds: int) -> None:
    """Load the definitions in a new process each time."""
    took = [_load() for _ in range(rounds)]
    rows = [(name, f"{median(each[place] for each in took):.2f}") for place, name in enumerate(("dagster", "ours"))]
    show_table(f"Loading the code location, medians of {rounds}", ("import", "seconds"), rows)


def _load() -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env={**os.environ, **_SETTINGS}, capture_output=True, text=True, check=True
    )
    dagster, ours = done.stdout.split()
    return float(dagster), float(ours)


if __name__ == "__main__":
    main()
