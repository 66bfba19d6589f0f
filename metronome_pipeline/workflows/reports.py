"""What Dagster is told of a usage run: hours with their numbers, checks with their evidence, and a log of a few lines.

Here: from the core's numbers to materializations, check results and sentences. Not here: what a run does
(``ingestion.py``), and where the numbers come from (``ledger/evidence.py``).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from metronome_pipeline.clock import Clock, Pauses
from metronome_pipeline.ledger import evidence, over_time, rotation
from metronome_pipeline.ledger.deliver import DeliveryReport
from metronome_pipeline.ledger.late import LATE_COLUMNS
from metronome_pipeline.ledger.read import Window
from metronome_pipeline.ledger.rotation import Turns
from metronome_pipeline.ledger.shelf import ReadReport
from metronome_pipeline.ledger.synchronise import Due, Step
from metronome_pipeline.ledger.unsettled import UNSETTLED_COLUMNS
from metronome_pipeline.workflows.due import RefusedMetric, Workflow
from metronome_pipeline.workflows.hours import KEY, hours_in, range_text
from metronome_pipeline.workflows.imports import request_metadata, table
from metronome_pipeline.workflows.pictures import hourly_picture, markdown_image
from metronome_pipeline.workflows.session import Session
from metronome_pipeline.workflows.turns import turn_figures, turns_in_words, warning_of

EVERY_PAIR_IS_READ = "every_pair_is_read_within_a_day"
_SAID_SINGLY = 5


@dataclass(frozen=True)
class Reports:
    """Tells Dagster of one run of a usage workflow. Only assets that the run was asked for are reported.

    ``turns``: which pairs it reads of the newest hours, where not all are.
    """

    context: dg.AssetExecutionContext
    workflow: Workflow
    turns: Turns | None = None

    async def materializations(
        self, session: Session, due: Due, asked: Window, step: Step
    ) -> list[dg.AssetMaterialization]:
        """Hours that were asked for, once all pairs were read that were to be, and others where something changed."""
        hours = await session.database.run(
            lambda c: evidence.hours(
                c, session.pair.pair_id, due.metrics, step.window, session.run_id, grouped=self.workflow.grouped
            )
        )
        reported = [hour for hour in hours_in(step.window) if self._is_done(hour, asked, step)]
        made: list[dg.AssetMaterialization] = []
        for hour in reported:
            counted = hours.get(hour, evidence.Hour())
            of_the_run = await self._of_the_run(session, due, step.window, hour) if hour == reported[-1] else {}
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
                        dg.AssetMaterialization(key, partition=hour.strftime(KEY), metadata={**metadata, **of_the_run})
                    )
        return made

    def _is_done(self, hour: datetime, asked: Window, step: Step) -> bool:
        if asked.start <= hour < asked.end and not step.revisited:
            return step.complete
        return not step.read.unread and hour in step.planned.changed_hours

    async def _of_the_run(self, session: Session, due: Due, window: Window, hour: datetime) -> dict[str, Any]:
        """What the last hour of a step also shows: requests of the run so far, a preview, and the step's picture."""
        pair_id, metrics, grouped = session.pair.pair_id, due.metrics, self.workflow.grouped
        rows = await session.database.run(lambda c: evidence.preview(c, pair_id, metrics, hour, grouped=grouped))
        hours = await session.database.run(
            lambda c: over_time.hours_by_metric(c, pair_id, metrics, window, grouped=grouped)
        )
        svg = hourly_picture(hours, window.start, window.end)
        return {
            **_requests(session),
            **(turn_figures(self.turns) if self.turns and window == self.turns.window else {}),
            "picture": dg.MetadataValue.md(markdown_image(svg, f"Usage by hour and metric, {range_text(window)}")),
            "preview": table(evidence.PREVIEW_COLUMNS, rows),
        }

    async def checks(
        self, session: Session, refused: Sequence[RefusedMetric], due: Due | None = None
    ) -> AsyncIterator[dg.AssetCheckResult]:
        """The checks of the run's assets, each with the list of what it found. ``due``: whose pairs may take turns."""
        found = await session.database.run(lambda c: evidence.open_matters(c, session.pair.pair_id))
        if self.workflow.destination in self.context.selected_asset_keys:
            yield _check(
                self.workflow.destination,
                "nothing_in_quarantine",
                found.quarantined,
                evidence.QUARANTINE_COLUMNS,
                _requests(session),
            )
            yield _check(self.workflow.destination, "nothing_held_by_the_brake", found.braked, evidence.BRAKE_COLUMNS)
            yield _check(self.workflow.destination, "nothing_left_unsettled", found.unsettled, UNSETTLED_COLUMNS)
            yield _check(self.workflow.destination, "nothing_late", found.late, LATE_COLUMNS)
        if self.workflow.source in self.context.selected_asset_keys:
            yield _check(
                self.workflow.source,
                "every_metric_is_billed",
                [(metric.metric_id, metric.name, metric.reason) for metric in refused],
                ("metric", "name", "reason"),
            )
            if due is not None:
                yield await self._check_of_turns(session, due)
            if self.workflow.grouped:
                yield _check(self.workflow.source, "groups_add_up", found.short_hours, evidence.SHORT_COLUMNS)

    async def _check_of_turns(self, session: Session, due: Due) -> dg.AssetCheckResult:
        late = await session.database.run(lambda c: rotation.overdue(c, session.pair.pair_id, due))
        figures = {"found": late.pairs, **(turn_figures(self.turns) if self.turns else {})}
        return _check(self.workflow.source, EVERY_PAIR_IS_READ, late.listed, rotation.OVERDUE_COLUMNS, figures)

    def tell_start(self, asked: Window, due: Due, per_second: float) -> None:
        """What the run is about to do, and what it will cost at a pace of so many requests a second."""
        if self.turns is not None:
            self.context.log.info(f"{range_text(asked)}: {turns_in_words(self.turns)}")
            if warning := warning_of(self.turns):
                self.context.log.warning(warning)
            return
        customers = len(due.customer_ids(asked))
        requests = customers * len(due.metrics) * -(-(asked.end - asked.start) // timedelta(days=7))
        self.context.log.info(
            f"Usage of {customers:,} customers and {len(due.metrics):,} metrics, {range_text(asked)}: about "
            f"{requests:,} requests to Metronome, {time_in_words(requests / per_second)} at the set pace."
        )

    def tell(self, step: Step, session: Session) -> None:
        """One line for a step that is done, and a warning for each thing in it that a person should know."""
        planned = ", ".join(f"{count} {kind}" for kind, count in sorted(step.planned.by_kind.items())) or "nothing"
        self.context.log.info(
            f"{range_text(step.window)}: {step.read.pairs} pairs read, {step.read.rows} rows; planned {planned}; "
            f"delivered {step.delivered.delivered}, quarantined {step.delivered.quarantined}. So far "
            f"{session.metronome.http.counts().requests} requests to Metronome, "
            f"{session.solvimon.http.counts().requests} to Solvimon."
        )
        warn_of_some(
            self.context,
            [
                f"Postgres cannot store the group {each.group} of metric {each.metric_id}, customer "
                f"{each.customer_id}: its usage is billed with the rest of its hour, without properties."
                for each in step.read.unstorable
            ],
            "groups that Postgres cannot store",
        )
        if step.planned.late:
            self.context.log.warning(
                f"{step.planned.late} events change hours whose invoices are final: see `metronome-pipeline late list`."
            )
        for brake in step.planned.brakes:
            self.context.log.warning(str(brake))


def left_by_earlier_runs(say: Callable[[str], None]) -> Callable[[DeliveryReport], None]:
    """Says what became of events that earlier runs had planned, or that a person has released since."""
    return lambda report: say(
        f"Left by earlier runs: delivered {report.delivered}, quarantined {report.quarantined}, "
        f"deleted {report.deleted}."
    )


def warn_of_refused(context: dg.AssetExecutionContext, refused: Sequence[RefusedMetric], done: str) -> None:
    """Warns of metrics whose usage is not ``done``: "sent". All of them stand in the check."""
    others = "metrics: the check every_metric_is_billed lists all of them"
    warn_of_some(context, [metric.sentence(done) for metric in refused], others)


def warn_of_some(context: dg.AssetExecutionContext, sentences: Sequence[str], others: str) -> None:
    """Warns of the first few things of a kind one by one, and of the ``others`` together."""
    for sentence in sentences[:_SAID_SINGLY]:
        context.log.warning(sentence)
    if len(sentences) > _SAID_SINGLY:
        context.log.warning(f"The same holds for {len(sentences) - _SAID_SINGLY:,} other {others}.")


def time_in_words(seconds: float) -> str:
    """A time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass
class Progress:
    """Says now and then how far the read of a step has come, and how long the step will take at this pace."""

    say: Callable[[str], None]
    clock: Clock
    pairs: int
    _step: Window | None = None
    _began: float = 0.0
    _read: int = 0
    _before: int = 0
    _pauses: Pauses = field(init=False)

    def __post_init__(self) -> None:
        self._pauses = Pauses(self.clock)

    def __call__(self, step: Window, read: ReadReport) -> None:
        """Called after each walk. A step of which some pairs are read before the others counts on."""
        now = self.clock.monotonic()
        if step != self._step:
            self._step, self._began, self._before = step, now, 0
            self._pauses.begin()
        elif read.pairs < self._read:
            self._before += self._read
        self._read = read.pairs
        done = self._before + read.pairs
        if done and self._pauses.are_over():
            left = time_in_words((now - self._began) / done * max(self.pairs - done, 0))
            self.say(f"{range_text(step)}: {done:,} of {self.pairs:,} pairs read, about {left} to go.")


def _requests(session: Session) -> dict[str, Any]:
    """Requests of the run so far, to both sides."""
    solvimon = request_metadata(session.solvimon.http.counts())
    return {
        **request_metadata(session.metronome.http.counts()),
        **{f"solvimon_{name}": value for name, value in solvimon.items()},
    }


def _check(
    asset: dg.AssetKey,
    name: str,
    found: Sequence[Sequence[Any]],
    columns: Sequence[str],
    metadata: dict[str, Any] | None = None,
) -> dg.AssetCheckResult:
    """A check that is green where nothing was found.

    References stand apart, behind a link: one is a word of 130 characters, and would push all else off the page.
    """
    shown, references = found[:100], {}
    if found and columns[-1] == "reference":
        references = {"references": dg.MetadataValue.json([row[-1] for row in shown])}
        columns, shown = columns[:-1], [row[:-1] for row in shown]
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=name,
        passed=not found,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "found": len(found),
            **(metadata or {}),
            **({"list": table(columns, shown)} if found else {}),
            **references,
        },
    )
