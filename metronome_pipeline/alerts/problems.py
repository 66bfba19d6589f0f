"""Problems: what is wrong with an account pair right now, as records that say what, where, and what to do.

Here: the record, and how untrusted text gets into it. Not here: where problems are found (``of_ledger.py``,
``of_dagster.py``), how they are worded for a channel (``messages.py``), and who was told (``telling.py``).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from metronome_pipeline.errors import quoted

MOST_RECORDS = 3
"""Records that a message names; the page that it links to shows all."""
_LONGEST_RECORD = 240


class Kind(StrEnum):
    """Every kind of problem that people are told of, in the order in which they are told."""

    brake = "Brake"
    late = "Late for the destination"
    quarantine = "Quarantine"
    reconciliation = "Reconciliation"
    stale_usage = "Stale usage"
    unsettled = "Unsettled hours"
    run_failure = "Run failure"
    red_check = "Red check"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, as of now.

    Attributes:
        key: What makes it one problem: the same as long as it lasts, however it changes.
        kind: Its kind.
        what: What happened, as one sentence.
        state: Differs when the problem has changed, by more events for instance.
        to_do: What to do, as sentences.
        records: To which records it happened, a few of them.
        more: How many records are not among them.
        page: Where Dagster's UI shows it, as a path from its root.
    """

    key: str
    kind: Kind
    what: str
    state: str
    to_do: str
    records: tuple[str, ...] = field(default=())
    more: int = 0
    page: str = ""

    @property
    def headline(self) -> str:
        """The kind and what happened: the same problem is over under this name later."""
        return f"{self.kind.value}: {self.what}"


def record(*parts: object) -> str:
    """One record as a line: names and messages of vendors, escaped and cut, by comma. What is empty is left out."""
    return quoted(", ".join(str(part) for part in parts if part not in (None, "")), _LONGEST_RECORD)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """The problems by kind, what is worst first."""
    order = list(Kind)
    return sorted(problems, key=lambda problem: (order.index(problem.kind), problem.key))


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number of things in words: ``1 event``, ``1,200 events``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
