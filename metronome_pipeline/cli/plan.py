"""``metronome-pipeline plan``: what an import or an ingest of a range would do, without doing it.

Here: options, and the order of a command. Not here: rehearsals (``workflows/``), what is shown of them
(``plan_tables.py``, ``plan_json.py``).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say

if TYPE_CHECKING:
    from metronome_pipeline.ledger.proposals import Proposal
    from metronome_pipeline.ledger.read import Window
    from metronome_pipeline.rehearsal.estimate import Estimate
    from metronome_pipeline.rehearsal.imports import ImportPlan
    from metronome_pipeline.rehearsal.lines import What
    from metronome_pipeline.rehearsal.prices import Prices
    from metronome_pipeline.rehearsal.session import AllDue, Chosen, Rehearsing
    from metronome_pipeline.rehearsal.synchroniser import Rehearsed
    from metronome_pipeline.rehearsal.usage import UsagePlan
    from metronome_pipeline.settings import Settings

SOMETHING_STAYS = 3
"""The exit status of a plan that would not do everything."""
_STATUS = (
    "Exit status: 0 a run would do everything; 3 something would be refused, held or left waiting; 1 the plan failed, "
    "or some usage could not be read; 2 wrong use or settings."
)


@click.group("plan", short_help="What an import or an ingest would do, without doing it.")
def command() -> None:
    """What a run would do, found by the run's own functions in transactions that are rolled back.

    Both APIs are read for real. Nothing is written, neither to Solvimon nor to the ledger.
    """


@command.command(
    "import",
    epilog=example("plan import", "plan import meters"),
    short_help="What an import would create, update and refuse.",
    help="Show what an import would create, update and refuse in Solvimon. Without WHAT: all three, in the order of "
    f"import_everything.\n\n{_STATUS}",
)
@click.argument("what", required=False, type=click.Choice(["customers", "meters", "products"]))
@click.option("--all", "everything", is_flag=True, help="Also list what would stay as it is.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a machine.")
def import_(what: str | None, everything: bool, as_json: bool) -> None:  # noqa: D103, FBT001 - help is above
    import asyncio  # noqa: PLC0415

    from metronome_pipeline.cli import plan_json, plan_tables  # noqa: PLC0415
    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    plans = asyncio.run(_plan_imports(Settings.from_environment(), what))
    if as_json:
        click.echo(plan_json.imports(plans))
    else:
        plan_tables.show_imports(plans, everything=everything)
    if any(plan.of("refused") for plan in plans):
        click.get_current_context().exit(SOMETHING_STAYS)


@command.command(
    epilog=example(
        "plan usage --from 2026-10-01 --to 2026-11-01",
        "plan usage --from 2026-10-01 --to 2026-11-01 --estimate",
        "plan usage --from 2026-10-01 --to 2026-11-01 --customer Acme --priced",
    ),
    short_help="What an ingest of a range would send, correct, delete and hold.",
    help="Show what a backfill of a range of hours would send, correct, delete and hold, by customer and metric, how "
    "many requests it would make and how long it would take: every usage workflow that is on. Usage by period to date "
    "is read by whole periods.\n\nUsage is read in the pace that all runs share, so a plan takes about as long as a "
    "run reads. With --customer or --metric, the brake judges what is chosen alone.\n\n" + _STATUS,
)
@click.option("--from", "start", required=True, metavar="HOUR", help="The first hour: a date or a UTC hour.")
@click.option("--to", "end", required=True, metavar="HOUR", help="The hour after the last one.")
@click.option(
    "--customer", "customers", multiple=True, metavar="NAME", help="Only this one, by name or id. Repeatable."
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this one, by name or id. Repeatable.")
@click.option("--estimate", is_flag=True, help="Only requests and time, from a sample: usage is not read.")
@click.option("--priced", is_flag=True, help="Ask Solvimon what the difference costs. Not on a live account.")
@click.option("--priced-live", is_flag=True, help="The same, also on a live account.")
@click.option("--events", "each", is_flag=True, help="Also list every event.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a machine.")
def usage(  # noqa: D103 - its help is above
    start: str,
    end: str,
    customers: tuple[str, ...],
    metrics: tuple[str, ...],
    estimate: bool,  # noqa: FBT001 - click's flags
    priced: bool,  # noqa: FBT001
    priced_live: bool,  # noqa: FBT001
    each: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    first, last = _hour("--from", start), _hour("--to", end)
    if first >= last:
        raise WrongUse("--to is not after --from: it is the hour after the last one.")
    if estimate and (priced or priced_live or each):
        raise WrongUse("--estimate reads a sample alone, and knows neither events nor prices: leave the others out.")
    import asyncio  # noqa: PLC0415

    from metronome_pipeline.rehearsal.session import Chosen, NothingOfThatName  # noqa: PLC0415
    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    settings = Settings.from_environment()
    if priced and not priced_live:
        _refuse_live_prices(settings)
    asked = _Asked(first, last, Chosen(customers, metrics), estimate, priced or priced_live, each, as_json)
    try:
        status = asyncio.run(_plan_usage(settings, asked))
    except NothingOfThatName as error:
        raise WrongUse(str(error)) from None
    click.get_current_context().exit(status)


@dataclass(frozen=True)
class _Asked:
    start: datetime
    end: datetime
    chosen: "Chosen"
    estimate: bool
    priced: bool
    each: bool
    as_json: bool


def _hour(option: str, text: str) -> datetime:
    from metronome_pipeline.setting_values import hour  # noqa: PLC0415

    try:
        return hour(text)
    except ValueError as error:
        raise WrongUse(f"{option} {error}.") from None


def _refuse_live_prices(settings: "Settings") -> None:
    from metronome_pipeline.cli.connections import is_live  # noqa: PLC0415

    if is_live(settings):
        raise WrongUse(
            "SOLVIMON_BASE_URL is a live account, and that calculating a price stores nothing is documented nowhere. "
            "Try --priced on the test environment first; where it is proved there, say --priced-live here."
        )


@asynccontextmanager
async def _rehearsing(settings: "Settings") -> "AsyncIterator[Rehearsing]":
    from metronome_pipeline.cli.session import command_session  # noqa: PLC0415
    from metronome_pipeline.definitions import metronome_resource, solvimon_resource  # noqa: PLC0415
    from metronome_pipeline.rehearsal.session import rehearsing_on  # noqa: PLC0415

    async with command_session(settings) as session:
        yield rehearsing_on(session, metronome_resource(settings), solvimon_resource(settings), settings)


async def _plan_imports(settings: "Settings", what: str | None) -> "list[ImportPlan]":
    from metronome_pipeline.rehearsal.imports import IMPORTS, rehearse_import  # noqa: PLC0415

    plans = []
    async with _rehearsing(settings) as rehearsing:
        for each in [what] if what else IMPORTS:
            say(f"Rehearsing the import of {each} …")
            plans.append(await rehearse_import(rehearsing, each))
    return plans


async def _plan_usage(settings: "Settings", asked: _Asked) -> int:
    from metronome_pipeline.rehearsal.session import read_all_due  # noqa: PLC0415
    from metronome_pipeline.rehearsal.usage import closed_window  # noqa: PLC0415

    async with _rehearsing(settings) as rehearsing:
        window = closed_window(asked.start, asked.end, rehearsing.session.clock.now(), settings)
        if window is None:
            raise WrongUse(
                "None of these hours is both closed and after the cut-over (USAGE_START, "
                f"{settings.usage_start:%Y-%m-%d %H:%M} UTC): nothing of them is billed yet."
            )
        say("Reading customers and metrics …")
        due = await read_all_due(rehearsing, asked.chosen)
        if asked.estimate:
            return await _estimate(rehearsing, due, window, asked)
        return await _rehearse(rehearsing, due, window, asked)


async def _estimate(rehearsing: "Rehearsing", due: "AllDue", window: "Window", asked: _Asked) -> int:
    from metronome_pipeline.cli import plan_json, plan_tables  # noqa: PLC0415
    from metronome_pipeline.rehearsal.estimate import estimate_usage  # noqa: PLC0415

    estimate: Estimate = await estimate_usage(rehearsing, due, window, say=say)
    if asked.as_json:
        click.echo(plan_json.estimate(estimate))
    else:
        plan_tables.show_estimate(estimate)
    return SOMETHING_STAYS if due.refused else 0


async def _rehearse(rehearsing: "Rehearsing", due: "AllDue", window: "Window", asked: _Asked) -> int:
    from metronome_pipeline.cli import plan_json, plan_tables  # noqa: PLC0415
    from metronome_pipeline.rehearsal.lines import HOLDS, judged  # noqa: PLC0415
    from metronome_pipeline.rehearsal.prices import Differences, price  # noqa: PLC0415
    from metronome_pipeline.rehearsal.usage import rehearse_usage  # noqa: PLC0415
    from metronome_pipeline.workflows.limits import lateness_of  # noqa: PLC0415

    lateness = lateness_of(rehearsing.settings)
    events: list[tuple[What, Proposal]] = []
    differences = Differences(lateness.anchor_day, due.calculations)

    def see(step: "Rehearsed") -> None:
        for what, proposal in judged(step, hold_late=lateness.hold):
            if asked.each:
                events.append((what, proposal))
            if asked.priced and what not in HOLDS:
                differences.add(proposal)

    plan: UsagePlan = await rehearse_usage(rehearsing, due, window, say=say, see=see)
    prices: Prices | None = None
    if asked.priced:
        session = rehearsing.session
        say(f"Asking Solvimon what {len(differences.all)} differences cost …")
        prices = await price(session.solvimon, session.clock, differences.all, workers=session.workers)
    if asked.as_json:
        click.echo(plan_json.usage(plan, events, prices))
    else:
        plan_tables.show_usage(plan, events, prices)
    if plan.unread:
        raise Failed(
            f"{len(plan.unread)} walks of usage did not complete, so this is not all of it. The first: customer "
            f"{plan.unread[0].customer_id}: {plan.unread[0].reason}"
        )
    return 0 if plan.does_everything else SOMETHING_STAYS
