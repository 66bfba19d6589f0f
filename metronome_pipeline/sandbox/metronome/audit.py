"""``GET /v1/auditLogs``: what was changed, when; its cursor never ends.

Here: the log's own way of paging. Not here: writing to it.
"""

import base64
import json
from typing import Any

from metronome_pipeline.sandbox.metronome.answers import Answer, Refused, read_instant
from metronome_pipeline.sandbox.metronome.paging import limit_of, one_of
from metronome_pipeline.sandbox.metronome.store import Call, Fields, Store

_BOUNDS = ("starting_on", "ending_before")
_FILTERS = ("sort", "resource_type", "resource_id")


def list_audit_logs(store: Store, call: Call) -> Answer:
    """``GET /v1/auditLogs``: an empty page means that there is nothing new; its cursor is to be asked again later."""
    limit = limit_of(store, call)
    cursor = one_of(call, "next_page")
    if cursor is not None and any(name in call.query for name in _BOUNDS):
        raise Refused("starting_on and ending_before cannot be used together with next_page.")
    if ("resource_type" in call.query) != ("resource_id" in call.query):
        raise Refused("resource_type and resource_id must be used together.")
    if cursor is None:
        asked: dict[str, Any] = {name: one_of(call, name) for name in (*_BOUNDS, *_FILTERS)}
        asked["seen"] = 0
    else:
        asked = _open(cursor)
    rows = _matching(store, asked)
    page = rows[asked["seen"] : asked["seen"] + limit]
    sealed = json.dumps({**asked, "seen": asked["seen"] + len(page)})
    next_page = base64.urlsafe_b64encode(sealed.encode()).decode()
    return Answer({"data": page, "next_page": next_page})


def _matching(store: Store, asked: dict[str, Any]) -> list[Fields]:
    if asked["sort"] not in {None, "date_asc", "date_desc"}:
        raise Refused("sort must be date_asc or date_desc.")
    since, until = (read_instant(asked[name], name) if asked[name] else None for name in _BOUNDS)
    rows = [
        row
        for row in store.audit
        if (since is None or row["timestamp"] >= since)
        and (until is None or row["timestamp"] < until)
        and asked["resource_type"] in {None, row["resource_type"]}
        and asked["resource_id"] in {None, row["resource_id"]}
    ]
    return rows[::-1] if asked["sort"] == "date_desc" else rows


def _open(cursor: str) -> dict[str, Any]:
    try:
        asked: dict[str, Any] = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError) as error:
        raise Refused("next_page is not a cursor of this API.") from error
    if not isinstance(asked, dict) or set(asked) != {*_BOUNDS, *_FILTERS, "seen"}:
        raise Refused("next_page is not a cursor of this API.")
    return asked
