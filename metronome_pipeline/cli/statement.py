"""``metronome-pipeline statement``: the month-end statement of each customer, and whether a file of one was changed.

Here: options, words and the table. Not here: how a statement is made (``statements/``).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.settings import Settings
    from metronome_pipeline.statements.files import Format, Verified
    from metronome_pipeline.statements.scope import BillingPeriod, StatedCustomer
    from metronome_pipeline.statements.statement import Statement
    from metronome_pipeline.workflows.session import Session

_EXAMPLES = ("statement --month 2026-10", "statement --month 2026-10 --customer Acme --format parquet --no-trace")


@click.group(
    "statement",
    invoke_without_command=True,
    short_help="The month-end statement of each customer, as files.",
    epilog=example(*_EXAMPLES, "statement verify statement-2026-10/index.csv"),
)
@click.option("--month", metavar="YYYY-MM", help="The billing period that begins in this month.")
@click.option("--customer", "customers", multiple=True, metavar="ID-OR-NAME", help="One customer; may be repeated.")
@click.option("--format", "format_", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Default: statement-YYYY-MM."
)
@click.option("--no-trace", is_flag=True, help="Leave out on which invoice each event is: a request an event.")
@click.pass_context
def command(
    context: click.Context,
    month: str | None,
    customers: tuple[str, ...],
    format_: "Format",
    output: Path | None,
    no_trace: bool,  # noqa: FBT001 - click's flag
) -> None:
    """State for each customer what was metered, billed and corrected in a billing period.

    A file for each customer holds every slot's quantity, each event behind it, Solvimon's event and its invoices. The
    index holds the totals: Metronome's and Solvimon's, both read now, and the ledger's. Each file carries a digest; the
    one that is printed is of the index, and through it of all. Equal statements have equal digests, in either format.

    Nothing is changed anywhere. Exit status 1 if a total differs or a customer could not be stated.
    """
    if context.invoked_subcommand is not None:
        if month or customers or output or no_trace:
            raise WrongUse(f"`statement {context.invoked_subcommand}` takes none of the options of a new statement.")
        return
    if month is None:
        raise WrongUse("--month is missing: name the billing period, as in --month 2026-10.")
    import asyncio  # noqa: PLC0415

    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    settings = Settings.from_environment()
    asyncio.run(_state(settings, month, customers, format_, output or Path(f"statement-{month}"), traced=not no_trace))


async def _state(
    settings: "Settings", month: str, asked: Sequence[str], format_: "Format", folder: Path, *, traced: bool
) -> None:
    from metronome_pipeline.cli.session import command_session  # noqa: PLC0415
    from metronome_pipeline.statements import scope as statement_scope  # noqa: PLC0415
    from metronome_pipeline.statements.statement import INDEX, StatementMaker  # noqa: PLC0415

    index = folder / f"{INDEX}.{format_}"
    if index.exists():
        raise WrongUse(f"{index} is a finished statement: name another folder with --output.")
    began = time.monotonic()
    async with command_session(settings) as session:
        period = _period(month, settings, session.clock.now())
        pair_id = session.pair.pair_id
        metrics = await session.database.run(lambda c: statement_scope.stated_metrics(c, pair_id))
        customers = await _customers(session, settings, period, asked)
        await _tell(session, period, customers, len(metrics), traced=traced)
        maker = StatementMaker(
            metronome=session.metronome,
            solvimon=session.solvimon,
            database=session.database,
            pair_id=pair_id,
            accounts=_accounts(settings),
            period=period,
            metrics=metrics,
            folder=folder,
            format=format_,
            traced=traced,
            now=session.clock.now,
            say=say,
            traces_in_flight=session.workers,
        )
        made = await maker.make(customers)
        requests = session.metronome.http.counts().requests, session.solvimon.http.counts().requests
    _show(made, period, requests, time.monotonic() - began)


def _period(month: str, settings: "Settings", now: datetime) -> "BillingPeriod":
    from metronome_pipeline.statements.scope import billing_period  # noqa: PLC0415

    closed = now - timedelta(minutes=settings.usage_close_minutes)
    try:
        return billing_period(month, settings.billing_period_anchor_day, closed)
    except ValueError as error:
        raise WrongUse(f"--month is {month!r}, and {error}. Write it as 2026-10.") from None


async def _customers(
    session: "Session", settings: "Settings", period: "BillingPeriod", asked: Sequence[str]
) -> list["StatedCustomer"]:
    from metronome_pipeline.cli.customers import chosen_customers  # noqa: PLC0415
    from metronome_pipeline.statements.scope import StatedCustomer, customers_of_period  # noqa: PLC0415

    pair_id, allowed = session.pair.pair_id, settings.usage_customers
    names = await session.database.run(lambda c: customers_of_period(c, pair_id, period, allowed))
    if not names:
        raise WrongUse("No customer is known here: run import_everything.")
    ids = chosen_customers(asked, names) if asked else list(names)
    return [StatedCustomer(each, names[each], settings.usage_start_of(each)) for each in ids]


def _accounts(settings: "Settings") -> dict[str, str]:
    pair = settings.account_pair
    return {
        "metronome": pair.metronome_host,
        "metronome_environment": pair.metronome_environment,
        "solvimon": pair.solvimon_host,
        "solvimon_platform": pair.solvimon_platform_id,
    }


async def _tell(
    session: "Session", period: "BillingPeriod", customers: Sequence["StatedCustomer"], metrics: int, *, traced: bool
) -> None:
    """What is about to be asked of whom, before it takes its time."""
    from metronome_pipeline.statements.scope import events_of_period  # noqa: PLC0415

    ids = [customer.customer_id for customer in customers]
    events = await session.database.run(lambda c: events_of_period(c, session.pair.pair_id, period, ids))
    if not period.over:
        say(f"The period is not over: this is what there was until {period.until:%Y-%m-%d %H:%M} UTC.")
    say(
        f"{len(ids):,} customers, {metrics:,} metrics, {events:,} events. Metronome is asked about once a customer and "
        "metric; Solvimon lists all events of a customer, of every period, 50 to a request."
    )
    if traced and events:
        say(f"About {events:,} requests more say on which invoice each event is; --no-trace leaves them out.")


def _show(made: "Statement", period: "BillingPeriod", requests: tuple[int, int], seconds: float) -> None:
    lines = [total for customer in made.customers for total in customer.totals]
    differing = [
        (customer.customer.name, *total[1:2], *total[5:9], total.remarks)
        for customer in made.customers
        for total in customer.totals
        if total.agrees == "no"
    ]
    files = sum(customer.file is not None for customer in made.customers)
    span = f"{period.start:%Y-%m-%d} to {period.until:%Y-%m-%d %H:%M} UTC"
    click.echo(f"{files:,} files and {made.index}: {len(lines):,} totals, {span}.")
    if differing:
        columns = ("customer", "metric", "Metronome", "ledger", "Solvimon", "difference", "remarks")
        show_table(f"Totals that differ: {len(differing):,}", columns, differing)
    if made.refused:
        rows = [(each.customer.name, each.refused, each.customer.customer_id) for each in made.refused]
        show_table(f"Not stated: {len(rows):,}", ("customer", "why", "customer id"), rows)
    click.echo(f"Digest: {made.digest}")
    say(
        f"{requests[0]:,} requests to Metronome, {requests[1]:,} to Solvimon, of these {made.traces:,} traces; "
        f"{seconds:.1f} seconds."
    )
    if differing or made.refused:
        raise Failed(
            f"{len(differing):,} totals differ and {len(made.refused):,} customers are not stated; "
            "`metronome-pipeline reconcile` says why, hour by hour."
        )


@command.command(epilog=example("statement verify statement-2026-10/index.csv --digest 8c1f…"))
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--digest", metavar="HEX", help="What was printed when the statement was made.")
def verify(files: tuple[Path, ...], digest: str | None) -> None:
    """Check that files of a statement are as they were written; an index checks the files that it names, too.

    A file whose digest was written anew with it is only found out by the index, and an index by --digest. Exit status 1
    if anything was changed.
    """
    if digest is not None and len(files) > 1:
        raise WrongUse("--digest is of one file: name that one alone.")
    found = [one for path in files for one in _verified(path)]
    if digest is not None and digest.strip().lower() != found[0].found:
        found[0] = replace(found[0], recorded=digest.strip().lower())
    rows = [(str(one.path), one.lines, "unchanged" if one.unchanged else "CHANGED", one.found) for one in found]
    show_table("Statement files", ("file", "lines", "", "digest"), rows)
    changed = sum(not one.unchanged for one in found)
    if changed:
        raise Failed(f"{changed} of {len(found)} files are not as they were written.")


def _verified(path: Path) -> Iterable["Verified"]:
    """The file, and of an index every file that it names, against the digest that the index has of it."""
    from metronome_pipeline.statements.files import Lines, verify  # noqa: PLC0415
    from metronome_pipeline.statements.lines import LINE_COLUMNS  # noqa: PLC0415
    from metronome_pipeline.statements.statement import INDEX, INDEX_COLUMNS  # noqa: PLC0415

    if path.stem != INDEX:
        yield verify(path, LINE_COLUMNS)
        return
    yield verify(path, INDEX_COLUMNS)
    place, digest = (list(INDEX_COLUMNS).index(name) for name in ("file", "digest"))
    named = {line[place]: line[digest] for line in Lines(path, INDEX_COLUMNS) if line[place]}
    for name, recorded in named.items():
        # Only beside the index: a file that was changed must not send us elsewhere.
        found = verify(path.with_name(Path(str(name)).name), LINE_COLUMNS)
        yield found if found.recorded == recorded else replace(found, recorded=str(recorded))
