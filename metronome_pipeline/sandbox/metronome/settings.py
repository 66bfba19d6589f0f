"""The knobs of one store: everything about the real API that is assumed, seen to differ, or useful to provoke.

Here: names, defaults, and what each may be. Not here: what a knob does.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from metronome_pipeline.sandbox.metronome.answers import STYLES, Refused, read_instant


@dataclass(frozen=True)
class Settings:
    """The knobs, each with its default.

    Attributes:
        now: The store's time; ``None`` means the app's clock.
        rows_per_page: Windows of usage in one page of ``/v1/usage``.
        pages_cross_pairs: Whether a page of usage may hold several (customer, metric) pairs.
        empty_windows: What a window without usage looks like: ``null``, ``zero``, or the row is left out (``omit``).
        empty_groups: The same for a group that has usage in another window of the request.
        null_groups: How a group without value looks: ``null``, ``missing_key``, or ``missing_group`` (no map at all).
        latest_carries: Whether LATEST carries its value into windows without events.
        rate_limit: Requests per second of the token; ``None`` means no limit.
        burst: How many requests may come at once.
        rate_limit_scope: One budget for the ``account``, or one an ``endpoint``.
        retry_after: Seconds that a 429 names; ``None`` means no ``Retry-After``.
        timestamp_style: How instants are spelled.
        archived_usage: Whether usage of archived customers and metrics is read: ``by_id``, ``always``, ``never``.
        archived_metrics_meter: Whether an archived metric counts events received after it was archived.
        reflow: Whether streaming metrics count events received before they were created.
        ingestion_lag_s: Seconds after which an event is visible.
        cursor_expiry_s: Seconds for which a cursor is good; ``None`` means for ever.
        bind_cursors: Whether a cursor is refused with another body, query or path.
        max_compound_groups: Cap on the groups that a compound query without filters returns; ``None`` means none.
        filter_undercount: Whether a filter on a later key of a compound key alone loses every third window.
        default_limit: Page size of the lists when the request names none.
        over_limit: What a ``limit`` over 100 does: ``reject`` or ``clamp``.
        unknown_filter_ids: What ``/v1/usage`` says to ids that it does not know: ``empty`` or ``404``.
        bad_uuid_status: Status for a path id that is not a UUID: 404 or 400.
        max_property_bytes: Longest property value of an event.
        max_properties: Most properties of an event.
        max_event_age_days: Oldest event that ingest takes.
        max_event_ahead_hours: Event that is furthest in the future that ingest takes.
        denied_endpoints: ``METHOD /path/{id}`` templates that the token may not use (403).
    """

    now: datetime | None = None
    rows_per_page: int = 200
    pages_cross_pairs: bool = False
    empty_windows: str = "null"
    empty_groups: str = "omit"
    null_groups: str = "null"
    latest_carries: bool = False
    rate_limit: Decimal | None = Decimal(8)
    burst: int = 8
    rate_limit_scope: str = "account"
    retry_after: Decimal | None = None
    timestamp_style: str = "mixed"
    archived_usage: str = "by_id"
    archived_metrics_meter: bool = True
    reflow: bool = False
    ingestion_lag_s: Decimal = Decimal(0)
    cursor_expiry_s: Decimal | None = None
    bind_cursors: bool = True
    max_compound_groups: int | None = None
    filter_undercount: bool = False
    default_limit: int = 20
    over_limit: str = "reject"
    unknown_filter_ids: str = "empty"
    bad_uuid_status: int = 404
    max_property_bytes: int = 256
    max_properties: int = 2000
    max_event_age_days: int = 34
    max_event_ahead_hours: int = 24
    denied_endpoints: tuple[str, ...] = ()

    def changed(self, changes: object) -> "Settings":
        """These settings with some changed, from decoded JSON.

        Raises:
            Refused: 400 naming the knob that is unknown or the value that is wrong.
        """
        if not isinstance(changes, Mapping):
            raise Refused("Settings must be an object of knobs and values.")
        parsed: dict[str, Any] = {}
        for name, value in changes.items():
            read = _READERS.get(name)
            if read is None:
                raise Refused(f"Unknown knob {name!r}; the knobs are {', '.join(_READERS)}.")
            parsed[name] = read(value, name)
        return replace(self, **parsed)

    def as_tree(self) -> dict[str, object]:
        """All knobs with their values, for JSON."""
        return asdict(self)


_Reader = Callable[[object, str], object]


def _one_of(*choices: object) -> _Reader:
    def read(value: object, name: str) -> object:
        # 1 == True in Python; in JSON they differ.
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise Refused(f"Knob {name} must be one of {', '.join(map(str, choices))}, not {value!r}.")
        return value

    return read


def _whole(least: int) -> _Reader:
    def read(value: object, name: str) -> object:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise Refused(f"Knob {name} must be a whole number from {least}, not {value!r}.")
        return value

    return read


def _number(value: object, name: str) -> object:
    try:
        number = None if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or number < 0:
        raise Refused(f"Knob {name} must be a number from 0, not {value!r}.")
    return number


def _or_null(read: _Reader) -> _Reader:
    return lambda value, name: None if value is None else read(value, name)


def _texts(value: object, name: str) -> object:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Refused(f"Knob {name} must be a list of texts, not {value!r}.")
    return tuple(value)


_yes_or_no = _one_of(True, False)  # noqa: FBT003 - the two values a knob may have

_READERS: Mapping[str, _Reader] = {
    "now": _or_null(read_instant),
    "rows_per_page": _whole(1),
    "pages_cross_pairs": _yes_or_no,
    "empty_windows": _one_of("null", "zero", "omit"),
    "empty_groups": _one_of("omit", "null", "zero"),
    "null_groups": _one_of("null", "missing_key", "missing_group"),
    "latest_carries": _yes_or_no,
    "rate_limit": _or_null(_number),
    "burst": _whole(1),
    "rate_limit_scope": _one_of("account", "endpoint"),
    "retry_after": _or_null(_number),
    "timestamp_style": _one_of(*STYLES),
    "archived_usage": _one_of("by_id", "always", "never"),
    "archived_metrics_meter": _yes_or_no,
    "reflow": _yes_or_no,
    "ingestion_lag_s": _number,
    "cursor_expiry_s": _or_null(_number),
    "bind_cursors": _yes_or_no,
    "max_compound_groups": _or_null(_whole(0)),
    "filter_undercount": _yes_or_no,
    "default_limit": _whole(1),
    "over_limit": _one_of("reject", "clamp"),
    "unknown_filter_ids": _one_of("empty", "404"),
    "bad_uuid_status": _one_of(400, 404),
    "max_property_bytes": _whole(1),
    "max_properties": _whole(0),
    "max_event_age_days": _whole(0),
    "max_event_ahead_hours": _whole(0),
    "denied_endpoints": _texts,
}
