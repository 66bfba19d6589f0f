"""What Metronome has told whom: walks of usage, put together again from the requests and the answers that arrived.

A walk is complete when its last page had no cursor, each page was asked for by the cursor of the one before, and no row
came twice. Only such a walk may say anything about an hour.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from metronome_pipeline_tests.simulation.history import Exchange
from metronome_pipeline_tests.simulation.metrics import slice_name

USAGE, GROUPS = "/v1/usage", "/v1/usage/groups"
Row = tuple[str, datetime, str]
"""Metric, hour and slice."""


@dataclass(eq=False)
class CompleteWalk:
    """One walk of one customer. ``began`` and ``ended`` in virtual seconds; ``values`` without nulls."""

    process: str
    path: str
    customer: str
    metrics: frozenset[str]
    first: datetime
    last: datetime
    began: float
    ended: float = 0.0
    values: dict[Row, Decimal] = field(default_factory=dict)


@dataclass(eq=False)
class _Chain:
    walk: CompleteWalk
    cursor: str | None = None
    cursors: set[str] = field(default_factory=set)
    seen: set[Row] = field(default_factory=set)
    broken: bool = False


class Walks:
    """Every complete walk of a history that grows."""

    def __init__(self) -> None:
        self.complete: list[CompleteWalk] = []
        self._chains: dict[tuple[str, str, bytes], _Chain] = {}

    def take(self, exchanges: Iterable[Exchange]) -> None:
        """Takes in what has happened since, in the order in which answers arrived."""
        usage = [each for each in exchanges if each.path in (USAGE, GROUPS) and each.status == 200]
        for exchange in sorted(usage, key=lambda each: (each.answered or 0.0, each.number)):
            self._take(exchange)

    def _take(self, exchange: Exchange) -> None:
        page = _page(exchange.answer)
        if page is None:
            return
        key = (exchange.process, exchange.path, exchange.body)
        if exchange.cursor is None:
            self._chains[key] = _Chain(_begun(exchange))
        chain = self._chains.get(key)
        if chain is None or chain.cursor != exchange.cursor:
            return
        for row in page["data"]:
            self._add(chain, row)
        chain.cursor = page.get("next_page")
        if chain.cursor is None:
            del self._chains[key]
            chain.walk.ended = exchange.answered or 0.0
            if not chain.broken:
                self.complete.append(chain.walk)
        elif chain.cursor in chain.cursors:
            del self._chains[key]
        else:
            chain.cursors.add(chain.cursor)

    def _add(self, chain: _Chain, row: dict[str, Any]) -> None:
        if chain.walk.path == USAGE:
            key = (row["billable_metric_id"], datetime.fromisoformat(row["start_timestamp"]), "total")
        else:
            (metric,) = chain.walk.metrics
            key = (metric, datetime.fromisoformat(row["starting_on"]), _slice(row, chain.walk))
        chain.broken = chain.broken or key in chain.seen
        chain.seen.add(key)
        if row["value"] is not None:
            chain.walk.values[key] = row["value"]


@dataclass(eq=False)
class _Asked(CompleteWalk):
    group_key: tuple[str, ...] = ()


def _begun(exchange: Exchange) -> CompleteWalk:
    body = json.loads(exchange.body)
    grouped = exchange.path == GROUPS
    return _Asked(
        exchange.process,
        exchange.path,
        body["customer_id"] if grouped else body["customer_ids"][0],
        frozenset([body["billable_metric_id"]] if grouped else [each["id"] for each in body["billable_metrics"]]),
        datetime.fromisoformat(body["starting_on"]),
        datetime.fromisoformat(body["ending_before"]),
        exchange.departed,
        group_key=tuple(body.get("group_key") or ()),
    )


def _slice(row: dict[str, Any], walk: CompleteWalk) -> str:
    assert isinstance(walk, _Asked)
    group = row.get("group")
    if group is None:
        group = {walk.group_key[0]: row.get("group_value")} if len(walk.group_key) == 1 else {}
    return slice_name({key: group.get(key) for key in walk.group_key})


@lru_cache(maxsize=64)
def _page(content: bytes) -> dict[str, Any] | None:
    try:
        page = json.loads(content, parse_float=Decimal, parse_int=Decimal)
    except ValueError:
        return None
    return page if isinstance(page, dict) and isinstance(page.get("data"), list) else None
