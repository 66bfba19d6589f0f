"""What a contestant is told, and what it must tell: one process each, so that none profits from another's imports."""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from metronome_pipeline_tests.benchmark.workload import WORKLOADS, Workload


@dataclass(frozen=True)
class Setting:
    """Where the emulator and an empty database are, and what is asked for."""

    metronome: str
    solvimon: str
    database_url: str
    workload_name: str
    per_second: float = 0.0
    repeat: bool = False

    @property
    def workload(self) -> Workload:
        """The work."""
        return WORKLOADS[self.workload_name]


def run(work: Callable[[Setting], float | None]) -> None:
    """Does the work of one process and prints its cost as JSON.

    ``work`` may return the ``time.monotonic()`` at which its preparations ended.
    """
    setting = Setting(**json.loads(sys.argv[1]))
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    prepared = work(setting)
    ended, after = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    cost = {
        "seconds": ended - (prepared or began),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_megabytes": after.ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(cost) + "\n")


def told(setting: Setting) -> str:
    """A setting as the argument of a process."""
    return json.dumps(asdict(setting))
