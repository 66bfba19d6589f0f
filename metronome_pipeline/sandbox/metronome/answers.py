"""What the emulator says and hears: JSON with exact numbers, instants in several spellings, errors with a message.

Here: the forms. Not here: what is said.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import Any, NoReturn

STYLES = ("mixed", "Z", "offset", "millis")
"""How instants are spelled; ``mixed`` leaves it to the endpoint, as the real API does."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True)
class Answer:
    """One answer: a status and a JSON tree (``datetime`` and ``Decimal`` allowed), or no body at all.

    Attributes:
        style: The spelling of instants where the knob ``timestamp_style`` is ``mixed``.
    """

    tree: object = None
    status: int = 200
    style: str = "millis"
    headers: Mapping[str, str] = field(default_factory=dict)
    has_body: bool = True


class Refused(Exception):
    """The request is answered with an error: ``{"message": ...}`` and a status of 400 or more."""

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = Answer({"message": message}, status=status, headers=headers or {})


def to_json(tree: object, style: str = "Z") -> str:  # noqa: PLR0911 - one for each type
    """JSON text: a ``Decimal`` as a plain number without exponent, a ``datetime`` in a style, text as pure ASCII.

    Text is escaped rather than encoded so that lone surrogates can be sent, which a client must survive.
    """
    match tree:
        case str():
            return encode_basestring_ascii(tree)
        case None | bool():
            return {None: "null", True: "true", False: "false"}[tree]
        case int():
            return str(tree)
        case Decimal():
            return format(tree, "f")
        case datetime():
            return f'"{spell(tree, style)}"'
        case Mapping():
            return "{" + ",".join(f"{encode_basestring_ascii(k)}:{to_json(v, style)}" for k, v in tree.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(to_json(element, style) for element in tree) + "]"
        case _:
            raise TypeError(f"No JSON form for {type(tree).__name__}.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON.")


def from_json(text: bytes) -> Any:
    """The JSON tree, every fraction as an exact ``Decimal``.

    Raises:
        ValueError: When the text is not JSON (``NaN`` and ``Infinity`` are not).
    """
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)


def spell(instant: datetime, style: str) -> str:
    """An instant in one of :data:`STYLES`; fractions of a second appear where there are some."""
    utc = instant.astimezone(UTC)
    if style == "millis":
        return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"
    spelled = utc.isoformat()
    return spelled if style == "offset" else spelled.removesuffix("+00:00") + "Z"


def read_instant(text: object, name: str) -> datetime:
    """An RFC 3339 instant, as UTC.

    Raises:
        Refused: 400 naming the field, when it is not one.
    """
    if isinstance(text, str) and _RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise Refused(f"{name} must be an RFC 3339 timestamp with an offset.")
