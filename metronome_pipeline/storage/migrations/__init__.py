"""The database's schema as numbered migrations, applied once and in order, also when two processes start together."""

from importlib import resources
from typing import Any

import psycopg

_MIGRATION_LOCK = 0x6D70_0000


def migrate(connection: psycopg.Connection[Any]) -> list[str]:
    """Applies what is missing, in the caller's transaction, and returns the names of what it applied."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
    connection.execute(
        "CREATE TABLE IF NOT EXISTS public.metronome_pipeline_migrations "
        "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    rows = connection.execute("SELECT name FROM public.metronome_pipeline_migrations").fetchall()
    applied = {name for (name,) in rows}
    missing = [name for name in _names() if name not in applied]
    for name in missing:
        connection.execute((resources.files(__name__) / name).read_bytes())
        connection.execute("INSERT INTO public.metronome_pipeline_migrations (name) VALUES (%s)", [name])
    return missing


def _names() -> list[str]:
    return sorted(entry.name for entry in resources.files(__name__).iterdir() if entry.name.endswith(".sql"))
