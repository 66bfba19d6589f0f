"""A run in a process of its own, that may be killed at one moment, as by the kernel.

The moment is named in the environment: ``before_sending`` (planned and claimed, nothing sent), ``before_receipts``
(sent, the answers not written down), or ``never``.
"""

import json
import os
import signal
import sys
from typing import Any

from metronome_pipeline.ledger import claims, deliver
from metronome_pipeline_tests.world import Api, World, instance_on


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    spec = json.loads(os.environ["DYING_RUN"])
    match spec["moment"]:
        case "before_sending":
            deliver._Sending.run = die  # type: ignore[method-assign]
        case "before_receipts":
            claims.settle = die
    with instance_on(spec["database_url"]) as instance:
        world = World(
            Api(spec["metronome"][0], spec["metronome"][1]),
            Api(spec["solvimon"][0], spec["solvimon"][1]),
            spec["database_url"],
            instance,
            spec["environment"],
        )
        sys.exit(not world.ingest(spec["first"], spec["last"]).success)


if __name__ == "__main__":
    main()
