"""Quarantine, brake and slicing as a person meets them: real runs before and after each decision."""

from decimal import Decimal
from pathlib import Path

import pytest

from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.world import World, failure


@pytest.fixture(autouse=True)
def _no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _reference(world: World, customer: str, metric: str, hour: int) -> str:
    ((text,),) = world.sql(
        "SELECT ledger.event_reference(%s, %s, '2026-01-05Z'::timestamptz + %s * interval '1 hour', "
        "'2026-01-05Z'::timestamptz + (%s + 1) * interval '1 hour', 'total', 0)",
        customer,
        metric,
        hour,
        hour,
    )
    return str(text)


def _ingest(world: World, *, brake_floor: str = "100") -> None:
    result = world.ingest(0, 5, BRAKE_FLOOR=brake_floor)
    assert result.success, failure(result)


def test_a_retried_event_leaves_unchanged_and_its_new_difference_follows(world: World) -> None:
    customer, metric = world.customer("Gnädig & Söhne"), world.metric()
    world.imported()
    reference = _reference(world, customer, metric, 1)
    world.solvimon.set(refuse_reference=[reference])
    world.use(customer, metric, 1, 5)
    _ingest(world)
    env = variables(world)

    listed = command("quarantine", "list", env=env)
    assert "In quarantine: 1" in listed.out
    assert "Gnädig & Söhne" in listed.out

    world.use(customer, metric, 1, 2)
    _ingest(world)
    world.solvimon.set(refuse_reference=[])
    retried = command("quarantine", "retry", "--reference", reference, "--by", "Ana", env=env)
    assert "leaves with the next run" in retried.out
    _ingest(world)
    _ingest(world)
    assert world.counted(customer, metric) == {1: Decimal(7)}
    assert world.events() == [("usage", 0, Decimal(5), "delivered"), ("correction", 1, Decimal(2), "delivered")]
    assert world.sql("SELECT message FROM ledger.receipts WHERE outcome = 'released'") == [
        ("Retry asked for by Ana: the cause is mended.",)
    ]
    assert "Nothing is in quarantine" in command("quarantine", "list", env=env).out


def test_a_maximum_that_was_read_otherwise_since_is_superseded_and_others_are_not(world: World) -> None:
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    moved, same = (_reference(world, customer, metric, hour) for hour in (1, 2))
    world.solvimon.set(refuse_reference=[moved, same])
    world.use(customer, metric, 1, 10)
    world.use(customer, metric, 2, 30)
    _ingest(world)
    world.use(customer, metric, 1, 20)
    _ingest(world)
    world.solvimon.set(refuse_reference=[])
    done = command("quarantine", "retry", "--all", env=variables(world))
    assert done.status == 0
    assert world.sql("SELECT outcome, count(*) FROM ledger.receipts GROUP BY 1 ORDER BY 1") == [
        ("quarantined", 2),
        ("released", 1),
        ("superseded", 1),
    ]
    _ingest(world)
    assert world.counted(customer, metric) == {1: Decimal(20), 2: Decimal(30)}
    assert world.events() == [
        ("usage", 0, Decimal(10), "superseded"),
        ("usage", 0, Decimal(30), "delivered"),
        ("correction", 1, Decimal(20), "delivered"),
    ]


def test_a_dropped_event_is_an_accepted_difference_that_later_readings_respect(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    reference = _reference(world, customer, metric, 1)
    world.solvimon.set(refuse_reference=[reference])
    world.use(customer, metric, 1, 5)
    _ingest(world)
    env = variables(world)
    asked = ("quarantine", "drop", "--reference", reference, "--reason", "A test\naccount", "--by", "Ana")
    assert command(*asked, env=env).status == 0
    _ingest(world)
    assert world.counted(customer, metric) == {}
    world.use(customer, metric, 1, 3)
    _ingest(world)
    assert world.counted(customer, metric) == {1: Decimal(3)}
    assert world.sql("SELECT message FROM ledger.receipts WHERE outcome = 'dropped'") == [
        ("A test\\naccount (dropped by Ana)",)
    ]
    again = command(*asked, env=env)
    assert again.status == 1
    assert "is not the reference of an event in quarantine" in again.err


def test_several_events_are_dropped_at_once_as_they_are_listed(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    references = [_reference(world, customer, metric, hour) for hour in (1, 2)]
    world.solvimon.set(refuse_reference=references)
    for hour in (1, 2):
        world.use(customer, metric, hour, 5)
    _ingest(world)
    env = variables(world)
    listed = command("quarantine", "list", env=env).out.split()
    assert set(references) <= set(listed), "each in one piece"
    named = [word for reference in references for word in ("--reference", reference)]
    assert command("quarantine", "drop", *named, "--reason", "A test account", env=env).status == 0
    assert "Nothing is in quarantine" in command("quarantine", "list", env=env).out
    assert [state for *_, state in world.events()] == ["dropped", "dropped"]


def test_nothing_changes_when_one_of_the_references_is_unknown(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    reference = _reference(world, customer, metric, 1)
    world.solvimon.set(refuse_reference=[reference])
    world.use(customer, metric, 1, 5)
    _ingest(world)
    done = command("quarantine", "retry", "--reference", reference, "--reference", "no-such", env=variables(world))
    assert done.status == 1
    assert world.events() == [("usage", 0, Decimal(5), "quarantined")]


def test_a_dropped_deletion_lets_its_successor_go(world: World) -> None:
    customer, metric = world.customer(), world.metric("MAX")
    world.imported()
    world.use(customer, metric, 1, 10)
    transaction = world.use(customer, metric, 1, 40)
    _ingest(world)
    reference = _reference(world, customer, metric, 1)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [transaction]})
    refusal = {"type": "INVALID_REQUEST", "code": "INVALID_OPERATION", "message": "The invoice is final"}
    answer = {"method": "POST", "path": "/v1/events/delete", "status": 400, "body": refusal, "times": None}
    world.solvimon.call("PUT", "/_sandbox/answers", [answer])
    _ingest(world, brake_floor="1000")
    assert "The invoice is final" in command("quarantine", "list", env=variables(world)).out
    asked = ("quarantine", "drop", "--reference", reference, "--reason", "The invoice is final")
    assert command(*asked, env=variables(world)).status == 0
    _ingest(world)
    _ingest(world)
    # The ledger counts the 40 as gone from now on, so that nothing asks for its deletion again.
    assert world.events() == [
        ("usage", 0, Decimal(40), "delivered"),
        ("deletion", None, None, "dropped"),
        ("correction", 1, Decimal(10), "delivered"),
    ]
    assert world.sql("SELECT counted FROM ledger.events_v1 ORDER BY event_id") == [(None,), (None,), (Decimal(10),)]


def test_a_release_lets_exactly_the_held_plan_through(world: World) -> None:
    customer, metric = world.customer("Falling"), world.metric()
    world.imported()
    transaction = world.use(customer, metric, 1, 5000)
    world.use(customer, metric, 2, 1)
    _ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [transaction]})
    world.ingest(0, 5)
    env = variables(world)
    listed = command("brake", "list", env=env)
    assert "Falling" in listed.out
    assert "-5,000" in listed.out
    (one,), (other,) = world.sql("SELECT digest FROM ledger.brakes")
    first, second = (command("brake", "release", digest, env=env) for digest in (one, other))
    assert (first.status, second.status) == (0, 0)
    assert f"held under {other} as well" in first.err, "held of the customer, and of the metric"
    assert "as well" not in second.err
    assert command("brake", "release", "0123456789abcdef", env=env).status == 2
    _ingest(world)
    assert world.counted(customer, metric) == {2: Decimal(1)}
    assert "The brake holds nothing" in command("brake", "list", env=env).out


def test_what_a_held_plan_would_do_is_printed(world: World) -> None:
    customer, metric, highest = world.customer("Falling"), world.metric(), world.metric("MAX", name="Peak")
    world.imported()
    sums = [world.use(customer, metric, hour, 500) for hour in (1, 2)]
    world.use(customer, highest, 1, 4)
    peak = world.use(customer, highest, 1, 900)
    _ingest(world)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [*sums, peak]})
    _ingest(world)
    env = variables(world)
    digests = [digest for (digest,) in world.sql("SELECT digest FROM ledger.brakes WHERE customer_id IS NOT NULL")]
    shown = command("brake", "show", digests[0], env=env)
    assert shown.status == 0
    for words in ("Falling Calls 2026-01-05 01:00 correction -500", "Falling Peak 2026-01-05 01:00 deletion"):
        assert words in shown.out
    assert "Falling Peak 2026-01-05 01:00 correction 4" in shown.out
    assert command("brake", "show", "0123456789abcdef", env=env).status == 2


def test_the_history_of_an_event_is_shown_whoever_did_what(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    reference = _reference(world, customer, metric, 1)
    world.solvimon.set(refuse_reference=[reference])
    world.use(customer, metric, 1, 5)
    _ingest(world)
    world.solvimon.set(refuse_reference=[])
    env = variables(world)
    command("quarantine", "retry", "--all", "--by", "Ana", env=env)
    _ingest(world)
    shown = command("quarantine", "show", reference, env=env).out
    places = [shown.index(word) for word in ("planned", "quarantined", "asked for by Ana", "delivered")]
    assert places == sorted(places)
    assert command("quarantine", "show", "no-such", env=env).status == 2


def test_a_switch_of_slicing_corrects_and_never_doubles(world: World) -> None:
    customer = world.customer()
    metric = world.metric(group_keys=[["region"], ["region", "tier"]])
    world.imported()
    world.use(customer, metric, 1, 5, region="eu", tier="a")
    world.use(customer, metric, 1, 2, region="us", tier="b")
    _ingest(world)
    env = variables(world)
    shown = command("slicing", "show", env={**env, "GROUPED_USAGE_ENABLED": "true"})
    assert 'ungrouped ["region"] switch' in shown.out

    assert command("slicing", "switch", metric, "--to", "tier", "--yes", env=env).status == 2
    assert command("slicing", "switch", metric, "--to", "region,tier", env=env, answer="n\n").status == 1
    done = command("slicing", "switch", metric.upper(), "--to", "region,tier", "--yes", env=env)
    assert done.status == 0
    assert "METRIC_SLICINGS" in done.err
    assert world.sql("SELECT slicing FROM ledger.slicings") == [('["region","tier"]',)]

    chosen = f'{{"{metric}": ["region", "tier"]}}'
    result = world.ingest(0, 5, job="ingest_grouped_usage", GROUPED_USAGE_ENABLED="true", METRIC_SLICINGS=chosen)
    assert result.success, failure(result)
    assert world.counted(customer, metric) == {1: Decimal(7)}
    assert sorted(world.slices(customer, metric, 1).values()) == [Decimal(2), Decimal(5)]


def test_a_metric_of_another_pair_is_wrong_use(accounts: World) -> None:
    done = command("slicing", "switch", "no-such-metric", "--yes", env=variables(accounts))
    assert done.status == 2
    assert "slicing show" in done.err
