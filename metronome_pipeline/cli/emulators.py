"""The process behind ``demo`` and ``dev``: both emulators, and a hold on the embedded Postgres for as long as it lives.

Started with listening sockets that the parent has bound, so that the parent knows the ports and no request comes too
early. It ends on SIGTERM; and, where the parent keeps its stdin open, when the parent dies.
"""

import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

from metronome_pipeline.sandbox.metronome.app import create_app as metronome_app
from metronome_pipeline.sandbox.server import serve_forever
from metronome_pipeline.sandbox.solvimon.app import create_app as solvimon_app
from metronome_pipeline.storage.embedded import embedded_postgres


def main(folder: str, metronome: str, solvimon: str) -> None:
    """Serves until told to stop.

    Args:
        folder: Home of the embedded Postgres.
        metronome: File descriptor of Metronome's listening socket.
        solvimon: File descriptor of Solvimon's.
    """
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    embedded_postgres(Path(folder))
    serve_forever(
        {
            socket.socket(fileno=int(metronome)): metronome_app(),
            socket.socket(fileno=int(solvimon)): solvimon_app(),
        }
    )


def _end_with_stdin() -> None:
    """Waits for the parent's end of the pipe to close. Services that outlive their parent have no pipe there."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
