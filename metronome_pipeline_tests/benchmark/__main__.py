"""``python -m metronome_pipeline_tests.benchmark``: the contestants side by side, and a table of medians."""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click
import httpx
import psutil
import psycopg

from metronome_pipeline.cli.terminal import say, show_table
from metronome_pipeline.storage.embedded import EmbeddedPostgres, embedded_postgres
from metronome_pipeline_tests.benchmark.contestants.setting import Setting, told
from metronome_pipeline_tests.benchmark.workload import WORKLOADS

CONTESTANTS = ("raw", "posting", "metronome_sdk", "with_dlt", "core", "with_dagster", "four_cores")
USUAL = CONTESTANTS[:-1]
READING_ONLY = frozenset({"metronome_sdk"})
UNGROUPED_ONLY = frozenset({"raw", "posting", "metronome_sdk", "with_dlt"})
_ONLY = {"metronome_sdk": " (reading only)", "posting": " (posting only)"}
_PACKAGES = ("metronome-pipeline", "dagster", "dlt", "metronome-sdk", "httpx", "aiohttp", "msgspec", "psycopg")


@dataclass(frozen=True)
class Lap:
    """One contestant's run. ``emulator_seconds``, ``postgres_seconds``: CPU of the others, which share the machine."""

    contestant: str
    workload: str
    latency: float
    seconds: float
    cpu_seconds: float
    peak_megabytes: float
    emulator_seconds: float
    postgres_seconds: float
    requests: int
    read_requests: int
    limited: int


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--workload", "workloads", multiple=True, type=click.Choice(list(WORKLOADS)), default=("S",), show_default=True
)
@click.option(
    "--contestant", "contestants", multiple=True, type=click.Choice(CONTESTANTS), default=USUAL, show_default=True
)
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Laps of each, alternating.")
@click.option(
    "--latency", "latencies", multiple=True, type=float, default=(0.0,), show_default=True, help="Milliseconds."
)
@click.option(
    "--per-second", type=float, default=0.0, help="Metronome's limit: a bucket of so many, refilled at so many."
)
@click.option("--json", "as_json", is_flag=True, help="Every lap, for machines.")
def main(
    workloads: Sequence[str],
    contestants: Sequence[str],
    rounds: int,
    latencies: Sequence[float],
    per_second: float,
    as_json: bool,
) -> None:
    """Measure this project and what people would use instead, on one emulator, with nothing else on the machine.

    A lap that lost, doubled or rounded anything is no result: it ends the benchmark.
    """
    laps: list[Lap] = []
    with _postgres() as server, _emulator() as (metronome, solvimon):
        for workload in workloads:
            for latency in latencies:
                for lap in range(rounds):
                    for contestant in contestants:
                        if WORKLOADS[workload].groups and contestant in UNGROUPED_ONLY:
                            continue
                        say(f"{workload}, {latency:g} ms, round {lap + 1} of {rounds}: {contestant} …")
                        setting = Setting(metronome, solvimon, _database(server), workload, per_second)
                        before = _cpu_of_ended_backends(server)
                        done = _lap(contestant, setting, latency / 1000)
                        spent = _cpu_of_ended_backends(server) - before
                        laps.append(replace(done, postgres_seconds=spent))
    if as_json:
        facts = {"machine": platform.platform(), "python": platform.python_version(), "versions": _versions()}
        click.echo(json.dumps({**facts, "laps": [asdict(lap) for lap in laps]}, indent=2))
        return
    for workload in workloads:
        for latency in latencies:
            shown = [lap for lap in laps if (lap.workload, lap.latency) == (workload, latency / 1000)]
            _show(shown, workload, latency, per_second)
    click.echo(
        f"{platform.platform()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {number}" for name, number in _versions().items())
    )


def _lap(contestant: str, setting: Setting, latency: float) -> Lap:
    begin = {"workload": setting.workload_name, "latency": latency, "per_second": setting.per_second}
    before = httpx.post(f"{setting.solvimon}/_bench/begin", json=begin, timeout=300).json()
    module = f"{__package__}.contestants.{contestant}"
    done = subprocess.run([sys.executable, "-m", module, told(setting)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{contestant} failed: {done.stderr[-2000:]}")
    after = httpx.get(f"{setting.solvimon}/_bench/report", timeout=300).json()
    if contestant not in READING_ONLY and (
        after["wrong_pairs"] or after["doubled"] or after["events"] != setting.workload.rows
    ):
        raise click.ClickException(f"{contestant} did not deliver {setting.workload.rows:,} rows exactly: {after}")
    cost = json.loads(done.stdout.strip().splitlines()[-1])
    return Lap(
        contestant=contestant,
        workload=setting.workload_name,
        latency=latency,
        **cost,
        emulator_seconds=after["cpu_seconds"] - before["cpu_seconds"],
        postgres_seconds=0.0,
        requests=sum(after["requests"].values()),
        read_requests=sum(count for name, count in after["requests"].items() if "ingest" not in name),
        limited=after["limited"],
    )


def _show(laps: Sequence[Lap], workload: str, latency: float, per_second: float) -> None:
    work = WORKLOADS[workload]
    rows = []
    floor = median([lap.seconds for lap in laps if lap.contestant == "raw"] or [0.0])
    for contestant in dict.fromkeys(lap.contestant for lap in laps):
        own = [lap for lap in laps if lap.contestant == contestant]
        seconds = median(lap.seconds for lap in own)
        rows.append(
            (
                contestant + _ONLY.get(contestant, ""),
                f"{seconds:.2f}",
                f"{seconds / floor:.1f}" if floor else "",
                f"{median(lap.cpu_seconds for lap in own) / work.rows * 1e6:.1f}",
                f"{median(lap.postgres_seconds for lap in own):.2f}",
                f"{median(lap.emulator_seconds for lap in own):.2f}",
                f"{median(lap.peak_megabytes for lap in own):.0f}",
                max(lap.requests for lap in own),
                max(lap.limited for lap in own),
                # The bucket is full at first, so that many requests are free.
                f"{median((lap.read_requests - per_second) / lap.seconds for lap in own) / per_second:.1%}"
                if per_second
                else "",
            )
        )
    columns = (
        "",
        "seconds",
        "times raw",
        "CPU µs a row",
        "Postgres's CPU s",
        "emulator's CPU s",
        "peak MB",
        "requests",
        "429s",
        "budget",
    )
    show_table(f"{workload}: {work.rows:,} rows, {latency:g} ms, medians of {len(laps) // len(rows)}", columns, rows)


def _cpu_of_ended_backends(server: EmbeddedPostgres) -> float:
    """Seconds of CPU of every connection that has ended since the server started, from its parent's account."""
    with psycopg.connect(server.url) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        times = backend.parent().cpu_times()  # type: ignore[union-attr]
    return times.children_user + times.children_system


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


@contextmanager
def _postgres() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as home:
        server = embedded_postgres(Path(home))
        try:
            yield server
        finally:
            server.stop()


def _database(server: EmbeddedPostgres) -> str:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS lap WITH (FORCE)")
        connection.execute("CREATE DATABASE lap")
    return server.url.replace("/postgres?", "/lap?", 1)


@contextmanager
def _emulator() -> Iterator[tuple[str, str]]:
    command = [sys.executable, "-m", f"{__package__}.emulator"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            metronome, solvimon = process.stdout.readline().split()
            yield metronome, solvimon
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
