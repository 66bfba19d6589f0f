"""``python -m metronome_pipeline_tests.chaos``: the kills, then the scenes, and a table of what they have shown."""

import sys
import time
from collections.abc import Mapping, Sequence

import click

from metronome_pipeline.cli.terminal import say, show_table
from metronome_pipeline_tests.chaos import daemon, full_disk, scenes, servers
from metronome_pipeline_tests.chaos.kills import Lanes, Tally
from metronome_pipeline_tests.chaos.scenes import Outcome, Scene, Stage
from metronome_pipeline_tests.chaos.watching import PHASES

SCENES: Mapping[str, Scene] = {
    "Postgres restarted": scenes.postgres_restarted,
    "two runs of the same hours": scenes.started_together,
    "one id sent 10,000 times": scenes.one_id_sent_often,
    "both APIs gone for a minute": scenes.gone_for_a_minute,
    "both APIs gone while reading": scenes.gone_while_reading,
    "both APIs standing still": scenes.standing_still,
    "disk full": full_disk.disk_full,
    "daemon killed": daemon.daemon_killed,
    "all of Dagster killed": daemon.all_of_dagster_killed,
}
_SHOWN = 20


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kills", type=click.IntRange(min=0), default=200, show_default=True, help="How many runs to kill.")
@click.option("--seed", type=int, default=1, show_default=True, help="Draws accounts, changes and moments.")
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="Worlds at a time.")
@click.option("--scene", "chosen", multiple=True, type=click.Choice(list(SCENES)), help="Only these.  [default: all]")
def main(kills: int, seed: int, processes: int, chosen: Sequence[str]) -> None:
    """Kills real runs, and does worse to what is around them. Exit status 1: something was lost or doubled."""
    began = time.monotonic()
    tally, outcomes = Tally(), []
    with servers.folder() as folder, servers.postgres(folder / "pg") as postgres, servers.sandboxes() as sandboxes:
        if kills:
            say(f"Killing {kills} runs, {processes} worlds at a time. Seed {seed}.")
            urls = sandboxes.metronome, sandboxes.solvimon
            tally = Lanes(postgres, urls, folder, seed, kills, _progress(kills)).run(processes)
        stage = Stage(postgres, sandboxes, folder, seed)
        for name in chosen or SCENES:
            outcomes.append(_play(name, stage))
            say(f"{name}: {outcomes[-1].story} {'RED' if outcomes[-1].red else ''}")
    _report(tally, outcomes)
    red = [*tally.red, *(sentence for outcome in outcomes for sentence in outcome.red)]
    say(f"{len(red)} things are wrong." if red else f"Nothing is wrong. {time.monotonic() - began:.0f} s.")
    for sentence in red[:_SHOWN]:
        say(f"  {sentence}")
    if red:
        words = [f"--kills {kills}", f"--seed {seed}", f"--processes {processes}"]
        words += [f'--scene "{name}"' for name in chosen]
        say(f"Again: python -m metronome_pipeline_tests.chaos {' '.join(words)}")
    sys.exit(bool(red))


def _play(name: str, stage: Stage) -> Outcome:
    outcome, began = Outcome(name), time.monotonic()
    try:
        SCENES[name](stage, outcome)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other scenes go on
        outcome.red.append(f"The scene broke off: {type(error).__name__}: {error}")
    outcome.seconds = time.monotonic() - began
    return outcome


class _progress:  # noqa: N801 - a function that remembers
    """One line for ten kills."""

    def __init__(self, kills: int) -> None:
        self._kills = kills
        self._began = time.monotonic()

    def __call__(self, tally: Tally) -> None:
        elapsed = time.monotonic() - self._began
        say(
            f"{tally.kills.total():>4} of {self._kills} kills, {tally.runs} runs, {tally.lost} lost, "
            f"{tally.doubled} doubled, {elapsed:.0f} s"
        )


def _report(tally: Tally, outcomes: Sequence[Outcome]) -> None:
    if tally.kills:
        rows = [(phase, str(tally.kills[phase])) for phase in PHASES]
        show_table("Runs killed while", ("what they were at", "kills"), rows)
        say(
            f"{tally.kills.total()} kills, {tally.runs} runs, {tally.lost} lost, {tally.doubled} doubled, "
            f"{tally.seconds:.0f} s. {tally.in_doubt} events were left in doubt. Where nothing is deduplicated, "
            f"{tally.looked_up} of them were looked up before anything was sent again."
        )
    shown = [
        (
            outcome.scene,
            str(outcome.runs),
            "skipped" if outcome.skipped else str(outcome.lost),
            "skipped" if outcome.skipped else str(outcome.doubled),
            f"{outcome.seconds:.0f} s",
            outcome.story,
        )
        for outcome in outcomes
    ]
    show_table("Scenes", ("scene", "runs", "lost", "doubled", "time", "how it went"), shown)


if __name__ == "__main__":
    main()
