import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metronome_pipeline.wire import MOST_DIGITS, decoded, exact_number, field_and_reason, unstorable_field

plain_decimals = st.builds(
    lambda sign, digits, places: Decimal((sign, tuple(digits), -min(places, MOST_DIGITS - 1))),
    st.integers(0, 1),
    st.lists(st.integers(0, 9), min_size=1, max_size=MOST_DIGITS),
    st.integers(0, MOST_DIGITS),
)


@given(plain_decimals)
def test_a_plain_number_is_read_to_the_last_digit(number: Decimal) -> None:
    text = format(number, "f")
    if len(text.replace("-", "").replace(".", "")) <= MOST_DIGITS:
        read = exact_number(text.encode())
        assert read is not None
        assert format(read, "f") == format(number or number.copy_abs(), "f")


@given(st.integers(-(10**20), 10**20), st.integers(-130, 130))
@example(1, 99)
@example(1, 100)
@example(1, 101)
@example(1, -99)
@example(1, -100)
@example(10, -101)
@example(-150, -1)
@example(0, 50)
def test_an_exponent_passes_when_the_number_written_plainly_is_short_enough(mantissa: int, exponent: int) -> None:
    raw = f"{mantissa}e{exponent}".encode()
    truth = Decimal(mantissa).scaleb(exponent)
    as_written = len(str(abs(mantissa)))
    digits = as_written + exponent if exponent >= 0 else max(as_written, 1 - exponent)
    if digits > MOST_DIGITS:
        with pytest.raises(ValueError, match="over 100 digits"):
            exact_number(raw)
    else:
        number = exact_number(raw)
        assert number == truth
        assert number is not None
        assert "E" not in str(number) or exponent < 0


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"0", "0"),
        (b"-0", "0"),
        (b"-0.00", "0.00"),
        (b"1.5e3", "1500"),
        (b"1E+2", "100"),
        (b"12.50e1", "125.0"),
        (b"5e-3", "0.005"),
        (b"1e00002", "100"),
        (b"-1234.5", "-1234.5"),
        (b"9" * 100, "9" * 100),
        (b"0." + b"1" * 99, "0." + "1" * 99),
        (b"1" * 30 + b"." + b"3" * 50, "1" * 30 + "." + "3" * 50),
    ],
)
def test_numbers_are_read_exactly(raw: bytes, text: str) -> None:
    assert str(exact_number(raw)) == text


def test_null_is_no_number_and_no_error() -> None:
    assert exact_number(b"null") is None


@pytest.mark.parametrize(
    "raw",
    [
        b'"5"',
        b"true",
        b"false",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"[]",
        b"{}",
        b"01",
        b"+1",
        b".5",
        b"5.",
        b"",
        b" 1",
        b"1\n",
        b"0x1",
        "٣".encode(),
    ],
)
def test_what_is_not_a_json_number_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="is not a JSON number"):
        exact_number(raw)


@pytest.mark.parametrize(
    "raw", [b"1e999999999", b"1e101", b"1e-999999999", b"9" * 101, b"1e99999999999999999999", b"0." + b"0" * 100]
)
def test_a_number_of_over_100_digits_is_refused_quickly(raw: bytes) -> None:
    with pytest.raises(ValueError, match="over 100 digits"):
        exact_number(raw)


class Named(msgspec.Struct):
    name: str


NAMED = msgspec.json.Decoder(Named)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (rb'{"name": "a\ud800b"}', "a\0b"),
        (rb'{"name": "a\uDC00"}', "a\0"),
        (rb'{"name": "\ud800\ud83d\ude00\udfff"}', "\0😀\0"),
        (rb'{"name": "\\ud800\ud800"}', "\\ud800\0"),
        (rb'{"name": "\\\ud800"}', "\\\0"),
        (rb'{"name": "\ud83d\ude00"}', "😀"),
        (rb'{"name": "\ud800\n\ud800\""}', '\0\n\0"'),
    ],
)
def test_a_lone_surrogate_does_not_make_a_body_unreadable(raw: bytes, name: str) -> None:
    assert decoded(NAMED, raw).name == name


@given(st.text(st.characters(codec=None, categories=None)))
def test_any_string_that_json_can_carry_is_read_or_marked(text: str) -> None:
    found = decoded(NAMED, json.dumps({"name": text}).encode()).name
    if any("\ud800" <= letter <= "\udfff" for letter in json.loads(json.dumps(text))):
        assert "\0" in found
    else:
        assert found == text


def test_broken_json_stays_broken() -> None:
    for broken in (b'{"name": "a', b"", b'{"name": "\\ud800', b"<html>"):
        with pytest.raises(msgspec.DecodeError):
            decoded(NAMED, broken)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (rb'{"name": "a\u0000"}', "name"),
        (rb'{"a": {"b": ["x", "\u0000"]}}', "a.b[1]"),
        (rb'{"a": {"k\u0000": 1}}', "a.k\\u0000"),
        (rb'{"name": "a\\u0000"}', None),
        (rb'{"name": "a"}', None),
    ],
)
def test_a_nul_is_found_wherever_it_hides(raw: bytes, field: str | None) -> None:
    assert unstorable_field(raw) == field


def test_a_wrong_field_is_named_with_its_place() -> None:
    decoder = msgspec.json.Decoder(list[Named])
    for raw, field in [(b'[{"name": 5}]', "[0].name"), (b'[{"name": "a"}, {}]', "[1].name"), (b"5", "body")]:
        with pytest.raises(msgspec.ValidationError) as raised:
            decoder.decode(raw)
        assert field_and_reason(raised.value)[0] == field
