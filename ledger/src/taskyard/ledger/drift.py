"""What the broker's numbers prove about jobs that the ledger takes for waiting or running. Pure.

A job is missing when the ledger says that it waits or runs, and the broker has it nowhere. A broker
cannot be asked for one job, only how many there are; so what proves it is emptiness. A queue with
nothing in it, neither ready nor handed over, holds none of the jobs that the ledger has known for
longer; if nothing is due later either, none of them is on its way. Of a queue that is not empty only
the number can be told: so many more in the ledger than in the broker.

Some of the broker's numbers lag by seconds, so it is looked at twice, with more than that between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskyard.shared.broker import DELAYED, FEED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskyard.shared.broker import QueueStats

#: Seconds between two looks: RabbitMQ's own count of what is handed over lags by five.
GAP_S: Final = 6.0
#: How long nothing was heard of a job before it is looked for, unless told otherwise, in seconds.
MARGIN_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The broker's numbers, read once.

    Attributes:
        at_ms: when reading them began.
        stats: by queue, and of all that is due later and of the feed.

    """

    at_ms: int
    stats: Mapping[str, QueueStats] = field(default_factory=dict[str, "QueueStats"])

    def holds(self, queue: str) -> int | None:
        """Return how many jobs are in a queue or handed over; None where that cannot be told."""
        seen = self.stats[queue]
        if not seen.exists:
            return 0
        return None if seen.unsettled is None else seen.ready + seen.unsettled

    def later(self, queue: str) -> int:
        """Return how many jobs are due later: of the queue, or of all where it is told so."""
        seen = self.stats[queue].scheduled
        return seen if seen is not None else self.stats[DELAYED].scheduled or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What two looks at a queue prove.

    Attributes:
        queue: which.
        at_ms: when the first look began: it is about jobs of which was heard before then only.
        exists: the broker has the queue.
        empty: nothing was in it, or it did not exist.
        undelayed: none of its jobs was due later.
        held: the most that was in it; None where that cannot be told.
        later: the most that were due later: of the queue, or of all where it is told so.
        parked: the most that were in its parking lot.
        old: it is from an earlier time. Since then jobs may have been sent again without a word
            on when, in a higher generation.

    """

    queue: str
    at_ms: int
    exists: bool = True
    empty: bool = False
    undelayed: bool = False
    held: int | None = None
    later: int = 0
    parked: int = 0
    old: bool = False

    @property
    def proves(self) -> bool:
        """Whether any job can be told to be missing by it."""
        return self.empty or self.undelayed


def judge(queue: str, first: Look, second: Look) -> Evidence:
    """Return what two looks, with `GAP_S` between them, prove about a queue."""
    held = (first.holds(queue), second.holds(queue))
    known = [number for number in held if number is not None]
    later = max(first.later(queue), second.later(queue))
    return Evidence(
        queue=queue,
        at_ms=first.at_ms,
        exists=second.stats[queue].exists,
        empty=held == (0, 0),
        undelayed=later == 0,
        held=max(known) if len(known) == len(held) else None,
        later=later,
        parked=max(first.stats[queue].parked, second.stats[queue].parked),
    )


def behind(look: Look, *, moved: bool) -> str:
    """Return why the ledger may not know yet what has happened, in words; empty if it does.

    Args:
        look: at the feed, after the looks that are to be judged.
        moved: something has come into the ledger since the first of them. While it does, what
            readers of the feed have in hand is on its way.

    """
    feed = look.stats[FEED]
    if not feed.exists:
        return (
            "the broker has no feed, so the ledger does not learn what happens: "
            "`taskyard broker apply --ledger` makes it"
        )
    if feed.ready:
        return f"{feed.ready} feed items are not in the ledger yet"
    if feed.unsettled and not moved:
        return f"coordinators have {feed.unsettled} feed items in hand and write none"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What is missing of a queue.

    Attributes:
        evidence: what it rests on.
        missing: jobs that the broker has nowhere, by that evidence.
        least: so many more at least, of those that cannot be told from jobs that wait.
        doubtful: jobs of which was not heard for long, and that may be missing or wait.
        parked: jobs that the ledger knows as parked, and the lot does not hold.

    """

    evidence: Evidence
    missing: int = 0
    least: int = 0
    doubtful: int = 0
    parked: int = 0

    @property
    def queue(self) -> str:
        """Which queue."""
        return self.evidence.queue

    @property
    def found(self) -> int:
        """How many jobs are missing at least."""
        return self.missing + self.least + self.parked

    def __str__(self) -> str:
        """Say it for people."""
        words: list[str] = []
        if self.missing:
            words.append(f"{self.missing} jobs are missing: {self._why()}")
        if self.least:
            words.append(
                f"at least {self.least} of {self.doubtful} jobs are missing: the broker holds "
                f"{self.evidence.held}; which ones cannot be told"
            )
        elif self.doubtful:
            words.append(f"{self.doubtful} jobs wait for long: {self._doubt()}")
        if self.parked:
            words.append(f"{self.parked} parked jobs are not in the parking lot")
        return f"{self.queue}: " + ("; ".join(words) or "nothing is missing")

    def _why(self) -> str:
        if not self.evidence.exists:
            return "the queue does not exist"
        if not self.evidence.empty:
            return "nothing is due later on the broker"
        return "the queue was empty" + (" then" if self.evidence.old else "")

    def _doubt(self) -> str:
        seen = self.evidence
        if seen.held is None:
            return "how many are handed over is known to the management API only"
        if seen.empty:
            return f"they may be late on the delay queues, which hold {seen.later}"
        return f"the broker holds {seen.held}, as many as it should"
