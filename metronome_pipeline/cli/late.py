"""``metronome-pipeline late``: changes that came when the invoice of their period was already final.

Here: options and words. Not here: when a change is late (``ledger/late.py``), what letting go and dropping mean
(``ledger/waiting.py``).
"""

from datetime import timedelta

import click

from metronome_pipeline.cli.terminal import WrongUse, asked_by, example, say, show_table


@click.group("late", short_help="Changes to final invoices: list, send, drop.")
def command() -> None:
    """Usage that changed when the invoice of its billing period was already final.

    With LATE_USAGE=send it was sent anyway; with LATE_USAGE=hold it waits here until a person sends or drops it.
    """


@command.command("list", epilog=example("late list", "late list --days 90"))
@click.option("--days", type=click.IntRange(0, 3650), default=35, show_default=True, help="Those sent within so long.")
def list_(days: int) -> None:
    """Show what is held as late, and what was sent late."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.late import LATE_COLUMNS, late_events  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        rows = late_events(connection, opened.pair.pair_id, sent_within=timedelta(days=days))
    if not rows:
        click.echo(f"Nothing is held as late, and nothing was sent late within {days} days.")
        return
    show_table(f"Late for Solvimon's invoices: {len(rows)}", LATE_COLUMNS, rows)


@command.command(epilog=example("late send --all"))
@click.option("--reference", "references", multiple=True, metavar="REFERENCE", help="One event; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Every event that is held as late.")
@click.option("--reason", metavar="TEXT", default="to be billed late", show_default=True, help="Why, for the record.")
@asked_by()
def send(references: tuple[str, ...], everything: bool, reason: str, by: str) -> None:  # noqa: FBT001 - click's flag
    """Let held events leave with the next run, late as they are."""
    if bool(references) == everything:
        raise WrongUse("Name events with --reference, or say --all.")
    from metronome_pipeline.cli.pair import RUN_ID, open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger import waiting  # noqa: PLC0415

    chosen = None if everything else references
    with open_pair() as opened, opened.database.transaction() as connection:
        done = waiting.retry(connection, opened.pair.pair_id, chosen, run_id=RUN_ID, by=by, reason=reason, state="held")
    if not done.released and not done.superseded:
        click.echo("Nothing is held as late.")
        return
    rows = [(reference, "leaves with the next run") for reference in done.released]
    rows += [(reference, "superseded: the next run of its hour sends the new value") for reference in done.superseded]
    show_table("Let go", ("reference", "what happens"), rows)


@command.command(epilog=example('late drop --reference … --reason "Credited by hand on invoice 2026-118"'))
@click.option(
    "--reference", "references", multiple=True, required=True, metavar="REFERENCE", help="One event; may be repeated."
)
@click.option("--reason", required=True, metavar="TEXT", help="Why they shall not be billed, for the record.")
@asked_by()
def drop(references: tuple[str, ...], reason: str, by: str) -> None:
    """Give held events up: they are never sent, and stay listed as accepted differences."""
    if not reason.strip():
        raise WrongUse("--reason is empty: write why they shall not be billed.")
    from metronome_pipeline.cli.pair import RUN_ID, open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger import waiting  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        waiting.drop(connection, opened.pair.pair_id, references, reason=reason, run_id=RUN_ID, by=by, state="held")
    for reference in references:
        say(f"Dropped. {reference} is never sent; the ledger keeps counting it, as an accepted difference.")
