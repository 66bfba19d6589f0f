"""The disk full under Postgres, in the midst of a run: a real file system of its own, filled to the last byte.

Mounting one takes a user who may, and is done in a mount namespace of its own, which goes with its processes: the scene
plays in a process that ``unshare`` starts. Elsewhere it is skipped by name; no trigger or quota stands in for a disk.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from metronome_pipeline_tests.chaos import servers
from metronome_pipeline_tests.chaos.scenes import MOMENTS, Outcome, Stage, until

_MEGABYTES = 640


def disk_full(stage: Stage, outcome: Outcome) -> None:
    """Plays the scene where it can be played."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        outcome.skipped = True
        outcome.tell("To mount a small file system takes root on Linux.")
        return
    folder = stage.folder / "disk"
    folder.mkdir()
    unshare = ("unshare", "--mount", "--propagation", "private")
    command = (*unshare, sys.executable, "-m", __name__, str(folder), str(stage.seed))
    played = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if played.returncode != 0:
        outcome.skipped = "mount" in played.stderr
        if not outcome.skipped:
            outcome.red.append(f"The scene broke off: {played.stderr[-1_000:]}")
        outcome.tell("This machine lets nobody mount a file system." if outcome.skipped else "It broke off.")
        return
    shown = json.loads(played.stdout)
    for name in ("story", "runs", "lost", "doubled", "red"):
        setattr(outcome, name, shown[name])


def _play(folder: Path, seed: int) -> Outcome:
    outcome = Outcome("disk full")
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m", "tmpfs", str(folder)), check=True)
    with (
        servers.folder() as elsewhere,
        servers.postgres(folder / "pg") as postgres,
        servers.sandboxes() as sandboxes,
    ):
        stage, ballast = Stage(postgres, sandboxes, elsewhere, seed), folder / "ballast"
        failed = crashed = down = 0
        for deduplicated in (True, False):
            account = stage.account(deduplicated=deduplicated)
            outcome.settle(account)
            for reached in MOMENTS.values():
                account.change()
                run = until(account, reached, outcome)
                _fill(ballast)
                if deduplicated:
                    crashed += postgres.use_up_its_log()
                failed += outcome.ended(run) is not None
                # More that is to be written, by another run, so that what was kept in reserve is used up as well.
                account.use(400)
                failed += outcome.ended(account.start()) is not None
                ballast.unlink()
                down += postgres.start_again()
                outcome.settle(account)
        outcome.tell(
            f"{4 * len(MOMENTS)} runs on a full disk, {failed} failed; Postgres crashed {crashed} times and was down "
            f"after {down} of them."
        )
    return outcome


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_play(Path(sys.argv[1]), int(sys.argv[2])))))
