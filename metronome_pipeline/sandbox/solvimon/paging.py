"""Lists: pages, order, filters by status, and search.

Here: from all resources to one answer. Not here: who may see them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from metronome_pipeline.sandbox.solvimon.errors import invalid
from metronome_pipeline.sandbox.solvimon.routing import Call
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

DEFAULT_LIMIT = 50


def page_and_limit(call: Call) -> tuple[int, int]:
    """What ``page`` (from 1) and ``limit`` (default 50, cut to the knob ``max_limit``) ask for.

    Raises:
        ApiProblem: 400 for what is no whole number from 1.
    """
    page = _whole(call, "page", 1)
    return page, min(_whole(call, "limit", DEFAULT_LIMIT), call.store.settings.max_limit)


def _whole(call: Call, name: str, default: int) -> int:
    text = call.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise invalid(name, "must be a whole number from 1")
    return int(text)


def paged(call: Call, rows: Sequence[Any], render: Callable[[Any], Any]) -> JsonObject:
    """One page with ``page``, ``limit``, ``total_number_of_pages`` and relative links; a page past the end is empty."""
    page, limit = page_and_limit(call)
    pages = math.ceil(len(rows) / limit)
    kept = [(name, value) for name, value in call.query.multi_items() if name not in {"page", "limit"}]

    def link(number: int, *, there: bool) -> str | None:
        return f"{call.path}?{urlencode([*kept, ('page', number), ('limit', limit)])}" if there else None

    return {
        "data": [render(row) for row in rows[(page - 1) * limit : page * limit]],
        "page": page,
        "limit": limit,
        "total_number_of_pages": pages,
        "links": {
            "first": link(1, there=True),
            "previous": link(page - 1, there=page > 1),
            "current": link(page, there=True),
            "next": link(page + 1, there=page < pages),
        },
    }


def ordered(call: Call, rows: Sequence[JsonObject], *, by: str | None, direction: str) -> list[JsonObject]:
    """Rows in the order that is asked for, or by default; without a field, the order of creation.

    Raises:
        ApiProblem: 400 for an ``order_direction`` other than asc and desc.
    """
    field = call.query.get("order_by") or by
    wanted = call.query.get("order_direction", direction).lower()
    if wanted not in {"asc", "desc"}:
        raise invalid("order_direction", "must be asc or desc")
    if field is not None and field not in {"created_at", "id"}:
        rows = sorted(rows, key=lambda row: str(row.get(field) or ""))
    return list(rows) if wanted == "asc" else list(reversed(rows))


def of_statuses(call: Call, rows: Sequence[JsonObject], *, hidden: frozenset[str]) -> list[JsonObject]:
    """Rows of the statuses asked for with ``statuses[]``; without it, all but the hidden ones."""
    wanted = call.query.getlist("statuses[]")
    if wanted:
        return [row for row in rows if row.get("status") in wanted]
    return [row for row in rows if row.get("status") not in hidden]


def found(body: JsonObject, rows: Sequence[JsonObject]) -> list[JsonObject]:
    """Rows that fit every search field and every filter field of a ``/search`` body.

    Raises:
        ApiProblem: 400 for a search field without name or value.
    """
    searches = [_search(entry, f"search_fields.{index}") for index, entry in enumerate(_entries(body, "search_fields"))]
    filters = [_filter(entry, f"filter_fields.{index}") for index, entry in enumerate(_entries(body, "filter_fields"))]
    return [row for row in rows if all(keep(row) for keep in (*searches, *filters))]


def _entries(body: JsonObject, name: str) -> list[JsonObject]:
    entries = body.get(name) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise invalid(name, "must be a list of objects")
    return entries


def _search(entry: JsonObject, where: str) -> Callable[[JsonObject], bool]:
    name, value = entry.get("name"), entry.get("value")
    if not isinstance(name, str):
        raise invalid(f"{where}.name", "value required, but not set")
    if not isinstance(value, str):
        raise invalid(f"{where}.value", "value required, but not set")
    fold: Callable[[str], str] = str.casefold if entry.get("ignore_case") else str
    wanted = fold(value)

    def keep(row: JsonObject) -> bool:
        if row.get(name) is None:
            return False
        there = fold(str(row[name]))
        if entry.get("wildcard_start") and entry.get("wildcard_end"):
            return wanted in there
        if entry.get("wildcard_start"):
            return there.endswith(wanted)
        return there.startswith(wanted) if entry.get("wildcard_end") else there == wanted

    return keep


def _filter(entry: JsonObject, where: str) -> Callable[[JsonObject], bool]:
    name = entry.get("name")
    if not isinstance(name, str):
        raise invalid(f"{where}.name", "value required, but not set")
    wanted = {*(entry.get("values") or []), *([entry["value"]] if entry.get("value") is not None else [])}
    return lambda row: not wanted or row.get(name) in wanted
