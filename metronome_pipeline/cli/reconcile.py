"""``metronome-pipeline reconcile``: both sides of a range, side by side, and everything that differs, by name.

Here: options, tables, and the exit status. Not here: what is compared (``workflows/reconciliation.py``).
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from metronome_pipeline.cli.terminal import WrongUse, example, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.reconciliation.lines import DayLine
    from metronome_pipeline.reconciliation.tally import Tally
    from metronome_pipeline.workflows.reconciliation_reports import Names

_TOTALS = ("metric", "Metronome", "ledger", "Solvimon", "difference", "unmatched", "proved by")


class _Moment(click.ParamType[datetime]):
    """A date or a UTC hour, as settings spell it."""

    name = "date or UTC hour"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The instant."""
        from metronome_pipeline.setting_values import hour  # noqa: PLC0415

        if isinstance(value, datetime):
            return value
        try:
            return hour(str(value))
        except ValueError as error:
            option = param.opts[0] if param else "It"
            raise WrongUse(f"{option} {error}.") from None


@click.command(
    "reconcile",
    short_help="Metronome's totals, the ledger's and Solvimon's, side by side.",
    epilog=example(
        "reconcile --from 2026-01-01 --to 2026-02-01", "reconcile --from 2026-01-01 --customer 'Acme Ltd' --deep"
    ),
)
@click.option("--from", "start", type=_Moment(), required=True, metavar="WHEN", help="A date or a UTC hour.")
@click.option("--to", "end", type=_Moment(), metavar="WHEN", help="Up to this moment, without it. Default: now.")
@click.option("--customer", metavar="ID-OR-NAME", help="Only this customer of Metronome's.")
@click.option("--deep", is_flag=True, help="Read every event back from Solvimon: all pages of the customer or account.")
@click.option("--all", "everything", is_flag=True, help="Also show what is equal.")
@click.option("--json", "as_json", is_flag=True, help="For a machine, with numbers as text.")
@click.pass_context
def command(
    ctx: click.Context,
    start: datetime,
    end: datetime | None,
    customer: str | None,
    deep: bool,  # noqa: FBT001
    everything: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Compare what Metronome reports with what Solvimon has, to the last digit. Nothing is sent or changed.

    Without --deep, Solvimon's side is what it acknowledged, and its lists of unmatched, duplicate and deleted events.
    With --deep, every event is read back from it and compared.

    Exit status: 0 everything is equal, 1 something differs and nobody knows why (or could not be read), 3 it differs
    for reasons that are listed, 2 wrong use.
    """
    if end is not None and end <= start:
        raise WrongUse("--to is not after --from.")
    lines, tally, names = asyncio.run(_reconcile(start, end, customer, deep=deep, keep=everything or as_json))
    if as_json:
        click.echo(json.dumps(_as_json(lines, tally, names, everything=everything), indent=2, default=_plain))
    else:
        _show(lines if everything else [], tally, names, deep=deep)
    ctx.exit(tally.status)


async def _reconcile(
    start: datetime, end: datetime | None, customer: str | None, *, deep: bool, keep: bool
) -> "tuple[list[DayLine], Tally, Names]":
    from metronome_pipeline.cli.session import command_session  # noqa: PLC0415
    from metronome_pipeline.ledger.read import Window  # noqa: PLC0415
    from metronome_pipeline.reconciliation import standing  # noqa: PLC0415
    from metronome_pipeline.settings import Settings  # noqa: PLC0415
    from metronome_pipeline.workflows.reconciliation import (  # noqa: PLC0415
        NoSuchCustomer,
        closed_until,
        reconcile,
    )
    from metronome_pipeline.workflows.reconciliation_reports import Names  # noqa: PLC0415

    settings = Settings.from_environment()
    lines: list[DayLine] = []

    async def take(some: "Sequence[DayLine]") -> None:
        if keep:
            lines.extend(line for line in some if not line.is_empty)

    async with command_session(settings) as session:
        closed = closed_until(settings, session.clock.now())
        window = Window(max(start, settings.usage_start), min(end or closed, closed))
        if window.start >= window.end:
            raise WrongUse(
                f"No hour of that range is both after the cut-over {settings.usage_start:%Y-%m-%d %H:%M} UTC and "
                f"closed: the last closed hour ended {closed:%Y-%m-%d %H:%M} UTC."
            )
        if end is not None and window.end < end:
            say(f"Compared up to {closed:%Y-%m-%d %H:%M} UTC, the end of the last hour that is closed.")
        try:
            tally, _ = await reconcile(
                session,
                settings,
                window,
                take,
                customer=customer,
                deep=deep,
                in_flight=settings.metronome_requests_in_flight,
                say=say,
            )
        except NoSuchCustomer as error:
            raise WrongUse(str(error)) from None
        customers, metrics = await session.database.run(lambda c: standing.names(c, session.pair.pair_id))
        say(
            f"Took {session.metronome.http.counts().requests:,} requests to Metronome and "
            f"{session.solvimon.http.counts().requests:,} to Solvimon, {tally.list_requests:,} of them for its lists, "
            "which have no filter by date."
        )
    lines.sort(key=lambda line: (line.day, line.customer_id, line.metric_id))
    return lines, tally, Names(customers, metrics)


def _show(lines: "Sequence[DayLine]", tally: "Tally", names: "Names", *, deep: bool) -> None:
    from metronome_pipeline.reconciliation.tally import solvimon_says  # noqa: PLC0415
    from metronome_pipeline.workflows.reconciliation_reports import DIFFERENCE_COLUMNS  # noqa: PLC0415

    if lines:
        show_table(
            "Day by day",
            ("day", "customer", "metric", "Metronome", "ledger", "Solvimon", "difference", "outcome", "proved by"),
            [
                (
                    f"{line.day:%Y-%m-%d}",
                    names.customer(line.customer_id),
                    names.metric(line.metric_id),
                    line.metronome,
                    line.ledger,
                    solvimon_says(line, deep=deep),
                    line.difference,
                    line.outcome,
                    line.granularity,
                )
                for line in lines
            ],
        )
    parts = tally.all_differences
    if parts:
        show_table(f"Differences: {len(parts)}", DIFFERENCE_COLUMNS, map(names.row, parts))
    if tally.unread:
        show_table(
            f"Not read: {len(tally.unread)}",
            ("customer", "metrics", "why"),
            [(names.customer(u.customer_id), " ".join(map(names.metric, u.metric_ids)), u.reason)
             for u in tally.unread],
        )  # fmt: skip
    _show_totals(tally, names, deep=deep)
    click.echo(_summary(tally, deep=deep))


def _show_totals(tally: "Tally", names: "Names", *, deep: bool) -> None:
    from metronome_pipeline.mapping.usage import exact_sum  # noqa: PLC0415
    from metronome_pipeline.reconciliation.tally import solvimon_says  # noqa: PLC0415

    proved = " and ".join(sorted(tally.granularities))
    rows = []
    for metric_id, totals in tally.by_metric().items():
        unmatched = [
            part.amount
            for part in tally.all_differences
            if part.reason == "unmatched" and part.metric_id == metric_id and part.amount is not None
        ]
        difference = tally.difference(metric_id, totals)
        rows.append(
            (
                names.metric(metric_id),
                totals.metronome,
                totals.ledger,
                solvimon_says(totals, deep=deep),
                "missing" if difference is None else difference,
                exact_sum(unmatched) if unmatched else None,
                proved,
            )
        )
    if rows:
        show_table("Totals by metric", _TOTALS, rows)


def _summary(tally: "Tally", *, deep: bool) -> str:
    counted = tally.counted
    words = [f"{counted['equal']:,} days of a customer and metric are equal"]
    words += [f"{counted[one]:,} are {one}" for one in ("explained", "unexplained", "unread") if counted[one]]
    proved = ", ".join(f"{count:,} by {name}" for name, count in sorted(tally.granularities.items()))
    side = f"; {tally.events_read_back:,} events were read back from Solvimon" if deep else ""
    return f"{', '.join(words)}. Proved: {proved or 'nothing'}{side}."


def _as_json(lines: "Sequence[DayLine]", tally: "Tally", names: "Names", *, everything: bool) -> dict[str, Any]:
    from metronome_pipeline.workflows.reconciliation_reports import DIFFERENCE_COLUMNS  # noqa: PLC0415

    shown = lines if everything else [line for line in lines if line.outcome != "equal"]
    keys = [column.lower().replace(" ", "_") for column in DIFFERENCE_COLUMNS]
    return {
        "status": tally.status,
        "outcomes": dict(tally.counted),
        "proved_by": dict(tally.granularities),
        "days": [_line_as_json(line, names) for line in shown],
        "differences": [
            {
                **dict(zip(keys, names.row(part), strict=True)),
                "customer_id": part.customer_id,
                "metric_id": part.metric_id,
                "references": list(part.references),
            }
            for part in tally.all_differences
        ],
        "unread": [
            {"customer_id": each.customer_id, "metric_ids": list(each.metric_ids), "reason": each.reason}
            for each in tally.unread
        ],
        "totals": [
            {
                "metric_id": metric_id,
                "metric": names.metric(metric_id),
                "metronome": totals.metronome,
                "ledger": totals.ledger,
                "delivered": totals.delivered,
                "solvimon": totals.solvimon,
                "events": totals.events,
                "acknowledged": totals.acknowledged,
                "difference": tally.difference(metric_id, totals),
            }
            for metric_id, totals in tally.by_metric().items()
        ],
        "solvimon_requests_for_lists": tally.list_requests,
        "events_read_back": tally.events_read_back,
    }


def _line_as_json(line: "DayLine", names: "Names") -> dict[str, Any]:
    return {
        "day": f"{line.day:%Y-%m-%d}",
        "customer_id": line.customer_id,
        "customer": names.customer(line.customer_id),
        "metric_id": line.metric_id,
        "metric": names.metric(line.metric_id),
        "metronome": line.metronome,
        "ledger": line.ledger,
        "delivered": line.delivered,
        "solvimon": line.solvimon,
        "difference": line.difference,
        "events": line.events,
        "acknowledged": line.acknowledged,
        "outcome": line.outcome,
        "proved_by": line.granularity,
    }


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, datetime) else str(value)
