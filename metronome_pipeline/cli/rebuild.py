"""``metronome-pipeline rebuild``: makes a lost ledger again from what Solvimon stores.

Here: options, the question, and the words. Not here: what a rebuild does (``rebuilding/``).
"""

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, asked_by, example, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.cli.pair import OpenPair
    from metronome_pipeline.rebuilding.rebuilt import Listing, Rebuilt

_NOT_IN_SOLVIMON = (
    "Not in Solvimon, so not recovered: which run planned an event and why, what waited in quarantine or was held, "
    "differences that were accepted (dropped), slots that a revert holds, released brakes, who switched a slicing. "
    "Look at these again before you start the schedules: the next runs read every hour anew and send what Solvimon "
    "lacks."
)


@click.command("rebuild", epilog=example("rebuild --dry-run", "rebuild"))
@click.option("--dry-run", is_flag=True, help="Show what it would do, and change nothing.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@asked_by()
def command(dry_run: bool, yes: bool, by: str) -> None:  # noqa: FBT001 - click's flags
    """Make a lost ledger again from the events that Solvimon stores, deleted ones too.

    For a database that was lost, or restored from an earlier backup: what stands in the ledger stays, what Solvimon has
    beyond it is added, and afterwards a run sends nothing that is there already. Run import_everything first. Solvimon
    is only read from. Stop the schedules meanwhile: no run can plan or send until it is done.

    Exit status 1 when something stays different that a person must decide about; all of it is listed.
    """
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415

    with open_pair() as opened:
        if not dry_run and not yes:
            _ask(opened)
        rebuilt = _rebuild(opened, by, dry_run=dry_run)
    _show(rebuilt, dry_run=dry_run)
    if rebuilt.matters.count:
        raise Failed(
            f"{rebuilt.matters.count:,} events stay different between the ledger and Solvimon: see the list. Nothing "
            "is deleted or sent for them unasked."
        )


def _ask(opened: "OpenPair") -> None:
    with opened.database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*) FROM ledger.events WHERE pair_id = %s", [opened.pair.pair_id]
        ).fetchone()
    held = row[0] if row else 0
    question = (
        f"The ledger of this account pair holds {held:,} events. Read all of Solvimon's, and write down what it lacks?"
    )
    if not click.confirm(question, err=True):
        raise click.Abort


def _rebuild(opened: "OpenPair", by: str, *, dry_run: bool) -> "Rebuilt":
    import psycopg  # noqa: PLC0415

    from metronome_pipeline.cli.pair import RUN_ID  # noqa: PLC0415
    from metronome_pipeline.clock import SYSTEM_CLOCK  # noqa: PLC0415
    from metronome_pipeline.definitions import solvimon_resource  # noqa: PLC0415
    from metronome_pipeline.errors import quoted  # noqa: PLC0415
    from metronome_pipeline.rebuilding.rebuild import rebuild  # noqa: PLC0415
    from metronome_pipeline.storage.accounts import known_metrics  # noqa: PLC0415
    from metronome_pipeline.workflows.due import slicing_wanted  # noqa: PLC0415

    randomness = random.Random()  # noqa: S311 - jitter needs no secrecy
    pair_id = opened.pair.pair_id

    with opened.database.transaction() as connection:
        wanted = {m.metric_id: slicing_wanted(m, opened.settings) for m in known_metrics(connection, pair_id)}

        async def work() -> "Rebuilt":
            resource = solvimon_resource(opened.settings)
            async with resource.open(clock=SYSTEM_CLOCK, random=randomness, run_id=RUN_ID) as api:
                return await rebuild(connection, api, pair_id, wanted=wanted, by=quoted(by, 100), say=say)

        rebuilt = asyncio.run(work())
        if dry_run:
            raise psycopg.Rollback
    return rebuilt


def _show(rebuilt: "Rebuilt", *, dry_run: bool) -> None:
    from metronome_pipeline.rebuilding.rebuilt import FOREIGN_COLUMNS, LEFT_COLUMNS, MATTER_COLUMNS  # noqa: PLC0415

    done = f"{rebuilt.events:,} events in Solvimon, the same in the last two of {rebuilt.walks} walks"
    show_table(
        f"Rebuilt from {done}" if not dry_run else f"A rebuild would do this, from {done}",
        ("what", "events"),
        list(rebuilt.done.items()) or [("nothing was missing", 0)],
    )
    if rebuilt.totals:
        show_table(
            f"Totals. Digest of Solvimon's {rebuilt.solvimon_digest}, of the ledger's {rebuilt.ledger_digest}",
            ("metric", "by", "events that count", "Solvimon", "ledger", "metric id"),
            [(t.metric, t.calculation, t.events, t.solvimon, t.ledger, t.metric_id) for t in rebuilt.totals],
        )
    if rebuilt.slicings:
        show_table("How metrics were billed", ("metric", "found"), rebuilt.slicings)
    _show_listing(
        "Adopted from other origin: the next runs correct these hours to what Metronome says",
        FOREIGN_COLUMNS,
        rebuilt.foreign,
    )
    _show_listing("To be noted", MATTER_COLUMNS, rebuilt.notes)
    _show_listing("Left alone, as it is not of this account pair", LEFT_COLUMNS, rebuilt.left_alone)
    _show_listing("Different: decide about these", MATTER_COLUMNS, rebuilt.matters)
    if rebuilt.done.get("added"):
        say(_NOT_IN_SOLVIMON)
    if dry_run:
        say("Nothing was changed.")


def _show_listing(title: str, columns: Sequence[str], listing: "Listing") -> None:
    from metronome_pipeline.errors import quoted  # noqa: PLC0415

    if not listing.count:
        return
    shown = [[quoted(cell) if isinstance(cell, str) else cell for cell in row] for row in listing.rows]
    more = f" (the first {len(shown):,} of {listing.count:,})" if listing.count > len(shown) else ""
    show_table(f"{title}{more}", columns, shown)
