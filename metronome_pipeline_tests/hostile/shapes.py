"""Answers that a hostile or broken API could give: strategies for hypothesis, derived from the shapes that we read.

Here: good JSON of a struct, the ways to spoil it, and JSON or bytes of no shape at all. Not here: any test. How many
examples are tried is ``HOSTILE_EXAMPLES``, 30 by default; 3,000 are a hunt of some ten minutes.
"""

import json
import os
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec import inspect

T = TypeVar("T")

HUNT = settings(
    max_examples=int(os.environ.get("HOSTILE_EXAMPLES", "30")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
UUID = "d7abd0cd-4ae9-4db7-8676-e986a4ebd8dc"
REFERENCE = "mn_0123456789"
HOUR = ("2026-01-05T00:00:00Z", "2026-01-05T01:00:00Z")

# JSON as it stands in the bytes, for what json.dumps would not write.
SPOILED_TOKENS = (
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'""',
    b"-0.0",
    b"1e400",
    b"1e999999999",
    b"-1e-999999999",
    b"1e99999999999999999999",
    b"9" * 10_000,
    b'"' + b"9" * 10_000 + b'"',
    b'"1e999999999"',
    b'"NaN"',
    b"NaN",
    b"Infinity",
    b"18446744073709551616",
    b'"a\\u0000b"',
    b'"\\ud800"',
    b'"\\udfff\\ud800"',
    b'"line\\r\\nbreak\\u2028\\u0085"',
    b'"\\u202egnp.exe\\u2066"',
    b'"\xff\xfe"',
    b'"raw\nbreak"',
    b'"<img src=x onerror=alert(1)>"',
    b'"\'; DROP TABLE metronome.usage; --"',
    b'"../../.."',
    b'".."',
    b'"0001-01-01T00:00:00+14:00"',
    b'"9999-12-31T23:59:59-14:00"',
    b'"2026-01-05T00:00:00"',
    b'"2026-02-30T25:61:61Z"',
    b'"' + b"x" * 100_000 + b'"',
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
    b"[" * 900 + b'"\\u0000"' + b"]" * 900,
    b"[" * 50_000,
)


class Token(bytes):
    """JSON that is written as it is."""


def written(value: Any) -> bytes:
    """A tree of Python objects and tokens as JSON."""
    if isinstance(value, Token):
        return bytes(value)
    if isinstance(value, dict):
        return b"{" + b",".join(json.dumps(key).encode() + b":" + written(inner) for key, inner in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(written, value)) + b"]"
    return json.dumps(value).encode()


def good(shape: Any) -> st.SearchStrategy[Any]:
    """JSON that a struct, or another type of msgspec's, is read from."""
    return _good(inspect.type_info(shape))


def _good(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.StructType():
            required = {field.encode_name: _field(field) for field in kind.fields if field.required}
            optional = {field.encode_name: _field(field) for field in kind.fields if not field.required}
            return st.fixed_dictionaries(required, optional=optional)
        case inspect.UnionType():
            told = [each for each in kind.types if "Unset" not in type(each).__name__]
            return st.one_of(*map(_good, told))
        case inspect.ListType() | inspect.VarTupleType():
            return st.lists(_good(kind.item_type), max_size=2)
        case inspect.DictType():
            return st.dictionaries(st.text(max_size=5), _good(kind.value_type), max_size=2)
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
    return _plain(kind)


def _field(field: inspect.Field) -> st.SearchStrategy[Any]:
    ends = {"id": UUID, "customer_id": UUID, "billable_metric_id": UUID, "next_page": None, "reference": REFERENCE}
    ends |= {"start_timestamp": HOUR[0], "starting_on": HOUR[0], "end_timestamp": HOUR[1], "ending_before": HOUR[1]}
    name = field.encode_name
    if name in ends and not (name == "starting_on" and field.required is False):
        return st.just(ends[name])
    return _good(field.type)


def _plain(kind: inspect.Type) -> st.SearchStrategy[Any]:
    numbers = st.builds(Token, st.from_regex(rb"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,10})?", fullmatch=True))
    plain: dict[type[inspect.Type], st.SearchStrategy[Any]] = {
        inspect.NoneType: st.none(),
        inspect.BoolType: st.booleans(),
        inspect.IntType: st.integers(-5, 10**9),
        inspect.StrType: st.text(max_size=8),
        inspect.DecimalType: numbers,
        inspect.RawType: numbers | st.none(),
        inspect.AnyType: st.none() | st.text(max_size=3),
        inspect.DateTimeType: st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    }
    return plain[type(kind)]


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within a tree."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(each for key, part in inner for each in _places(part, (*place, key)))]


def _with(value: Any, place: tuple[Any, ...], change: Any) -> Any:
    """A tree with one value changed: ``change`` takes the container and the key."""
    key, *rest = place
    if isinstance(value, dict):
        copy: Any = dict(value)
    else:
        copy = list(value)
    if rest:
        copy[key] = _with(value[key], tuple(rest), change)
    else:
        change(copy, key)
    return copy


@st.composite
def spoiled(draw: st.DrawFn, shape: Any) -> bytes:
    """Good JSON of a shape with up to three things wrong: missing, of another type, null, huge, doubled, or extra."""
    tree = draw(good(shape))
    for _ in range(draw(st.integers(0, 3))):
        places = [place for place in _places(tree) if place]
        if not places:
            break
        token = Token(draw(st.sampled_from(SPOILED_TOKENS)))

        def replace(inside: Any, key: Any, token: Token = token) -> None:
            inside[key] = token

        def remove(inside: Any, key: Any) -> None:
            del inside[key]

        def double(inside: Any, key: Any, token: Token = token) -> None:
            if isinstance(inside, list):
                inside.append(inside[key])
            else:
                inside["a\0b\u202e"] = token

        tree = _with(tree, draw(st.sampled_from(places)), draw(st.sampled_from([replace, replace, remove, double])))
    content = written(tree)
    cut = draw(st.none() | st.integers(0, len(content)) if draw(st.integers(0, 9)) == 0 else st.none())
    return content if cut is None else content[:cut]


shapeless = (
    st.binary(max_size=300)
    | st.sampled_from(SPOILED_TOKENS)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["data", "next_page", "id", "message", "code", "field", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
"""Bytes, and JSON of no shape; infinities and NaN too, as Python writes them."""


def texts(value: Any) -> list[str]:
    """Every text in what a client returned."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, msgspec.Struct):
        return [text for name in value.__struct_fields__ for text in texts(getattr(value, name))]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts(part)]
    if hasattr(value, "__dataclass_fields__"):
        return [text for name in value.__dataclass_fields__ for text in texts(getattr(value, name))]
    return []


def numbers(value: Any) -> list[Decimal | float]:
    """Every number in what a client returned, but for whole ones."""
    if isinstance(value, Decimal | float):
        return [value]
    if isinstance(value, msgspec.Struct):
        return [number for name in value.__struct_fields__ for number in numbers(getattr(value, name))]
    if isinstance(value, list | tuple):
        return [number for part in value for number in numbers(part)]
    if hasattr(value, "__dataclass_fields__"):
        return [number for name in value.__dataclass_fields__ for number in numbers(getattr(value, name))]
    return []
