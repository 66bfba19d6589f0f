"""A sweep in a process of its own, killed with SIGKILL after it has compared some walks, as by the kernel."""

import json
import os
import signal
import sys
from typing import Any

from metronome_pipeline.sweeps import proofs
from metronome_pipeline_tests.world import Api, World, instance_on


def main() -> None:
    spec = json.loads(os.environ["DYING_SWEEP"])
    compare, left = proofs.compare_days, spec["walks"]

    def compare_or_die(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return compare(*arguments, **named)

    proofs.compare_days = compare_or_die
    with instance_on(spec["database_url"]) as instance:
        world = World(
            Api(*spec["metronome"]), Api(*spec["solvimon"]), spec["database_url"], instance, spec["environment"]
        )
        world.run("sweep_usage")
    sys.exit("It did not die.")


if __name__ == "__main__":
    main()
