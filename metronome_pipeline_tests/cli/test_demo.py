"""The demonstration itself, on two days of flights: real Postgres, real runs, emulators in a process of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from metronome_pipeline.cli import demo, dev, local
from metronome_pipeline.cli.local import Control, Services
from metronome_pipeline.cli.totals import Line, comparison
from metronome_pipeline.sandbox import flights
from metronome_pipeline_tests.cli.commands import Command, command

START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 3, tzinfo=UTC)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of the test's own. Not tmp_path: a Unix socket's path is short."""
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    yield folder
    kept = local.kept_services(folder / "demo")
    if kept is not None:
        local.stop(kept)
    shutil.rmtree(folder, ignore_errors=True)


def test_kept_services_are_used_again_without_an_event_and_a_lost_event_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_month", lambda _: (START, END))

    def run(*arguments: str) -> Command:
        return command("demo", *arguments, env={"METRONOME_PIPELINE_HOME": str(home), "METRONOME_BASE_URL": "nonsense"})

    first = run("--keep")
    assert first.status == 0, first.err
    count = f"{sum(1 for _ in flights.flights(START, END)):,}"
    assert f"all customers Scheduled departures COUNT {count} {count} {count} 0" in first.out
    assert "Every difference is 0" in first.out
    assert "Deduplication by reference: proved" in first.err

    state = json.loads((home / "demo" / "services.json").read_text())
    second = run("--keep")
    assert second.status == 0, second.err
    assert " 0 events sent in 0 batches" in second.out
    assert json.loads((home / "demo" / "services.json").read_text()) == state

    assert "add --keep" in run().err
    _lose_an_event(Services(**state).solvimon)
    third = run("--keep")
    assert third.status == 1
    assert "2 lines differ" in third.out

    assert run("--stop").status == 0
    assert not (home / "demo").exists()
    assert not psutil.pid_exists(state["pid"])
    assert "No services" in run("--stop").err


def _lose_an_event(solvimon: Control) -> None:
    events = solvimon.call("GET", "events")["events"]
    departures = next(
        event
        for event in events
        if event["counts"] and event["meter_reference"] == flights.stable_id("metric", "Scheduled departures")
    )
    solvimon.call("POST", "events/delete-by-hand", {"id": departures["id"]})


def test_a_stopped_demo_leaves_nothing_behind(home: Path) -> None:
    environment = {**os.environ, "METRONOME_PIPELINE_HOME": str(home)}
    arguments = (sys.executable, "-m", "metronome_pipeline.cli", "demo")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment, cwd=home) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "flights of 16 airlines" in line:
                break
        state = json.loads((home / "demo" / "services.json").read_text())
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert "Stopped." in rest
    assert "Traceback" not in rest
    assert not (home / "demo").exists()
    assert not psutil.pid_exists(state["pid"])


def test_a_folder_with_files_of_somebody_else_is_left_alone(home: Path) -> None:
    (home / "demo").mkdir()
    (home / "demo" / "thesis.txt").write_text("mine")
    done = command("demo", env={"METRONOME_PIPELINE_HOME": str(home)})
    assert done.status == 1
    assert "has not made" in done.err
    assert (home / "demo" / "thesis.txt").read_text() == "mine"


def test_two_demos_in_one_folder_do_not_meet(home: Path) -> None:
    with local.only_one(home / "demo"):
        done = command("demo", env={"METRONOME_PIPELINE_HOME": str(home)})
    assert done.status == 2
    assert "Another command is using" in done.err


def test_no_setting_of_the_user_reaches_the_processes_of_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLVIMON_LIVE", "true")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://production")
    services = Services("/nowhere", "http://127.0.0.1:1", "http://127.0.0.1:2", 1, 1.0)
    environment = dev._environment(local.local_variables(services, START), Path("/nowhere"))
    assert environment["SOLVIMON_LIVE"] == ""
    assert environment["DAGSTER_POSTGRES_URL"] == ""
    assert environment["SOLVIMON_BASE_URL"] == "http://127.0.0.1:2"
    assert environment["METRONOME_PIPELINE_HOME"] == "/nowhere"


def test_a_missing_maximum_is_no_zero() -> None:
    names, metrics = {"c": "Acme"}, {"m": ("Peak", "MAX"), "s": ("Calls", "SUM")}
    keys = {("c", "m"): Decimal(0), ("c", "s"): Decimal(0)}
    compared = comparison(keys, keys, {}, names, metrics)
    assert [(line.metric, line.difference) for line in compared.lines] == [("Calls", Decimal(0)), ("Peak", None)]
    assert not compared.agrees


def test_the_difference_is_exact_and_counts_the_ledger_too() -> None:
    great = Decimal("123456789012345678901234567890.000000000001")
    line = Line("Acme", "Calls", "SUM", great, Decimal(123456789012345678901234567890), great)
    assert line.difference == Decimal("0.000000000001")
    assert not line.agrees
