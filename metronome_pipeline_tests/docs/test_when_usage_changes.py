"""The example in README's chapter on usage that changes: each row of its table is replayed, through real runs."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.world import START, World, failure, partition

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
HOUR = 13


def _rows() -> list[list[str]]:
    """The cells of the example: when, what happens, Metronome's number, who finds it, what is sent, Solvimon's."""
    table = README[README.index("| 2026, UTC |") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def _number(text: str) -> Decimal:
    return Decimal(text.replace("\N{MINUS SIGN}", "-").replace("+", ""))


def _look(world: World, found_by: str, moment: datetime) -> None:
    """What the schedules would start at a moment."""
    if "sweep" in found_by:
        assert world.run("sweep_usage").success
        _correct(world)
        return
    newest = int((moment - START - timedelta(minutes=15)) / timedelta(hours=1)) - 1
    result = world.ingest(newest, newest, config={"look_back_days": 8, "fill_gaps": True})
    assert result.success, failure(result)


def _correct(world: World) -> None:
    definitions = world.definitions()
    with dg.build_sensor_context(instance=world.instance, resources=definitions.resources) as context:
        tick = definitions.resolve_sensor_def("sweep_findings").evaluate_tick(context)
    for request in tick.run_requests or []:
        assert request.job_name is not None
        result = world.run(request.job_name, config=request.run_config, tags=request.tags)
        assert result.success, failure(result)


def test_the_example_of_the_readme_holds(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    world.at(START)
    customer, metric = world.customer(), world.metric("SUM")
    world.imported()
    said, counted, sent = Decimal(0), Decimal(0), 0
    for when, _, metronome, found_by, event, solvimon in _rows():
        moment = datetime.strptime(f"2026 {when}", "%Y %d %B, %H:%M").replace(tzinfo=UTC)
        world.at(moment)
        if _number(metronome) != said:
            world.use(customer, metric, HOUR, _number(metronome) - said)
            said = _number(metronome)
        if "you" in found_by:
            # The account has no other customer, so that the decrease is one of the metric altogether as well.
            for (digest,) in world.sql("SELECT digest FROM ledger.brakes WHERE released_at IS NULL"):
                assert command("brake", "release", digest, env=variables(world)).status == 0
        _look(world, found_by, moment)

        counted = _number(solvimon)
        assert world.counted(customer, metric) == {HOUR: counted}, when
        delivered = [number for _, _, number, state in world.events() if state == "delivered"]
        new = delivered[sent:]
        sent = len(delivered)
        told = re.match("[+\N{MINUS SIGN}]?[0-9]+", event)
        assert new == ([_number(told[0])] if told else []), when
        late = world.sql("SELECT count(*) FROM ledger.late_v1")
        assert (late != [(0,)]) == ("late" in event), when
    assert partition(HOUR) == "2026-01-05-13:00"
    assert said == counted
