"""``metronome-pipeline revert``: take back what one run delivered.

Here: options and words. Not here: what the opposite of a run is (``ledger/revert.py``).
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import WrongUse, asked_by, example, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.ledger.proposals import Proposal

REFUSED = 3
"""The exit status when some slots were left alone."""


@click.group("revert", short_help="Take back what one run delivered: run, list, release.")
def command() -> None:
    """Take back what one run delivered, such as a wrong backfill, as corrections and deletions.

    The reverted hours stay as they were before the run until they are released: else the next run would bill them
    again.
    """


@command.command("run", epilog=example("revert run 5f0c9b52-… --dry-run", "revert run 5f0c9b52-…"))
@click.argument("run_id")
@click.option("--dry-run", is_flag=True, help="Only show what it would do.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@asked_by()
@click.pass_context
def run(context: click.Context, run_id: str, dry_run: bool, yes: bool, by: str) -> None:  # noqa: FBT001 - flags
    """Plan the exact opposite of what the run RUN_ID delivered. It leaves with the next run of any hours.

    Exit status 3: some hours were left alone, for a later run has corrected them or an event is under way.
    """
    from psycopg import Rollback  # noqa: PLC0415

    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.revert import REFUSED_COLUMNS, revert  # noqa: PLC0415

    with open_pair() as opened:
        with opened.database.transaction() as connection:
            shown = revert(connection, opened.pair.pair_id, run_id, by=by)
            # The very same statements, rolled back: what is shown is what is done.
            raise Rollback
        if not shown.known:
            raise WrongUse(f"The ledger has no events of run {run_id!r} for this account pair.")
        if shown.refused:
            show_table(f"Left alone: {len(shown.refused)}", REFUSED_COLUMNS, shown.refused)
        if not shown.events:
            say("There is nothing to take back: what the run delivered was reverted already, or adds up to nothing.")
            context.exit(REFUSED if shown.refused else 0)
        show_table(f"Taking back run {run_id}", ("metric", "events", "deletions", "quantity"), _summary(shown.events))
        if dry_run:
            say("Nothing was written.")
        else:
            if not yes and not click.confirm(f"Take back {len(shown.events)} events?", err=True):
                raise click.Abort
            with opened.database.transaction() as connection:
                done = revert(connection, opened.pair.pair_id, run_id, by=by)
            say(
                f"Planned {len(done.events)} events as {done.run_id!r}: they leave with the next run. These hours stay "
                f"closed until `metronome-pipeline revert release {run_id}`."
            )
        context.exit(REFUSED if shown.refused else 0)


@command.command("list", epilog=example("revert list"))
def list_() -> None:
    """Show the runs that were taken back and whose hours are still closed."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.revert import REVERTED_COLUMNS, reverted  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        rows = reverted(connection, opened.pair.pair_id)
    if not rows:
        click.echo("No hours are closed by a revert.")
        return
    show_table(f"Reverted, and closed until released: {len(rows)} runs", REVERTED_COLUMNS, rows)


@command.command("release", epilog=example("revert release 5f0c9b52-…"))
@click.argument("run_id")
@asked_by()
def release_(run_id: str, by: str) -> None:
    """Open the hours again that the revert of RUN_ID closed: the next run bills what Metronome says of them."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.revert import release  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        slots = release(connection, opened.pair.pair_id, run_id, by=by)
    if not slots:
        raise WrongUse(f"No hours are closed by a revert of run {run_id!r}: see `metronome-pipeline revert list`.")
    say(f"Released by {by}: {slots} slots are planned again by the next run.")


def _summary(events: Sequence["Proposal"]) -> list[tuple[object, ...]]:
    """By metric: corrections, deletions, and what the corrections add up to."""
    from metronome_pipeline.mapping.usage import exact_sum  # noqa: PLC0415

    metrics = dict.fromkeys(event.metric_id for event in events)
    rows: list[tuple[object, ...]] = []
    for metric in metrics:
        own = [event for event in events if event.metric_id == metric]
        numbers: list[Decimal] = [event.number for event in own if event.number is not None]
        rows.append((metric, len(numbers), len(own) - len(numbers), exact_sum(numbers)))
    return rows
