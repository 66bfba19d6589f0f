"""``metronome-pipeline reprocess``: have Solvimon match what it did not match, once the cause is mended.

Here: options and words, before and after. Not here: what is asked of Solvimon (``statements/unmatched.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say, show_table
from metronome_pipeline.cli.unsubscribed import show_unmatched

if TYPE_CHECKING:
    from metronome_pipeline.settings import Settings
    from metronome_pipeline.statements.unmatched import Asked, Known, Range, Unmatched
    from metronome_pipeline.workflows.session import Session

LONGEST_WAIT_SECONDS = 1_800.0


@click.command(
    "reprocess",
    short_help="Have Solvimon match again what no subscription billed.",
    epilog=example("reprocess --wait", "reprocess --customer Acme --from 2026-10-01 --to 2026-11-01 --wait --yes"),
)
@click.option("--customer", "customers", multiple=True, metavar="ID-OR-NAME", help="One customer; may be repeated.")
@click.option("--from", "start", metavar="HOUR", help="Only usage from this date or UTC hour on.")
@click.option("--to", "end", metavar="HOUR", help="Only usage before this date or UTC hour.")
@click.option("--wait", is_flag=True, help="Wait until Solvimon is done, half an hour at most, and show what remains.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def command(
    customers: tuple[str, ...],
    start: str | None,
    end: str | None,
    wait: bool,  # noqa: FBT001 - click's flags
    yes: bool,  # noqa: FBT001
) -> None:
    """Ask Solvimon to match usage again that it took and matched to nothing.

    First mend what it lacked: a subscription, an item, a condition (`unsubscribed` lists the customers). No number
    changes by it; usage that is matched appears on the customer's open invoice.

    Exit status 1 if Solvimon refused a customer or, with --wait, if anything remains unmatched.
    """
    import asyncio  # noqa: PLC0415

    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    within = _within(start, end)
    asyncio.run(_reprocess(Settings.from_environment(), customers, within, wait=wait, yes=yes))


def _within(start: str | None, end: str | None) -> "Range":
    from metronome_pipeline.statements.unmatched import Range  # noqa: PLC0415

    within = Range(_hour("--from", start), _hour("--to", end))
    if within.start and within.end and within.start >= within.end:
        raise WrongUse("--to is not after --from: it is the hour after the last one.")
    return within


def _hour(option: str, text: str | None) -> datetime | None:
    from metronome_pipeline.setting_values import hour  # noqa: PLC0415

    try:
        return None if text is None else hour(text)
    except ValueError as error:
        raise WrongUse(f"{option} {error}.") from None


@dataclass(frozen=True)
class _Reader:
    """Reads the unmatched usage that is meant, before and after."""

    session: "Session"
    known: "Known"
    within: "Range"
    chosen: Sequence[str] | None

    async def read(self) -> "Unmatched":
        from metronome_pipeline.statements.unmatched import Unmatched, unmatched_usage  # noqa: PLC0415

        solvimon, ids = self.session.solvimon, self.known.solvimon_ids
        if self.chosen is None:
            return await unmatched_usage(solvimon, self.known, self.within, say)
        # A customer's own list is short. Where an id is not known, everybody's is read.
        own = [ids[each] for each in self.chosen] if all(each in ids for each in self.chosen) else None
        found = await unmatched_usage(solvimon, self.known, self.within, say, customers=own)
        return Unmatched([one for one in found.customers if one.customer_id in self.chosen], found.others)


async def _reprocess(settings: "Settings", customers: Sequence[str], within: "Range", *, wait: bool, yes: bool) -> None:
    from metronome_pipeline.cli.customers import chosen_customers  # noqa: PLC0415
    from metronome_pipeline.cli.session import command_session  # noqa: PLC0415
    from metronome_pipeline.statements import unmatched  # noqa: PLC0415

    async with command_session(settings) as session:
        known = await session.database.run(lambda c: unmatched.known(c, session.pair.pair_id))
        chosen = chosen_customers(customers, known.names) if customers else None
        reader = _Reader(session, known, within, chosen)
        before = await reader.read()
        if not before.customers:
            click.echo("Nothing is unmatched: there is nothing to do.")
            return
        show_unmatched(f"Unmatched before: {before.events:,} events", before)
        question = f"Ask Solvimon to match the usage of {len(before.customers):,} customers again?"
        if not yes and not click.confirm(question, err=True):
            raise Failed("Nothing was asked for.")
        asked = await unmatched.ask(session.solvimon, before.customers, within, session.workers)
        if wait:
            asked = await unmatched.wait_for(session.solvimon, asked, session.clock, LONGEST_WAIT_SECONDS, say)
        after = await reader.read() if wait else None
    _show(asked, before, after)


def _show(asked: "Sequence[Asked]", before: "Unmatched", after: "Unmatched | None") -> None:
    """Each customer before and after, and what remains, by name."""
    remaining = {one.customer_id: one.events for one in after.customers} if after else {}
    rows = [
        (
            one.customer.name,
            one.customer.events,
            remaining.get(one.customer.customer_id, 0) if after else "not looked at",
            _progress(one),
            one.reprocess.id if one.reprocess else "",
            one.customer.customer_id,
        )
        for one in asked
    ]
    columns = ("customer", "unmatched before", "after", "Solvimon says", "reprocess", "customer id")
    show_table(f"Reprocessed: {len(rows):,} customers", columns, rows)
    refused = sum(one.refused is not None for one in asked)
    if after is None and not refused:
        click.echo("Solvimon is at work. See what remains with `metronome-pipeline unsubscribed`.")
        return
    if after is not None and after.customers:
        show_unmatched(f"Still unmatched: {after.events:,} of {before.events:,} events", after)
        names = ", ".join(customer.name for customer in after.customers)
        raise Failed(
            f"{after.events:,} events are still not matched, of {names}: no subscription of theirs has an item for "
            "this usage, or no condition of a price holds."
        )
    if refused:
        raise Failed(f"Solvimon refused {refused:,} of {len(asked):,} customers.")
    click.echo(f"All {before.events:,} events are matched.")


def _progress(one: "Asked") -> str:
    if one.reprocess is None:
        return one.refused or ""
    percentage = "" if one.reprocess.percentage is None else f"{one.reprocess.percentage}%"
    return " ".join(part for part in (one.reprocess.status, percentage) if part)
