"""What was asked of a store and how it was answered.

Here: counts by endpoint and the last requests. Not here: when to record.
"""

import json
import zlib
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

KEPT = 10_000
"""Requests that the log remembers."""

_SECRET = frozenset({"x-api-key", "authorization", "cookie"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One request and its answer. ``outcome`` is the status, or the kind of the fault that left none."""

    method: str
    path: str
    template: str
    query: str
    packed_body: bytes
    headers: tuple[tuple[str, str], ...]
    outcome: str
    at: str

    def as_json(self) -> dict[str, Any]:
        """The entry for the control route; the body is parsed, or given as text where it is no JSON."""
        text = zlib.decompress(self.packed_body).decode(errors="replace")
        try:
            body: object = json.loads(text, parse_float=Decimal) if text else None
        except ValueError:
            body = text
        return {
            "method": self.method,
            "path": self.path,
            "endpoint": f"{self.method} {self.template}",
            "query": self.query,
            "body": body,
            "headers": dict(self.headers),
            "status": int(self.outcome) if self.outcome.isdigit() else self.outcome,
            "at": self.at,
        }


@dataclass
class RequestLog:
    """Counts of everything since the last reset, and the last :data:`KEPT` requests."""

    total: int = 0
    by_endpoint: dict[str, dict[str, int]] = field(default_factory=dict)
    entries: deque[Entry] = field(default_factory=lambda: deque(maxlen=KEPT))

    def record(
        self,
        *,
        method: str,
        path: str,
        template: str,
        query: str,
        body: bytes,
        headers: list[tuple[bytes, bytes]],
        outcome: str,
        at: str,
    ) -> None:
        """Add one request.

        Headers that carry a credential are left out; bodies are kept compressed, as a backfill is large.
        """
        self.total += 1
        outcomes = self.by_endpoint.setdefault(f"{method} {template}", {})
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        shown = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in headers
            if name.decode("latin-1").lower() not in _SECRET
        )
        packed = zlib.compress(body, level=1)
        self.entries.append(Entry(method, path, template, query, packed, shown, outcome, at))

    def counts(self) -> dict[str, Any]:
        """Total and outcomes by endpoint template."""
        return {"total": self.total, "by_endpoint": self.by_endpoint}

    def reset(self) -> None:
        """Forget everything."""
        self.total = 0
        self.by_endpoint = {}
        self.entries.clear()
