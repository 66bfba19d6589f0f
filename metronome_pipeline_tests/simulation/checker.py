"""The checker: holds what happened against the rules, knowing nothing of how the core works.

It sees what anybody could see from outside: the requests as they leave and their answers, the tables as they stand, and
the truth of both accounts from their own stores. Here: when each rule is looked at. Not here: the rules themselves
(``departures.py``, ``plans.py``, ``totals.py``), nor any code of the core.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg

from metronome_pipeline.sandbox.metronome.store import Store as MetronomeStore
from metronome_pipeline.sandbox.solvimon.store import Store as SolvimonStore
from metronome_pipeline_tests.simulation import departures, totals
from metronome_pipeline_tests.simulation.history import Exchange
from metronome_pipeline_tests.simulation.metrics import MetricDefinition
from metronome_pipeline_tests.simulation.plans import Plans

_PACE_SECONDS = 1.0
EVENT_PATHS = ("/v1/events/ingest-batch", "/v1/events/delete")


class Checker:
    """Collects violations of one seed, each a sentence."""

    def __init__(
        self,
        observer: psycopg.Connection[Any],
        metronome: MetronomeStore,
        solvimon: SolvimonStore,
        *,
        start: datetime,
        origin: datetime,
        pace: float,
    ) -> None:
        """``start`` is the cut-over, ``origin`` when virtual time begins, ``pace`` requests a second."""
        self.violations: list[str] = []
        self._observer = observer
        self._metronome = metronome
        self._solvimon = solvimon
        self._start = start
        self._pace = pace
        self._plans = Plans(observer, origin)

    @property
    def planned_events(self) -> int:
        """How many events the ledger has."""
        return len(self._plans.events)

    def departing(self, exchange: Exchange) -> None:
        """Looks at a request that is about to leave."""
        if exchange.system == "solvimon" and exchange.method == "POST" and exchange.path.startswith("/v1/events/"):
            self._blame(departures.violations(exchange, self._observer, self._solvimon), exchange)

    def after_runs(
        self, metrics: Sequence[MetricDefinition], history: Sequence[Exchange], *, interleaved: bool
    ) -> None:
        """Looks at the ledger once no process runs. ``history`` is all of it."""
        # Two transactions at a time: which of them was first is known to a few seconds only.
        slack = timedelta(seconds=5 if interleaved else 0)
        self.violations += self._plans.violations({m.metric_id: m for m in metrics}, history, slack)

    def quiet_run(self, requests: Sequence[Exchange], metrics: Sequence[MetricDefinition], hours: int) -> None:
        """Looks at the requests of one run without trouble."""
        asked = sum(exchange.system == "metronome" for exchange in requests)
        page, pairs = self._metronome.settings.rows_per_page, len(self._metronome.customers)
        days = -(-(hours + 24) // 24)
        budget = 3 + sum(
            pairs * (-(-days * 24 // page) + (0 if metric.slicing is None else 3 + days * 24 * 9 // 100))
            for metric in metrics
        )
        if asked > budget:
            self.violations.append(f"A quiet run made {asked} requests to Metronome, where {budget} do.")

    def last_run(self, requests: Sequence[Exchange]) -> None:
        """Looks at the requests of a run that found nothing to do."""
        sent = [exchange for exchange in requests if exchange.method == "POST" and exchange.path in EVENT_PATHS]
        if sent:
            self.violations.append(f"A run that changed nothing made {len(sent)} requests about events.")

    def at_last(self, history: Sequence[Exchange], *, interleaved: bool) -> None:
        """Looks at the pace of the whole history, of all processes together."""
        # A transaction that waited for another grants a moment that has passed.
        burst = 20 if interleaved else 5
        departed = [exchange.departed for exchange in history if exchange.system == "metronome"]
        most = int(self._pace * _PACE_SECONDS) + burst
        for first, last in zip(departed, departed[most:], strict=False):
            if last - first < _PACE_SECONDS:
                sentence = f"{most + 1} requests to Metronome within {last - first:.1f} s from {first:.1f} s on"
                self.violations.append(f"{sentence}: more than its pace of {self._pace:g} a second.")
                return

    def counts(self) -> tuple[Any, ...]:
        """What changes when anything is done."""
        row: tuple[Any, ...] | None = self._observer.execute(
            "SELECT (SELECT count(*) FROM ledger.events), (SELECT count(*) FROM ledger.receipts), "
            "(SELECT coalesce(sum(cardinality(event_ids)), 0) FROM ledger.claims), "
            "(SELECT array_agg((metric_id, customer_id, start_at) ORDER BY 1)::text FROM ledger.unsettled_hours)"
        ).fetchone()
        assert row is not None
        return row

    def at_rest(self, closed: datetime, metrics: Sequence[MetricDefinition], *, exact: bool) -> None:
        """Holds both accounts against each other, hour by hour. ``exact``: no difference is excused any more."""
        found = totals.violations(
            self._observer, self._metronome, self._solvimon, metrics, self._start, closed, exact=exact
        )
        self.violations += found

    def _blame(self, sentences: Sequence[str], exchange: Exchange) -> None:
        self.violations += [f"{exchange.process} at {exchange.departed:.3f} s: {sentence}" for sentence in sentences]
