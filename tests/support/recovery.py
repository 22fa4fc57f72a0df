"""How long work stood still after each of some faults, by what the processes noted."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from support.accounting import Books


@dataclass(frozen=True, slots=True)
class Recovery:
    """What followed one fault."""

    at: float
    """When it was, in seconds since the epoch."""
    each_s: Mapping[int, float]
    """By worker process, until it started a job that was sent after the fault; infinite if it started
    none before the next one."""

    @property
    def first_s(self) -> float:
        """Until any worker had started such a job."""
        return min(self.each_s.values(), default=math.inf)

    @property
    def last_s(self) -> float:
        """Until each worker had started such a job."""
        return max(self.each_s.values(), default=math.inf)


def recoveries(books: Books, instants: Sequence[float], workers: Collection[int]) -> list[Recovery]:
    """Return what followed each of some faults.

    Only jobs count that were sent after the fault: what a worker had in hand proves nothing.

    Args:
        books: what was noted.
        instants: when the faults were, in seconds since the epoch.
        workers: the process ids of those that must all work again; what runs in children of theirs
            is not looked at.
    """
    runs = [run for some in books.runs.values() for run in some]
    found: list[Recovery] = []
    for at, end in pairwise([*sorted(instants), math.inf]):
        each = dict.fromkeys(workers, math.inf)
        for run in runs:
            sent = books.tried_at.get(run.number, 0.0)
            if run.pid in each and at < sent and run.start < end:
                each[run.pid] = min(each[run.pid], run.start - at)
        found.append(Recovery(at, each))
    return found


def table(found: Sequence[Recovery]) -> str:
    """Return a line per fault, and one for all."""
    lines = [
        f"kill {number}: consuming again after {one.first_s:.2f} s, "
        f"each of {len(one.each_s)} workers after {one.last_s:.2f} s"
        for number, one in enumerate(found, start=1)
    ]
    first, last = [one.first_s for one in found], [one.last_s for one in found]
    lines.append(f"consuming again: median {median(first):.2f} s, worst {max(first):.2f} s")
    lines.append(f"each worker:     median {median(last):.2f} s, worst {max(last):.2f} s")
    return "\n".join(lines)
