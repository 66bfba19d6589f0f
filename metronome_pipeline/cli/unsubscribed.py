"""``metronome-pipeline unsubscribed``: customers whose usage arrives in Solvimon and is billed by no subscription.

Here: options, the table, the JSON. Not here: what is read (``statements/unmatched.py``).
"""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, plain, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.settings import Settings
    from metronome_pipeline.statements.unmatched import Range, Unmatched, UnmatchedCustomer

_COLUMNS = (
    "customer",
    "subscription",
    "metric",
    "events",
    "not billed",
    "first hour (UTC)",
    "last hour",
    "customer id",
)


@click.command(
    "unsubscribed",
    short_help="Customers with usage that no subscription bills.",
    epilog=example("unsubscribed", "unsubscribed --month 2026-10 --json"),
)
@click.option("--month", metavar="YYYY-MM", help="Only usage of the billing period that begins in this month.")
@click.option("--json", "as_json", is_flag=True, help="For a machine: one JSON object.")
def command(month: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """List customers with usage that Solvimon took and matched to nothing, by metric.

    Such usage is stored and counted, and on no invoice. Mend the customer's subscription in Solvimon, or the item that
    it lacks, then run `reprocess`. Solvimon's list of unmatched events has no filter by date, so it is read whole.

    Exit status 1 if there is any.
    """
    import asyncio  # noqa: PLC0415

    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    settings = Settings.from_environment()
    found, requests = asyncio.run(_find(settings, month))
    if as_json:
        click.echo(plain(json.dumps(as_object(found, month), ensure_ascii=False, indent=2)))
    elif found.customers:
        show_unmatched(f"Usage that no subscription bills: {found.events:,} events", found)
    else:
        click.echo("Every customer's usage is matched to a subscription.")
    if found.others:
        say(f"{found.others:,} unmatched events are of meters that this pipeline does not fill; they are left out.")
    say(f"{requests:,} requests to Solvimon.")
    if found.customers:
        raise Failed(f"Usage of {len(found.customers):,} customers is not billed.")


async def _find(settings: "Settings", month: str | None) -> "tuple[Unmatched, int]":
    from metronome_pipeline.cli.session import command_session  # noqa: PLC0415
    from metronome_pipeline.statements import unmatched  # noqa: PLC0415

    async with command_session(settings) as session:
        within = _within(month, settings, session.clock.now())
        known = await session.database.run(lambda c: unmatched.known(c, session.pair.pair_id))
        found = await unmatched.unmatched_usage(session.solvimon, known, within, say)
        await unmatched.note_subscriptions(session.solvimon, found.customers, session.workers)
        return found, session.solvimon.http.counts().requests


def _within(month: str | None, settings: "Settings", now: datetime) -> "Range":
    from metronome_pipeline.statements.scope import billing_period  # noqa: PLC0415
    from metronome_pipeline.statements.unmatched import Range  # noqa: PLC0415

    if month is None:
        return Range()
    try:
        period = billing_period(month, settings.billing_period_anchor_day, now)
    except ValueError as error:
        raise WrongUse(f"--month is {month!r}, and {error}. Write it as 2026-10.") from None
    return Range(period.start, period.end)


def show_unmatched(title: str, found: "Unmatched") -> None:
    """A table with a line a customer and metric."""
    rows = [
        (
            customer.name,
            subscription(customer),
            usage.metric,
            usage.events,
            usage.quantity,
            usage.first,
            usage.last,
            customer.customer_id,
        )
        for customer in found.customers
        for usage in sorted(customer.usage.values(), key=lambda usage: (usage.metric, usage.metric_id))
    ]
    show_table(title, _COLUMNS, rows)


def subscription(customer: "UnmatchedCustomer") -> str:
    """What Solvimon shows of a customer's subscriptions, in words."""
    if customer.subscribed is None:
        return ""
    return "one, but not for this" if customer.subscribed else "none"


def as_object(found: "Unmatched", month: str | None) -> dict[str, Any]:
    """The same for a machine: numbers as texts, to the last digit."""
    return {
        "month": month,
        "events": found.events,
        "events_of_other_meters": found.others,
        "customers": [
            {
                "customer_id": customer.customer_id,
                "customer": customer.name,
                "solvimon_customer_id": customer.solvimon_id,
                "subscription": {True: "other", False: "none", None: "unknown"}[customer.subscribed],
                "metrics": [
                    {
                        "metric_id": usage.metric_id,
                        "metric": usage.metric,
                        "events": usage.events,
                        "quantity": None if usage.quantity is None else f"{usage.quantity:f}",
                        "events_without_number": usage.unreadable,
                        "first": _instant(usage.first),
                        "last": _instant(usage.last),
                    }
                    for usage in customer.usage.values()
                ],
            }
            for customer in found.customers
        ],
    }


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
