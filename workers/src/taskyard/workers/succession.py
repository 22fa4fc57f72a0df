"""What follows from the end of a supervised process: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskyard.shared.cli import ALREADY_RUNNING, UNAVAILABLE, USAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Seconds before a process that failed is started again: the first time, and at most.
FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
#: Seconds after which a process that fails has not failed from the start.
SETTLED_S: Final = 60.0

#: Exit codes with which a plain worker, too, gives up at its start.
_GIVES_UP: Final = frozenset({USAGE, UNAVAILABLE, ALREADY_RUNNING})


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a process ended.

    Attributes:
        code: its exit code; negative for a signal.
        uptime_s: how long it ran.
        worked: it took jobs.
        drained: its queues were empty, as asked for.
        failures: ends in a row before this one that were no success.
        proven: a process of the group has been ready before, so the configuration works.

    """

    code: int
    uptime_s: float
    worked: bool = True
    drained: bool = False
    failures: int = 0
    proven: bool = True


@dataclass(frozen=True, slots=True)
class Restart:
    """Start another in its place, after some seconds; `failures` counts on."""

    delay_s: float
    failures: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Its work is done."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """None would do better: end the group with this exit code."""

    code: int


def after(end: End) -> Restart | Rest | GiveUp:
    """Return what follows from an end that nobody asked for."""
    if end.drained and end.code >= 0:
        return Rest()  # a complaint at its end would be the same next time
    if end.code in _GIVES_UP and not end.proven:
        return GiveUp(end.code)
    if end.code == 0 and end.worked:
        return Restart(0.0, 0)
    failures = 0 if end.uptime_s >= SETTLED_S else end.failures
    # The exponent is bounded, or the number would grow for ever.
    delay_s = min(FIRST_DELAY_S * 2 ** min(failures, 10), LONGEST_DELAY_S)
    return Restart(delay_s, failures + 1)


def code_of(codes: Iterable[int]) -> int:
    """Return the exit code of a group that was stopped, given those of its processes."""
    failed = [code for code in codes if code]
    if not failed:
        return 0
    for known in (USAGE, ALREADY_RUNNING, UNAVAILABLE):
        if known in failed:
            return known
    return max(*failed, 1)
