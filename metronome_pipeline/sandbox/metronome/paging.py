"""Pages and cursors: opaque, bound to the request that they continue, and spoilt on request.

Here: limits, cursors, the page envelope, the faults that are about pages. Not here: which rows there are.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from metronome_pipeline.sandbox.metronome.answers import Answer, Refused, to_json
from metronome_pipeline.sandbox.metronome.store import Call, Store

State = list[Any]
"""Where a page starts: JSON, only known to the endpoint that made it. ``[]`` is the beginning."""

ReadPage = Callable[[State], tuple[list[Any], State | None]]
"""The rows from a state, and the state after them; ``None`` when there is no more."""

MOST = 100
"""The largest page."""


def limit_of(store: Store, call: Call, default: int | None = None) -> int:
    """The page size that a request asks for.

    Raises:
        Refused: 400 when it is not a whole number from 1 to 100 (above: see the knob ``over_limit``).
    """
    given = one_of(call, "limit")
    if given is None:
        return store.settings.default_limit if default is None else default
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise Refused("limit must be a whole number from 1 to 100.")
    if int(given) > MOST and store.settings.over_limit == "reject":
        raise Refused("limit must be at most 100.")
    return min(int(given), MOST)


def one_of(call: Call, name: str) -> str | None:
    """A query parameter that is given at most once."""
    values = call.query.get(name, [])
    if len(values) > 1:
        raise Refused(f"{name} was given more than once.")
    return values[0] if values else None


def yes_or_no(call: Call, name: str) -> bool:
    """A query parameter that is ``true`` or ``false``, and false when absent."""
    given = one_of(call, name)
    if given not in {None, "true", "false"}:
        raise Refused(f"{name} must be true or false.")
    return given == "true"


def answer_page(store: Store, call: Call, read: ReadPage, style: str = "millis") -> Answer:
    """Answer one page, from the cursor in the request to the cursor in the answer."""
    cursor = one_of(call, "next_page")
    state = _open(store, call, cursor) if cursor else []
    rows, following = read(state)
    next_page = None if following is None else _seal(store, call, following)
    match call.fault:
        case "empty_page":
            rows, next_page = [], _seal(store, call, state)
        case "duplicate_page":
            next_page = _seal(store, call, state)
        case "repeated_cursor":
            next_page = cursor or _seal(store, call, state)
        case _:
            pass
    return Answer({"data": rows, "next_page": next_page}, style=style)


def rows_after(rows: list[Any], limit: int) -> ReadPage:
    """Pages over rows that carry a rising ``number`` (or pairs of number and row), keyed by it, not by position.

    What disappears from the list between two pages then shifts nothing.
    """

    def read(state: State) -> tuple[list[Any], State | None]:
        last = state[0] if state else -1
        left = [row for row in rows if row[0] > last]
        page = left[:limit]
        return [row[1] for row in page], [page[-1][0]] if len(left) > limit else None

    return read


def _binding(call: Call) -> str:
    query = {name: values for name, values in sorted(call.query.items()) if name != "next_page"}
    text = to_json([call.endpoint, dict(call.ids), query, _sorted(call.body)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _sorted(tree: Any) -> Any:
    return {key: _sorted(tree[key]) for key in sorted(tree)} if isinstance(tree, dict) else tree


def _seal(store: Store, call: Call, state: State) -> str:
    # The number makes every cursor another text, also two for one place.
    sealed = [_binding(call), store.now().timestamp(), store.number(), state]
    return base64.urlsafe_b64encode(json.dumps(sealed).encode()).decode().rstrip("=")


def _open(store: Store, call: Call, cursor: str) -> State:
    try:
        binding, at, _, state = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        age = store.now().timestamp() - float(at)
    except (ValueError, TypeError) as error:
        raise Refused("next_page is not a cursor of this API.") from error
    if store.settings.bind_cursors and binding != _binding(call):
        raise Refused("next_page belongs to another request.")
    expiry = store.settings.cursor_expiry_s
    if expiry is not None and age > timedelta(seconds=float(expiry)).total_seconds():
        raise Refused("next_page has expired.")
    if not isinstance(state, list):
        raise Refused("next_page is not a cursor of this API.")
    return state
