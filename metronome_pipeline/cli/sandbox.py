"""``metronome-pipeline sandbox``: the two emulators alone, on loopback, until Ctrl-C.

Here: options and ports. Not here: the emulators (``sandbox/``).
"""

from datetime import UTC, datetime
from typing import Any

import click

from metronome_pipeline.cli.terminal import WrongUse, example, say, show_table


@click.command(
    "sandbox",
    short_help="Emulators of both APIs on loopback, until Ctrl-C.",
    epilog=example(
        "sandbox --dataset flights --from 2013-01-01 --to 2013-02-01",
        "sandbox --dataset synthetic --customers 100 --metrics 5 --groups 20",
    ),
)
@click.option("--metronome-port", default=8701, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option("--solvimon-port", default=8702, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option("--dataset", type=click.Choice(["flights", "synthetic", "none"]), default="flights", show_default=True)
@click.option("--from", "start", metavar="DATE", help="flights: the first day, in 2013. Default: all of the year.")
@click.option("--to", "end", metavar="DATE", help="flights: the day after the last.")
@click.option("--customers", type=click.IntRange(0), help="synthetic: how many customers.  [default: 10]")
@click.option("--metrics", type=click.IntRange(0), help="synthetic: SUM, COUNT and MAX in turn.  [default: 3]")
@click.option("--hours", type=click.IntRange(0), help="synthetic: hours of usage from 2025-01-01 on.  [default: 744]")
@click.option("--groups", type=click.IntRange(0), help="synthetic: values of the group key.  [default: 0]")
@click.option("--seed", type=int, help="synthetic: another seed is another account.  [default: 1]")
def command(
    metronome_port: int, solvimon_port: int, dataset: str, start: str | None, end: str | None, **sizes: int | None
) -> None:
    """Serve strict emulators of Metronome's and Solvimon's API on this machine, with usage to read.

    Synthetic usage is computed as it is read, so a million windows need no memory.
    """
    wanted = _dataset(dataset, _day(start, "--from"), _day(end, "--to"), sizes)
    from metronome_pipeline.cli.local import KEY, TOKEN  # noqa: PLC0415
    from metronome_pipeline.sandbox.metronome.app import create_app as metronome_app  # noqa: PLC0415
    from metronome_pipeline.sandbox.metronome.datasets import load  # noqa: PLC0415
    from metronome_pipeline.sandbox.server import listen, serve_forever, url_of  # noqa: PLC0415
    from metronome_pipeline.sandbox.solvimon.app import create_app as solvimon_app  # noqa: PLC0415

    try:
        metronome, solvimon = listen(metronome_port), listen(solvimon_port)
    except OSError as error:
        raise WrongUse(str(error)) from None
    with metronome, solvimon:
        app: Any = metronome_app(tokens=(TOKEN,))
        if wanted is not None:
            say(f"Loading {dataset} …")
            loaded = load(app.stores.by_token[TOKEN], wanted)
            say(", ".join(f"{count:,} {name}" for name, count in loaded.items() if count) + ".")
        rows = [("Metronome", url_of(metronome), TOKEN), ("Solvimon", url_of(solvimon), KEY)]
        show_table("Emulators", ("API", "address", "token or key"), rows)
        say("Serving until Ctrl-C. `GET /_sandbox/settings` shows what can be changed while they run.")
        serve_forever({metronome: app, solvimon: solvimon_app(keys=(KEY,))})
    say("Stopped.")


def _dataset(name: str, start: str | None, end: str | None, sizes: dict[str, int | None]) -> dict[str, object] | None:
    """What the emulator is asked to load; options of another data set are refused, not ignored."""
    dates = {key: day for key, day in (("from", start), ("to", end)) if day is not None}
    given = {key: size for key, size in sizes.items() if size is not None}
    if dates and name != "flights":
        raise WrongUse("--from and --to choose flights: leave them out, or say --dataset flights.")
    if given and name != "synthetic":
        raise WrongUse(f"--{min(given)} is a size of synthetic usage: leave it out, or say --dataset synthetic.")
    return None if name == "none" else {"dataset": name, **dates, **given}


def _day(text: str | None, option: str) -> str | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        raise WrongUse(f"{option} is {text!r}: write a date such as 2013-01-01.") from None
