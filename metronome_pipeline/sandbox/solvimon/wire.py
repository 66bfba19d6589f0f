"""JSON, instants and ids on the wire. Here: how bytes become values and back. Not here: which values are allowed."""

import hashlib
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from metronome_pipeline.sandbox.solvimon.errors import ApiProblem

JsonObject = dict[str, Any]
"""A decoded JSON object. Numbers with a fraction or exponent are ``Decimal``, never float."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def decode(body: bytes) -> object:
    """The value of a request's body; no body is ``None``.

    Raises:
        ApiProblem: 400 ``BAD_REQUEST`` for what is not JSON, or holds half a surrogate pair, which no answer could
            repeat.
    """
    if not body:
        return None
    try:
        value: object = json.loads(body, parse_float=Decimal, parse_constant=_refuse_constant)
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except (ValueError, RecursionError):
        raise ApiProblem(400, "BAD_REQUEST", "The request body is not valid JSON") from None
    return value


encode = msgspec.json.encode
"""Value to bytes. ``Decimal`` becomes a string: every quantity of this API is one."""


def instant_text(instant: datetime) -> str:
    """``2026-11-22T06:00:00Z``: UTC, to the second, as the API writes instants."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")


@lru_cache(maxsize=4096)
def parse_instant(text: str, *, fractions: bool) -> datetime | None:
    """The instant of one of the two documented formats (``Z`` or ``±hh:mm``), else ``None``."""
    form = _INSTANT.fullmatch(text)
    if form is None or (form.group(1) and not fractions):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class IdSource:
    """Makes ids: a prefix, ``_`` and 20 letters or digits.

    Ids of different stores differ, as those of test and live do.
    """

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._made = 0

    def make(self, prefix: str) -> str:
        """The next id with this prefix."""
        self._made += 1
        return f"{prefix}_{hashlib.blake2b(f'{self._salt}:{self._made}'.encode(), digest_size=10).hexdigest()}"
