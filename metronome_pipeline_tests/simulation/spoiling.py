"""Answers and requests as they are spoilt on the way, with their numbers left as they are written. Pure."""

import random
import re
from dataclasses import dataclass

import msgspec

_VALUE = re.compile(rb'("value": ?)(-?\d+)(\.\d+)?(?=[,}\]])')


class _Envelope(msgspec.Struct):
    data: list[msgspec.Raw]
    next_page: str | None = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)


@dataclass(frozen=True)
class Page:
    """One page of a list."""

    data: list[msgspec.Raw]
    next_page: str | None

    @property
    def content(self) -> bytes:
        """As it is answered."""
        return msgspec.json.encode({"data": self.data, "next_page": self.next_page})


def page_of(content: bytes) -> Page | None:
    """A list's page; None for anything else."""
    try:
        envelope = _ENVELOPE.decode(content)
    except msgspec.DecodeError:
        return None
    return Page([raw.copy() for raw in envelope.data], envelope.next_page)


def reordered(content: bytes, draw: random.Random) -> bytes:
    """A page with its rows in another order."""
    page = page_of(content)
    if page is None:
        return content
    rows = list(page.data)
    draw.shuffle(rows)
    return Page(rows, page.next_page).content


def respelled(content: bytes) -> bytes:
    """The same quantities, spelled otherwise: 5 as 5.00, 0.5 as 0.50e0."""

    def other(found: re.Match[bytes]) -> bytes:
        fraction = found[3]
        return found[1] + found[2] + (b".00" if fraction is None else fraction + b"0e0")

    return _VALUE.sub(other, content)


def without_the_last(content: bytes) -> bytes:
    """A batch of events without its last one, unless that is the only one."""
    batch: dict[str, list[msgspec.Raw]] = msgspec.json.decode(content, type=dict[str, list[msgspec.Raw]])
    return msgspec.json.encode({key: rows[:-1] if len(rows) > 1 else rows for key, rows in batch.items()})
