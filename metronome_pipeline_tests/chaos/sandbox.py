"""Both sandboxes, run as ``python -m metronome_pipeline_tests.chaos.sandbox``: prints their URLs, and serves.

It ends with whoever started it: its standard input is then closed.
"""

import json
import os
import sys
import threading

from metronome_pipeline.sandbox.metronome.app import create_app as metronome_app
from metronome_pipeline.sandbox.server import listen, serve_forever, url_of
from metronome_pipeline.sandbox.solvimon.app import create_app as solvimon_app


def _end_with_the_starter() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    metronome, solvimon = listen(), listen()
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    sys.stdout.write(json.dumps([url_of(metronome), url_of(solvimon)]) + "\n")
    sys.stdout.flush()
    serve_forever({metronome: metronome_app(), solvimon: solvimon_app()})
