"""The benchmark: this project and what people would use instead, side by side on one emulator.

Run it with ``make bench``, or ``python -m metronome_pipeline_tests.benchmark --help``. Times live here alone; what the
suite asserts are counts.
"""
