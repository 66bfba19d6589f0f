"""Backups: the whole database, Dagster's history included, as of one moment, in one file.

Here: Postgres' own programs, and how they reach the server without its password on a command line. Not here: what a
ledger lacks after a restore (``storage/restores.py``, ``rebuilding/``).
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from metronome_pipeline.errors import PipelineError
from metronome_pipeline.settings import psycopg_url

Connection = psycopg.Connection[Any]


class BackupFailed(PipelineError):
    """A backup was not made, or not restored, and why. Nothing was changed."""


def back_up(url: str, file: Path) -> int:
    """Writes the database into a new file that only its owner can read, and returns its size in bytes.

    One transaction reads it all, so runs may go on meanwhile. The file is whole or not there.

    Raises:
        BackupFailed: The file exists, or pg_dump failed.
    """
    if file.exists():
        raise BackupFailed(f"{file} exists: give a new name. Nothing was written.")
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    try:
        # Made first, so that nobody else can open it while it is written.
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _postgres(url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={new}")
        new.rename(file)
    except OSError as error:
        raise BackupFailed(f"{file} can't be written ({error.strerror}). Nothing was backed up.") from None
    finally:
        new.unlink(missing_ok=True)
    return file.stat().st_size


def restore(url: str, file: Path) -> None:
    """Puts a backup into an empty database, whole or not at all.

    Raises:
        BackupFailed: There is no such file, the database is not empty, or pg_restore failed.
    """
    if not file.is_file():
        raise BackupFailed(f"{file} is no file: give the one that `metronome-pipeline backup create` wrote.")
    with _connected(url) as connection:
        found = connection.execute(_TABLES).fetchone()
    if found is not None:
        raise BackupFailed(
            f"The database holds tables already, such as {found[0]}, and nothing is written over them: create an empty "
            "database and name it in DAGSTER_POSTGRES_URL (or a new folder in METRONOME_PIPELINE_HOME), then restore."
        )
    options = ("--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
    _postgres(url, "pg_restore", *options, f"--dbname={_settings(url).get('dbname', '')}", str(file))


def _postgres(url: str, program: str, *arguments: str) -> None:
    result = subprocess.run(  # noqa: S603 - our own arguments
        (_found(url, program), *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={**os.environ, **_variables(url)},
        cwd=Path.cwd(),
    )
    if result.returncode != 0:
        words = " ".join(result.stderr.decode(errors="replace").split())[:500]
        raise BackupFailed(f"{program} ended with {result.returncode}: {words}")


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    try:
        connection = psycopg.connect(psycopg_url(url))
    except psycopg.OperationalError as error:
        raise BackupFailed(f"Postgres can't be reached ({' '.join(str(error).split())}): nothing was done.") from None
    with connection:
        yield connection


def _settings(url: str) -> dict[str, str]:
    return {key: str(value) for key, value in conninfo_to_dict(psycopg_url(url)).items() if value is not None}


def _variables(url: str) -> Mapping[str, str]:
    """The URL as libpq's variables: a command line is shown to every user of the machine, an environment is not."""
    names = {
        option.keyword.decode(): option.envvar.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.envvar
    }
    return {names[key]: value for key, value in _settings(url).items() if key in names}


def _found(url: str, program: str) -> str:
    """A program that is at least as new as the server: the machine's own, or else that of the embedded server."""
    with _connected(url) as connection:
        wanted = connection.info.server_version // 10_000
    for candidate in (shutil.which(program), _embedded(program)):
        if candidate is not None and _version(candidate) >= wanted:
            return candidate
    raise BackupFailed(f"No {program} of version {wanted} or later is here: install Postgres' client programs.")


def _embedded(program: str) -> str | None:
    try:
        # Only here: a system with a server of its own may lack what the embedded one needs.
        from metronome_pipeline.storage.embedded import postgres_program  # noqa: PLC0415

        return str(postgres_program(program))
    except ImportError:
        return None


def _version(program: str) -> int:
    told = subprocess.run((program, "--version"), capture_output=True, text=True, check=False)  # noqa: S603
    number = told.stdout.split(")")[-1].split(".")[0].strip()
    return int(number) if number.isdigit() else 0


_TABLES = """
SELECT schemaname || '.' || tablename FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 LIMIT 1
"""
