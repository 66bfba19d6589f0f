"""The job that sends events in quarantine again."""

from decimal import Decimal

import dagster as dg

from metronome_pipeline_tests.world import START, World, failure

_HOUR = "SELECT ledger.event_reference(%s, %s, %s, %s + interval '1 hour', 'total', 0)"


def _retry(world: World, **config: object) -> dg.ExecuteInProcessResult:
    return world.run("retry_quarantine", config={"ops": {"retry": {"config": config}}})


def test_the_job_sends_what_was_refused_once_the_cause_is_mended_and_says_who_asked(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    ((reference,),) = world.sql(_HOUR, customer, metric, START, START)
    world.solvimon.set(refuse_reference=[reference])
    world.use(customer, metric, 0, 5)
    assert world.ingest().success
    assert world.counted(customer, metric) == {}

    still = _retry(world, asked_by="Ana")
    assert still.success, failure(still)
    assert world.events() == [("usage", 0, Decimal(5), "quarantined")]

    world.solvimon.set(refuse_reference=[])
    done = _retry(world, asked_by="Ana", references=[reference])
    assert done.success, failure(done)
    assert world.counted(customer, metric) == {0: 5}
    assert world.sql("SELECT message, count(*) FROM ledger.receipts WHERE outcome = 'released' GROUP BY 1") == [
        ("Retry asked for by Ana: the cause is mended.", 2)
    ]


def test_a_reference_that_is_not_in_quarantine_fails_the_job_in_a_sentence(world: World) -> None:
    world.imported()
    result = _retry(world, asked_by="Ana", references=["no-such"])
    assert not result.success
    assert "quarantine list" in failure(result)
