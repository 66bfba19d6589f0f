"""What Dagster is told of a reconciliation: each day with its figures, its differences and its picture; and checks.

Here: from a tally to materializations and check results. Not here: what is compared (``reconciliation.py``).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import dagster as dg

from metronome_pipeline.ledger import rotation
from metronome_pipeline.ledger.read import Window, midnight
from metronome_pipeline.ledger.synchronise import Due, Gap, gaps
from metronome_pipeline.mapping.periods import DAY, first_midnight
from metronome_pipeline.reconciliation import standing
from metronome_pipeline.reconciliation.lines import Difference, ReconciledMetric
from metronome_pipeline.reconciliation.reconciliations import DayTotals, day_totals
from metronome_pipeline.reconciliation.tally import Tally, solvimon_says
from metronome_pipeline.settings import Settings
from metronome_pipeline.solvimon.requests import plain_number
from metronome_pipeline.sweeps.days import days_of
from metronome_pipeline.workflows.hours import range_text
from metronome_pipeline.workflows.imports import request_metadata, table
from metronome_pipeline.workflows.naming import asset_key
from metronome_pipeline.workflows.pictures import Bar, Mark, markdown_image, usage_picture
from metronome_pipeline.workflows.session import Session

DAY_KEY = "%Y-%m-%d"
"""The form of a partition's key."""
CHECKS: Mapping[str, str] = {
    "complete": "Every hour of the day was read for every customer and metric that is due. The list says where hours "
    "were never read: backfill them.",
    "delivered_equals_observed": "What Solvimon has taken is what Metronome reports, for every customer and metric of "
    "the day. The list says what differs, by how much, and why as far as it is known.",
    "nothing_unmatched": "Solvimon bills every event of the day. What is listed it counts, but no subscription or "
    "price of the customer matches it: mend that, then have Solvimon process the customer's events again.",
    "reference_deduplication_proved": "Solvimon was seen to ignore a second event under one reference, so that no "
    "repeated request bills twice. Ask Solvimon to switch it on, then run `metronome-pipeline check --probe`.",
    "nothing_deleted_by_hand": "No event of the day was deleted, changed or added in Solvimon behind the ledger's "
    "back. What is listed is held as it is, and never sent again unasked. Additions and changes are only seen by a "
    "run with `deep`.",
}
DIFFERENCE_COLUMNS = (
    "customer", "metric", "hour", "Metronome", "ledger", "Solvimon", "difference", "reason", "detail", "proved by",
    "references",
)  # fmt: skip
_TOTAL_COLUMNS = ("metric", "Metronome", "ledger", "delivered", "Solvimon", "difference")
_BY_HAND = frozenset({"deleted by hand", "changed by hand", "foreign"})
_LISTED = 100
_PICTURE_DAYS = 31


def reconciliation_key(settings: Settings) -> dg.AssetKey:
    """The asset."""
    return asset_key(settings, "solvimon", "reconciliation")


@dataclass(frozen=True)
class Names:
    """Names of customers and metrics; an id without a name stands for itself."""

    customers: Mapping[str, str]
    metrics: Mapping[str, str]

    def customer(self, customer_id: str) -> str:
        """A customer's name."""
        return self.customers.get(customer_id, customer_id)

    def metric(self, metric_id: str) -> str:
        """A metric's name."""
        return self.metrics.get(metric_id, metric_id)

    def row(self, part: Difference) -> tuple[Any, ...]:
        """A difference as a row of ``DIFFERENCE_COLUMNS``."""
        return (
            self.customer(part.customer_id),
            self.metric(part.metric_id),
            part.start,
            part.metronome,
            part.ledger,
            part.solvimon,
            "missing" if part.amount is None else part.amount,
            part.reason,
            part.detail,
            part.granularity,
            " ".join(part.references),
        )


@dataclass(frozen=True)
class Reports:
    """Everything that Dagster is told of one run."""

    asset: dg.AssetKey
    tally: Tally
    names: Names
    days: Sequence[datetime]
    gaps: Mapping[datetime, Sequence[Gap]]
    totals: Sequence[DayTotals]
    deduplication: str
    requests: Mapping[str, Any]
    deep: bool

    @classmethod
    async def of(
        cls, asset: dg.AssetKey, session: Session, tally: Tally, dues: Sequence[Due], window: Window, *, deep: bool
    ) -> "Reports":
        """Gathers what the run's own tally does not hold."""
        pair_id = session.pair.pair_id
        days = days_of(midnight(window.start), first_midnight(window.end))

        def gather(connection: standing.Connection) -> tuple[Names, dict[datetime, list[Gap]], list[DayTotals]]:
            names = Names(*standing.names(connection, pair_id))
            totals = day_totals(connection, pair_id, days[-1] + DAY, len(days) + _PICTURE_DAYS - 1)
            return names, _gaps_by_day(connection, pair_id, dues, window, days), totals

        names, found, totals = await session.database.run(gather)
        requests = {
            **request_metadata(session.metronome.http.counts()),
            "solvimon_requests": session.solvimon.http.counts().requests,
            "solvimon_requests_for_lists": tally.list_requests,
        }
        return cls(asset, tally, names, days, found, totals, session.pair.deduplication, requests, deep)

    def materializations(self) -> Iterator[dg.AssetMaterialization]:
        """Every day of the run, unless a pair could not be read."""
        for day in () if self.tally.unread else self.days:
            of_the_run = self.requests if day == self.days[-1] else {}
            yield dg.AssetMaterialization(
                self.asset, partition=day.strftime(DAY_KEY), metadata={**self._metadata(day), **of_the_run}
            )

    def checks(self) -> Iterator[dg.AssetCheckEvaluation | dg.AssetCheckResult]:
        """Every check for every day, and for the run as a whole: Dagster forgets the days of a range's own results."""
        of_days = {day: self._found([day]) for day in self.days}
        for day, found in of_days.items():
            for name, (columns, rows) in found.items():
                yield dg.AssetCheckEvaluation(
                    asset_key=self.asset,
                    check_name=name,
                    passed=not rows,
                    metadata=_evidence(columns, rows),
                    severity=dg.AssetCheckSeverity.ERROR,
                    partition=day.strftime(DAY_KEY),
                )
        for name, (columns, rows) in self._found(self.days).items():
            bad = [day.strftime(DAY_KEY) for day, found in of_days.items() if found[name][1]]
            yield dg.AssetCheckResult(
                asset_key=self.asset,
                check_name=name,
                passed=not rows,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={**_evidence(columns, rows), **({"days": ", ".join(bad[:_LISTED])} if bad else {})},
            )

    def fail_if_unread(self) -> None:
        """Ends the run by name where something could not be read.

        Raises:
            dg.Failure: Some pairs, or one of Solvimon's lists, could not be read.
        """
        unread = self.tally.unread
        if not unread:
            return
        raise dg.Failure(
            description=f"{len(unread)} walks did not complete, so that these days are not reconciled. The first: "
            f"customer {unread[0].customer_id}, {', '.join(unread[0].metric_ids)}: {unread[0].reason}",
            allow_retries=False,
            metadata={"unread": table(("customer", "metrics", "reason"), self._unread_rows()[:_LISTED])},
        )

    def _metadata(self, day: datetime) -> dict[str, Any]:
        counted = self.tally.outcomes.get(day, Counter())
        parts = self.tally.differences.get(day, [])
        totals = {metric: totals for (metric, of_day), totals in self.tally.by_day.items() if of_day == day}
        rows = [
            (
                self.names.metric(metric),
                one.metronome,
                one.ledger,
                one.delivered,
                solvimon_says(one, deep=self.deep),
                self.tally.difference(metric, one),
            )
            for metric, one in sorted(totals.items())
        ]
        return {
            "equal": counted["equal"],
            "explained": counted["explained"],
            "unexplained": counted["unexplained"],
            "unmatched": sum(part.reason == "unmatched" for part in parts),
            "proved_by": "event" if self.deep else "day, and hour where a day differs or is cut",
            "totals": _table(_TOTAL_COLUMNS, rows),
            **({"differences": _table(DIFFERENCE_COLUMNS, map(self.names.row, parts[:_LISTED]))} if parts else {}),
            "picture": dg.MetadataValue.md(self._picture(day)),
        }

    def _picture(self, day: datetime) -> str:
        first = day - (_PICTURE_DAYS - 1) * DAY
        bars = [self._bar(one) for one in self.totals if first <= one.day <= day]
        return markdown_image(
            usage_picture(bars), f"Metronome and delivered by day until {day:%Y-%m-%d}, {len(bars)} bars"
        )

    def _bar(self, totals: DayTotals) -> Bar:
        metric: ReconciledMetric | None = self.tally.metrics.get(totals.metric_id)
        name = self.names.metric(totals.metric_id)
        marks = frozenset({Mark.differs}) if totals.differs else frozenset()
        if metric is not None and metric.calculation == "MAX":
            return Bar(totals.metric_id, name, totals.day, totals.highest_metronome, totals.highest_delivered, marks)
        return Bar(totals.metric_id, name, totals.day, totals.metronome, totals.delivered, marks)

    def _found(self, days: Sequence[datetime]) -> dict[str, tuple[Sequence[str], list[tuple[Any, ...]]]]:
        """What each check found in some days, as rows of its columns."""
        parts = [part for day in days for part in self.tally.differences.get(day, [])]
        rows = self.names.row
        differing = [rows(part) for part in parts if part.reason != "unmatched"]
        differing += [(who, what, *("",) * 5, "unread", why, "", "") for who, what, why in self._unread_rows()]
        proved = self.deduplication == "proved"
        return {
            "complete": (
                ("hours", "customers", "metrics"),
                [_gap_row(gap) for day in days for gap in self.gaps.get(day, [])],
            ),
            "delivered_equals_observed": (DIFFERENCE_COLUMNS, differing),
            "nothing_unmatched": (DIFFERENCE_COLUMNS, [rows(part) for part in parts if part.reason == "unmatched"]),
            "reference_deduplication_proved": (("deduplication",), [] if proved else [(self.deduplication,)]),
            "nothing_deleted_by_hand": (DIFFERENCE_COLUMNS, [rows(part) for part in parts if part.reason in _BY_HAND]),
        }

    def _unread_rows(self) -> list[tuple[str, str, str]]:
        return [
            (
                self.names.customer(unread.customer_id),
                ", ".join(self.names.metric(metric) for metric in unread.metric_ids),
                unread.reason,
            )
            for unread in self.tally.unread
        ]


def _gaps_by_day(
    connection: standing.Connection, pair_id: int, dues: Sequence[Due], window: Window, days: Sequence[datetime]
) -> dict[datetime, list[Gap]]:
    found: dict[datetime, list[Gap]] = {}
    for due in dues:
        waiting_from = rotation.waiting_from(connection, pair_id, due)
        if not gaps(connection, pair_id, due, [window], waiting_from=waiting_from):
            continue
        for day in days:
            hours = Window(max(day, window.start), min(day + DAY, window.end))
            if missing := gaps(connection, pair_id, due, [hours], waiting_from=waiting_from):
                found.setdefault(day, []).extend(missing)
    return found


def _gap_row(gap: Gap) -> tuple[str, str, str]:
    return range_text(gap.window), ", ".join(gap.customer_ids), ", ".join(gap.metric_ids)


def _evidence(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"found": len(rows), **({"list": _table(columns, rows[:_LISTED])} if rows else {})}


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dg.TableMetadataValue:
    """Rows as a table: numbers plainly and to the last digit, hours in UTC, nothing for None."""
    return table(columns, (tuple(map(_text, row)) for row in rows))


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Decimal):
        return plain_number(cell)
    return f"{cell:%Y-%m-%d %H:%M}" if isinstance(cell, datetime) else str(cell)
