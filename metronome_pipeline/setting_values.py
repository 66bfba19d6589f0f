"""From the text of a variable to its value. Every function either returns the value or says what is wrong with it.

Here: pure functions of one text each. A ``ValueError`` reads on after the variable's name ("is not …: do …", without
the full stop). The functions for secrets never repeat their text. Not here: which variable there is (settings).
"""

import ipaddress
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_ACCOUNT = re.compile(r"[A-Za-z0-9_]{1,50}")
_EMAIL = re.compile(r"[^@\s,]+@[^@\s,]+\.[^@\s,.]+")
_TEAM = re.compile(r"team:[^\s,]+")
_POSTGRES_SCHEME = re.compile(r"(postgres|postgresql|postgresql\+psycopg2?)://", re.IGNORECASE)
_SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_DEFAULT_PORTS = {"https": 443, "http": 80}


def _quoted(text: str) -> str:
    """The text for an error: control characters escaped, cut when long."""
    return repr(text if len(text) <= 80 else f"{text[:77]}…")


def base_url(text: str) -> str:
    """``scheme://host[:port]`` in lower case. https, or http to loopback; no user, path, query or fragment."""
    parts = _split_url(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or a password: credentials have variables of their own, leave them out here")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("is not a web address: write it as https://host")
    if parts.path.strip("/") or parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("has something after the host: leave the path out, it is added for each endpoint")
    if parts.scheme == "http" and not _is_loopback_host(parts.hostname):
        raise ValueError("is plain http, which would show the credential to the network: write https://")
    return f"{parts.scheme}://{_host(parts)}"


def _split_url(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if not text.isascii() or re.search(r"[\s\\\x00-\x1f]", text):
        parts = SplitResult("", "", "", "", "")
    return parts


def _host(parts: SplitResult) -> str:
    name = (parts.hostname or "").rstrip(".")
    name = f"[{name}]" if ":" in name else name
    return name if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{name}:{parts.port}"


def host(url: str) -> str:
    """``host``, or ``host:port`` when the port is not the scheme's own, of an address that ``base_url`` returned."""
    return _host(urlsplit(url))


def is_loopback(url: str) -> bool:
    """Whether the address stays on this machine."""
    return _is_loopback_host(urlsplit(url).hostname or "")


def _is_loopback_host(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def one_of(*choices: str) -> Callable[[str], str]:
    """A reader of one of a few words, in any case."""

    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"is {_quoted(text)}: write {' or '.join(choices)}")
        return text.lower()

    return read


def secret(text: str) -> str:
    """A credential that fits into a header: printable ASCII without spaces."""
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("holds a space or another character that no credential has: copy it again, without quotes")
    return text


def name(text: str) -> str:
    """Letters, digits and ``_ . : -``, 128 at most."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"is {_quoted(text)}: use letters, digits and _ . : - only, at most 128")
    return text


def account(text: str) -> str:
    """Letters, digits and ``_``, 50 at most: what fits into an asset key, a pool's name and a tag."""
    if not _ACCOUNT.fullmatch(text):
        raise ValueError(f"is {_quoted(text)}: use letters, digits and _ only, at most 50")
    return text


def postgres_url(text: str) -> str:
    """A Postgres URL in any of the usual spellings, as it was written. Held as a secret: it may hold a password."""
    after_postgres_scheme(text)
    return text


def after_postgres_scheme(url: str) -> str:
    """What follows ``postgresql://``, ``postgres://`` or the spelling of a driver."""
    match = _POSTGRES_SCHEME.match(url)
    if not match:
        raise ValueError("is not a Postgres URL: write it as postgresql://user:password@host:5432/database")
    try:
        _ = urlsplit(f"postgresql://{url[match.end() :]}").port
    except ValueError:
        # No cause: urllib quotes the text, and a password with an unescaped / or : ends up as "port".
        message = "has no readable host and port: write / : @ ? # in the password as %2F %3A %40 %3F %23"
        raise ValueError(message) from None
    return url[match.end() :]


def folder(text: str) -> Path:
    """A folder; ``~`` is the user's."""
    if "\x00" in text:
        raise ValueError("holds a NUL character: name a folder")
    return Path(text).expanduser()


def hour(text: str) -> datetime:
    """A date (its midnight in UTC) or an instant with its offset that is a whole hour; in UTC, from the year 2000."""
    value = _instant(text)
    if value is None or value != value.replace(minute=0, second=0, microsecond=0) or value.year < 2000:
        raise ValueError(
            f"is {_quoted(text)}: write a date or a whole UTC hour, such as 2026-01-01 or 2026-01-01T06:00Z"
        )
    return value


def _instant(text: str) -> datetime | None:
    try:
        value = datetime.fromisoformat(text)
        if value.tzinfo is None and re.fullmatch(r"[0-9-]+", text):
            value = value.replace(tzinfo=UTC)
        # An instant without an offset would be read in the zone of whatever machine this is.
        return None if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` to ``most``."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
            raise ValueError(f"is {_quoted(text)}: write a whole number from {least} to {most}")
        return int(text)

    return read


def pace(text: str) -> float:
    """Requests a second, above 0, up to 1000."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1000:
        raise ValueError(f"is {_quoted(text)}: write a number above 0 and up to 1000")
    return value


def share(text: str) -> Decimal:
    """A share, 0 to 1."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= 1:
        raise ValueError(f"is {_quoted(text)}: write a share from 0 to 1, such as 0.20")
    return value


def switch(text: str) -> bool:
    """True or false, in the usual spellings."""
    try:
        return _SWITCHES[text.lower()]
    except KeyError:
        raise ValueError(f"is {_quoted(text)}: write true or false") from None


def url_path(text: str) -> str:
    """The path of an endpoint, from the slash."""
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text):
        raise ValueError(f"is {_quoted(text)}: write a path such as /v1/events/ingest-batch")
    return text


def email(text: str) -> str:
    """One e-mail address."""
    if not _EMAIL.fullmatch(text):
        raise ValueError(f"is {_quoted(text)}: write one e-mail address, or leave it empty")
    return text


def emails(text: str) -> tuple[str, ...]:
    """E-mail addresses, by comma."""
    found = tuple(_listed(text))
    for address in found:
        if not _EMAIL.fullmatch(address):
            raise ValueError(f"names {_quoted(address)}: write e-mail addresses, by comma")
    return found


def webhook_url(text: str) -> str:
    """A web address with its path: https, or http to loopback. Held as a secret: whoever knows it can write there."""
    parts = _split_url(text)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("is not a web address: copy it again, it begins with https://")
    if parts.scheme == "http" and not _is_loopback_host(parts.hostname):
        raise ValueError("is plain http, which would show it to the network: write https://")
    return text


def page_url(text: str) -> str:
    """A web address that people open, http or https, without a user; no slash at its end."""
    parts = _split_url(text)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        raise ValueError(f"is {_quoted(text)}: write a web address such as https://dagster.example.com")
    if parts.query or parts.fragment:
        raise ValueError(f"is {_quoted(text)}: leave out what begins with ? or #")
    return text.rstrip("/")


def smtp_url(text: str) -> str:
    """``smtp://`` (with STARTTLS) or ``smtps://``, user and password, host and port. Held as a secret."""
    parts = _split_url(text)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.path.strip("/") or parts.query:
        # Its text may hold a password: it is never repeated.
        raise ValueError(
            "is not of the form smtp://user:password@host:587 or smtps://user:password@host:465: write / : @ ? # in "
            "the password as %2F %3A %40 %3F %23"
        )
    if (parts.username is None) != (parts.password is None):
        raise ValueError("has a user without a password, or a password without a user: name both or neither")
    return text


def owners(text: str) -> tuple[str, ...]:
    """``team:name`` or e-mail addresses, by comma: the two kinds of owner that Dagster knows."""
    found = _listed(text)
    for owner in found:
        if not _TEAM.fullmatch(owner) and not _EMAIL.fullmatch(owner):
            raise ValueError(f"names {_quoted(owner)}: write team:name or an e-mail address, by comma")
    return tuple(found)


def ids(text: str) -> frozenset[str]:
    """Metronome ids (UUIDs, returned in lower case), by comma."""
    return frozenset(_id(one) for one in _listed(text))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _id(text: str) -> str:
    if not _UUID.fullmatch(text.lower()):
        raise ValueError(f"names {_quoted(text)}, which is no id: copy the UUID that Metronome shows")
    return text.lower()


def hour_by_id(text: str) -> Mapping[str, datetime]:
    """A JSON object from Metronome id to date or UTC hour."""
    return {key: _hour_of(key, value) for key, value in _object(text).items()}


def _hour_of(key: str, value: object) -> datetime:
    try:
        return hour(value if isinstance(value, str) else json.dumps(value))
    except ValueError as error:
        raise ValueError(f"of {key} {error}") from None


def slicing_by_id(text: str) -> Mapping[str, str | tuple[str, ...]]:
    """A JSON object from metric id to ``"ungrouped"`` or to a list of group keys, each once."""
    return {key: _slicing_of(key, value) for key, value in _object(text).items()}


def _slicing_of(key: str, value: object) -> str | tuple[str, ...]:
    if value == "ungrouped":
        return "ungrouped"
    if isinstance(value, list) and value and all(isinstance(one, str) and one for one in value):
        keys = tuple(str(one) for one in value)
        if len(set(keys)) == len(keys):
            return keys
    raise ValueError(f'of {key} is {_quoted(json.dumps(value))}: write "ungrouped" or a list of different group keys')


def calculation_by_id(text: str) -> Mapping[str, str]:
    """A JSON object from metric id to ``"SUM"``, ``"MAX"`` or ``"PERIOD_TO_DATE"``."""
    found = _object(text)
    for key, value in found.items():
        if value not in ("SUM", "MAX", "PERIOD_TO_DATE"):
            raise ValueError(f'of {key} is {_quoted(json.dumps(value))}: write "SUM", "MAX" or "PERIOD_TO_DATE"')
    return {key: str(value) for key, value in found.items()}


def _object(text: str) -> dict[str, object]:
    """A JSON object whose keys are Metronome ids, each once."""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        pairs = None
    # An empty object and an empty list both arrive as []; only the first begins with a brace.
    if not isinstance(pairs, list) or not text.startswith("{"):
        raise ValueError('is not a JSON object: write it as {"id": value, …}')
    found: dict[str, object] = {}
    for key, value in pairs:
        if _id(key) in found:
            raise ValueError(f"names {key} twice: keep one")
        found[_id(key)] = value
    return found
