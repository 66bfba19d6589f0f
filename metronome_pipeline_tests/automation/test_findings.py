"""The sensor of findings and the schedules of sweeps: evaluated ticks. What their runs do is in ``test_sweep.py``."""

from datetime import datetime, timedelta

import dagster as dg

from metronome_pipeline_tests.world import START, World, partition


def found(world: World, *, run_id: str = "gone", slicing: str = "ungrouped", hour: int = 30) -> None:
    """A finished sweep with one finding."""
    world.metric("SUM")
    world.imported()
    world.sql(
        "INSERT INTO ledger.sweeps (pair_id, kind, start_at, end_at, ended_at, outcome, run_id) "
        "SELECT pair_id, 'usage', %s, %s, now(), 'complete', %s FROM ledger.account_pairs",
        START,
        START + timedelta(days=1),
        run_id,
    )
    start = START + timedelta(hours=hour)
    world.sql(
        "INSERT INTO ledger.findings (pair_id, sweep_id, customer_id, metric_id, slicing, from_at, to_at, hours) "
        "SELECT pair_id, sweep_id, gen_random_uuid(), gen_random_uuid(), %s, start_at, end_at, "
        "tstzmultirange(tstzrange(%s, %s)) FROM ledger.sweeps",
        slicing,
        start,
        start + timedelta(hours=2),
    )


def answer(world: World) -> tuple[list[dg.RunRequest], str | None]:
    definitions = world.definitions()
    sensor = definitions.resolve_sensor_def("sweep_findings")
    with dg.build_sensor_context(instance=world.instance, resources=definitions.resources) as context:
        ticked = sensor.evaluate_tick(context)
    return list(ticked.run_requests or []), ticked.skip_message


def test_nothing_is_requested_where_nothing_was_found_and_metronome_is_not_asked(world: World) -> None:
    assert answer(world) == ([], "Nothing to correct: no sweep has an open finding.")
    assert world.metronome.requests() == {}


def test_a_run_is_requested_for_what_a_sweep_found_under_a_key_with_the_attempt(world: World) -> None:
    found(world)
    world.metronome.forget_requests()
    (request,), _ = answer(world)
    assert (request.job_name, request.run_key) == ("correct_usage", "correct_usage of sweep 1, attempt 1")
    assert request.run_config == {"ops": {"usage": {"config": {"sweep": 1}}}}
    assert request.tags["because"] == "2 hours of 1 customers differ"
    assert request.tags["dagster/partition"] == partition(30)
    assert world.metronome.requests() == {}


def test_findings_with_properties_are_the_other_workflows(world: World) -> None:
    found(world, slicing='["region"]')
    (request,), _ = answer(world)
    assert request.job_name == "correct_grouped_usage"
    assert request.run_config == {"ops": {"grouped_usage": {"config": {"sweep": 1}}}}


def test_nothing_is_requested_while_the_sweep_or_its_correction_is_under_way(world: World) -> None:
    definitions = world.definitions()
    sweep, correction = map(definitions.resolve_job_def, ("sweep_usage", "correct_usage"))
    sweeping = world.instance.create_run_for_job(sweep, status=dg.DagsterRunStatus.STARTED)
    found(world, run_id=sweeping.run_id)
    requests, reason = answer(world)
    assert requests == []
    assert f"still under way, in run {sweeping.run_id}" in str(reason)
    world.instance.report_run_canceled(sweeping)
    (request,), _ = answer(world)

    running = world.instance.create_run_for_job(correction, status=dg.DagsterRunStatus.STARTED, tags=request.tags)
    requests, reason = answer(world)
    assert requests == []
    assert f"Run {running.run_id} is planning what sweep 1 found" in str(reason)
    world.instance.report_run_failed(running)
    requests, reason = answer(world)
    assert requests == []
    assert f"Run {running.run_id} failed less than 15 minutes ago" in str(reason)


def due(world: World, name: str, at: datetime) -> bool:
    definitions = world.definitions()
    schedule = definitions.resolve_schedule_def(name)
    with dg.build_schedule_context(
        instance=world.instance, scheduled_execution_time=at, resources=definitions.resources
    ) as context:
        return bool(schedule.evaluate_tick(context).run_requests)


def test_sweeps_are_requested_when_the_last_complete_one_is_old_enough(world: World) -> None:
    at = START + timedelta(days=40, hours=3, minutes=10)
    schedules = {
        "daily_sweep_usage": ("usage", timedelta(days=1)),
        "weekly_sweep_usage_by_hour": ("usage_by_hour", timedelta(days=7)),
        "monthly_sweep_closed_periods": ("closed_periods", timedelta(days=30)),
    }
    world.imported()
    for schedule, (kind, every) in schedules.items():
        assert due(world, schedule, at), "there was none yet"
        world.sql(
            "INSERT INTO ledger.sweeps (pair_id, kind, start_at, end_at, began_at, ended_at, outcome, run_id) "
            "SELECT pair_id, %s, %s, %s, %s, %s, 'complete', 'a run' FROM ledger.account_pairs",
            kind,
            START,
            START + timedelta(days=40),
            at + timedelta(seconds=40),
            at + timedelta(hours=2),
        )
        assert not due(world, schedule, at + every - timedelta(hours=6))
        assert due(world, schedule, at + every), "although it began a little after its tick"
        world.sql("UPDATE ledger.sweeps SET outcome = 'incomplete' WHERE kind = %s", kind)
        assert due(world, schedule, at + timedelta(hours=6)), "one that was cut short is resumed soon"
