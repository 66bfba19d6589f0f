"""The books: what Metronome reports, what the ledger says was sent, and what Solvimon counts, for every slot, exactly.

Here: three sums of the same thing from three sources, and what it means where they differ. It shares no code with the
pipeline: Metronome's side comes from the sandbox's own control totals, Solvimon's from the events that it stores.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal, Inexact
from typing import Any

from metronome_pipeline_tests.chaos.account import Account

Slot = tuple[str, str, datetime, frozenset[tuple[str, str]]]
"""Customer, metric, hour, and the group's values."""

_EXACT = Context(prec=1_000, traps=[Inexact])
_LEDGER = """
SELECT e.customer_id::text, e.metric_id::text, e.start_at, e.properties::jsonb,
       CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END
FROM ledger.events e LEFT JOIN ledger.restatements s USING (event_id)
WHERE e.kind <> 'deletion'
"""
_LEFT = """
SELECT 'the event ' || reference || ', ' || state FROM ledger.open_events JOIN ledger.events USING (event_id)
UNION ALL SELECT 'a claim on events ' || event_ids::text FROM ledger.claims
UNION ALL SELECT 'the unsettled hour ' || start_at FROM ledger.unsettled_hours
"""


@dataclass(frozen=True)
class Differences:
    """What is wrong at rest.

    Attributes:
        lost: Slots of which Solvimon counts less than Metronome reports.
        doubled: References that count more than once, and slots of which Solvimon counts more.
        wrong: Everything that is wrong, a sentence each.
    """

    lost: int
    doubled: int
    wrong: tuple[str, ...]


def differences(account: Account) -> Differences:
    """Holds the three against each other once nothing is left to do."""
    reported, counted, booked = _reported(account), _counted(account), _booked(account)
    maxima = {account.metrics["MAX"]}
    twice = list(_twice(account))
    wrong = [f"At rest there is still {what}." for (what,) in account.world.sql(_LEFT)] + twice
    lost = doubled = 0
    for slot in sorted(reported.keys() | counted.keys() | booked.keys(), key=repr):
        nothing = None if slot[1] in maxima else Decimal(0)
        truth, there, ours = (totals.get(slot, nothing) for totals in (reported, counted, booked))
        if truth == there == ours:
            continue
        wrong.append(f"{_place(slot)}: Metronome reports {truth}, the ledger says {ours}, Solvimon counts {there}.")
        lost += there != truth and _less(there, truth)
        doubled += there != truth and not _less(there, truth)
    return Differences(lost, len(twice) + doubled, tuple(wrong))


def _less(one: Decimal | None, two: Decimal | None) -> bool:
    return two is not None and (one is None or one < two)


def _reported(account: Account) -> dict[Slot, Decimal]:
    found: dict[Slot, Decimal] = {}
    for metric in account.metrics.values():
        asked = {"metric_id": metric, **({"group_key": "region"} if account.grouped else {})}
        for row in account.world.metronome.call("GET", "/_sandbox/truth", **asked)["rows"]:
            group = row["group"] or {}
            found[_slot(row["customer_id"], metric, row["start"], group.items())] = Decimal(row["value"])
    return found


def _counted(account: Account) -> dict[Slot, Decimal]:
    return _totals(
        account,
        (
            (
                _slot(
                    event["customer_reference"],
                    event["meter_reference"],
                    event["timestamp"],
                    ((each["reference"], each["value"]) for each in event["meter_properties"]),
                ),
                Decimal(event["meter_values"][0]["number"]),
            )
            for event in account.world.stored_events()
            if event["counts"]
        ),
    )


def _booked(account: Account) -> dict[Slot, Decimal]:
    return _totals(
        account,
        (
            (_slot(customer, metric, start.isoformat(), (group or {}).items()), number)
            for customer, metric, start, group, number in account.world.sql(_LEDGER)
            if number is not None
        ),
    )


def _totals(account: Account, numbers: Iterable[tuple[Slot, Decimal]]) -> dict[Slot, Decimal]:
    """Sums, or the greatest where the metric is a maximum."""
    found: dict[Slot, Decimal] = {}
    for slot, number in numbers:
        before = found.get(slot)
        if before is None:
            found[slot] = number
        elif slot[1] == account.metrics["MAX"]:
            found[slot] = max(before, number)
        else:
            found[slot] = _EXACT.add(before, number)
    return found


def _twice(account: Account) -> Iterator[str]:
    copies = Counter(event["reference"] for event in account.world.stored_events() if event["counts"])
    for reference, count in copies.items():
        if count > 1:
            yield f"{reference} counts {count} times."


def _slot(customer: str, metric: str, start: str, group: Iterable[tuple[str, str | None]]) -> Slot:
    known = frozenset((key, value) for key, value in group if value is not None)
    return customer, metric, datetime.fromisoformat(start), known


def _place(slot: Slot) -> str:
    customer, metric, start, group = slot
    return f"{start:%Y-%m-%d %H:%M} of metric {metric} for customer {customer} {_text(dict(group))}".rstrip()


def _text(group: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(group.items()))
