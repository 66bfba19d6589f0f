"""Metronome's API on loopback: a strict emulator, in memory, whose usage is computed from the raw events it was sent.

Here: the emulated API, its switches and its control routes. Not here: anything that reads the API.
"""

from metronome_pipeline.sandbox.metronome.app import create_app

__all__ = ["create_app"]
