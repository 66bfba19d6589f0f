"""What an HTTP answer means: final or worth another attempt, without effect or in doubt, and how long to wait.

Here: pure functions and records. Not here: sending (``http.py``), the error classes (``errors.py``).
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from metronome_pipeline.errors import (
    AlreadyExists,
    ApiError,
    RateLimited,
    Redirected,
    Refused,
    Unauthorised,
    Unavailable,
)

IDEMPOTENCY_CODE = "IDEMPOTENCY_CHECK_FAILED"
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
_LONGEST_HINT = 40
"""Characters of a Retry-After worth reading: a date has at most 33, and more digits are years without end."""


@dataclass(frozen=True)
class RetryPolicy:
    """How patient a session is with one request.

    With the defaults a request that is refused at random one time in five fails 4 times in a billion; one that
    is never answered gives up after about two minutes of waiting, or ten minutes altogether.

    Attributes:
        attempts: Attempts, the first included.
        first_delay: Seconds: the longest wait after the first attempt; it doubles with each.
        longest_delay: Seconds: where the doubling ends.
        budget_seconds: Seconds from the first attempt after which no other is begun.
        longest_retry_after: Seconds: an API that asks for more patience than this is taken to be down.
    """

    attempts: int = 12
    first_delay: float = 0.5
    longest_delay: float = 30.0
    budget_seconds: float = 600.0
    longest_retry_after: float = 300.0

    def delay(self, attempt: int, source: random.Random) -> float:
        """Seconds to wait after attempt number ``attempt`` (from 1), with full jitter."""
        return source.uniform(0, min(self.longest_delay, self.first_delay * 2.0 ** min(attempt - 1, 60)))

    def reason_to_stop(self, attempt: int, elapsed: float, wait: float, asked: float | None) -> str | None:
        """Why no further attempt is made, as a clause; None when there is one after ``wait`` seconds."""
        if asked is not None and asked > self.longest_retry_after:
            return f"it asks to wait {asked:.0f} s, more than the {self.longest_retry_after:.0f} s that are granted"
        if attempt >= self.attempts:
            return f"{attempt} attempts were made" if attempt > 1 else "no further attempt is allowed"
        if elapsed + wait > self.budget_seconds:
            return f"the {self.budget_seconds:.0f} s for one request are used up after {attempt} attempts"
        return None


class ErrorBody(msgspec.Struct, frozen=True):
    """What an error's body says. Solvimon's ``ApiError`` has all of it, Metronome's ``{"message"}`` one part."""

    code: str | None = None
    field: str | None = None
    message: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None


SAID_NOTHING = ErrorBody()


@dataclass(frozen=True)
class Setback:
    """Why one attempt gave no result.

    Attributes:
        kind: What it is raised as once it is final.
        reason: A clause that follows the system's name, such as "answered 503".
        transient: Whether another attempt may help.
        in_doubt: Whether this attempt may have had its effect.
        status: HTTP status, None without an answer.
        body: The vendor's words.
        request_id: The vendor's request id.
        retry_after: Seconds that the API asks for, None if it does not.
        what_to_do: A sentence.
    """

    kind: type[ApiError]
    reason: str
    transient: bool
    in_doubt: bool
    status: int | None = None
    body: ErrorBody = SAID_NOTHING
    request_id: str | None = None
    retry_after: float | None = None
    what_to_do: str = ""


def judge(status: int, headers: Mapping[str, str], content: bytes, *, keyed: bool, now: datetime) -> Setback:
    """What an answer other than 2xx means.

    408, 425, 429, 5xx and what is no answer at all (101) are worth another attempt. Solvimon's idempotency rules (its
    notes, 1.4) bind requests with an Idempotency-Key: 422 IDEMPOTENCY_CHECK_FAILED says that the first one is still at
    work, and a 500 is repeated only with ``Idempotency-Retryable: true``. 429, 425 and the other 4xx say that nothing
    was done; 408 and 5xx do not.

    Args:
        status: The HTTP status, not 2xx.
        headers: The answer's headers, looked up in lower case.
        content: The answer's body, of any kind.
        keyed: Whether the request carried an Idempotency-Key.
        now: The time, for a Retry-After that is a date.
    """
    body = read_error(content)
    request_id = headers.get("x-request-id")
    wait = retry_after(headers, now)

    def setback(kind: type[ApiError], *, transient: bool, in_doubt: bool = False, what_to_do: str = "") -> Setback:
        reason = f"answered {status}"
        return Setback(kind, reason, transient, in_doubt, status, body, request_id, wait, what_to_do)

    if status >= 500:
        final = keyed and status == 500 and headers.get("idempotency-retryable", "").strip().lower() != "true"
        return setback(Unavailable, transient=not final, in_doubt=True)
    if status in (408, 425) or status < 200:
        return setback(Unavailable, transient=True, in_doubt=status != 425)
    if keyed and status == 422 and body.code == IDEMPOTENCY_CODE:
        return setback(Unavailable, transient=True, in_doubt=True)
    if status == 429:
        return setback(RateLimited, transient=True, what_to_do="Lower the pace, or ask for a higher limit.")
    if status < 400:
        return setback(Redirected, transient=False, what_to_do="Redirects are not followed: check the base URL.")
    kind = Unauthorised if status in (401, 403) else AlreadyExists if body.code == ALREADY_EXISTS else Refused
    return setback(kind, transient=False)


def read_error(content: bytes) -> ErrorBody:
    """The vendor's words in an error body; all None when it is not the JSON that the vendor promises."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorBody()
    if not isinstance(found, dict):
        return ErrorBody()
    texts = {name: found.get(name) for name in ErrorBody.__struct_fields__}
    return ErrorBody(**{name: text for name, text in texts.items() if isinstance(text, str)})


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that the answer asks to wait: ``retry-after-ms``, else ``Retry-After`` as seconds or as an HTTP date.

    Never negative. None when absent or unreadable: a broken hint is no hint.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    hint = headers.get("retry-after")
    seconds = _number(hint)
    return seconds if seconds is not None else _seconds_until(hint, now)


def _number(text: str | None) -> float | None:
    if text is None or len(text) > _LONGEST_HINT:
        return None
    plain = text.strip()
    whole, _, fraction = plain.partition(".")
    if not plain.isascii() or not whole.isdigit() or not (fraction.isdigit() or "." not in plain):
        return None
    return float(plain)


def _seconds_until(text: str | None, now: datetime) -> float | None:
    if text is None or len(text) > _LONGEST_HINT:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())
