"""``metronome-pipeline backup``: the database into a file, and a file into an empty database.

Here: options and words. Not here: the programs that do it (``upkeep/backup.py``).
"""

from pathlib import Path

import click

from metronome_pipeline.cli.terminal import example, say

_AFTERWARDS = (
    "Restored. Before you start the schedules: run `metronome-pipeline rebuild`, which adds what Solvimon was told "
    "since the backup. Without it a run looks up each event of earlier hours before it sends it, and so doubles "
    "nothing; only what was corrected and taken back since would wait for the nightly reconciliation."
)


@click.group("backup", short_help="Back the database up, and restore it: create, restore.")
def command() -> None:
    """Back up the database of DAGSTER_POSTGRES_URL, or the embedded one: the ledger and Dagster's own history."""


@command.command("create", epilog=example("backup create ledger-2026-02-01.dump"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def create(file: Path) -> None:
    """Write the database as of now into FILE. Runs may go on meanwhile."""
    from metronome_pipeline.settings import PostgresSettings  # noqa: PLC0415 - so that help is instant
    from metronome_pipeline.storage.database import server_url  # noqa: PLC0415
    from metronome_pipeline.upkeep.backup import back_up  # noqa: PLC0415

    size = back_up(server_url(PostgresSettings.from_environment()), file)
    say(f"Wrote {file}: {size:,} bytes. It holds no credential, and every customer's name: keep it as you keep those.")


@command.command("restore", epilog=example("backup restore ledger-2026-02-01.dump"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def restore_(file: Path) -> None:
    """Put the backup FILE into an empty database. Nothing is ever written over."""
    from metronome_pipeline.settings import PostgresSettings  # noqa: PLC0415
    from metronome_pipeline.storage.database import server_url  # noqa: PLC0415
    from metronome_pipeline.upkeep.backup import restore  # noqa: PLC0415

    restore(server_url(PostgresSettings.from_environment()), file)
    say(_AFTERWARDS)
