"""``metronome-pipeline quarantine``: the events that Solvimon refused, and what a person decides about them.

Here: options and words. Not here: what retry and drop mean (``ledger/waiting.py``).
"""

import click

from metronome_pipeline.cli.terminal import WrongUse, asked_by, example, say, show_table


@click.group("quarantine", short_help="Events that Solvimon refused: list, show, retry, drop.")
def command() -> None:
    """Events that Solvimon refused wait here, each with its reason; the rest of their batch went through.

    Mend the cause, then retry. An event that shall never be billed can be dropped.
    """


@command.command("list", epilog=example("quarantine list"))
def list_() -> None:
    """Show every event in quarantine, with Solvimon's reason."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.waiting import waiting  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        found = waiting(connection, opened.pair.pair_id, "quarantined")
    if not found:
        click.echo("Nothing is in quarantine.")
        return
    show_table(
        f"In quarantine: {len(found)}",
        ("hour (UTC)", "customer", "metric", "kind", "number", "Solvimon's reason", "since (UTC)", "reference"),
        [
            (e.start, e.customer, e.metric, e.kind, e.number, _reason(e.code, e.field, e.message), e.since, e.reference)
            for e in found
        ],
    )


@command.command(epilog=example("quarantine show 3b241101-…_total"))
@click.argument("reference")
def show(reference: str) -> None:
    """Show everything that happened to one event, whatever its state: planned, sent, refused, released, by whom."""
    show_history(reference)


def show_history(reference: str) -> None:
    """The history of an event as a table."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.waiting import history  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        told = history(connection, opened.pair.pair_id, reference)
    if not told:
        raise WrongUse(f"The ledger has no event {reference!r} for this account pair.")
    show_table(
        reference,
        ("at (UTC)", "what", "Solvimon's id", "code", "field", "message", "run"),
        [(t.at, t.what, t.solvimon_id, t.code, t.field, t.message, t.run_id) for t in told],
    )


@command.command(epilog=example("quarantine retry --all"))
@click.option("--reference", "references", multiple=True, metavar="REFERENCE", help="One event; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Every event in quarantine.")
@click.option("--reason", metavar="TEXT", default="the cause is mended", show_default=True, help="Why, for the record.")
@asked_by()
def retry(references: tuple[str, ...], everything: bool, reason: str, by: str) -> None:  # noqa: FBT001 - click's flag
    """Send events again, unchanged, with the next run.

    A maximum that Metronome reports otherwise by now is closed instead; the next run of its hour sends the new value.
    """
    if bool(references) == everything:
        raise WrongUse("Name events with --reference, or say --all.")
    from metronome_pipeline.cli.pair import RUN_ID, open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger import waiting  # noqa: PLC0415

    chosen = None if everything else references
    with open_pair() as opened, opened.database.transaction() as connection:
        done = waiting.retry(connection, opened.pair.pair_id, chosen, run_id=RUN_ID, by=by, reason=reason)
    if not done.released and not done.superseded:
        click.echo("Nothing is in quarantine.")
        return
    rows = [(reference, "leaves with the next run") for reference in done.released]
    rows += [(reference, "superseded: the next run of its hour sends the new value") for reference in done.superseded]
    show_table("Taken out of quarantine", ("reference", "what happens"), rows)


@command.command(epilog=example('quarantine drop --reference … --reason "Test customer, agreed with finance on 3 May"'))
@click.option(
    "--reference", "references", multiple=True, required=True, metavar="REFERENCE", help="One event; may be repeated."
)
@click.option("--reason", required=True, metavar="TEXT", help="Why they shall not be billed, for the record.")
@asked_by()
def drop(references: tuple[str, ...], reason: str, by: str) -> None:
    """Give events up: they are never sent, and stay listed as accepted differences."""
    if not reason.strip():
        raise WrongUse("--reason is empty: write why they shall not be billed.")
    from metronome_pipeline.cli.pair import RUN_ID, open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger import waiting  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        waiting.drop(connection, opened.pair.pair_id, references, reason=reason, run_id=RUN_ID, by=by)
    for reference in references:
        say(f"Dropped. {reference} is never sent; the ledger keeps counting it, as an accepted difference.")


def _reason(code: str | None, field: str | None, message: str | None) -> str:
    return ", ".join(part for part in (code, field, message) if part)
