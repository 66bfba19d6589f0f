"""``metronome-pipeline brake``: decreases that were too large to be taken back unasked.

Here: the list, and letting one through. Not here: when the brake holds (``ledger/brakes.py``).
"""

import click

from metronome_pipeline.cli.terminal import WrongUse, asked_by, example, say, show_table


@click.group("brake", short_help="Decreases that were held: list, show, release.")
def command() -> None:
    """A plan that would take back an implausible share of what was billed is held until a person lets it through."""


@command.command("list", epilog=example("brake list"))
def list_() -> None:
    """Show what is held, and how far usage would fall."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.brakes import HELD_COLUMNS, held  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        rows = held(connection, opened.pair.pair_id)
    if not rows:
        click.echo("The brake holds nothing.")
        return
    show_table(f"Held by the brake: {len(rows)}", HELD_COLUMNS, rows)


@command.command(epilog=example("brake show 1f0c5b0e9d4a7c22"))
@click.argument("digest")
def show(digest: str) -> None:
    """Show what one held plan would do, event by event. DIGEST names exactly this plan and no other."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.brakes import PLAN_COLUMNS, plan_of  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        events = plan_of(connection, opened.pair.pair_id, digest)
    if events is None:
        raise WrongUse(f"The brake holds no plan {digest!r}: see `metronome-pipeline brake list`.")
    show_table(f"Held under {digest}: {len(events)} events", PLAN_COLUMNS, events)


@command.command(epilog=example("brake release 1f0c5b0e9d4a7c22"))
@click.argument("digest")
@asked_by()
def release(digest: str, by: str) -> None:
    """Let one plan through: exactly the corrections shown under this DIGEST, with the next run of their hours."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger import brakes  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        hours = brakes.release(connection, opened.pair.pair_id, digest, by=by)
        others = brakes.holding_too(connection, opened.pair.pair_id, digest)
    if hours is None:
        raise WrongUse(f"The brake holds no plan {digest!r}: see `metronome-pipeline brake list`.")
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in hours)
    say(
        f"Released by {by}: the next run that covers {first} to {last} UTC lets it through, unless usage changes again."
    )
    if others:
        say(f"Not yet what is held under {' and '.join(others)} as well: it leaves once that is released too.")
