"""YAML as its writer sees it: values, each with the line that it stands in, and its own text.

Here: YAML 1.2's core types, as editors read them; in YAML 1.1, ``no`` and ``on`` are switches, and a group key of that
name would be lost. Not here: what a file may say (``metrics_file.py``).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml  # type: ignore[import-untyped]

_TAG = "tag:yaml.org,2002:"
_DEEPEST = 20


class NotYaml(Exception):
    """The text cannot be read: what is wrong, as a clause, and in which line."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)

_NUMBER = object()
"""What stands for any number: nothing that is read here is one."""


@dataclass(frozen=True)
class Source:
    """A YAML text that was read.

    Attributes:
        value: Mappings as dicts, lists as tuples, texts, booleans and None. A number is an object without meaning.
        mistakes: (line, clause) of what values cannot show: keys that stand twice, keys that are no texts.
    """

    value: Any
    mistakes: Sequence[tuple[int, str]]
    _root: Any = field(repr=False)
    _content: str = field(repr=False)

    def line(self, place: Sequence[str]) -> int:
        """The line of what stands at a place, or of the last of its parents that is there; the first is 1."""
        line = 1
        for key, _, node in self._way(place):
            line = (key or node).start_mark.line + 1
        return line

    def text(self, place: Sequence[str]) -> str:
        """What stands at a place, as it is written there."""
        text = ""
        for _, _, node in self._way(place):
            text = self._content[node.start_mark.index : node.end_mark.index].strip()
        return text

    def _way(self, place: Sequence[str]) -> Iterator[tuple[Any, str, Any]]:
        """(key node, part, value node) from the root down, as far as there are such nodes."""
        node = self._root
        for part in place:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            # Of a key that stands twice the last one counts, as in the values.
            found = [(key, value) for key, value in pairs if key.value == part]
            if not found:
                return
            key, node = found[-1]
            yield key, part, node


def parsed(text: str) -> Source:
    """Reads one YAML document.

    Raises:
        NotYaml: It is none, or deeper than anything that is written here.
    """
    mistakes: list[tuple[int, str]] = []
    try:
        root = yaml.compose(text, _Loader)
        value = None if root is None else _value(root, mistakes, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise NotYaml(mark.line + 1 if mark else 1, f"it is not YAML: {what}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(line, "it holds a control character, which YAML does not allow: take it out") from None
    except RecursionError:
        raise NotYaml(1, "it is nested too deeply") from None
    return Source(value, mistakes, root, text)


def _value(node: Any, mistakes: list[tuple[int, str]], depth: int) -> Any:
    line = node.start_mark.line + 1
    if depth > _DEEPEST:
        raise NotYaml(line, "it is nested too deeply, or within itself")
    if isinstance(node, yaml.SequenceNode):
        return tuple(_value(each, mistakes, depth + 1) for each in node.value)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, mistakes, depth)
    known = {"str": node.value, "bool": node.value.lower() == "true", "null": None, "int": _NUMBER, "float": _NUMBER}
    tag = node.tag.removeprefix(_TAG)
    if tag not in known:
        mistakes.append((line, f"{node.tag} means nothing here: take it out"))
    return known.get(tag)


def _mapping(node: Any, mistakes: list[tuple[int, str]], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
            mistakes.append((line, "a key is no text: write it in quotes"))
            continue
        if key.value in found:
            mistakes.append((line, f"{key.value} stands twice: keep one"))
        found[key.value] = _value(value, mistakes, depth + 1)
    return found
