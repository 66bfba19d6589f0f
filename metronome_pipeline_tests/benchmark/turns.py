"""``python -m metronome_pipeline_tests.benchmark.turns``: more pairs than an hour's budget can read, hour by hour.

The choice, the readings and the plans of production on a real Postgres, on a simulated clock; nothing over HTTP. It
shows how long anybody waits, and what choosing and planning cost. Not here: what must hold in any case, which is tested
(``metronome_pipeline_tests/ledger/test_rotation.py``).
"""

import resource
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import click

from metronome_pipeline.cli.terminal import say, show_table
from metronome_pipeline.storage.embedded import embedded_postgres
from metronome_pipeline_tests.ledger.books import open_books
from metronome_pipeline_tests.ledger.rotating import Account, Tick, account

_HOUR = timedelta(hours=1)
_COLUMNS = (
    "hour", "active", "read", "waiting", "longest wait, h", "cycle, h", "events", "latest, h", "choice, s", "plan, s",
)  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--customers", type=int, default=10_000, show_default=True)
@click.option("--metrics", type=int, default=10, show_default=True)
@click.option("--active", type=float, default=0.05, show_default=True, help="The share of pairs with usage each hour.")
@click.option("--requests", type=int, default=17_280, show_default=True, help="Requests that a run may take.")
@click.option("--hours", type=int, default=30, show_default=True, help="Ticks.")
@click.option("--first", type=int, default=0, show_default=True, help="Hours since the cut-over at the first tick.")
def main(customers: int, metrics: int, active: float, requests: int, hours: int, first: int) -> None:
    """Run so many ticks. At the twelfth one idle pair in a hundred wakes up and has usage from then on."""
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as home:
        server = embedded_postgres(Path(home), fast_commits=True)
        try:
            with open_books(server.url) as books:
                made = account(
                    books.connection,
                    books.pair_id,
                    customers=customers,
                    metrics=metrics,
                    active=active,
                    requests=requests,
                )
                ticks = [_tick(made, hour, wakes=hour == first + 12) for hour in range(first, first + hours)]
                owed = sum(made.owed(first + hours - 1).values())
        finally:
            server.stop()
    title = f"{customers * metrics:,} pairs, {active:.0%} of them active, {requests:,} requests an hour"
    show_table(title, _COLUMNS, [_row(tick) for tick in ticks])
    click.echo(
        f"{owed:,} hours of usage not delivered at the end, which wait for their pair's turn. Peak "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB, the simulated answers among them."
    )


def _tick(made: Account, hour: int, *, wakes: bool) -> Tick:
    if wakes:
        idle = [pair for pair in made.pairs if pair not in made.begins]
        made.begins.update(dict.fromkeys(idle[::100], hour))
    began = time.perf_counter()
    tick = made.tick(hour)
    say(f"Hour {hour}: {time.perf_counter() - began:.1f} s")
    return tick


def _row(tick: Tick) -> tuple[object, ...]:
    turns = tick.turns
    return (
        tick.hour,
        f"{turns.active:,}",
        f"{turns.chosen:,}",
        f"{turns.waiting:,}",
        f"{turns.longest / _HOUR:g}",
        f"{turns.cycle / _HOUR:.1f}",
        f"{tick.planned:,}",
        max(tick.late, default=0),
        f"{tick.choice_seconds:.1f}",
        f"{tick.plan_seconds:.1f}",
    )


if __name__ == "__main__":
    main()
