"""Checks of request bodies: which fields an object may have and what each may hold.

Not here: which resource has which fields.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metronome_pipeline.sandbox.solvimon.errors import invalid, missing
from metronome_pipeline.sandbox.solvimon.settings import Settings
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

Check = Callable[[object, str, Settings], object]
"""Takes a value, the dotted path of its field and the knobs; gives the value or raises 400."""

READ_ONLY = frozenset({"object_type", "id", "created_at"})
"""Fields of answers that a request may repeat; they have no effect."""


@dataclass(frozen=True)
class Field:
    """A field of a request body. A create needs the required ones; null counts as absent for them."""

    name: str
    check: Check
    required: bool = False
    nullable: bool = True


def read(fields: Sequence[Field], body: JsonObject, settings: Settings, *, creating: bool, at: str = "") -> JsonObject:
    """The known fields of a body, checked. Fields that are not sent are not in the result.

    Args:
        fields: What the API names.
        body: What was sent.
        settings: Knobs; ``unknown_fields`` says what happens to others.
        creating: Whether required fields must be there.
        at: Dotted path of the object itself, ending in a dot, or empty.

    Raises:
        ApiProblem: 400 ``MISSING_FIELD`` or ``INVALID_FIELD``, naming the field.
    """
    known = {field.name for field in fields} | READ_ONLY
    strange = [name for name in body if name not in known]
    if strange and settings.unknown_fields == "refused":
        raise invalid(at + strange[0], "unknown field")
    checked: JsonObject = {}
    for field in fields:
        value = body.get(field.name)
        if value is None and field.required and (creating or field.name in body):
            raise missing(at + field.name)
        if field.name not in body:
            continue
        if value is None and not field.nullable:
            raise invalid(at + field.name, "must not be null")
        checked[field.name] = None if value is None else field.check(value, at + field.name, settings)
    return checked


def text(pattern: str = r"(?s:.*)", *, minimum: int = 0, maximum: int | None = None) -> Check:
    """A check for a string that matches a pattern as a whole."""
    form = re.compile(pattern)

    def check(value: object, where: str, settings: Settings) -> object:
        del settings
        if not isinstance(value, str):
            raise invalid(where, "must be a string")
        if form.fullmatch(value) is None:
            raise invalid(where, f"must match ^{pattern}$")
        if len(value) < minimum or (maximum is not None and len(value) > maximum):
            raise invalid(where, f"must have {minimum} to {maximum} characters")
        return value

    return check


def one_of(*allowed: str) -> Check:
    """A check for one of some constants."""

    def check(value: object, where: str, settings: Settings) -> object:
        del settings
        if not isinstance(value, str) or value not in allowed:
            raise invalid(where, f"must be one of {', '.join(allowed)}")
        return value

    return check


def of_type(kind: type, name: str) -> Check:
    """A check for the type alone; a boolean is no number."""

    def check(value: object, where: str, settings: Settings) -> object:
        del settings
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise invalid(where, f"must be {name}")
        return value

    return check


def list_of(element: Check) -> Check:
    """A check for a list of something."""

    def check(value: object, where: str, settings: Settings) -> object:
        if not isinstance(value, list):
            raise invalid(where, "must be a list")
        return [element(item, f"{where}.{index}", settings) for index, item in enumerate(value)]

    return check


def record(*fields: Field) -> Check:
    """A check for an object with these fields; its required ones are required whenever the object is sent."""

    def check(value: object, where: str, settings: Settings) -> object:
        if not isinstance(value, dict):
            raise invalid(where, "must be an object")
        return read(fields, value, settings, creating=True, at=f"{where}.")

    return check


ANY_TEXT = text()
BOOLEAN = of_type(bool, "true or false")
WHOLE = of_type(int, "a whole number")
OBJECT = of_type(dict, "an object")
LIST = of_type(list, "a list")

# ``.`` of the documented patterns matches no line terminator, and there are more of those than \n.
LINE = text(r"[^\n\r\u0085\u2028\u2029]*", maximum=256)
"""Names and descriptions: one line, at most 256 characters."""

REFERENCE = text(r"\S+", maximum=256)
"""References of configuration resources: no white space, at most 256 characters."""

TAX_CATEGORY = one_of("STANDARD", "NO_TAX", "EXEMPT")
STATUSES = ("DRAFT", "ACTIVE", "ARCHIVED", "DEPRECATED")
