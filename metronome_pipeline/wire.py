"""Reading JSON as both APIs write it: numbers exactly, text that Postgres can store, and what is wrong by name.

Here: pure functions from bytes. Not here: which fields a record has (the ``records.py`` of each system).
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar

import msgspec

T = TypeVar("T")

MOST_DIGITS = 100
"""Digits of a number, written plainly, that pass: more is a mistake or an attack (1e999999999 is 11 bytes long)."""

UNSTORABLE = "holds a NUL character or a lone surrogate, which Postgres cannot store"
BEYOND = "is an instant before the year 1 or after 9999 in UTC"

_JSON_NUMBER = re.compile(rb"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?)0*([0-9]+))?")
_EXPONENT_DIGITS = 4
_ZERO = ord("0")
_TOO_LONG = f"has over {MOST_DIGITS} digits, written plainly"
_SURROGATES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one letter beyond U+FFFF
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # a surrogate alone
    rb"|\\."  # any other escape, consumed so that the second of two backslashes starts none
)
_UNSTORABLE = re.compile(_SURROGATES.pattern.replace(rb"|(", rb"|(\\u0000|", 1))
_NUL_ESCAPE = b"\\u0000"


class NotAsPromised(ValueError):
    """A readable body that breaks the API's contract, at ``field``, for ``reason``."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def exact_number(raw: bytes) -> Decimal | None:
    """The Decimal that a JSON number is, to the last digit; None for null.

    The result never has a positive exponent nor a negative zero: 1.5e3 is ``Decimal("1500")``.

    Raises:
        ValueError: It is a string, a boolean, NaN, or needs over ``MOST_DIGITS`` digits written plainly.
    """
    if raw == b"null":
        return None
    whole, point, fraction = raw.partition(b".")
    if whole.isdigit() and (fraction.isdigit() or not point) and (whole[0] != _ZERO or len(whole) == 1):
        # Nearly every number there is; the pattern below takes five times as long.
        if len(whole) + len(fraction) > MOST_DIGITS:
            raise ValueError(_TOO_LONG)
        return Decimal(raw.decode("ascii"))
    number = _JSON_NUMBER.fullmatch(raw)
    if number is None:
        raise ValueError("is not a JSON number")
    minus, whole, fraction, exponent_sign, exponent = number.groups(b"")
    if len(whole) + len(fraction) > MOST_DIGITS or len(exponent) > _EXPONENT_DIGITS:
        raise ValueError(_TOO_LONG)
    value = Decimal((minus + whole + b"." + fraction).decode("ascii"))
    if exponent:
        sign, digits, own = value.as_tuple()
        assert isinstance(own, int)
        places = own + int(exponent_sign + exponent)
        if (len(digits) + places if places >= 0 else max(len(digits), 1 - places)) > MOST_DIGITS:
            raise ValueError(_TOO_LONG)
        value = Decimal((sign, digits + (0,) * places, min(0, places)))
    return value or value.copy_abs()


def decoded(decoder: msgspec.json.Decoder[T], content: bytes) -> T:
    r"""What ``decoder`` makes of ``content``, also where a string holds a lone surrogate.

    msgspec refuses a whole body for one ``\ud800``. Such an escape is read as U+0000 instead, which no record may hold
    either: the record is then refused by name, and the others pass.

    Raises:
        msgspec.ValidationError: Readable, but not of the promised shape.
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: Not JSON: broken or cut short.
    """
    try:
        return decoder.decode(content)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        repaired = _SURROGATES.sub(lambda found: _NUL_ESCAPE if found[1] else found[0], content)
        if repaired == content:
            raise
        return decoder.decode(repaired)


def visible(content: bytes) -> bytes:
    r"""JSON in whose texts NUL characters and lone surrogates are spelled out, ``\u0000`` as six characters.

    For answers of which each part is kept as it comes, where a record cannot be refused by its name.
    """
    if b"\\u" not in content:
        return content
    return _UNSTORABLE.sub(lambda found: b"\\" + found[1] if found[1] else found[0], content)


def unstorable_field(raw: bytes) -> str | None:
    """The path of the first text in a JSON value that Postgres cannot store; None when there is none.

    Takes JSON that ``decoded`` has read: lone surrogates are U+0000 already.
    """
    return _path_to_nul(msgspec.json.decode(raw), "") if _NUL_ESCAPE in raw else None


def _path_to_nul(value: object, path: str) -> str | None:
    if isinstance(value, str):
        return (path or "body") if "\0" in value else None
    if isinstance(value, dict):
        for key, inner in value.items():
            if "\0" in key:
                return f"{path}.{key}".strip(".").replace("\0", "\\u0000")
            found = _path_to_nul(inner, f"{path}.{key}".strip("."))
            if found:
                return found
    if isinstance(value, list):
        for index, inner in enumerate(value):
            found = _path_to_nul(inner, f"{path}[{index}]")
            if found:
                return found
    return None


def in_utc(instant: datetime) -> datetime:
    """The same instant in UTC. One without an offset is taken as UTC already, whatever this machine's own zone is.

    Raises:
        OverflowError: There it lies before the year 1 or after 9999, which neither Python nor psycopg can hold.
    """
    if instant.tzinfo is UTC:
        return instant
    return instant.replace(tzinfo=UTC) if instant.utcoffset() is None else instant.astimezone(UTC)


def field_beyond(record: object) -> str | None:
    """The path of the first instant in a record that UTC cannot hold; None when there is none.

    Postgres would store it, and psycopg could not read it back.
    """
    path = _path_beyond(record)
    return path if path is None else path.lstrip(".")


def _path_beyond(value: object) -> str | None:
    if isinstance(value, datetime):
        try:
            in_utc(value)
        except OverflowError:
            return ""
        return None
    parts: Iterable[tuple[str, object]] = ()
    if isinstance(value, msgspec.Struct):
        parts = ((f".{name}", getattr(value, name)) for name in value.__struct_fields__)
    elif isinstance(value, tuple):
        parts = ((f"[{index}]", inner) for index, inner in enumerate(value))
    return next((place + found for place, inner in parts if (found := _path_beyond(inner)) is not None), None)


_PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]+)`$")


def field_and_reason(error: msgspec.ValidationError) -> tuple[str, str]:
    """The field that a body lacks or has wrong, and what is wrong with it."""
    place = _PLACE.match(str(error))
    assert place is not None
    path, reason = (place["path"] or "").lstrip("."), place["reason"]
    missing = _MISSING.match(reason)
    if missing:
        return f"{path}.{missing['name']}".lstrip("."), "is missing"
    return path or "body", reason[0].lower() + reason[1:]
