"""Solvimon on loopback: a strict emulator of its configuration and event APIs.

Here: everything that only this half needs.

Not here: the Metronome half, faults and the server that both share, and anything of the pipeline itself: the emulator
computes what Solvimon counts from the events that it was sent, so it must not share code with the client whose
mistakes it is to show.
"""

from metronome_pipeline.sandbox.solvimon.app import create_app

__all__ = ["create_app"]
