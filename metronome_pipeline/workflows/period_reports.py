"""What Dagster is told of the days of a run that bills by period to date, and what the run will cost.

Not here: the checks and the line of each step, which all usage workflows share (``reports.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg

from metronome_pipeline.ledger import evidence
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.synchronise import Due, Step
from metronome_pipeline.mapping.periods import DAY, first_midnight, last_midnight, midnights
from metronome_pipeline.workflows.due import Workflow
from metronome_pipeline.workflows.hours import range_text
from metronome_pipeline.workflows.imports import request_metadata, table
from metronome_pipeline.workflows.reports import time_in_words
from metronome_pipeline.workflows.session import Session

DAY_KEY = "%Y-%m-%d"
"""The form of a day's partition key."""


@dataclass(frozen=True)
class Days:
    """Tells Dagster of the days of one run.

    ``asked`` are the closed days that the run was asked for, ``closed`` is the end of all that are closed, and
    ``reported`` are those that were ever reported as done.
    """

    context: dg.AssetExecutionContext
    workflow: Workflow
    asked: Window
    closed: datetime
    reported: set[datetime]

    async def materializations(self, session: Session, due: Due, step: Step) -> list[dg.AssetMaterialization]:
        """Once a period was read for all that is due: its days that were asked for, changed, or never reported.

        Of a period that was only planned again, or read for some, those that changed, if they were reported before.
        """
        if not step.complete:
            return []
        closed = Window(last_midnight(step.window.start), min(step.window.end, self.closed))
        changed = {last_midnight(hour) for hour in step.planned.changed_hours}
        done = [day for day in midnights(closed.start, closed.end - DAY) if self._is_done(day, changed, step)]
        numbers = await self._numbers(session, due, closed)
        made: list[dg.AssetMaterialization] = []
        for day in done:
            counted = numbers.get(day, evidence.Hour())
            of_the_run = await _of_the_run(session, due, day) if day == done[-1] else {}
            for key, metadata in (
                (self.workflow.source, {"dagster/partition_row_count": counted.rows, "customers": counted.customers}),
                (
                    self.workflow.destination,
                    {
                        "dagster/partition_row_count": counted.events,
                        "events_planned": counted.planned,
                        "corrections": counted.corrections,
                        "quarantined": counted.quarantined,
                    },
                ),
            ):
                if key in self.context.selected_asset_keys:
                    made.append(
                        dg.AssetMaterialization(
                            key, partition=day.strftime(DAY_KEY), metadata={**metadata, **of_the_run}
                        )
                    )
        self.reported.update(done)
        return made

    def _is_done(self, day: datetime, changed: set[datetime], step: Step) -> bool:
        if step.revisited:
            return day in changed and day in self.reported
        return self.asked.start <= day < self.asked.end or day in changed or day not in self.reported

    async def _numbers(self, session: Session, due: Due, window: Window) -> dict[datetime, evidence.Hour]:
        """Numbers of each day. What its hours were billed before a switch counts with it."""
        hours = await session.database.run(
            lambda c: evidence.hours(c, session.pair.pair_id, due.metrics, window, session.run_id, grouped=False)
        )
        days: dict[datetime, evidence.Hour] = {}
        for hour, counted in hours.items():
            days[last_midnight(hour)] = _together(days.get(last_midnight(hour), evidence.Hour()), counted)
        return days

    def tell_start(self, due: Due, windows: Sequence[Window], per_second: float) -> None:
        """What the run is about to do, and what it will cost at a pace of so many requests a second."""
        pairs = len(due.metrics) * len(due.customer_ids(self.asked))
        each = sum(len(midnights(first_midnight(window.start), min(window.end, self.closed))) for window in windows)
        self.context.log.info(
            f"{pairs} customers and metrics by period to date, {range_text(self.asked)}, in {len(windows)} billing "
            f"periods, which are read whole: about {pairs * each:,} requests to Metronome, "
            f"{time_in_words(pairs * each / per_second)} at the set pace."
        )


async def _of_the_run(session: Session, due: Due, day: datetime) -> dict[str, Any]:
    """What the last day of a period also shows: requests of the run so far, and a preview of the day."""
    pair_id = session.pair.pair_id
    rows = await session.database.run(lambda c: evidence.preview(c, pair_id, due.metrics, day, grouped=False))
    requests = request_metadata(session.metronome.http.counts())
    solvimon = request_metadata(session.solvimon.http.counts())
    return {
        **requests,
        **{f"solvimon_{name}": value for name, value in solvimon.items()},
        "preview": table(evidence.PREVIEW_COLUMNS, rows),
    }


def _together(one: evidence.Hour, other: evidence.Hour) -> evidence.Hour:
    return evidence.Hour(
        rows=one.rows + other.rows,
        customers=max(one.customers, other.customers),
        events=one.events + other.events,
        planned=one.planned + other.planned,
        corrections=one.corrections + other.corrections,
        quarantined=one.quarantined + other.quarantined,
    )
