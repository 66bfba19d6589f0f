"""This project's core four times at once, each with a quarter of the customers: one pace and one ledger for all."""

import subprocess
import sys
from dataclasses import replace

from metronome_pipeline.storage.database import Database
from metronome_pipeline_tests.benchmark.contestants.setting import Mark, Setting, mark, run, told
from metronome_pipeline_tests.benchmark.imported import prepare

_PARTS = 4


def _main(setting: Setting) -> Mark:
    with Database(setting.database_url) as database:
        prepare(database, setting)
    began = mark()
    module = f"{__package__}.core"
    settings = [replace(setting, part=part, parts=_PARTS) for part in range(_PARTS)]
    running = [
        subprocess.Popen([sys.executable, "-m", module, told(each)], stdout=subprocess.DEVNULL) for each in settings
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("one of the four failed")
    return began


if __name__ == "__main__":
    run(_main)
