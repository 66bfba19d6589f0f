"""Every kind of trouble by name, and where in a seed its draws come from.

Each kind has a stream of random numbers of its own, so that leaving one out changes nothing of the others: that is how
a red seed shrinks.
"""

import random
from dataclasses import dataclass, field

REQUEST_TROUBLE = (
    "status_503",
    "status_502_after",
    "status_429",
    "status_429_retry_after",
    "reset_before",
    "reset_after",
    "truncated_body",
    "html_200",
    "slow",
    "slow_answers",
    "outage",
    "empty_page",
    "duplicate_page",
    "repeated_cursor",
    "swapped_pages",
    "reordered_rows",
    "null_for_zero",
    "other_decimals",
    "short_201",
    "short_201_lost",
    "stale_list",
)
PROCESS_TROUBLE = ("crash", "second_process", "clock_skew", "database_lost", "lock_lost")
ACCOUNT_TROUBLE = (
    "late_events",
    "negative_events",
    "removed_events",
    "moved_alias",
    "new_customer",
    "archived_customer",
    "new_metric",
    "archived_metric",
    "new_group",
    "poisoned_event",
    "taken_reference",
    "inactive_meter",
    "inactive_customer",
    "deduplication_off",
    "deduplication_unproved",
    "late_duplicate_flags",
    "duplicates_refused",
    "large_fall",
)
ALL_TROUBLE = (*REQUEST_TROUBLE, *PROCESS_TROUBLE, *ACCOUNT_TROUBLE)
"""Every kind there is."""

_LIKELY = {"crash": 6, "second_process": 3, "reset_after": 2, "slow": 2, "stale_list": 2}
_LIKELY |= {"late_events": 8, "removed_events": 6, "negative_events": 3, "deduplication_off": 4}


@dataclass(frozen=True)
class Scenario:
    """What is asked of one simulation: everything else follows from it.

    Attributes:
        seed: Draws everything.
        without: Kinds of trouble that are left out of what the seed draws.
        ticks: Ticks under trouble; None leaves it to the seed.
        only: Where given, exactly these kinds, whatever the seed draws.
    """

    seed: int
    without: frozenset[str] = frozenset()
    ticks: int | None = None
    only: frozenset[str] | None = None

    @property
    def trouble(self) -> frozenset[str]:
        """The kinds of trouble of this seed."""
        if self.only is not None:
            return self.only - self.without
        draw = self.stream("trouble")
        on_the_way = (*REQUEST_TROUBLE, *PROCESS_TROUBLE)
        # Much trouble at once hides what one kind alone does, and the other way round.
        kinds = [
            *draw.choices(on_the_way, [_LIKELY.get(kind, 1) for kind in on_the_way], k=draw.choice((0, 1, 2, 3, 4, 6))),
            *draw.choices(
                ACCOUNT_TROUBLE, [_LIKELY.get(kind, 1) for kind in ACCOUNT_TROUBLE], k=draw.choice((0, 1, 2, 3, 4, 5))
            ),
        ]
        return frozenset(kinds) - self.without

    def stream(self, name: str) -> random.Random:
        """The random numbers of one concern."""
        return random.Random(f"{self.seed}:{name}")

    @property
    def command(self) -> str:
        """What replays it."""
        words = ["python -m metronome_pipeline_tests.simulation", f"--seed {self.seed}"]
        words += [f"--without {','.join(sorted(self.without))}"] if self.without else []
        words += [f"--only {','.join(sorted(self.only))}"] if self.only is not None else []
        words += [f"--ticks {self.ticks}"] if self.ticks is not None else []
        return " ".join(words)


@dataclass
class Chances:
    """The chances of one kind of trouble in a seed: its own stream, and how often it strikes."""

    draw: random.Random
    rate: float
    left: int = field(default=12)

    def strikes(self) -> bool:
        """Whether it strikes now. A seed has only so much of each kind."""
        if self.draw.random() >= self.rate or self.left == 0:
            return False
        self.left -= 1
        return True
