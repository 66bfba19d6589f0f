"""What the ledger shows over time: the last 35 days by day, and the hours of a window, both by metric.

Here: the statements and their rows. They change nothing. Not here: how they are drawn (``workflows/pictures.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import psycopg

from metronome_pipeline.ledger.read import Window
from metronome_pipeline.mapping.usage import BilledMetric

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class HealthOfDay:
    """One metric and UTC day over all customers, as in ``ledger.billing_health_v1``. Amounts in the metric's own unit.

    Attributes:
        metronome: What Metronome reported when the day was last read: a sum, of a MAX meter the highest.
        delivered: The same of what Solvimon has taken.
        difference: ``metronome`` less ``delivered``, where nothing counts as 0. None: the day was not read since its
            metric was switched.
        corrections: Events that change an earlier one: corrections and deletions.
        corrected: The sum of the corrections' numbers; None without, and for a MAX meter.
        open: Events that are planned, on their way, quarantined or held.
        unsettled: Hours known to differ that the next run plans first.
        late: Events planned when the invoice of their period was final.
        reconciled: The worst outcome of the last reconciliation; None where there was none.
    """

    day: date
    metric_id: str
    metric: str
    metronome: Decimal | None
    delivered: Decimal | None
    difference: Decimal | None
    events: int
    delivered_events: int
    corrections: int
    corrected: Decimal | None
    open: int
    unsettled: int
    late: int
    reconciled: str | None

    @property
    def differs(self) -> bool:
        """Whether Solvimon has not taken exactly what Metronome reported."""
        return bool(self.difference)


@dataclass(frozen=True)
class HourOfMetric:
    """One metric and hour over all customers.

    Attributes:
        value: What Metronome reports: a sum, of a MAX meter the highest. None: no usage.
        corrected: Something of it was corrected or deleted after it was first planned.
        waits: Something of it is in quarantine, or held.
    """

    metric_id: str
    name: str
    hour: datetime
    value: Decimal | None
    corrected: bool
    waits: bool


def billing_health(connection: Connection, pair_id: int) -> list[HealthOfDay]:
    """The last 35 UTC days, newest first, today among them. A day and metric without usage and events has no row."""
    return [HealthOfDay(*row) for row in connection.execute(_HEALTH, [pair_id])]


def hours_by_metric(
    connection: Connection, pair_id: int, metrics: Sequence[BilledMetric], window: Window, *, grouped: bool
) -> list[HourOfMetric]:
    """Every hour of a window in which a metric has usage, or an event that corrects or waits."""
    read = "metronome.grouped_usage WHERE slice = 'total' AND" if grouped else "metronome.usage WHERE"
    by_id = {metric.metric_id: metric for metric in metrics}
    rows = connection.execute(
        _HOURS.format(read=read),
        {"pair_id": pair_id, "metrics": list(by_id), "start": window.start, "end": window.end},
    )
    return [
        HourOfMetric(
            metric_id,
            by_id[metric_id].name,
            hour,
            highest if by_id[metric_id].calculation == "MAX" else total,
            corrected,
            waits,
        )
        for metric_id, hour, total, highest, corrected, waits in rows
    ]


_HEALTH = """
SELECT day, metric_id::text, coalesce(metric, metric_id::text), metronome, delivered, difference, events,
       delivered_events, corrections, corrected, open_events, unsettled_hours, late, reconciled
FROM ledger.billing_health_v1 WHERE pair_id = %s ORDER BY day DESC, 3, 2
"""

_HOURS = """
SELECT metric_id::text, start_at, u.total, u.highest, coalesce(e.corrected, false), coalesce(e.waits, false)
FROM (
    SELECT metric_id, start_at, sum(value) AS total, max(value) AS highest FROM {read}
        pair_id = %(pair_id)s AND metric_id = ANY (%(metrics)s::uuid[])
        AND start_at >= %(start)s AND start_at < %(end)s
    GROUP BY metric_id, start_at
) AS u FULL JOIN (
    SELECT e.metric_id, e.start_at, bool_or(e.kind <> 'usage') AS corrected,
           bool_or(o.state IS NOT NULL AND o.state <> 'planned') AS waits
    FROM ledger.events e LEFT JOIN ledger.open_events o USING (event_id)
    WHERE e.pair_id = %(pair_id)s AND e.metric_id = ANY (%(metrics)s::uuid[])
      AND e.start_at >= %(start)s AND e.start_at < %(end)s AND (e.kind <> 'usage' OR o.state <> 'planned')
    GROUP BY e.metric_id, e.start_at
) AS e USING (metric_id, start_at)
ORDER BY 1, 2
"""
