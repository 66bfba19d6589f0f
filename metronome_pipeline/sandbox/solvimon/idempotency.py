"""Idempotency keys: a create that is sent again under its key is answered again, not done again.

Events take no part in it.

Here: the keys and the rules about them. Not here: which endpoints they hold for (routing.py).
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, invalid

KEPT_FOR = timedelta(hours=48)
"""How long a key is remembered."""

MAX_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Answered:
    """A stored success: what was asked (as a digest) and what was answered."""

    digest: bytes
    status: int
    body: bytes
    at: datetime


def digest_of(method: str, path: str, body: bytes) -> bytes:
    """What must be the same for a request to be the same."""
    return hashlib.blake2b(b"\n".join([method.encode(), path.encode(), body])).digest()


@dataclass
class IdempotencyKeys:
    """The keys of one store."""

    answered: dict[str, Answered] = field(default_factory=dict)
    in_flight: set[str] = field(default_factory=set)

    def replay(self, key: str, digest: bytes, *, now: datetime) -> Answered | None:
        """The stored answer to this very request, if the key was used for it within 48 hours.

        Raises:
            ApiProblem: 400 for a key over 255 characters, 409 ``IDEMPOTENCY_CHECK_FAILED`` for a key of another
                request.
        """
        if not 0 < len(key) <= MAX_LENGTH:
            raise invalid("Idempotency-Key", f"must have 1 to {MAX_LENGTH} characters")
        stored = self.answered.get(key)
        if stored is None or now - stored.at >= KEPT_FOR:
            return None
        if stored.digest != digest:
            raise ApiProblem(409, "IDEMPOTENCY_CHECK_FAILED", "The idempotency key was used for a different request")
        return stored

    def keep(self, key: str, answered: Answered) -> None:
        """Remember a success. Refusals are not kept: a corrected body may use the key again."""
        self.answered[key] = answered


def still_in_progress() -> ApiProblem:
    """422: the first request under the key has not been answered yet."""
    return ApiProblem(
        422, "IDEMPOTENCY_CHECK_FAILED", "The first request with this idempotency key is still in progress"
    )
