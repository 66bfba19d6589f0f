"""Real processes under real trouble: ``make chaos`` kills runs, Postgres, the daemon and both APIs, and does the books.

Where the simulation (``metronome_pipeline_tests.simulation``) tries thousands of schedules of the core alone, this
package breaks the whole thing as machines break it, at fewer moments. Every scene ends in the same books.
"""
