"""``metronome-pipeline demo``: a month of real usage from Metronome's emulator into Solvimon's, through real runs.

Here: the order of the demonstration, and its end. Not here: services (``local.py``), runs (``runs.py``), the comparison
(``totals.py``).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say, show_table, uninterrupted

if TYPE_CHECKING:
    from metronome_pipeline.cli.local import Services
    from metronome_pipeline.cli.pair import OpenPair
    from metronome_pipeline.cli.totals import Comparison

_PARTITION = "%Y-%m-%d-%H:%M"


@dataclass(frozen=True)
class Outcome:
    """What a demonstration came to. ``events`` were sent by this very one; requests are the emulators' own counts."""

    comparison: "Comparison"
    events: int
    batches: int
    metronome_requests: int
    solvimon_requests: int
    seconds: float


@click.command(
    "demo",
    short_help="A month of real usage from Metronome into Solvimon, on this machine.",
    epilog=example("demo", "demo --month 2013-07 --keep"),
)
@click.option("--month", default="2013-01", show_default=True, metavar="YYYY-MM", help="A month of 2013, in UTC.")
@click.option("--keep", is_flag=True, help="Leave the services running, for a second `demo --keep` and for a look.")
@click.option("--stop", is_flag=True, help="End the services that `demo --keep` left, and remove their data.")
def command(month: str, keep: bool, stop: bool) -> None:  # noqa: FBT001 - click's flags
    """Take a month of real usage from Metronome into Solvimon, and compare the totals.

    Everything runs on this machine: an embedded Postgres, emulators of both APIs, real Dagster runs. The usage is every
    flight that was to leave New York in 2013. No setting is read and no account is touched. Exit status 1 if any total
    differs.
    """
    start, end = _month(month)
    say("Starting Postgres and the emulators …" if not stop else "Stopping …")
    from metronome_pipeline.cli import local  # noqa: PLC0415

    folder = local.home() / "demo"
    with local.only_one(folder):
        kept = local.kept_services(folder)
        if stop:
            _stop(kept)
            return
        if kept is not None and not keep:
            raise WrongUse(
                "Services of an earlier `demo --keep` are running: add --keep to use them, or `demo --stop` first."
            )
        if kept is not None and kept.contents not in (None, month):
            raise WrongUse(
                f"The services that are kept hold {kept.contents}: use --month {kept.contents}, or `demo --stop` first."
            )
        with _kept(folder, kept) if keep else local.local_services(folder) as services:
            outcome = demonstrate(services, start, end, contents=month)
            _show(month, outcome)
            if keep:
                _tell_kept(services)
    if not outcome.comparison.agrees:
        raise Failed("Totals differ: see the column `difference`.")


def demonstrate(services: "Services", start: datetime, end: datetime, *, contents: str) -> Outcome:
    """Loads, imports, ingests ``[start, end)`` and compares."""
    import asyncio  # noqa: PLC0415

    began = time.monotonic()
    say("Starting Dagster …")
    from metronome_pipeline.cli import local, runs, totals  # noqa: PLC0415
    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415

    settings = local.local_settings(services, start)
    if services.contents is None:
        loaded = local.load_flights(services, start, end)
        local.note_contents(services, contents)
        say(f"{loaded:,} flights of 16 airlines are in Metronome's emulator, each a usage event.")
    say(f"The emulators' limit on requests is off, so METRONOME_REQUESTS_PER_SECOND is {local.PACE} (8 by default).")
    before = _requests(services)
    with open_pair(settings) as opened, runs.runner(settings, Path(services.folder) / "dagster", _indented) as runner:
        if opened.pair.deduplication == "unknown":
            proof = asyncio.run(runs.prove_deduplication(opened))
            say(f"Deduplication by reference: {proof.found}. {proof.because}")
        sent_before = _requests(services)[2]
        say("Importing customers, meters and products …")
        run_ids = [runner.run("import_everything")]
        say(f"Ingesting usage from {start:%Y-%m-%d} to {end:%Y-%m-%d}, 00:00 UTC, one run over a range of partitions …")
        last = end - timedelta(hours=1)
        hours = {runs.RANGE_START: start.strftime(_PARTITION), runs.RANGE_END: last.strftime(_PARTITION)}
        run_ids.append(runner.run("ingest_usage", hours))
        with opened.database.transaction() as connection:
            comparison = totals.compare(services, connection, opened.pair.pair_id, start, end)
        events = _events_of(opened, run_ids)
    after = _requests(services)
    return Outcome(
        comparison, events, after[2] - sent_before, after[0] - before[0], after[1] - before[1], time.monotonic() - began
    )


def _month(text: str) -> tuple[datetime, datetime]:
    try:
        start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise WrongUse(f"--month is {text!r}: write it as 2013-01.") from None
    if start.year != 2013:
        raise WrongUse(f"--month is {text!r}: the flights are of 2013, so choose 2013-01 to 2013-12.")
    return start, (start + timedelta(days=31)).replace(day=1)


@contextmanager
def _kept(folder: Path, running: "Services | None") -> "Iterator[Services]":
    """Services that stay when all goes well; what a failed first start leaves is put away."""
    from metronome_pipeline.cli import local  # noqa: PLC0415

    if running is not None:
        say("Using the services that the last `demo --keep` left running.")
        yield running
        return
    services, _ = local.start(folder, stay=True)
    try:
        yield services
    except BaseException:
        with uninterrupted():
            local.stop(services)
        raise


def _stop(kept: "Services | None") -> None:
    from metronome_pipeline.cli import local  # noqa: PLC0415

    if kept is None:
        say("No services of a demo are running.")
        return
    with uninterrupted():
        local.stop(kept)
    say("The demo's services are stopped, and its data is removed.")


def _requests(services: "Services") -> tuple[int, int, int]:
    """Requests so far, by the emulators' own count: to Metronome, to Solvimon, and batches of events among these."""
    metronome = services.metronome.call("GET", "requests")
    solvimon = services.solvimon.call("GET", "requests")
    batches = sum(solvimon["by_endpoint"].get("POST /v1/events/ingest-batch", {}).values())
    return metronome["total"], solvimon["total"], batches


def _events_of(opened: "OpenPair", run_ids: list[str]) -> int:
    """Events that runs have sent: those that they wrote receipts of."""
    with opened.database.transaction() as connection:
        row = connection.execute(
            "SELECT count(DISTINCT event_id) FROM ledger.receipts WHERE run_id = ANY (%s)", [run_ids]
        ).fetchone()
    assert row is not None
    return int(row[0])


def _indented(text: str) -> None:
    say(f"  {text}")


def _show(month: str, outcome: Outcome) -> None:
    from metronome_pipeline.cli.totals import COLUMNS  # noqa: PLC0415

    lines = [line.cells() for line in (*outcome.comparison.lines, *outcome.comparison.totals)]
    show_table(f"Usage of {month}", COLUMNS, lines, last=len(outcome.comparison.totals))
    differing = sum(not line.agrees for line in (*outcome.comparison.lines, *outcome.comparison.totals))
    verdict = f"{differing} lines differ" if differing else "Every difference is 0"
    click.echo(
        f"{verdict}. {outcome.events:,} events sent in {outcome.batches:,} batches; "
        f"{outcome.metronome_requests:,} requests to Metronome, {outcome.solvimon_requests:,} to Solvimon; "
        f"{outcome.seconds:.1f} seconds."
    )


def _tell_kept(services: "Services") -> None:
    say(
        f"Kept running: Metronome {services.metronome_url} (token sandbox-token), Solvimon {services.solvimon_url} "
        f"(key sandbox-key), Postgres {services.postgres_url}"
    )
    say("Run `metronome-pipeline demo --keep` again and nothing is sent; `metronome-pipeline demo --stop` ends them.")
