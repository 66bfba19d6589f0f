"""``metronome-pipeline slicing``: the one slicing that each metric is billed through, and the switch to another.

Here: options, and whether a slicing is one of the metric's. Not here: what a switch does (``ledger/slicings.py``).
"""

from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import WrongUse, asked_by, example, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.cli.pair import OpenPair
    from metronome_pipeline.storage.accounts import KnownMetric


@click.group("slicing", short_help="How each metric is billed: ungrouped, or by which properties.")
def command() -> None:
    """A metric is billed through one slicing: ungrouped, or by one of its group keys. Two would bill it twice."""


@command.command(epilog=example("slicing show"))
def show() -> None:
    """Show through which slicing each metric is billed, and which one the settings choose."""
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.slicings import slicings  # noqa: PLC0415
    from metronome_pipeline.storage.accounts import known_metrics  # noqa: PLC0415
    from metronome_pipeline.workflows.due import slicing_wanted  # noqa: PLC0415

    with open_pair() as opened, opened.database.transaction() as connection:
        metrics = known_metrics(connection, opened.pair.pair_id)
        billed = slicings(connection, opened.pair.pair_id)
        wanted = {metric.metric_id: slicing_wanted(metric, opened.settings) for metric in metrics}
    if not metrics:
        click.echo("No billable metric is known yet: run import_meters.")
        return
    rows = [
        (
            metric.name,
            billed.get(metric.metric_id, "not billed yet"),
            wanted[metric.metric_id],
            "switch, or change the setting"
            if _disagree(billed.get(metric.metric_id), wanted[metric.metric_id])
            else "",
            metric.metric_id,
        )
        for metric in metrics
    ]
    show_table("Slicings", ("metric", "billed through", "settings say", "to do", "metric id"), rows)


@command.command(epilog=example("slicing switch 7f8a6c1e-… --to region,tier --yes"))
@click.argument("metric_id")
@click.option(
    "--to",
    "to",
    metavar="SLICING",
    help="ungrouped, a group key (key or key,key), or period_to_date. Default: the settings'.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@asked_by()
def switch(metric_id: str, to: str | None, yes: bool, by: str) -> None:  # noqa: FBT001 - click's flag
    """Bill a metric through another slicing from now on.

    Each hour is corrected, never doubled, when it is next read: by the next hourly run, which reads all of the metric's
    hours since the cut-over again, or by a backfill. Of period_to_date, it is the next daily run, and each day.
    """
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.ledger.slicings import slicings, switch_slicing  # noqa: PLC0415
    from metronome_pipeline.workflows.due import slicing_wanted  # noqa: PLC0415

    with open_pair() as opened:
        metric = _metric(opened, metric_id)
        wanted = slicing_wanted(metric, opened.settings)
        target = wanted if to is None else _slicing(metric, to)
        with opened.database.transaction() as connection:
            current = slicings(connection, opened.pair.pair_id).get(metric.metric_id)
        if current == target:
            say(f"{metric.name} is billed through {target} already. Nothing was changed.")
            return
        question = f"Bill {metric.name} through {target} instead of {current or 'nothing yet'}?"
        if not yes and not click.confirm(question, err=True):
            raise click.Abort
        with opened.database.transaction() as connection:
            switch_slicing(connection, opened.pair.pair_id, metric.metric_id, target, by=by)
    say(f"Switched by {by}: {metric.name} is billed through {target}. Its next scheduled run reads its usage again.")
    if target != wanted:
        say(
            f"The settings still say {wanted}, so runs refuse the metric: change METRICS_FILE, METRIC_SLICINGS or "
            "GROUPED_USAGE_ENABLED, or METRIC_CALCULATIONS for period_to_date."
        )


def _metric(opened: "OpenPair", metric_id: str) -> "KnownMetric":
    from metronome_pipeline.storage.accounts import known_metrics  # noqa: PLC0415

    with opened.database.transaction() as connection:
        known = {metric.metric_id: metric for metric in known_metrics(connection, opened.pair.pair_id)}
    if metric_id.lower() not in known:
        raise WrongUse(
            f"{metric_id!r} is no billable metric of this account pair: see `metronome-pipeline slicing show`."
        )
    return known[metric_id.lower()]


def _slicing(metric: "KnownMetric", text: str) -> str:
    """The slicing that a person spelled: its name, or the keys by comma."""
    from metronome_pipeline.mapping.usage import (  # noqa: PLC0415
        EXACT_CALCULATIONS,
        PERIOD_TO_DATE,
        UNGROUPED,
        slicing_of,
    )

    named = {",".join(key): slicing_of(key) for key in metric.group_keys}
    named |= {UNGROUPED: UNGROUPED, **{slicing: slicing for slicing in named.values()}}
    by_period = [] if metric.aggregation_type in EXACT_CALCULATIONS else [PERIOD_TO_DATE]
    named |= dict(zip(by_period, by_period, strict=True))
    if text not in named:
        choices = " | ".join([UNGROUPED, *(",".join(key) for key in metric.group_keys), *by_period])
        raise WrongUse(f"{text!r} is no slicing of {metric.name}: choose {choices}.")
    return named[text]


def _disagree(billed: str | None, wanted: str) -> bool:
    return billed is not None and billed != wanted
