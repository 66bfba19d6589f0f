"""A seeded simulation of the synchronising core: read, plan, deliver, settle, under every kind of trouble at once.

Nothing here waits or listens: time is virtual, both APIs are called in memory, and only Postgres is real. Each seed
draws an account, a load and a schedule of trouble; a checker that shares no code with the core holds the history
against the rules. `python -m metronome_pipeline_tests.simulation --seed N` replays one seed.
"""
