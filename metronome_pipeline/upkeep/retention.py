"""Retention: raw usage that nothing asks for any more is removed, and the ledger never is.

Here: which hours may go, and the statements that remove them. Readings and the rows of walks under way go after two
days anyway (``ledger/readings.py``). Not here: the setting, the schedule, the command.

An hour's rows go together with its coverage, in one transaction: a plan compares only hours that are covered, so what
is gone is never taken for usage that fell to nothing. The totals of days stay (``metronome.day_totals``): the monthly
sweep would only write them again, and of metrics whose days are not told by their hours it would first read every hour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from metronome_pipeline.ledger.plan import PLANNING_LOCK
from metronome_pipeline.ledger.read import midnight

Connection = psycopg.Connection[Any]
MARGIN_DAYS = 35
"""Days beyond those of the sweep: the weekly one looks a week further back, and one by period reads a whole period."""
RETIRED_COLUMNS = ("usage", "grouped usage", "hours that fell short")


@dataclass(frozen=True)
class Retired:
    """What was removed, in rows."""

    usage: int = 0
    grouped_usage: int = 0
    short_groups: int = 0

    def __add__(self, other: "Retired") -> "Retired":
        """Both together."""
        return Retired(
            self.usage + other.usage,
            self.grouped_usage + other.grouped_usage,
            self.short_groups + other.short_groups,
        )

    @property
    def rows(self) -> int:
        """All of them."""
        return self.usage + self.grouped_usage + self.short_groups


def oldest_kept(connection: Connection, days: int) -> datetime:
    """The UTC midnight from which on all usage is kept: ``days`` before today, by the database's time."""
    row = connection.execute("SELECT ledger.moment()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return midnight(now) - timedelta(days=days)


def metrics_to_retire(connection: Connection, pair_id: int, before: datetime) -> Sequence[str]:
    """The metrics of which hours before a moment are still kept: one transaction each keeps plans from waiting long."""
    rows = connection.execute(_METRICS, {"pair_id": pair_id, "before": before})
    return [metric_id for (metric_id,) in rows]


def retire(connection: Connection, pair_id: int, metric_id: str, before: datetime) -> Retired:
    """Removes what is kept of a metric's hours before a moment, in the caller's transaction.

    Takes the pair's planning lock. Of a customer for whom something older still waits, everything from that day on
    stays: an event under way, a difference that no plan has settled, a held plan, a reverted hour that is not released,
    a finding that is not planned, a reading of the last two days (which a run may be about to plan).
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PLANNING_LOCK, pair_id])
    parameters: dict[str, Any] = {"pair_id": pair_id, "metric_id": metric_id, "before": before}
    customers = [customer_id for (customer_id,) in connection.execute(_LOCK, parameters)]
    connection.execute(_RETIRING, {**parameters, "customers": customers})
    connection.execute(_UNCOVER, parameters)
    retired = Retired(*(connection.execute(statement, parameters).rowcount for statement in _REMOVE))
    connection.execute("DROP TABLE retiring")
    return retired


_METRICS = """
SELECT DISTINCT metric_id::text FROM metronome.coverage
WHERE pair_id = %(pair_id)s AND covered && tstzrange(NULL, %(before)s) ORDER BY 1
"""

# Rows of coverage are locked in the order in which readings lock them (`readings.py`): whoever stores one of these
# pairs now is waited for. A reading that was stored meanwhile is seen by the look at what waits, which comes after.
_LOCK = """
SELECT customer_id::text FROM metronome.coverage
WHERE pair_id = %(pair_id)s AND metric_id = %(metric_id)s::uuid AND covered && tstzrange(NULL, %(before)s)
ORDER BY metric_id, customer_id, slicing FOR UPDATE
"""

_RETIRING = """
CREATE TEMP TABLE retiring ON COMMIT DROP AS
WITH waiting AS (
    SELECT e.customer_id, e.start_at FROM ledger.open_events o JOIN ledger.events e USING (event_id)
    WHERE o.pair_id = %(pair_id)s AND e.metric_id = %(metric_id)s::uuid
    UNION ALL
    SELECT customer_id, start_at FROM ledger.unsettled_hours
    WHERE pair_id = %(pair_id)s AND metric_id = %(metric_id)s::uuid
    UNION ALL
    SELECT customer_id, start_at FROM ledger.reverted_slots
    WHERE pair_id = %(pair_id)s AND metric_id = %(metric_id)s::uuid AND released_at IS NULL
    UNION ALL
    SELECT customer_id, from_at FROM ledger.findings
    WHERE pair_id = %(pair_id)s AND metric_id = %(metric_id)s::uuid AND state = 'open'
    UNION ALL
    -- Read, and not planned since: only its rows know of it.
    SELECT customer_id, lower(c.covered - coalesce(p.hours, '{}')) FROM metronome.coverage c
    LEFT JOIN ledger.planned_hours p USING (pair_id, metric_id, customer_id, slicing)
    WHERE c.pair_id = %(pair_id)s AND c.metric_id = %(metric_id)s::uuid
    UNION ALL
    SELECT customer_id, lower(hours) FROM metronome.readings
    WHERE pair_id = %(pair_id)s AND metric_id = %(metric_id)s::uuid
), held AS (
    SELECT min(from_at) AS start_at FROM ledger.brakes
    WHERE pair_id = %(pair_id)s AND metric_id = %(metric_id)s::uuid AND spent_at IS NULL
)
SELECT customer_id, least(%(before)s, date_trunc('day', least(min(w.start_at), min(h.start_at)), 'UTC')) AS until
FROM (SELECT DISTINCT unnest(%(customers)s::uuid[]) AS customer_id) AS c
LEFT JOIN waiting w USING (customer_id) CROSS JOIN held h
GROUP BY customer_id
"""

_UNCOVER = """
UPDATE metronome.coverage c
SET retired = c.retired + c.covered * tstzmultirange(tstzrange(NULL, r.until)),
    covered = c.covered - tstzmultirange(tstzrange(NULL, r.until))
FROM retiring r
WHERE c.pair_id = %(pair_id)s AND c.metric_id = %(metric_id)s::uuid AND c.customer_id = r.customer_id
  AND c.covered && tstzrange(NULL, r.until)
"""

_REMOVE = (
    """
DELETE FROM metronome.usage u USING retiring r
WHERE u.pair_id = %(pair_id)s AND u.metric_id = %(metric_id)s::uuid AND u.customer_id = r.customer_id
  AND u.start_at < r.until
""",
    """
DELETE FROM metronome.grouped_usage u USING retiring r
WHERE u.pair_id = %(pair_id)s AND u.metric_id = %(metric_id)s::uuid AND u.customer_id = r.customer_id
  AND u.start_at < r.until
""",
    """
DELETE FROM metronome.short_groups s USING retiring r
WHERE s.pair_id = %(pair_id)s AND s.metric_id = %(metric_id)s::uuid AND s.customer_id = r.customer_id
  AND s.start_at < r.until
""",
)
