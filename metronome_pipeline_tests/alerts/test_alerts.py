"""Every kind of alert at a real receiver: raised by a real run, told once, and told once more when it is over."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from metronome_pipeline.alerts import telling
from metronome_pipeline_tests.alerts.receivers import hook, post
from metronome_pipeline_tests.alerts.watch import Watch, at_hour
from metronome_pipeline_tests.world import World, failure

FINAL = datetime(2026, 2, 1, 8, tzinfo=UTC)
"""January's invoices are final."""
_REFERENCE = "SELECT ledger.event_reference(%s, %s, %s, %s + interval '1 hour', 'total', 0)"


@pytest.fixture
def watch(world: World) -> Iterator[Watch]:
    """A world some minutes after the hours that ``ingest`` reads by default have closed."""
    world.at(at_hour(8.5))
    world.solvimon.set(match_all=True)
    with hook() as receiver:
        yield Watch(world, receiver)


def reference(world: World, customer: str, metric: str, hour: int) -> str:
    start = at_hour(hour)
    ((found,),) = world.sql(_REFERENCE, customer, metric, start, start)
    return str(found)


def billed(watch: Watch, **usage: int) -> tuple[str, str]:
    """A customer and a metric, imported, and eight hours ingested."""
    world = watch.world
    customer, metric = world.customer("Acme & <Söhne>"), world.metric(name="Calls")
    world.imported()
    world.use(customer, metric, 1, usage.get("first", 5))
    result = world.ingest()
    assert result.success, failure(result)
    return customer, metric


def test_all_is_well_is_not_told(watch: Watch) -> None:
    billed(watch)
    assert watch.tick() == "Open now: 0."
    assert watch.hook.bodies == []


def test_a_failed_run_is_told_once_and_over_when_its_job_succeeds(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    world.solvimon.faults({"path": "*", "kind": "status_403", "rate": 1})
    world.customer("New")
    failed = world.run("import_customers")
    assert not failed.success
    (subject,) = watch.told(DAGSTER_UI_URL="http://dagster.test")
    assert subject == f"Run failure: Run {failed.run_id[:8]} of import_customers failed."
    watch.silent()
    again = world.run("import_customers")
    assert not again.success
    watch.silent()
    world.at(at_hour(11))
    watch.silent(ALERT_REMIND_HOURS="3")
    world.at(at_hour(11.8))
    assert watch.told(ALERT_REMIND_HOURS="3") == [
        f"Still: Run failure: Run {again.run_id[:8]} of import_customers failed."
    ]
    world.solvimon.faults()
    assert world.run("import_everything").success
    assert watch.told() == [f"Over: Run failure: Run {again.run_id[:8]} of import_customers failed."]
    watch.silent()


def test_the_message_says_what_happened_to_which_record_and_what_to_do(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    world.solvimon.faults({"path": "*", "kind": "status_403", "rate": 1})
    world.customer("New")
    failed = world.run("import_customers")
    watch.tick(DAGSTER_UI_URL="http://dagster.test")
    (text,) = watch.hook.texts
    lines = text.splitlines()
    assert "Check SOLVIMON_API_KEY" in lines[1], "the run's own sentence"
    assert lines[2].startswith("To do: ")
    assert lines[3] == f"http://dagster.test/runs/{failed.run_id}"
    assert lines[4].startswith("Accounts: sandbox at 127.0.0.1:")
    for secret in (world.solvimon.headers["X-API-KEY"], world.metronome.headers["Authorization"]):
        assert secret not in text


def test_a_failed_range_is_over_when_its_hours_are_done_and_not_before(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    world.metronome.faults({"path": "/v1/usage", "kind": "status_403", "rate": 1})
    assert not world.ingest(2, 5).success
    world.metronome.faults()
    assert watch.told() == [f"Run failure: Run {latest(world)[:8]} of ingest_usage failed."]
    assert world.ingest(6, 7).success
    assert world.ingest(2, 4).success
    watch.silent()
    assert world.ingest(5, 7).success
    (subject,) = watch.told()
    assert subject.startswith("Over: Run failure: ")


def latest(world: World) -> str:
    return world.instance.get_runs(limit=1)[0].run_id


def test_a_run_that_dagster_starts_again_by_itself_is_not_told(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    world.solvimon.faults({"path": "*", "kind": "status_403", "rate": 1})
    world.customer("New")
    assert not world.run("import_customers").success
    world.instance.add_run_tags(latest(world), {"dagster/will_retry": "true"})
    watch.silent()
    world.instance.add_run_tags(latest(world), {"dagster/will_retry": "false"})
    assert len(watch.told()) == 1


def test_a_run_of_another_code_location_is_not_told(watch: Watch) -> None:
    from metronome_pipeline.alerts.here import Here  # noqa: PLC0415
    from metronome_pipeline.alerts.of_dagster import failed_runs  # noqa: PLC0415

    world = watch.world
    world.imported()
    world.solvimon.faults({"path": "*", "kind": "status_403", "rate": 1})
    world.customer("New")
    tags = {".dagster/repository": "__repository__@other"}
    assert not world.run("import_customers", tags=tags).success
    now = datetime.now(UTC)
    assert list(failed_runs(Here(world.instance, world.settings(), "ours"), now)) == []
    assert len(list(failed_runs(Here(world.instance, world.settings(), "other"), now))) == 1


def test_a_red_check_is_told_once_and_over_when_it_is_green(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    metric = world.metric("UNIQUE", name="Seats")
    world.imported()
    assert world.ingest().success
    assert watch.told() == ["Red check: Every metric is billed: not so for metronome/usage."]
    assert world.ingest().success
    watch.silent()
    calculations = f'{{"{metric}": "MAX"}}'
    world.imported(METRIC_CALCULATIONS=calculations)
    assert world.ingest(METRIC_CALCULATIONS=calculations).success
    assert watch.told() == ["Over: Red check: Every metric is billed: not so for metronome/usage."]
    watch.silent()


def test_a_check_that_is_being_evaluated_keeps_its_colour(watch: Watch) -> None:
    import dagster as dg  # noqa: PLC0415
    from dagster._core.definitions.asset_checks.asset_check_evaluation import (  # noqa: PLC0415
        AssetCheckEvaluationPlanned,
    )
    from dagster._core.events import DagsterEvent, DagsterEventType  # noqa: PLC0415

    world = watch.world
    billed(watch)
    world.metric("UNIQUE", name="Seats")
    world.imported()
    assert world.ingest().success
    assert len(watch.told()) == 1
    run = world.instance.create_run_for_job(world.definitions().resolve_job_def("ingest_usage"))
    planned = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        job_name="ingest_usage",
        event_specific_data=AssetCheckEvaluationPlanned(
            asset_key=dg.AssetKey(["metronome", "usage"]), check_name="every_metric_is_billed"
        ),
    )
    world.instance.report_dagster_event(planned, run.run_id)
    watch.silent()


def test_a_reconciliation_that_differs_is_told_until_its_own_day_agrees(watch: Watch) -> None:
    world = watch.world
    world.at(at_hour(48.5))
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.prove_deduplication()
    world.use_hours(customer, metric, {1: 5, 30: 7})
    assert world.ingest(0, 47).success
    world.use(customer, metric, 2, "0.5")
    reconcile(world, 5, 6)
    assert watch.told() == [
        "Reconciliation: Delivered equals observed: not so for solvimon/reconciliation on 1 day, the last 2026-01-05."
    ]
    reconcile(world, 6, 6)
    watch.silent()
    assert world.ingest(0, 23).success
    watch.silent()
    reconcile(world, 5, 5)
    (subject,) = watch.told()
    assert subject.startswith("Over: Reconciliation: ")


def test_an_unmatched_event_is_told_by_the_reconciliation(watch: Watch) -> None:
    world = watch.world
    world.solvimon.set(match_all=False)
    world.at(at_hour(24.5))
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.prove_deduplication()
    world.use_hours(customer, metric, {1: 5})
    assert world.ingest(0, 23).success
    reconcile(world, 5, 5)
    assert watch.told() == [
        "Reconciliation: Nothing unmatched: not so for solvimon/reconciliation on 1 day, the last 2026-01-05."
    ]
    watch.silent()


def reconcile(world: World, first: int, last: int) -> None:
    tags = {
        "dagster/asset_partition_range_start": f"2026-01-{first:02}",
        "dagster/asset_partition_range_end": f"2026-01-{last:02}",
    }
    result = world.run("reconcile", tags=tags)
    assert result.success, failure(result)


def test_usage_is_stale_some_hours_after_its_close_and_over_when_it_is_ingested(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    watch.silent()
    world.at(at_hour(12.2))
    watch.silent()
    world.at(at_hour(12.3))
    assert watch.told() == [
        "Stale usage: 1 closed hour of solvimon/usage_events is not ingested, 3 hours after closing."
    ]
    watch.silent()
    world.at(at_hour(20))
    watch.silent()
    world.at(at_hour(37))
    assert watch.told() == [
        "Still: Stale usage: 25 closed hours of solvimon/usage_events are not ingested, 3 hours after closing."
    ]
    assert world.ingest(8, 36).success
    (subject,) = watch.told()
    assert subject.startswith("Over: Stale usage: 25 closed hours")
    watch.silent()


def test_hours_before_the_cut_over_and_workflows_that_are_off_are_never_stale(watch: Watch) -> None:
    world = watch.world
    world.at(at_hour(100))
    watch.silent(USAGE_ENABLED="false")
    assert len(watch.told(GROUPED_USAGE_ENABLED="true")) == 2
    world.at(at_hour(-1))
    assert len(watch.told()) == 2, "over, both: their hours are yet to come"


def test_period_usage_is_stale_by_day_where_a_metric_is_billed_so(watch: Watch) -> None:
    world = watch.world
    metric = world.metric("UNIQUE")
    world.at(at_hour(27.3))
    told = watch.told(USAGE_ENABLED="false", METRIC_CALCULATIONS=f'{{"{metric}": "PERIOD_TO_DATE"}}')
    assert told == ["Stale usage: 1 closed day of solvimon/period_usage_events is not ingested, 3 hours after closing."]


def test_quarantine_is_told_once_a_reason_however_it_grows_and_over_when_it_is_empty(watch: Watch) -> None:
    world = watch.world
    customer, metric = billed(watch)
    refused = [reference(world, customer, metric, hour) for hour in (2, 3)]
    world.solvimon.set(refuse_reference=refused)
    world.use(customer, metric, 2, 7)
    assert world.ingest().success
    (text,) = (watch.tick(), watch.hook.texts)[1]
    assert text.startswith("[sandbox] Quarantine: Solvimon refused 1 event (")
    assert "- Acme &amp; &lt;Söhne&gt;, Calls, 2026-01-05 02:00 UTC, " in text
    watch.hook.taken()
    world.use(customer, metric, 3, 7)
    assert world.ingest().success
    watch.silent()
    world.at(at_hour(9) + timedelta(hours=24))
    told = watch.told(ALERT_STALE_HOURS="700")
    assert len(told) == 1
    assert told[0].startswith("Still: Quarantine: Solvimon refused 2 events (")
    world.solvimon.set(refuse_reference=[])
    config = {"ops": {"retry": {"config": {"asked_by": "Ana"}}}}
    assert world.run("retry_quarantine", config=config).success
    told = watch.told(ALERT_STALE_HOURS="700")
    assert len(told) == 1
    assert told[0].startswith("Over: Quarantine: Solvimon refused 2 events (")
    watch.silent(ALERT_STALE_HOURS="700")


def test_the_brake_is_told_once_a_metric_whatever_its_plans_and_over_when_usage_is_back(watch: Watch) -> None:
    world = watch.world
    customer, metric = billed(watch, first=1000)
    for _ in range(2):
        world.use(customer, metric, 1, -400)
        assert world.ingest().success
    assert watch.told() == ["Brake: 2 plans would take back too much of what was billed for Calls, and are held."]
    world.use(customer, metric, 1, -1)
    assert world.ingest().success
    watch.silent()
    world.use(customer, metric, 1, 801)
    assert world.ingest().success
    (subject,) = watch.told()
    assert subject.startswith("Over: Brake: ")
    watch.silent()


def test_a_late_change_is_told_once_a_billing_period(watch: Watch) -> None:
    world = watch.world
    customer, metric = billed(watch)
    world.at(FINAL + timedelta(minutes=5))
    quiet = {"ALERT_STALE_HOURS": "744"}
    world.use(customer, metric, 1, 2)
    assert world.ingest(LATE_USAGE="hold").success
    (subject,) = watch.told(**quiet)
    assert subject.endswith("that ended on 2026-02-01 were final; 1 of them held, the rest sent.")
    assert subject.startswith("Late for the destination: 1 change came after the invoices of the billing period ")
    world.use(customer, metric, 2, 2)
    assert world.ingest(LATE_USAGE="send").success
    watch.silent(**quiet)
    world.sql("DELETE FROM ledger.open_events")
    watch.silent(**quiet)
    world.at(FINAL + timedelta(days=36))
    assert any(subject.startswith("Over: Late for the destination: ") for subject in watch.told(**quiet))


def test_hours_that_stay_unsettled_are_told_unless_they_wait_for_a_person(watch: Watch) -> None:
    world = watch.world
    customer, metric = billed(watch)
    world.solvimon.set(refuse_reference=[reference(world, customer, metric, 2)])
    world.use(customer, metric, 2, 7)
    assert world.ingest().success
    world.use(customer, metric, 2, 1)
    assert world.ingest().success
    assert len(watch.told()) == 1, "quarantine"
    assert world.sql("SELECT count(*) FROM ledger.unsettled_hours") == [(1,)]
    world.at(at_hour(12.1))
    watch.silent()
    # Sent by a person's retry; the usage that came since is the next run's to send, and there is none.
    world.solvimon.set(refuse_reference=[])
    config = {"ops": {"retry": {"config": {"asked_by": "Ana"}}}}
    assert world.run("retry_quarantine", config=config).success
    told = watch.told()
    assert told[0] == "Unsettled hours: 1 hour of usage differs from what Solvimon was told, for over 3 hours."
    assert told[1].startswith("Over: Quarantine")
    assert world.ingest().success
    assert world.counted(customer, metric) == {1: 5, 2: Decimal(8)}
    assert watch.told() == ["Over: " + told[0]]
    watch.silent()


def test_a_channel_that_was_down_gets_everything_and_the_other_one_nothing_twice(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    world.at(at_hour(13))
    with post() as server:
        mail = {
            "ALERT_EMAIL_TO": "ops@example.com",
            "ALERT_EMAIL_FROM": "pipeline@example.com",
            "SMTP_URL": server.url,
        }
        watch.hook.statuses = [503]
        said = watch.tick(**mail)
        assert said.startswith(
            "Told 1. 1 not taken, sent again by the next tick: The webhook at 127.0.0.1 answered 503"
        )
        assert (watch.hook.taken(), len(server.taken())) == ([], 1)
        assert watch.tick(**mail) == "Told 1. Open now: 1."
        assert (len(watch.hook.taken()), server.taken()) == (1, [])
        assert watch.tick(**mail) == "Open now: 1."
        # It is over while a channel is down: that is not lost either.
        assert world.ingest(8, 12).success
        server.answer = "451 later"
        said = watch.tick(**mail)
        assert said.startswith("Over 1. 1 not taken")
        assert "451 later" in said
        server.answer = "250 taken"
        assert watch.tick(**mail) == "Over 1. Open now: 0."
        (subject,) = server.taken()
        assert subject.startswith("[sandbox] Over: Stale usage")
    (first,) = world.sql(
        "SELECT kind, first_at = told_at, over_at IS NOT NULL FROM ledger.alerts WHERE channel = 'e-mail'"
    )
    assert first == ("stale_usage", True, True)


def test_a_problem_that_comes_back_is_a_new_one(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    world.at(at_hour(13))
    assert len(watch.told()) == 1
    assert world.ingest(8, 12).success
    assert len(watch.told()) == 1
    world.at(at_hour(18))
    (subject,) = watch.told()
    assert subject.startswith("Stale usage: ")


def test_without_a_channel_the_sensor_is_off_and_says_what_to_set(world: World) -> None:
    import dagster as dg  # noqa: PLC0415

    definitions = world.definitions()
    sensor = definitions.resolve_sensor_def("alerts")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    context = dg.build_sensor_context(instance=world.instance, resources=definitions.resources)
    assert "set ALERT_WEBHOOK_URL" in str(sensor.evaluate_tick(context).skip_message)
    told = world.definitions(ALERT_WEBHOOK_URL="https://hooks.example.com/x").resolve_sensor_def("alerts")
    assert told.default_status == dg.DefaultSensorStatus.RUNNING


def test_two_ticks_at_once_tell_once(watch: Watch) -> None:
    world = watch.world
    billed(watch)
    world.at(at_hour(13))
    watch.hook.gate = threading.Event()
    said: list[str] = []
    first = threading.Thread(target=lambda: said.append(watch.tick()))
    first.start()
    assert watch.hook.asked.wait(60), "the first tick is in the middle of telling"
    assert watch.tick() == "Another tick is telling."
    watch.hook.gate.set()
    first.join(60)
    assert said == ["Told 1. Open now: 1."]
    assert len(watch.hook.taken()) == 1
    watch.silent()


def test_what_was_taken_and_not_written_down_is_told_again(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the channel's answer and the commit: at least once, never not at all."""
    world = watch.world
    billed(watch)
    world.at(at_hour(13))
    with monkeypatch.context() as patch:
        patch.setattr(telling, "_note", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            watch.tick()
    assert len(watch.hook.taken()) == 1
    assert len(watch.told()) == 1
    watch.silent()
