"""``metronome-pipeline brake``: decreases that were too large to be taken back unasked.

Here: the list, and letting one through. Not here: when the brake holds (``ledger/plan.py``).
"""

from typing import Any

import click

from metronome_pipeline.cli.terminal import WrongUse, asked_by, example, say, show_table


@click.group("brake", short_help="Decreases that were held: list, release.")
def command() -> None:
    """A plan that would take back an implausible share of what was billed is held until a person lets it through."""


@command.command("list", epilog=example("brake list"))
def list_() -> None:
    """Show what is held, and how far usage would fall."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        rows = connection.execute(_LIST, [opened.pair.pair_id]).fetchall()
    if not rows:
        click.echo("The brake holds nothing.")
        return
    columns = ("digest", "customer", "metric", "from (UTC)", "to (UTC)", "billed", "observed", "change", "since (UTC)")
    show_table(f"Held by the brake: {len(rows)}", columns, rows)


@command.command(epilog=example("brake release 1f0c5b0e9d4a7c22"))
@click.argument("digest")
@asked_by()
def release(digest: str, by: str) -> None:
    """Let one plan through: exactly the corrections shown under this DIGEST, with the next run of their hours."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        row: Any = connection.execute(_RELEASE, [opened.pair.pair_id, digest]).fetchone()
    if row is None:
        raise WrongUse(f"The brake holds no plan {digest!r}: see `metronome-pipeline brake list`.")
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in row)
    say(
        f"Released by {by}: the next run that covers {first} to {last} UTC lets it through, unless usage changes again."
    )


_LIST = """
SELECT b.digest, CASE WHEN b.customer_id IS NULL THEN 'all' ELSE coalesce(c.name, b.customer_id::text) END,
       coalesce(m.name, b.metric_id::text), b.from_at, b.to_at, b.billed, b.observed, b.observed - b.billed, b.at
FROM ledger.brakes b
LEFT JOIN metronome.customers c ON c.pair_id = b.pair_id AND c.customer_id = b.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = b.pair_id AND m.metric_id = b.metric_id
WHERE b.pair_id = %s AND b.released_at IS NULL ORDER BY b.at DESC, b.digest
"""

_RELEASE = """
UPDATE ledger.brakes SET released_at = ledger.moment() WHERE pair_id = %s AND digest = %s AND released_at IS NULL
RETURNING from_at, to_at
"""
