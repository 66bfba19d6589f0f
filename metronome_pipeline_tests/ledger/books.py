"""A ledger on a real Postgres without APIs: what was observed is stated by the test, and deliveries always succeed."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg

from metronome_pipeline.ledger import readings
from metronome_pipeline.ledger.brakes import BrakeLimits
from metronome_pipeline.ledger.plan import Connection, Planned, Scope, plan
from metronome_pipeline.ledger.readings import Reading, UsageRow, Walk
from metronome_pipeline.mapping.usage import UNGROUPED, BilledMetric, canonical_properties, slice_of
from metronome_pipeline.storage.migrations import migrate

START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
CALLS = BilledMetric("9c9a4a71-171e-41f9-b8da-d982baf1a388", "Calls", "SUM", UNGROUPED)
Groups = Mapping[str | None, Any]


def at(hour: int) -> datetime:
    return START + hour * HOUR


@contextmanager
def open_books(database_url: str) -> Iterator["Books"]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT set_config('TimeZone', 'UTC', false)")
        with connection.transaction():
            migrate(connection)
        row = connection.execute(
            "INSERT INTO ledger.account_pairs (metronome_host, metronome_environment, solvimon_host, "
            "solvimon_platform) VALUES ('m', %s, 's', 'p') RETURNING pair_id",
            [str(uuid.uuid4())],
        ).fetchone()
        assert row is not None
        yield Books(connection, row[0])


@dataclass(frozen=True)
class Books:
    """One (customer, metric) of one account pair. ``another`` has the same ledger and another pair."""

    connection: Connection
    pair_id: int
    customer: str = "3b241101-e2bb-4255-8caf-4136c566a962"
    metric: BilledMetric = CALLS

    def another(self, calculation: Any = "SUM", slicing: str = UNGROUPED) -> "Books":
        metric = BilledMetric(str(uuid.uuid4()), "Calls", calculation, slicing)
        return replace(self, customer=str(uuid.uuid4()), metric=metric)

    def through(self, slicing: str) -> "Books":
        return replace(self, metric=replace(self.metric, slicing=slicing))

    # Read ------------------------------------------------------------------------------------------------------------

    def begin(self) -> Walk:
        return readings.begin_walk(self.connection)

    def rows(self, totals: Mapping[int, Any], groups: Mapping[int, Groups]) -> list[UsageRow]:
        """Totals and groups of the key ``region`` by hour. A group None is null; a value None is a row without it."""

        def row(hour: int, value: Any, slice_name: str = readings.TOTAL, properties: str | None = None) -> UsageRow:
            number = None if value is None else Decimal(str(value))
            return UsageRow(
                self.customer, self.metric.metric_id, at(hour), at(hour + 1), number, slice_name, properties
            )

        named = [
            (hour, canonical_properties({"region": region}), value)
            for hour, of_hour in groups.items()
            for region, value in of_hour.items()
        ]
        return [
            *[row(hour, value) for hour, value in totals.items() if value is not None],
            *[row(hour, value, slice_of(name), name) for hour, name, value in named],
        ]

    def observe(
        self,
        totals: Mapping[int, Any],
        groups: Mapping[int, Groups] | None = None,
        *,
        first: int = 0,
        last: int = 3,
        walk: Walk | None = None,
        connection: Connection | None = None,
    ) -> list[Reading]:
        """A complete walk of hours ``first`` to ``last``. ``groups`` None: an ungrouped one."""
        connection, walk = connection or self.connection, walk or self.begin()
        with connection.transaction():
            readings.stage(connection, walk, self.rows(totals, groups or {}))
            short: Sequence[readings.ShortHour] = ()
            if groups is not None:
                short = readings.short_hours(connection, walk, maximum=self.metric.calculation == "MAX")
            reading = Reading(
                walk, self.customer, self.metric.metric_id, self.metric.slicing, at(first), at(last + 1), short
            )
            return readings.store(connection, self.pair_id, [reading], grouped=groups is not None, run_id="test")

    def observe_groups(self, groups: Mapping[int, Groups], **options: Any) -> list[Reading]:
        """A complete walk whose groups add up."""
        highest = self.metric.calculation == "MAX"
        totals = {hour: (max if highest else sum)(of_hour.values()) for hour, of_hour in groups.items() if of_hour}
        return self.observe(totals, groups, **options)

    # Plan and deliver ------------------------------------------------------------------------------------------------

    def plan(self, first: int = 0, last: int = 3, *, brake: BrakeLimits | None = None) -> Planned:
        scope = Scope(self.pair_id, at(first), at(last + 1), [self.metric], [self.customer], brake=brake)
        with self.connection.transaction():
            return plan(self.connection, scope, run_id="test")

    def deliver(self) -> None:
        """Everything arrives, and what was deleted counts nothing from then on."""
        self.sql(
            "INSERT INTO ledger.restatements SELECT e.deletes, NULL FROM ledger.open_events o "
            "JOIN ledger.events e USING (event_id) WHERE e.kind = 'deletion' "
            "ON CONFLICT (event_id) DO UPDATE SET number = NULL"
        )
        self.sql("DELETE FROM ledger.open_events")

    def settle(self, **options: Any) -> Planned:
        """Plans and delivers, and makes sure that then nothing is left to do."""
        planned = self.plan(**options)
        self.deliver()
        assert self.plan(**options).events == 0
        return planned

    # Assert ----------------------------------------------------------------------------------------------------------

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def counted(self) -> dict[tuple[int, str | None], Decimal]:
        """What counts of each slot, by hour and by region (``total`` and ``rest`` for those). Nothing is no entry."""
        return {
            (
                int((start - START) / HOUR),
                slice_name if properties is None else json.loads(properties).get("region", properties),
            ): value
            for start, slice_name, properties, value in self._counted()
            if value is not None and (value or self.metric.calculation == "MAX")
        }

    def _counted(self) -> list[tuple[Any, ...]]:
        return self.sql(
            """
            SELECT start_at, slice, properties, CASE WHEN %s THEN max(number) ELSE sum(number) END FROM (
                SELECT e.start_at, e.slice, e.properties,
                       CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END AS number
                FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
                WHERE e.pair_id = %s AND e.customer_id = %s AND e.metric_id = %s AND e.kind <> 'deletion'
            ) AS live GROUP BY start_at, slice, properties
            """,
            self.metric.calculation == "MAX",
            self.pair_id,
            self.customer,
            self.metric.metric_id,
        )

    def references(self) -> list[str]:
        """References of the events of this customer and metric, in the order of planning."""
        rows = self.sql(
            "SELECT reference FROM ledger.events WHERE customer_id = %s AND metric_id = %s AND kind <> 'deletion' "
            "ORDER BY event_id",
            self.customer,
            self.metric.metric_id,
        )
        return [reference for (reference,) in rows]
