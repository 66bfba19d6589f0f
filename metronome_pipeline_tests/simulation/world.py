"""The world of one seed: both accounts filled, the network between, the database emptied.

Here: how they are made. Not here: what then happens (``simulation.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast

from starlette.types import ASGIApp

from metronome_pipeline.sandbox.metronome.app import MetronomeSandbox
from metronome_pipeline.sandbox.metronome.app import create_app as metronome_app
from metronome_pipeline.sandbox.metronome.store import Store as MetronomeStore
from metronome_pipeline.sandbox.solvimon.app import create_app as solvimon_app
from metronome_pipeline.sandbox.solvimon.settings import changed
from metronome_pipeline.sandbox.solvimon.store import Store as SolvimonStore
from metronome_pipeline_tests.simulation import core
from metronome_pipeline_tests.simulation.account import Account
from metronome_pipeline_tests.simulation.history import Exchange
from metronome_pipeline_tests.simulation.metrics import METRICS, MetricDefinition
from metronome_pipeline_tests.simulation.network import Network, OneFault
from metronome_pipeline_tests.simulation.postgres import Server
from metronome_pipeline_tests.simulation.process import Process
from metronome_pipeline_tests.simulation.trouble import REQUEST_TROUBLE, Chances, Scenario
from metronome_pipeline_tests.simulation.virtual_time import VirtualLoop

LATEST = 14 * 86_400.0
"""Virtual seconds that a seed may last."""
_PAIR = (
    "INSERT INTO ledger.account_pairs (metronome_host, metronome_environment, solvimon_host, solvimon_platform) "
    "VALUES ('m', 'simulated', 's', '')"
)
_METERS = "INSERT INTO solvimon.meters SELECT * FROM json_populate_recordset(NULL::solvimon.meters, %s)"


@dataclass(frozen=True)
class Sandboxes:
    """Both APIs in memory, and the store of the one account in each."""

    apps: dict[str, ASGIApp]
    metronome: MetronomeStore
    solvimon: SolvimonStore


def sandboxes(now: Callable[[], datetime], *, generation: int = 2) -> Sandboxes:
    """Two empty accounts. The ids of Solvimon's differ from those of another generation."""
    source = cast("MetronomeSandbox", metronome_app(clock=now, tokens=[core.TOKEN]))
    destination: Any = solvimon_app(clock=now, keys=[])
    metronome = source.stores.by_token[core.TOKEN]
    metronome.change_settings({"rate_limit": None})
    solvimon: SolvimonStore = [destination._stores.create(core.KEY) for _ in range(generation)][-1]
    solvimon.settings = changed(solvimon.settings, {"match_all": True})
    return Sandboxes({"metronome": source, "solvimon": destination}, metronome, solvimon)


def network_between(
    both: Sandboxes, loop: VirtualLoop, scenario: Scenario, departing: Callable[[Exchange], None]
) -> Network:
    """The network, with the seed's trouble on it."""
    faults = {"metronome": OneFault(), "solvimon": OneFault()}
    both.metronome.faults = faults["metronome"]  # type: ignore[assignment]
    both.solvimon.faults = faults["solvimon"]  # type: ignore[assignment]
    chances = {}
    for kind in sorted(scenario.trouble & set(REQUEST_TROUBLE)):
        draw = scenario.stream(kind)
        chances[kind] = Chances(draw, draw.choice((0.03, 0.1, 0.3, 0.7)), draw.randrange(1, 16))
    return Network(loop, both.apps, faults, scenario.stream("latency"), departing, chances)


def account_of(
    scenario: Scenario, both: Sandboxes, server: Server, now: Callable[[], datetime], tell: Callable[[str], None]
) -> Account:
    """The account as the first run finds it, in a database that has only the meters."""
    draw, trouble = scenario.stream("load"), scenario.trouble
    knobs = {
        "rows_per_page": draw.choice((9, 24, 200, 200)),
        "empty_windows": draw.choice(("omit", "omit", "null")),
        # The third way, no map at all, hides the other part of a compound key.
        "null_groups": draw.choice(("null", "missing_key")),
    }
    both.metronome.change_settings(knobs)
    late = "late_duplicate_flags" in trouble
    taken = {
        "reference_idempotency": "off" if "deduplication_off" in trouble else "on",
        "matching": "manual" if late else "sync",
        "duplicate_flag_sync": not late,
        "duplicate_mode": draw.choice(("400", "409")) if "duplicates_refused" in trouble else "201",
        "error_field_index": draw.random() < 0.7,
    }
    both.solvimon.settings = changed(both.solvimon.settings, taken)
    resources, rows = meter_template(server)
    both.solvimon.restore(resources)
    server.empty()
    server.observer.execute(_PAIR)
    server.observer.execute(_METERS, [rows])
    account = Account(both.metronome, both.solvimon, draw, core.START, now, tell)
    kinds: tuple[MetricDefinition, ...] = draw.choice((METRICS[:3], METRICS[:3], METRICS[3:], METRICS))
    metrics = draw.sample(kinds, draw.choice((1, 1, 2, 3)))
    if draw.random() < 0.2 and not any(each.is_maximum for each in metrics) and "new_metric" not in trouble:
        # Where there is no usage, a maximum of 0 would be a value.
        both.metronome.change_settings({"empty_windows": "zero"})
    account.fill(draw.choice((1, 1, 2, 3)), metrics, draw.randrange(3, 25))
    return account


@cache
def meter_template(server: Server) -> tuple[dict[str, Any], str]:
    """The meters of all metrics, made once by the real import: Solvimon's resources, and our rows of them."""
    scenario, loop = Scenario(0, only=frozenset()), VirtualLoop(LATEST)
    both = sandboxes(lambda: core.START, generation=1)
    server.empty()
    server.observer.execute(_PAIR)
    account = Account(
        both.metronome, both.solvimon, scenario.stream("load"), core.START, lambda: core.START, lambda _: None
    )
    for metric in METRICS:
        account.add_metric(metric)
    network = network_between(both, loop, scenario, lambda _: None)
    process = Process("template", server, loop, core.START, scenario.stream("process"))
    duty = core.Duty(
        closed=core.START + timedelta(hours=1),
        metrics=(),
        deduplicated=False,
        look_back_days=1,
        in_flight=1,
        imports_meters=True,
        batch_limit=50,
    )
    loop.run_until_complete(core.run(process, network, duty, core.Memory()))
    loop.close()
    row = server.observer.execute("SELECT json_agg(m)::text FROM solvimon.meters m").fetchone()
    assert row is not None
    return both.solvimon.snapshot(), row[0]
