"""``metronome-pipeline erase``: forget who a customer was, and keep what it was billed.

Here: options, the question, Solvimon's own *forget*, and the list of what stays. Not here: what is erased
(``upkeep/erasure.py``).
"""

import asyncio
import random
import uuid
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, asked_by, example, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.cli.pair import OpenPair
    from metronome_pipeline.upkeep.erasure import Standing


@click.group("erase", short_help="Erase a customer's personal data on request.")
def command() -> None:
    """Erase personal data on request. Amounts, hours and ids stay."""


@command.command("customer", epilog=example("erase customer 3b241101-e2bb-4255-8caf-4136c566a962 --by dpo"))
@click.argument("customer_id", metavar="ID")
@click.option("--here-only", is_flag=True, help="Don't ask Solvimon to forget the customer as well.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@asked_by()
def customer(customer_id: str, here_only: bool, yes: bool, by: str) -> None:  # noqa: FBT001 - flags
    """Erase the name, aliases, custom fields and group values of the customer with Metronome's ID, for good.

    The customer must be archived in Metronome, and everything of it billed. Stop the schedules meanwhile: a run that
    began before still knows it. Solvimon is asked to forget the customer too, and takes no more events of it. Later
    imports leave it erased. Repeating the command finishes what was cut short.
    """
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415 - so that help is instant
    from metronome_pipeline.errors import quoted  # noqa: PLC0415
    from metronome_pipeline.upkeep import erasure  # noqa: PLC0415

    try:
        customer_id = str(uuid.UUID(customer_id))
    except ValueError:
        raise WrongUse(f"{quoted(customer_id, 80)!r} is no id: give the UUID that Metronome shows.") from None
    with open_pair() as opened:
        pair_id = opened.pair.pair_id
        with opened.database.transaction() as connection:
            before = erasure.standing(connection, pair_id, customer_id)
        if before.name is not None and not yes:
            question = (
                f"Erase who customer {quoted(before.name, 80)!r} was? Its {before.events:,} events keep their amounts."
            )
            if not click.confirm(question, err=True):
                raise click.Abort
        with opened.database.transaction() as connection:
            erasure.erase(connection, pair_id, customer_id, by=by)
        say(f"Erased here: customer {customer_id}. Its {before.events:,} events keep their amounts.")
        told = _forget(opened, before, here_only=here_only)
    show_table("What stays", ("where", "what"), _what_stays(before, told))


def _forget(opened: "OpenPair", before: "Standing", *, here_only: bool) -> str:
    """Has Solvimon forget the customer too, and says what became of that."""
    from metronome_pipeline.errors import ApiError  # noqa: PLC0415
    from metronome_pipeline.upkeep import erasure  # noqa: PLC0415

    if here_only:
        return "Not asked (--here-only): its customer stays as it is."
    if before.forgotten:
        return "Forgotten before. Its events stay, with their amounts and group values."
    if not before.in_solvimon:
        return "No import made it there: look for it by hand."
    try:
        asyncio.run(_ask_solvimon(opened, before.customer_id))
    except ApiError as error:
        raise Failed(f"Erased here, and not in Solvimon. {error} Run the same command again.") from None
    with opened.database.transaction() as connection:
        erasure.note_forgotten(connection, opened.pair.pair_id, before.customer_id)
    say("Solvimon has forgotten it, too.")
    return "Its events stay, with their amounts and group values."


async def _ask_solvimon(opened: "OpenPair", customer_id: str) -> None:
    from metronome_pipeline.cli.pair import RUN_ID  # noqa: PLC0415
    from metronome_pipeline.clock import SYSTEM_CLOCK  # noqa: PLC0415
    from metronome_pipeline.definitions import solvimon_resource  # noqa: PLC0415

    randomness = random.Random()  # noqa: S311 - jitter needs no secrecy
    resource = solvimon_resource(opened.settings)
    async with resource.open(clock=SYSTEM_CLOCK, random=randomness, run_id=RUN_ID) as api:
        await api.forget_customer(customer_id)


def _what_stays(before: "Standing", told: str) -> list[tuple[str, str]]:
    runs = ", ".join(before.dagster_runs[:20]) + (" …" if len(before.dagster_runs) > 20 else "")
    stored = f"The stored events of {len(before.dagster_runs)} runs name it: delete these runs in Dagster ({runs})."
    return [
        ("here", "Metronome's id, hours, amounts, references (ids and hashes of groups), who asked for this."),
        ("Dagster", stored if before.dagster_runs else "No stored event names it."),
        ("Solvimon", told),
        ("Metronome", "Everything: it has no such request in its API."),
        ("backups", "Those made before still name it: after restoring one, repeat this command."),
    ]
