"""Changes of the Metronome account that an import should bring over: from what runs stored, and from the audit log.

Here: what counts as a change, and a bounded look at the audit log. Not here: SQL (``storage/changes.py``), and what is
requested because of a change (``sensors.py``).
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from metronome_pipeline.errors import PipelineError, Refused
from metronome_pipeline.mapping.meters import one_line_name, property_reference
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.metronome.records import AuditLog
from metronome_pipeline.settings import Permitted
from metronome_pipeline.storage.changes import Kind, Known

AUDIT_PAGES = 3
"""Pages of the audit log in one look: 300 entries. What is left is read in the next look."""
_MENTIONS: Mapping[str, Kind] = {"customer": "customers", "metric": "meters", "product": "products"}
"""What a resource type may mention. Metronome doesn't publish the words (its notes, 9.1)."""


@dataclass(frozen=True, order=True)
class Change:
    """One record that differs from its last import. ``state`` is what it is now: the same change has the same state."""

    kind: Kind
    record_id: str
    what: str
    state: str


class Notice(msgspec.Struct, frozen=True):
    """An entry of the audit log that mentions a kind of record, as long as no import of the kind began after it."""

    entry_id: str
    at: datetime


@dataclass(frozen=True)
class Look:
    """What a look at the audit log gave: the newest entry of each kind, and the cursor to go on from.

    Attributes:
        noticed: The newest entry that mentions a kind.
        entries: How many entries were read.
        last_at: When the newest of all was written.
        next_page: Where the next look goes on; None: from ``last_at``.
        trouble: Why the look ended early, as a sentence.
    """

    noticed: Mapping[Kind, Notice] = field(default_factory=dict)
    entries: int = 0
    last_at: datetime | None = None
    next_page: str | None = None
    trouble: str | None = None


def change_of(kind: Kind, known: Known) -> Change | None:
    """Why a record needs an import; None where it is as imported, which holds for an unchanged refused one too."""
    if not known.imported:
        return Change(kind, known.record_id, "new", known.name)
    if known.imported_name not in (known.name, one_line_name(known.name)):
        return Change(kind, known.record_id, "renamed", known.name)
    keys = {property_reference(key) for group_key in known.group_keys for key in group_key}
    if known.properties is not None and keys - set(known.properties):
        return Change(kind, known.record_id, "new group key", " ".join(sorted(keys)))
    if known.changed_at is not None:
        return Change(kind, known.record_id, "changed", known.changed_at.isoformat())
    return None


def noticed_in(entries: Iterable[AuditLog], allowed: Mapping[Kind, Permitted]) -> dict[Kind, Notice]:
    """The newest entry that mentions each kind; not of what failed, nor of records that the settings leave out."""
    noticed: dict[Kind, Notice] = {}
    for entry in entries:
        if (entry.status or "").lower() == "failure":
            continue
        words = (entry.resource_type or "").lower()
        for kind in (kind for word, kind in _MENTIONS.items() if word in words):
            ours = entry.resource_id is None or entry.resource_id in allowed.get(kind, Permitted())
            if ours and (kind not in noticed or entry.timestamp >= noticed[kind].at):
                noticed[kind] = Notice(entry.id, entry.timestamp)
    return noticed


async def look_at_audit_log(
    api: MetronomeApi,
    *,
    since: datetime,
    next_page: str | None,
    allowed: Mapping[Kind, Permitted],
    seconds: float,
) -> Look:
    """Reads the audit log on from a cursor, or from a moment, within some seconds. Never raises for Metronome's sake.

    A cursor that Metronome refuses is given up: the next look begins at a moment again.
    """
    entries: list[AuditLog] = []
    trouble, pages = None, 0
    try:
        async with asyncio.timeout(seconds):
            start = None if next_page else since
            async for page, cursor in api.audit_logs(starting_on=start, next_page=next_page):
                entries += page.records
                next_page, pages = cursor, pages + 1
                if pages == AUDIT_PAGES:
                    break
    except Refused as error:
        trouble, next_page = str(error), None
    except PipelineError as error:
        trouble = str(error)
    except TimeoutError:
        trouble = f"Metronome's audit log gave no complete answer within {seconds:g} s."
    last_at = max((entry.timestamp for entry in entries), default=None)
    return Look(noticed_in(entries, allowed), len(entries), last_at, next_page, trouble)
