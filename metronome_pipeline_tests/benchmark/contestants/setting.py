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
    """Where the emulator and an empty database are, and what is asked for: all customers, or one of several parts."""

    metronome: str
    solvimon: str
    database_url: str
    workload_name: str
    per_second: float = 0.0
    part: int = 0
    parts: int = 1

    @property
    def workload(self) -> Workload:
        """The work."""
        return WORKLOADS[self.workload_name]


@dataclass(frozen=True)
class Mark:
    """A moment of this process: on the clock, and by the CPU that it and its children have used."""

    seconds: float
    cpu_seconds: float


def mark() -> Mark:
    """Now."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Mark(time.monotonic(), sum(each.ru_utime + each.ru_stime for each in used))


def run(work: Callable[[Setting], Mark | None]) -> None:
    """Does the work of one process and prints its cost as JSON. ``work`` may return when its preparations ended."""
    setting, began = Setting(**json.loads(sys.argv[1])), mark()
    began, ended = work(setting) or began, mark()
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost = {
        "seconds": ended.seconds - began.seconds,
        "cpu_seconds": ended.cpu_seconds - began.cpu_seconds,
        "peak_megabytes": max(peaks) / 1024,
    }
    sys.stdout.write(json.dumps(cost) + "\n")


def told(setting: Setting) -> str:
    """A setting as the argument of a process."""
    return json.dumps(asdict(setting))
