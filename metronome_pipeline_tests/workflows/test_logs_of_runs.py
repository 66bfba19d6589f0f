"""What a run logs: its story in a dozen lines, however long its range. (What its requests log: ``test_http.py``.)"""

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg

from metronome_pipeline.clock import Clock, Pauses
from metronome_pipeline.ledger import waiting
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.shelf import ReadReport
from metronome_pipeline.workflows.due import RefusedMetric
from metronome_pipeline.workflows.reports import Progress, time_in_words, warn_of_refused
from metronome_pipeline_tests.world import START, World, failure

WEEK = 168


@dataclass
class Time:
    """A clock of the test's own."""

    seconds: float = 0.0
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(monotonic=lambda: self.seconds)


def told(world: World, result: dg.ExecuteInProcessResult) -> list[str]:
    """The lines of ours that Dagster shows of a run."""
    entries = world.instance.all_logs(result.run_id)
    return [entry.user_message for entry in entries if entry.dagster_event is None and int(entry.level) >= logging.INFO]


def test_a_long_range_is_told_in_a_line_a_week(world: World) -> None:
    world.at(START + timedelta(days=20))
    customers = [world.customer(name) for name in ("Acme", "Globex", "Initech")]
    metrics = [world.metric("SUM", "Calls"), world.metric("MAX", "Peak")]
    for customer in customers:
        for metric in metrics:
            world.use_hours(customer, metric, {hour: hour % 7 + 1 for hour in range(0, WEEK + 1, 12)})
    world.metric("LATEST", "Seats")
    world.imports()
    result = world.ingest(0, WEEK)
    assert result.success, failure(result)
    warning, start, *weeks = told(world, result)
    assert warning.startswith("Usage of metric Seats (")
    assert start == (
        "Usage of 3 customers and 2 metrics, 2026-01-05 00:00 to 2026-01-12 01:00 UTC: about 12 requests to Metronome, "
        "0 s at the set pace."
    )
    assert len(weeks) == 2
    assert weeks[0].startswith("2026-01-05 00:00 to 2026-01-12 00:00 UTC: 6 pairs read, 84 rows; planned 84 usage;")
    assert "delivered 84, quarantined 0." in weeks[0]


def test_what_earlier_runs_left_is_told_in_a_line_of_its_own(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 0, 5)
    world.solvimon.set(refuse_reference=[f"{customer}_{metric}_20260105T000000Z_20260105T010000Z_total"])
    assert world.ingest(0, 3).success
    world.solvimon.set(refuse_reference=[])
    with psycopg.connect(world.database_url) as connection:
        waiting.retry(connection, 1, None, run_id="by hand", by="Ana", reason="mended")
    lines = told(world, world.ingest(4, 7))
    assert "Left by earlier runs: delivered 1, quarantined 0, deleted 0." in lines
    assert not [line for line in told(world, world.ingest(4, 7)) if "earlier runs" in line]


def test_progress_is_told_less_and_less_often() -> None:
    time = Time()
    pauses = Pauses(time.clock)
    said: list[float] = []
    while time.seconds < 3_600:
        time.seconds += 1
        if pauses.are_over():
            said.append(time.seconds)
    assert said == [30, 90, 210, 450, 930, 1530, 2130, 2730, 3330]


def test_an_hour_of_reading_tells_how_far_it_is_and_how_long_it_will_take() -> None:
    time, said = Time(), list[str]()
    progress = Progress(said.append, time.clock, 28_800)
    for hours in (0, WEEK):
        window = Window(START + timedelta(hours=hours), START + timedelta(hours=hours + WEEK))
        for pairs in range(0, 28_800, 8):
            progress(window, ReadReport(pairs=pairs))
            time.seconds += 1
    assert len(said) < 18
    assert said[0] == "2026-01-05 00:00 to 2026-01-12 00:00 UTC: 240 of 28,800 pairs read, about 59 min 30 s to go."


def test_of_many_refused_metrics_the_first_few_are_named() -> None:
    warned: list[str] = []

    class Context:
        class log:  # noqa: N801
            warning = warned.append

    context: Any = Context
    warn_of_refused(context, [RefusedMetric(str(n), f"Metric {n}", "No calculation.") for n in range(500)], "sent")
    assert len(warned) == 6
    assert warned[-1] == ("The same holds for 495 other metrics: the check every_metric_is_billed lists all of them.")
    del warned[:]
    warn_of_refused(context, [RefusedMetric("1", "Seats", "No calculation.")], "sent")
    assert len(warned) == 1


def test_times_are_told_as_people_do() -> None:
    assert [time_in_words(seconds) for seconds in (0.2, 59, 61, 3_600)] == ["0 s", "59 s", "1 min 1 s", "1 h 0 min"]
