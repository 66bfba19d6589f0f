"""The core broken on purpose, one way at a time: each must turn the simulation red, or the checker sees too little.

Each breakage says which trouble brings it to light, and within how many seeds.
"""

import importlib
import itertools
import pkgutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

import metronome_pipeline.ledger as ledger_package
from metronome_pipeline import wire
from metronome_pipeline.errors import ApiError, Unanswered, Unavailable
from metronome_pipeline.ledger import claims, deliver, plan, synchronise
from metronome_pipeline.ledger.claims import LedgerEvent, Receipt
from metronome_pipeline.ledger.doubts import Doubts, sent
from metronome_pipeline.metronome import reading
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import Echo
from metronome_pipeline.storage.pace import SharedPacer

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Breakage:
    """One way to break the core.

    Attributes:
        name: What is broken.
        apply: Breaks it until the patch is undone.
        trouble: The kinds of trouble under which it shows.
        within: It shows within so many seeds, counted from 0.
    """

    name: str
    apply: Callable[[Patch], None]
    trouble: frozenset[str] = field(default_factory=frozenset)
    within: int = 10


def _altered_sql(patch: Patch, old: str, new: str) -> None:
    """Changes every statement of the ledger that contains ``old``."""
    found = 0
    for info in pkgutil.iter_modules(ledger_package.__path__, f"{ledger_package.__name__}."):
        module = importlib.import_module(info.name)
        for name, value in list(vars(module).items()):
            if isinstance(value, str) and old in value:
                patch.setattr(module, name, value.replace(old, new))
                found += 1
            elif isinstance(value, tuple) and any(isinstance(each, str) and old in each for each in value):
                patch.setattr(module, name, tuple(each.replace(old, new) for each in value))
                found += 1
    assert found, f"No statement of the ledger contains {old!r} any more: break it in another way."


def _claims_are_not_committed(patch: Patch) -> None:
    original = claims.claim_next

    def claim_next(connection: claims.Connection, *arguments: Any) -> claims.Claim | None:
        with connection.transaction(force_rollback=True):
            return original(connection, *arguments)

    patch.setattr(claims, "claim_next", claim_next)


def _a_lost_answer_counts_as_success(patch: Patch) -> None:
    original = SolvimonApi.ingest

    async def ingest(api: SolvimonApi, events: Sequence[Any], *, replay: bool) -> list[Echo]:
        try:
            return await original(api, events, replay=replay)
        except (Unanswered, Unavailable):
            return [Echo(id="unknown", reference=event.reference) for event in events]

    patch.setattr(SolvimonApi, "ingest", ingest)


def _every_batch_is_sent_twice(patch: Patch) -> None:
    original = SolvimonApi.ingest

    async def ingest(api: SolvimonApi, events: Sequence[Any], *, replay: bool) -> list[Echo]:
        await original(api, events, replay=replay)
        return await original(api, events, replay=replay)

    patch.setattr(SolvimonApi, "ingest", ingest)


def _a_short_201_counts_as_whole(patch: Patch) -> None:
    original = SolvimonApi.ingest

    async def ingest(api: SolvimonApi, events: Sequence[Any], *, replay: bool) -> list[Echo]:
        echoes = await original(api, events, replay=replay)
        known = {echo.reference for echo in echoes}
        missing = [event.reference for event in events if event.reference not in known]
        return [*echoes, *(Echo(id="unknown", reference=reference) for reference in missing)]

    patch.setattr(SolvimonApi, "ingest", ingest)


def _revisions_are_forgotten(patch: Patch) -> None:
    _altered_sql(patch, "coalesce(c.revision + 1, 0)", "coalesce(c.revision, 0)")


def _numbers_are_floats(patch: Patch) -> None:
    def exact_number(raw: bytes) -> Decimal | None:
        number = wire.exact_number(raw)
        return None if number is None else Decimal(repr(float(number)))

    patch.setattr(reading, "exact_number", exact_number)


def _a_walk_ends_at_an_empty_page(patch: Patch) -> None:
    original = MetronomeApi._walk

    async def walk(api: MetronomeApi, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        async for page in original(api, *arguments, **options):
            if isinstance(page, list) and not page:
                return
            yield page

    patch.setattr(MetronomeApi, "_walk", walk)


def _a_partial_read_counts_as_whole(patch: Patch) -> None:
    original = MetronomeApi._walk

    async def walk(api: MetronomeApi, method: str, path: str, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        pages = original(api, method, path, *arguments, **options)
        if not path.startswith("/v1/usage"):
            async for page in pages:
                yield page
            return
        with suppress(ApiError):
            async for page in pages:
                yield page

    patch.setattr(MetronomeApi, "_walk", walk)


def _plans_take_no_lock(patch: Patch) -> None:
    original, numbers = plan.plan, itertools.count(1)

    def planned(*arguments: Any, **named: Any) -> plan.Planned:
        # Every plan takes a lock of its own.
        plan.PLANNING_LOCK = next(numbers)
        return original(*arguments, **named)

    patch.setattr(plan, "PLANNING_LOCK", plan.PLANNING_LOCK)
    patch.setattr(synchronise, "plan", planned)


def _a_slot_in_quarantine_is_planned_anew(patch: Patch) -> None:
    _altered_sql(patch, "bool_or(o.event_id IS NOT NULL", "bool_or(false")


def _an_older_reading_replaces_a_newer_one(patch: Patch) -> None:
    _altered_sql(patch, "AND n.began_at > r.began_at AND n.hours && r.hours", "AND false")


def _a_duplicate_counts_whatever_its_original_says(patch: Patch) -> None:
    async def judge_duplicate(doubts: Doubts, event: LedgerEvent, echo: Echo) -> Receipt:
        del doubts
        return sent(event, echo)

    patch.setattr(Doubts, "judge_duplicate", judge_duplicate)


def _nobody_waits_before_looking_up(patch: Patch) -> None:
    async def wait_out(doubts: Doubts) -> None:
        del doubts

    patch.setattr(Doubts, "wait_out", wait_out)


def _what_a_dead_run_left_is_sent_as_if_new(patch: Patch) -> None:
    def claim_left_behind(connection: claims.Connection, pair_id: int, run_id: str) -> None:
        del run_id
        connection.execute("DELETE FROM ledger.claims WHERE pair_id = %s", [pair_id])

    patch.setattr(claims, "claim_left_behind", claim_left_behind)


def _a_maximum_never_falls(patch: Patch) -> None:
    _altered_sql(patch, "AND (s.event_id IS NULL OR s.number IS NOT NULL)", "AND false")


def _a_successor_waits_for_nothing(patch: Patch) -> None:
    patch.setattr(claims, "_OPEN_DELETION", "SELECT WHERE false")


def _the_pace_is_ignored(patch: Patch) -> None:
    async def wait(pacer: SharedPacer) -> float:
        del pacer
        return 0.0

    patch.setattr(SharedPacer, "wait", wait)


def _a_refused_batch_is_dropped(patch: Patch) -> None:
    async def isolate(sending: Any, batch: list[LedgerEvent], error: ApiError) -> list[LedgerEvent]:
        del error
        for event in batch:
            sending._note(event, Receipt(event.event_id, "delivered"))
        return []

    patch.setattr(deliver._Sending, "_isolate", isolate)


def _events_change_after_they_were_planned(patch: Patch) -> None:
    original = claims.claim_next

    def claim_next(connection: claims.Connection, *arguments: Any) -> claims.Claim | None:
        connection.execute("UPDATE ledger.events SET number = number + 0, run_id = run_id || '*' WHERE number > 2")
        return original(connection, *arguments)

    patch.setattr(claims, "claim_next", claim_next)


def _vanished_usage_stays(patch: Patch) -> None:
    vanished = "DELETE FROM metronome.usage WHERE"
    _altered_sql(patch, vanished, f"{vanished} false AND")


BREAKAGES = (
    Breakage("claims are not committed before their events are sent", _claims_are_not_committed),
    Breakage(
        "a lost answer counts as success",
        _a_lost_answer_counts_as_success,
        frozenset({"deduplication_off", "reset_before"}),
        25,
    ),
    Breakage("revisions are forgotten", _revisions_are_forgotten, frozenset({"late_events"}), 20),
    Breakage("numbers are floats", _numbers_are_floats),
    Breakage("a walk ends at an empty page", _a_walk_ends_at_an_empty_page, frozenset({"empty_page"}), 25),
    Breakage("a partial read counts as whole", _a_partial_read_counts_as_whole, frozenset({"outage"}), 40),
    Breakage("plans take no lock", _plans_take_no_lock, frozenset({"second_process", "late_events"}), 60),
    Breakage("every batch is sent twice", _every_batch_is_sent_twice, frozenset({"deduplication_off"})),
    Breakage("a short 201 counts as whole", _a_short_201_counts_as_whole, frozenset({"short_201_lost"}), 25),
    Breakage(
        "a slot in quarantine is planned anew",
        _a_slot_in_quarantine_is_planned_anew,
        frozenset({"poisoned_event", "late_events", "negative_events"}),
        60,
    ),
    Breakage(
        "an older reading replaces a newer one",
        _an_older_reading_replaces_a_newer_one,
        frozenset({"second_process", "slow_answers", "late_events", "removed_events"}),
        200,
    ),
    Breakage(
        "a duplicate counts whatever its original says",
        _a_duplicate_counts_whatever_its_original_says,
        frozenset({"taken_reference", "late_events", "new_customer"}),
        60,
    ),
    Breakage(
        "nobody waits before looking up",
        _nobody_waits_before_looking_up,
        frozenset({"deduplication_off", "crash", "slow", "late_events", "removed_events"}),
        150,
    ),
    Breakage(
        "what a dead run left is sent as if new",
        _what_a_dead_run_left_is_sent_as_if_new,
        frozenset({"deduplication_off", "crash"}),
        60,
    ),
    Breakage("a maximum never falls", _a_maximum_never_falls, frozenset({"removed_events"}), 60),
    Breakage(
        "a successor does not wait for its deletion",
        _a_successor_waits_for_nothing,
        frozenset({"removed_events", "moved_alias"}),
        80,
    ),
    Breakage("the pace is ignored", _the_pace_is_ignored, frozenset(), 60),
    Breakage("a refused batch is dropped", _a_refused_batch_is_dropped, frozenset({"poisoned_event"}), 40),
    Breakage(
        "events change after they were planned", _events_change_after_they_were_planned, frozenset({"late_events"})
    ),
    Breakage("vanished usage stays", _vanished_usage_stays, frozenset({"removed_events"}), 40),
)
"""What the checker must see."""
