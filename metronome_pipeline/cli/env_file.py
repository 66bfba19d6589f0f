"""The file ``.env``: its text with some variables set, and how it is written so that nobody else can read it.

Here: text to text, and one write. Not here: which variables there are (``settings.py``), and what is asked
(``init.py``).
"""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=~-]*")


@dataclass(frozen=True)
class _Part:
    """A line or more of the file: the variable that it sets, if any, and its text with its end."""

    name: str | None
    text: str


def with_values(text: str, values: Mapping[str, str]) -> str:
    """The text of a ``.env`` with variables set; every other line, comments too, stays as it is and where it is.

    A variable that is set already changes its line. Another one goes under the comment that shows its default
    (``# NAME=…``), and without such a comment to the end.

    Raises:
        ValueError: A line cannot be read, or a value cannot be written so that it is read back as it is (``${…}`` is
            filled in whatever the quotes). The text never holds a value.
    """
    bindings = list(parse_stream(StringIO(text)))
    wrong = next((each.original.line for each in bindings if each.error), None)
    if wrong is not None:
        raise ValueError(f"line {wrong} is not NAME=value: correct it, or make it a comment")
    parts = [_Part(each.key, each.original.string) for each in bindings]
    for name, value in values.items():
        parts = _with_value(parts, name, f"{name}={_quoted(value)}\n")
    written = "".join(each.text for each in parts)
    back = dotenv_values(stream=StringIO(written))
    for name, value in values.items():
        if back.get(name) != value:
            raise ValueError(f"the value of {name} cannot be written there: put it into the environment instead")
    return written


def write(path: Path, text: str) -> None:
    """Replaces a file, whole or not at all, by one that its owner alone can read. A symbolic link is followed.

    Raises:
        OSError: It cannot be written; the old file stands as it was.
    """
    target = path.resolve()
    # mkstemp makes it with mode 600: at no moment can anybody else open it.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".env.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _with_value(parts: list[_Part], name: str, line: str) -> list[_Part]:
    places = [number for number, each in enumerate(parts) if each.name == name]
    if places:
        # The last one counts; those that it overrode would only mislead.
        kept = [each for number, each in enumerate(parts) if each.name != name or number == places[-1]]
        return [_Part(name, _lead(each.text) + line) if each.name == name else each for each in kept]
    shown = re.compile(rf"\s*#\s*{re.escape(name)}=")
    place = next((n for n, each in enumerate(parts) if each.name is None and shown.match(each.text)), len(parts) - 1)
    before, after = parts[: place + 1], parts[place + 1 :]
    ended = not before or before[-1].text.endswith(("\n", "\r"))
    return [*before, _Part(name, line if ended else f"\n{line}"), *after]


def _lead(text: str) -> str:
    """The empty lines before a variable, which are parsed with it."""
    return text[: len(text) - len(text.lstrip())]


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
