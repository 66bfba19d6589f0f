"""What the emulator requires of a request's body: shapes and types, refused with the name of the field.

Here: checks that several endpoints share. Not here: rules of one endpoint.
"""

import uuid
from typing import Any

from metronome_pipeline.sandbox.metronome.answers import Refused
from metronome_pipeline.sandbox.metronome.store import Call


def body_of(call: Call) -> dict[str, Any]:
    """The body as an object.

    Raises:
        Refused: 400 when it is something else.
    """
    return body_of_tree(call.body)


def body_of_tree(tree: object) -> dict[str, Any]:
    """A decoded JSON tree as an object.

    Raises:
        Refused: 400 when it is something else.
    """
    if not isinstance(tree, dict):
        raise Refused("The body must be a JSON object.")
    return tree


def text(body: dict[str, Any], name: str, *, most: int | None = None) -> str:
    """A required, non-empty text field."""
    value = body.get(name)
    if not isinstance(value, str) or not value or (most is not None and len(value) > most):
        raise Refused(f"{name} must be a text{f' of 1 to {most} characters' if most else ''}.")
    return value


def is_uuid(value: object) -> bool:
    """Whether a value is the usual text of a UUID."""
    if not isinstance(value, str) or len(value) != 36:
        return False
    try:
        uuid.UUID(value)
    except ValueError:
        return False
    return True


def uuid_text(value: object, name: str) -> str:
    """A UUID, in lower case."""
    if not isinstance(value, str) or not is_uuid(value):
        raise Refused(f"{name} must be a UUID.")
    return value.lower()


def texts(value: object, name: str, *, least: int = 0, most: int | None = None) -> list[str]:
    """A list of texts."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Refused(f"{name} must be a list of texts.")
    if len(value) < least or (most is not None and len(value) > most):
        raise Refused(f"{name} must have {least} to {most if most is not None else 'any number of'} values.")
    return value


def custom_fields(body: dict[str, Any]) -> dict[str, str]:
    """The custom fields of a body: texts of at most 200 characters."""
    fields = body.get("custom_fields") or {}
    if not isinstance(fields, dict) or not all(isinstance(one, str) and len(one) <= 200 for one in fields.values()):
        raise Refused("custom_fields must map names to texts of at most 200 characters.")
    return fields
