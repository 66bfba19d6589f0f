"""The command line as ``python -m metronome_pipeline.cli``."""

from metronome_pipeline.cli import main

main()
