"""The accountant: what became of each numbered job, and why some ran more than once.

It reads what the processes of `support.numbered` noted and what the attack did to them, and knows
nothing else of the product.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

#: Clocks of processes on one machine agree, but a note is written a little after the fact.
LEEWAY_S = 0.05
#: Two causes that explain a second run which looks like the first.
SENT_AGAIN = "sent again, its confirm was lost"
BROKER_KILLED = "broker killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that an attack did."""

    kind: str
    """In words, such as `worker killed`."""
    since: float
    """When it began, in seconds since the epoch."""
    until: float
    """When it was over and repaired."""
    pid: int = 0
    """The process that suffered it; 0 where every connection did."""


@dataclass(slots=True)
class Run:
    """One execution of a job, as noted by its worker."""

    number: int
    job: str
    attempt: int
    deliveries: int
    pid: int
    start: float
    end: float | None = None
    """None when it never ended: its process died."""


@dataclass(slots=True)
class Books:
    """All that was noted."""

    runs: dict[int, list[Run]] = field(default_factory=lambda: defaultdict(list))
    """By number, in the order of their starts."""
    tried: set[int] = field(default_factory=set)
    tried_at: dict[int, float] = field(default_factory=dict)
    """When each was tried first, in seconds since the epoch."""
    confirmed: set[int] = field(default_factory=set)
    again: set[int] = field(default_factory=set)
    """Sent again, because the first confirm never came: the broker may hold them twice."""

    @classmethod
    def of(cls, folder: Path) -> Books:
        """Read the notes of a folder."""
        books = cls()
        for path in sorted(folder.iterdir()):
            if path.name.startswith("sent-"):
                books._read_sender(_lines(path))
            else:
                books._read_worker(_lines(path))
        for runs in books.runs.values():
            runs.sort(key=lambda run: run.start)
        return books

    def _read_sender(self, lines: Iterable[Sequence[str]]) -> None:
        for kind, at, *numbers in lines:
            if kind == "again":
                self.again.update(map(int, numbers))
                continue
            some = range(*map(int, numbers))
            (self.tried if kind == "trying" else self.confirmed).update(some)
            for number in some:
                self.tried_at.setdefault(number, float(at))

    def _read_worker(self, lines: Iterable[Sequence[str]]) -> None:
        # A job that was sent again may run twice at once: each end belongs to the earliest start.
        open_runs: dict[tuple[str, ...], list[Run]] = defaultdict(list)
        for kind, at, *who in lines:
            if kind == "start":
                number, job, attempt, deliveries, pid = who
                run = Run(int(number), job, int(attempt), int(deliveries), int(pid), float(at))
                self.runs[run.number].append(run)
                open_runs[tuple(who)].append(run)
            else:
                open_runs[tuple(who)].pop(0).end = float(at)


@dataclass(slots=True)
class Account:
    """What became of the numbers: each is in exactly one of the first four."""

    once: set[int] = field(default_factory=set)
    more: set[int] = field(default_factory=set)
    parked: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    unsent: set[int] = field(default_factory=set)
    """Tried, never confirmed, and not stored: their sender died, and nobody was told anything else."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why there was a second run, by what happened during the first."""
    unexplained: list[tuple[Run, Run]] = field(default_factory=list)
    """Second runs though nothing happened to the first."""
    unmarked: list[tuple[Run, Run]] = field(default_factory=list)
    """Second runs that look like a first one, though nothing excuses it."""
    faults: Sequence[Fault] = ()
    charged: set[int] = field(default_factory=set)
    """Jobs of which an attempt was counted that never failed."""

    def __str__(self) -> str:
        """Return the table."""
        rows = {
            "done once": len(self.once),
            "done more than once": len(self.more),
            **{f"  because: {reason}": number for reason, number in sorted(self.reasons.items())},
            "  without a cause": len(self.unexplained),
            "  not recognisable": len(self.unmarked),
            "parked": len(self.parked),
            "never confirmed, not stored": len(self.unsent),
            "missing": len(self.missing),
        }
        table = [f"{name:40}{number:>9}" for name, number in rows.items()]
        return "\n".join(table + self.stories)

    @property
    def stories(self) -> list[str]:
        """What is known of the first few that must not be."""
        pairs = [*self.unexplained[:3], *self.unmarked[:3]]
        lines = [line for pair in pairs for line in ("a job ran twice:", *map(repr, pair))]
        lost = sorted(self.missing)[:20]
        lines += [f"missing: {lost}"] if lost else []
        since = min((first.start for first, _ in pairs), default=0.0) - 10
        near = [fault for fault in self.faults if fault.since >= since] if pairs else []
        return lines + [f"{fault!r}" for fault in near[:10]]


def account(books: Books, faults: Sequence[Fault], parked: Collection[int] = ()) -> Account:
    """Account for every number that was tried.

    Args:
        books: what was noted.
        faults: what was done.
        parked: the numbers found in the parking lot.
    """
    found = Account(faults=faults)
    causes = _Causes(faults)
    for number in books.tried:
        runs = books.runs.get(number, [])
        ends = sum(run.end is not None for run in runs)
        if number in parked:
            found.parked.add(number)
        elif not ends:
            (found.missing if number in books.confirmed else found.unsent).add(number)
        else:
            (found.once if len(runs) == 1 else found.more).add(number)
        if any(run.attempt > 1 for run in runs):
            found.charged.add(number)
        for first, second in pairwise(runs):
            cause = _cause(first, second, books, causes)
            if cause is None:
                found.unexplained.append((first, second))
                continue
            found.reasons[cause] += 1
            known = cause == BROKER_KILLED or number in books.again
            if first.job != second.job or not (known or _marked(first, second)):
                found.unmarked.append((first, second))
    return found


def _cause(first: Run, second: Run, books: Books, causes: _Causes) -> str | None:
    """Return why there was a second run, as far as what was done can explain it."""
    # A process that was cut off may start last what the broker has given to another before.
    cause = causes.between((first.pid, 0), first.start, second.start)
    cause = cause or causes.between((second.pid, 0), first.start, second.start)
    number = second.number
    if cause is None and number in books.again:
        # The broker may hold it twice: as the same job, each with its own deliveries.
        return SENT_AGAIN
    if cause is None and second.deliveries > 1:
        # The copy that counts a death is published again where its confirm was lost, or stays
        # beside the original where whoever published it died: both run, after the fault.
        earlier = causes.between(None, books.tried_at.get(number, first.start), second.start)
        return None if earlier is None else f"counted twice, {earlier}"
    return cause


def _marked(first: Run, second: Run) -> bool:
    """Say whether one of two runs tells that it may not be the only one.

    A broker that is killed forgets what it had marked, and who sends again sends the same job, with
    deliveries of its own: those are known by the job's id and attempt alone.
    """
    return max(first.deliveries, second.deliveries) > 1


class _Causes:
    """Finds what happened to a process in a stretch of time."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        by_pid: Mapping[int, list[Fault]] = defaultdict(list)
        for fault in sorted(faults, key=lambda fault: fault.since):
            by_pid[fault.pid].append(fault)
        self._by_pid = by_pid
        self._ends = {
            pid: [fault.until + LEEWAY_S for fault in some] for pid, some in by_pid.items()
        }

    def between(self, victims: Iterable[int] | None, since: float, until: float) -> str | None:
        """Return what the first of the victims that suffered anything then did; None means any."""
        for victim in self._by_pid if victims is None else victims:
            some = self._by_pid.get(victim, [])
            # The first that was not over when the stretch began.
            place = bisect_left(self._ends.get(victim, []), since)
            if place < len(some) and some[place].since <= until + LEEWAY_S:
                return some[place].kind
        return None


def _lines(path: Path) -> Iterator[list[str]]:
    """Yield the words of each line; a last one without its end was cut off with its process."""
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield line.split()
