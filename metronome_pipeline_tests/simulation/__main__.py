"""``python -m metronome_pipeline_tests.simulation``: one seed again, or thousands of them."""

import sys
from typing import Any

import click

from metronome_pipeline_tests.simulation import long_run
from metronome_pipeline_tests.simulation.trouble import ALL_TROUBLE, Scenario


def _kinds(context: click.Context, parameter: click.Parameter, text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    kinds = frozenset(kind for kind in text.split(",") if kind)
    unknown = kinds - set(ALL_TROUBLE)
    if unknown:
        message = f"{min(unknown)} is no kind of trouble: they are {', '.join(ALL_TROUBLE)}."
        raise click.BadParameter(message, context, parameter)
    return kinds


@click.command()
@click.option("--seed", type=int, help="Run this seed alone.")
@click.option("--without", callback=_kinds, help="Kinds of trouble to leave out, with commas.")
@click.option("--only", callback=_kinds, help="Exactly these kinds of trouble, whatever the seed draws.")
@click.option("--ticks", type=click.IntRange(min=0), help="Ticks under trouble.")
@click.option("--seeds", type=click.IntRange(min=1), default=300, show_default=True, help="How many seeds to run.")
@click.option("--first", type=int, default=0, show_default=True, help="The first of them.")
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="Processes to share them.")
def main(seed: int | None, seeds: int, first: int, processes: int, **scenario: Any) -> None:
    """Simulates the synchronising core under trouble. Exit status 1: some seed is red."""
    long_run.quiet_libraries()
    if seed is None:
        sys.exit(bool(long_run.run_many(range(first, first + seeds), processes).red))
    chosen = Scenario(seed, scenario["without"] or frozenset(), scenario["ticks"], scenario["only"])
    with long_run.embedded_server() as url:
        red = long_run.run_one(chosen, url)
    click.echo(red or f"Seed {seed} is green. Trouble: {', '.join(sorted(chosen.trouble)) or 'none'}.")
    sys.exit(red is not None)


if __name__ == "__main__":
    main()
