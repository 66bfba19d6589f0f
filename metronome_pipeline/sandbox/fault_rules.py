"""The rules of a sandbox's faults, and the decision which request is hit: by seed, rate and count.

Here: what ``PUT /_sandbox/faults`` may say, and the draws. Not here: what a fault does to a connection
(see :mod:`.faults`).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import NoReturn, Self

Sleep = Callable[[float], Awaitable[object]]
"""An async sleep, in seconds; a parameter, so that tests need not wait."""

STATUS_KINDS: Mapping[str, int] = {
    "status_429": 429,
    "status_429_retry_after": 429,
    "status_500": 500,
    "status_502": 502,
    "status_503": 503,
    "status_403": 403,
    "status_401": 401,
}
"""Kinds that answer with a status in place of doing the work."""

TRANSPORT_KINDS = frozenset({"reset_before", "reset_after", "truncated_body", "html_200", "not_json_200", "slow"})
"""Kinds that :class:`FaultMiddleware` plays without knowing what the answer means."""

APP_KINDS = frozenset({"empty_page", "duplicate_page", "repeated_cursor", "null_for_zero", "short_201"})
"""Kinds that the app plays itself, see :func:`fault_of`."""

KINDS = frozenset(STATUS_KINDS) | TRANSPORT_KINDS | APP_KINDS
"""Every kind of fault there is."""


@dataclass(frozen=True)
class FaultRule:
    """One rule: which requests, what happens to them, how often.

    Attributes:
        kind: One of :data:`KINDS`.
        path: Exact path, or a prefix when it ends in ``*``.
        method: HTTP method in upper case; ``None`` means any.
        rate: Share of the matching requests that are hit, 0 to 1.
        times: At most so many hits; ``None`` means no bound.
        after: The first so many matching requests are left alone.
        retry_after: Value of ``Retry-After`` for ``status_429_retry_after``.
        seconds: Delay of ``slow``.
    """

    kind: str
    path: str = "*"
    method: str | None = None
    rate: Decimal = Decimal(1)
    times: int | None = None
    after: int = 0
    retry_after: str = "1"
    seconds: float = 1.0

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule is about this request."""
        if self.method is not None and self.method != method.upper():
            return False
        return path.startswith(self.path[:-1]) if self.path.endswith("*") else path == self.path


@dataclass(frozen=True)
class FaultRules:
    """What ``PUT /_sandbox/faults`` sets: the seed and the rules, in the order in which they are tried."""

    seed: int = 0
    rules: tuple[FaultRule, ...] = ()

    @classmethod
    def parse(cls, body: object) -> Self:
        """Read the decoded body of ``PUT /_sandbox/faults``: ``{"seed", "rules"}``, or just the list of rules.

        Raises:
            ValueError: With a sentence that names the field that is wrong.
        """
        if isinstance(body, list):
            body = {"rules": body}
        if not isinstance(body, dict):
            _refuse('The body must be {"seed": n, "rules": [...]} or a list of rules.')
        unknown = set(body) - {"seed", "rules"}
        if unknown:
            _refuse(f"Unknown field {min(unknown)!r}: the body takes seed and rules.")
        rules = body.get("rules", [])
        if not isinstance(rules, list):
            _refuse("Field rules must be a list.")
        return cls(
            seed=_whole(body, "seed", "seed", 0),
            rules=tuple(_parse_rule(rule, f"rules[{index}]") for index, rule in enumerate(rules)),
        )


@dataclass(frozen=True)
class Fault:
    """One decision: this request is hit, in this way."""

    kind: str
    retry_after: str = "1"
    seconds: float = 1.0

    @property
    def status(self) -> int | None:
        """The status that is answered in place of the work; ``None`` for the kinds that are not a status."""
        return STATUS_KINDS.get(self.kind)


@dataclass
class _Progress:
    rule: FaultRule
    draws: random.Random
    seen: int = 0
    hits: int = 0

    def decide(self) -> bool:
        self.seen += 1
        # A number is drawn for every matching request, so that one rule's bounds never shift another's draws.
        drawn = self.draws.random()
        if self.seen <= self.rule.after or (self.rule.times is not None and self.hits >= self.rule.times):
            return False
        return drawn < self.rule.rate


@dataclass
class FaultInjector:
    """Decides, request by request, which fault is played. One for each store.

    The same seed, rules and sequence of matching requests give the same decisions.
    """

    sleep: Sleep = asyncio.sleep
    rules: FaultRules = field(default_factory=FaultRules, init=False)
    _progress: list[_Progress] = field(default_factory=list, init=False)

    def set(self, rules: FaultRules) -> None:
        """Replace the rules and start counting anew."""
        self.rules = rules
        # Seeds of random.Random decide draws, not secrets.
        self._progress = [
            _Progress(rule, random.Random(f"{rules.seed}:{index}"))  # noqa: S311
            for index, rule in enumerate(rules.rules)
        ]

    def decide(self, method: str, path: str) -> Fault | None:
        """Consume one decision for this request.

        The first rule that fires wins; every rule that matches counts the request.
        """
        chosen: Fault | None = None
        for progress in self._progress:
            rule = progress.rule
            if rule.matches(method, path) and progress.decide() and chosen is None:
                progress.hits += 1
                chosen = Fault(rule.kind, retry_after=rule.retry_after, seconds=rule.seconds)
        return chosen


_FIELDS = frozenset({"kind", "path", "method", "rate", "times", "after", "retry_after", "seconds"})


def _parse_rule(rule: object, where: str) -> FaultRule:
    if not isinstance(rule, dict):
        _refuse(f"{where} must be an object.")
    unknown = set(rule) - _FIELDS
    if unknown:
        _refuse(f"Unknown field {min(unknown)!r} in {where}: a rule takes {', '.join(sorted(_FIELDS))}.")
    kind = rule.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        _refuse(f"{where}.kind must be one of {', '.join(sorted(KINDS))}, not {kind!r}.")
    path = rule.get("path", "*")
    if not isinstance(path, str) or not (path.startswith("/") or path == "*"):
        _refuse(f"{where}.path must start with '/' (or be '*'), not {path!r}.")
    method = rule.get("method")
    if method is not None and not isinstance(method, str):
        _refuse(f"{where}.method must be text, not {method!r}.")
    return FaultRule(
        kind=kind,
        path=path,
        method=method.upper() if method is not None else None,
        rate=_share(rule.get("rate", 1), f"{where}.rate"),
        times=None if rule.get("times") is None else _whole(rule, "times", f"{where}.times", 0),
        after=_whole(rule, "after", f"{where}.after", 0),
        retry_after=str(rule.get("retry_after", "1")),
        seconds=float(_number(rule.get("seconds", 1), f"{where}.seconds")),
    )


def _whole(body: dict[str, object], key: str, where: str, default: int) -> int:
    number = body.get(key, default)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        _refuse(f"Field {where} must be a whole number from 0, not {number!r}.")
    return number


def _number(number: object, where: str) -> Decimal:
    try:
        parsed = Decimal(str(number)) if not isinstance(number, bool) else None
    except InvalidOperation:
        parsed = None
    if parsed is None or not parsed.is_finite() or parsed < 0:
        _refuse(f"Field {where} must be a number from 0, not {number!r}.")
    return parsed


def _share(number: object, where: str) -> Decimal:
    share = _number(number, where)
    if share > 1:
        _refuse(f"Field {where} must be from 0 to 1, not {number!r}.")
    return share


def _refuse(sentence: str) -> NoReturn:
    raise ValueError(sentence)
