"""One session to one API: pacing, retries, counts, and the errors that a final answer becomes.

Here: how a request travels until it has an answer. Not here: a single exchange (``transport.py``), what an answer means
(``retries.py``), endpoints and their records (``metronome/``, ``solvimon/``).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from metronome_pipeline.clock import Clock
from metronome_pipeline.errors import (
    ApiError,
    Malformed,
    PipelineError,
    RateLimited,
    Unanswered,
    Unauthorised,
    Unavailable,
    quoted,
    scrubbed,
)
from metronome_pipeline.retries import ErrorBody, RetryPolicy, Setback, judge
from metronome_pipeline.transport import MOST_BYTES, Answer, Request, exchange, open_client
from metronome_pipeline.wire import NotAsPromised, field_and_reason

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

logger = logging.getLogger("metronome_pipeline.http")

_LOOK_FIRST = "It may have arrived: look it up by its reference before it is sent again."
_CREDENTIAL = "that it is right, belongs to this environment, and is permitted to do this."
_LEAST_SECRET = 20
"""Characters from which on a text in a body can be nothing but our credential."""


class Pacer(Protocol):
    """Says when the next request may leave. One pacer serves every session that shares a budget."""

    async def wait(self) -> float:
        """Wait for leave to send one request; the seconds waited."""
        ...

    async def back_off(self, seconds: float) -> None:
        """The API said 429: everyone waits at least that long."""
        ...


class Unpaced:
    """No pace of its own: only a 429 makes this session's requests wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._not_before = float("-inf")

    async def wait(self) -> float:
        """Wait until the API's last 429 has run out; the seconds waited."""
        waited = 0.0
        while (remaining := self._not_before - self._clock.monotonic()) > 0:
            await self._clock.sleep(remaining)
            waited += remaining
        return waited

    async def back_off(self, seconds: float) -> None:
        """Let nothing leave for that long."""
        self._not_before = max(self._not_before, self._clock.monotonic() + seconds)


@dataclass(frozen=True)
class Attempt:
    """One attempt of a request, once it is over. ``status`` 0 stands for no answer."""

    system: str
    endpoint: str
    status: int
    waited_seconds: float
    seconds: float


@dataclass(frozen=True)
class RequestCounts:
    """What a session has sent so far.

    Attributes:
        requests: Attempts, retries included.
        retries: Attempts beyond the first of their request.
        waited_seconds: Seconds spent waiting for the pacer and between attempts, summed over concurrent requests.
        by_endpoint: Attempts by (endpoint, status); status 0 stands for no answer.
    """

    requests: int
    retries: int
    waited_seconds: float
    by_endpoint: Mapping[tuple[str, int], int]


@dataclass(frozen=True, repr=False)
class Service:
    """Which API a session talks to, and as whom.

    Attributes:
        system: Its name in errors: "Metronome" or "Solvimon".
        base_url: Scheme and host. A trailing ``/v1`` is dropped, for the paths of the endpoints carry it.
        headers: Sent with every request, credential included.
        secrets: Texts that never reach an error or a log line.
        credential: What a person calls the credential, such as its setting's name.
    """

    system: str
    base_url: str
    headers: Mapping[str, str]
    secrets: tuple[str, ...]
    credential: str

    def __post_init__(self) -> None:
        """Refuse what no request can be made of, without showing it: HTTP libraries would, in their tracebacks."""
        if not all(text.isascii() and text.isprintable() and " " not in text for text in self.secrets):
            raise PipelineError(f"{self.credential} has a character that no header can carry, such as a line break.")
        if not all(self.secrets):
            raise PipelineError(f"{self.credential} is empty: set it.")
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise PipelineError(f"The base URL of {self.system} is not of the form https://host.")
        object.__setattr__(self, "base_url", self.base_url.rstrip("/").removesuffix("/v1").rstrip("/"))

    def __repr__(self) -> str:
        return f"Service({self.system!r}, {self.base_url!r})"


@dataclass(frozen=True)
class _Result(Generic[T]):
    value: T
    status: int


class Http:
    """One session to one API. Open it with ``async with``; many requests may be in flight at once.

    Args:
        service: The API and the credential.
        transport: What carries requests, closed with the session; None opens connections of its own.
        clock: Time, for waits and budgets.
        source: Randomness, for jitter.
        pacer: Asked before every attempt.
        run_id: Goes into the User-Agent, so that the vendor's logs name the run.
        timeout_seconds: For one attempt, from the connection to the last byte of the body.
        policy: Retries.
        most_bytes: Cap on one body, after decompression.
        in_flight: Attempts at the same time.
    """

    def __init__(
        self,
        service: Service,
        *,
        transport: httpx.AsyncBaseTransport | None,
        clock: Clock,
        source: random.Random,
        pacer: Pacer,
        run_id: str,
        timeout_seconds: float = 60.0,
        policy: RetryPolicy | None = None,
        most_bytes: int = MOST_BYTES,
        in_flight: int = 8,
    ) -> None:
        self.service = service
        self._transport = transport
        self._clock = clock
        self._source = source
        self._pacer = pacer
        self._run_id = run_id
        self._timeout = timeout_seconds
        self._policy = policy or RetryPolicy()
        self._most_bytes = most_bytes
        self._connections = in_flight
        self._in_flight = asyncio.Semaphore(in_flight)
        self._by_endpoint: Counter[tuple[str, int]] = Counter()
        self._retries = 0
        self._setbacks: Counter[tuple[str, str]] = Counter()
        self._waited = 0.0
        self._client: httpx.AsyncClient | None = None
        self.observer: Callable[[Attempt], None] | None = None
        """Told of every attempt. It must not raise."""

    async def __aenter__(self) -> Self:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            **self.service.headers,
            "User-Agent": user_agent(self._run_id),
        }
        self._client = open_client(self._transport, headers, self._timeout, self._connections)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def counts(self) -> RequestCounts:
        """What has been sent so far, as a snapshot."""
        return RequestCounts(self._by_endpoint.total(), self._retries, self._waited, dict(self._by_endpoint))

    async def send(
        self,
        endpoint: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        decode: Callable[[bytes], T],
        replay: bool = True,
    ) -> T:
        """Send one request until it has an answer, and read that.

        Args:
            endpoint: Method and path template, for errors and counts.
            method: HTTP method.
            path: Path from the host on, its references already URL-encoded.
            params: Query parameters.
            body: JSON bytes.
            headers: Headers of this request; the same on every attempt.
            decode: From the bytes of a 2xx body to the result. Raises ``NotAsPromised``, or what msgspec raises.
            replay: False: repeating this request could have its effect twice. It is then repeated only after an answer
                that says that nothing was done.

        Raises:
            Unauthorised, Refused, AlreadyExists, Redirected, Malformed: At once.
            RateLimited, Unavailable: When the patience of the retry policy ends.
            Unanswered: ``replay`` is False and the request may have arrived.
        """
        content_type = {"Content-Type": "application/json"} if method != "GET" else {}
        all_headers = {**content_type, **(headers or {})}
        request = Request(endpoint, method, self.service.base_url + path, params, body, all_headers)
        began = self._clock.monotonic()
        in_doubt = False
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._attempt(request, decode)
            if isinstance(outcome, _Result):
                return outcome.value
            in_doubt = in_doubt or outcome.in_doubt
            if in_doubt and outcome.transient and not replay:
                raise self._error(endpoint, replace(outcome, kind=Unanswered, what_to_do=_LOOK_FIRST), in_doubt=True)
            wait = max(self._policy.delay(attempt, self._source), outcome.retry_after or 0.0)
            elapsed = self._clock.monotonic() - began
            stop = self._policy.reason_to_stop(attempt, elapsed, wait, outcome.retry_after)
            if stop or not outcome.transient:
                patience = stop if outcome.transient else None
                raise self._error(endpoint, outcome, in_doubt=in_doubt, stop=patience)
            await self._rest(endpoint, outcome, attempt, wait)

    async def _rest(self, endpoint: str, setback: Setback, attempt: int, wait: float) -> None:
        """Wait between two attempts, and tell the others of a 429."""
        reason = scrubbed(setback.reason, self.service.secrets)
        self._retries += 1
        self._setbacks[endpoint, setback.kind.__name__] += 1
        count = self._setbacks[endpoint, setback.kind.__name__]
        # The 1st, 2nd, 4th, 8th … of a kind: a bad hour has thousands, and a run's log is for its story.
        level = logging.DEBUG if count & (count - 1) else logging.INFO
        log = "%s %s to %s: attempt %d of at most %d follows in %.1f s.%s"
        so_far = f" {count:,} like this so far." if count > 2 else ""
        logger.log(level, log, self.service.system, reason, endpoint, attempt + 1, self._policy.attempts, wait, so_far)
        self._waited += wait
        if setback.kind is RateLimited:
            await self._pacer.back_off(wait)
        await self._clock.sleep(wait)

    async def _attempt(self, request: Request, decode: Callable[[bytes], T]) -> _Result[T] | Setback:
        """One attempt. The place in flight is taken first: leaves granted before it would be used in one burst."""
        assert self._client is not None, "open the session with `async with`"
        async with self._in_flight:
            # Added once it is known: others wait meanwhile, and add to the same sum.
            waited = await self._pacer.wait()
            self._waited += waited
            began = self._clock.monotonic()
            answer = await exchange(self._client, request, timeout_seconds=self._timeout, most_bytes=self._most_bytes)
        self._by_endpoint[(request.endpoint, answer.status or 0)] += 1
        if self.observer is not None:
            seconds = self._clock.monotonic() - began
            self.observer(Attempt(self.service.system, request.endpoint, answer.status or 0, waited, seconds))
        if isinstance(answer, Setback):
            return answer
        answer = self._without_secrets(answer)
        if 200 <= answer.status < 300:
            return _read(answer, decode)
        keyed = "Idempotency-Key" in request.headers
        return judge(answer.status, answer.headers, answer.content, keyed=keyed, now=self._clock.now())

    def _without_secrets(self, answer: Answer) -> Answer:
        """The answer without our own credential, should it repeat that: as data it would be stored and shown.

        Short ones are left alone, as letters of something else; those that the two APIs give are longer.
        """
        echoed = [secret for secret in self.service.secrets if len(secret) >= _LEAST_SECRET]
        content = answer.content
        for secret in (secret.encode() for secret in echoed):
            content = content.replace(secret, b"[credential]") if secret in content else content
        return answer if content is answer.content else replace(answer, content=content)

    def _error(self, endpoint: str, setback: Setback, *, in_doubt: bool, stop: str | None = None) -> ApiError:
        """The error that a final setback is raised as: a sentence or two, without any credential."""

        def clean(text: str | None) -> str | None:
            return None if text is None else quoted(scrubbed(text, self.service.secrets))

        said, request_id = setback.body, clean(setback.request_id)
        details = [
            said.code and clean(said.code),
            said.field and f"field {clean(said.field)}",
            said.message and f'"{clean(said.message)}"',
            request_id and f"request {request_id}",
        ]
        told = ", ".join(detail for detail in details if detail)
        sentence = f"{self.service.system} {clean(setback.reason)} to {endpoint}"
        sentence += (f" ({told})" if told else "") + (f"; {stop}." if stop else ".")
        unauthorised = setback.kind is Unauthorised
        to_do = f"Check {self.service.credential}: {_CREDENTIAL}" if unauthorised else setback.what_to_do
        return setback.kind(
            f"{sentence} {to_do}".strip(),
            system=self.service.system,
            endpoint=endpoint,
            status=setback.status,
            code=clean(said.code),
            field=clean(said.field),
            message=clean(said.message),
            request_id=request_id,
            resource_type=clean(said.resource_type),
            resource_id=clean(said.resource_id),
            may_have_arrived=in_doubt,
        )


def user_agent(run_id: str) -> str:
    """The User-Agent of a session: the package, its version and the run, in letters that a header may have."""
    run = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in run_id)
    return f"metronome-pipeline/{_own_version()} (run {run})"


@cache
def _own_version() -> str:
    # Once for a process: it is read from a file, by a parser of e-mails.
    try:
        return version("metronome-pipeline")
    except PackageNotFoundError:
        return "0"


def _read(answer: Answer, decode: Callable[[bytes], T]) -> _Result[T] | Setback:
    """The result in a 2xx body. A body that is not JSON is a broken one, to be asked for again."""
    request_id = answer.headers.get("x-request-id")
    reason = f"answered {answer.status}"
    try:
        return _Result(decode(answer.content), answer.status)
    except NotAsPromised as error:
        wrong = ErrorBody(field=error.field, message=error.reason)
    except msgspec.ValidationError as error:
        field, what = field_and_reason(error)
        wrong = ErrorBody(field=field, message=what)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        start = answer.content[:60].decode("utf-8", "replace")
        broken = ErrorBody(message=f"the body is not JSON or is cut short; it begins with {start}")
        return Setback(Unavailable, reason, True, True, answer.status, broken, request_id)  # noqa: FBT003
    to_do = "The body is not what this API promises: nothing of it was used."
    return Setback(Malformed, reason, False, True, answer.status, wrong, request_id, None, to_do)  # noqa: FBT003
