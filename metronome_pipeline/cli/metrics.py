"""``metronome-pipeline metrics``: the file that says how each billable metric is billed, and what holds for each.

Here: options, and where metrics come from. Not here: what the file may say (``metrics_file.py``), its text
(``metrics_text.py``), what is worth a person's attention (``metrics_review.py``).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.settings import Settings
    from metronome_pipeline.storage.accounts import KnownMetric

SOMETHING_TO_MEND = 3
"""The exit status of ``show`` where it lists something to do."""
_DEFAULT = "metrics.yaml"
_SCHEMA = "metrics.schema.json"
_REPLACED = ("USAGE_METRICS", "METRIC_SLICINGS", "METRIC_CALCULATIONS")


@click.group("metrics", short_help="How each billable metric is billed, in one file.")
def command() -> None:
    """How each billable metric is billed can stand in one YAML file, which METRICS_FILE names, instead of in variables.

    An editor with a YAML language server completes, explains and checks the file by the schema beside it.
    """


@command.command(epilog=example("metrics init", "metrics init config/metrics.yaml"))
@click.argument("path", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace a file that exists; its comments are lost.")
def init(path: Path | None, overwrite: bool) -> None:  # noqa: FBT001 - click's flag
    """Write the file: every billable metric with its name, billed as today's settings say.

    PATH is by default what METRICS_FILE names, else metrics.yaml. Its schema is written beside it. Put in place of the
    variables USAGE_METRICS, METRIC_SLICINGS and METRIC_CALCULATIONS, the file changes nothing until it is edited.
    Metrics come from the last import, and from Metronome before the first. Neither account is changed.
    """
    from metronome_pipeline.cli.metrics_text import metrics_text  # noqa: PLC0415
    from metronome_pipeline.metrics_file import schema_text  # noqa: PLC0415
    from metronome_pipeline.settings import Settings, environment  # noqa: PLC0415

    variables = environment()
    target = path or Path(variables.get("METRICS_FILE", _DEFAULT)).expanduser()
    if target.exists() and not overwrite:
        raise WrongUse(f"{target} exists: edit it, or write it anew with --overwrite.")
    if "METRICS_FILE" in variables and not Path(variables["METRICS_FILE"]).expanduser().exists():
        del variables["METRICS_FILE"]
    settings = Settings.from_environment(variables)
    metrics = _metrics(settings)
    text = metrics_text(metrics, settings, _SCHEMA)
    try:
        _replace(target.with_name(_SCHEMA), schema_text())
        _replace(target, text)
    except OSError as error:
        raise Failed(f"{target} cannot be written: {error.strerror}.") from None
    click.echo(f"Wrote {len(metrics)} billable metrics to {target}, and its schema beside it.")
    instead = [name for name in _REPLACED if name in variables]
    place = f" in place of {', '.join(instead)}" if instead else ""
    say(
        f"Set METRICS_FILE={target}{place}, in .env or in the environment of every process of Dagster's. Then "
        "`metronome-pipeline metrics show` tells what holds."
    )


@command.command(epilog=example("metrics show"))
def show() -> None:
    """Show how each billable metric is billed, and which setting says so.

    Exit status: 0; 3 where something is to be mended; 2 where the file or a variable is wrong.
    """
    from metronome_pipeline.cli.metrics_review import review  # noqa: PLC0415
    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    settings = Settings.from_environment()
    rows = review(_metrics(settings), settings)
    if not rows:
        click.echo("Metronome has no billable metric, and no setting names one.")
        return
    columns = ("metric", "billed", "slicing", "calculation", "to do", "metric id")
    cells = [(row.name, row.billed, row.slicing, row.calculation, row.to_do, row.metric_id) for row in rows]
    show_table("Billable metrics", columns, cells)
    to_do = sum(bool(row.to_do) for row in rows)
    click.echo(f"{len(rows)} billable metrics, {to_do or 'nothing'} to mend.")
    if to_do:
        click.get_current_context().exit(SOMETHING_TO_MEND)


@command.command(epilog=example("metrics schema > metrics.schema.json"))
def schema() -> None:
    """Print the JSON Schema of the file, such as after an upgrade, for editors and for checks of your own."""
    from metronome_pipeline.metrics_file import schema_text  # noqa: PLC0415

    click.echo(schema_text(), nl=False)


def _metrics(settings: "Settings") -> "list[KnownMetric]":
    """Every billable metric as last read; before the first import, as Metronome lists them now."""
    import asyncio  # noqa: PLC0415

    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.storage.accounts import known_metrics  # noqa: PLC0415

    with open_pair(settings) as opened, opened.database.transaction() as connection:
        known = known_metrics(connection, opened.pair.pair_id)
    if known:
        return known
    say("Nothing was imported yet: asking Metronome …")
    return asyncio.run(_listed(settings))


async def _listed(settings: "Settings") -> "list[KnownMetric]":
    from metronome_pipeline.cli.metrics_review import listed_metrics  # noqa: PLC0415
    from metronome_pipeline.cli.session import command_session  # noqa: PLC0415

    async with command_session(settings) as session:
        return await listed_metrics(session.metronome)


def _replace(target: Path, text: str) -> None:
    """Whole or not at all. Everybody may read it: there is no secret in it."""
    new = target.with_name(f".{target.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(target)
