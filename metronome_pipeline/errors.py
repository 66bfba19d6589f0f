"""The errors that this project raises, a tree rooted in ``PipelineError``, and how untrusted text gets into them.

Here: what went wrong, as a sentence for the person who must act, and the facts as fields. Not here: what counts as
which error (``retries.py`` for HTTP answers, the records modules for bodies), nor any retry.
"""

from collections.abc import Iterable

LONGEST_QUOTE = 500
"""Characters of a vendor's text that an error carries."""


class PipelineError(Exception):
    """Root of everything this project raises on purpose. ``str(error)`` is a sentence that says what to check or do."""


class ApiError(PipelineError):
    """One request to one of the two APIs did not give what was asked for.

    Attributes:
        system: "Metronome" or "Solvimon".
        endpoint: Method and path template, such as ``POST /v1/usage``: never an id, never a query.
        status: HTTP status of the last answer; None without an answer.
        code: The vendor's error code (Solvimon's ``code``; Metronome has none).
        field: The vendor's dotted field path, or the field of a body that is not as promised.
        message: The vendor's message, cut and with control characters escaped.
        request_id: The vendor's request id, for a support case.
        resource_type: Solvimon's ``resource_type``, such as METER.
        resource_id: Solvimon's ``resource_id``: the resource that the error is about.
        may_have_arrived: Whether any attempt of this request may have had its effect. True for answers that never
            came, for 5xx and for bodies that broke; it stays True when a later attempt was refused.
    """

    def __init__(
        self,
        sentence: str,
        *,
        system: str,
        endpoint: str,
        status: int | None = None,
        code: str | None = None,
        field: str | None = None,
        message: str | None = None,
        request_id: str | None = None,
        resource_type: str | None = None,
        resource_id: str | None = None,
        may_have_arrived: bool = False,
    ) -> None:
        super().__init__(sentence)
        self.system = system
        self.endpoint = endpoint
        self.status = status
        self.code = code
        self.field = field
        self.message = message
        self.request_id = request_id
        self.resource_type = resource_type
        self.resource_id = resource_id
        self.may_have_arrived = may_have_arrived


class Unauthorised(ApiError):
    """401 or 403: the credential is wrong, of another environment, or lacks a permission. Never retried."""


class Refused(ApiError):
    """Another 4xx: this very attempt had no effect, and the same request would be refused again."""


class AlreadyExists(Refused):
    """Solvimon's RESOURCE_ALREADY_EXISTS, whatever its status; ``resource_id`` is what exists, where Solvimon tells."""


class RateLimited(ApiError):
    """429 until the patience of the retry policy ended."""


class Unavailable(ApiError):
    """5xx, 408, 425, no answer, or a broken body, until the patience of the retry policy ended."""


class Unanswered(ApiError):
    """A request that must not be repeated got no readable answer: it may have arrived. Look before sending again."""


class Malformed(ApiError):
    """A readable answer that is not what the API promises: ``field`` names what is missing or wrong."""


class CursorRepeated(ApiError):
    """A list came back to a page that it had already given: the walk would never end, so it is not complete."""


class Redirected(ApiError):
    """The API answered with a redirect. It is not followed, for it would carry the credential elsewhere."""


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """``text`` without any of the ``secrets``, for log lines and errors."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[credential]")
    return text


def quoted(text: str, longest: int = LONGEST_QUOTE) -> str:
    """Untrusted text made fit for one line: cut at ``longest`` characters, what does not print shown escaped."""
    cut = text if len(text) <= longest else text[:longest] + "…"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)
