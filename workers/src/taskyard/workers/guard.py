"""Whether the lock that lets a worker run jobs is known to be held, at this moment.

A lock is lost without notice while its holder is suspended. So each start asks how long ago the
broker confirmed it: a process that wakes up starts nothing before that has been asked anew.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from taskyard.workers.machinery import Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskyard.shared.broker import Lease
    from taskyard.shared.clock import Clock
    from taskyard.workers.lane import Lane

#: Seconds for which a confirmation is good: brokers give a lock away no sooner than after eight.
FRESH_S: Final = 4.0
#: Looks in a row that must find it too old: a loop that was suspended turns once before it knows.
LOOKS: Final = 3


class Guard:
    """When the lock was last confirmed. Reading and confirming are safe from any thread."""

    def __init__(self, clock: Clock, *, fresh_s: float = FRESH_S) -> None:
        """Begin with a lock that was never confirmed.

        Args:
            clock: measures ages.
            fresh_s: for how long a confirmation is good, in seconds.

        """
        self._clock = clock
        self.fresh_s = fresh_s
        self.confirmed_s = -math.inf
        self.refused = False
        self._revoked = False

    @property
    def fresh(self) -> bool:
        """Whether a job may start."""
        age_s = self._clock.monotonic_s() - self.confirmed_s
        return age_s < self.fresh_s and not self._revoked

    def revoke(self) -> None:
        """Let nothing start any more."""
        self._revoked = True

    def confirm(self, at_s: float) -> None:
        """Note that the lock was held at an instant of the monotonic clock."""
        self.confirmed_s = max(self.confirmed_s, at_s)

    async def keep(self, lease: Lease, *, told: Callable[[float], None] | None = None) -> str:
        """Confirm again and again; return why the lock cannot be relied on any more.

        Args:
            lease: the lock.
            told: given each instant at which it was held.

        """
        lost = asyncio.create_task(lease.wait_lost(), name="lock lost")
        try:
            while not lost.done():
                at_s = self._clock.monotonic_s()
                if not await lease.confirm():
                    return "the broker does not confirm the lock any more"
                self.confirm(at_s)
                if told is not None:
                    told(at_s)
                await asyncio.wait({lost}, timeout=self.fresh_s / 4)
            return "the lock is lost: its connection broke, or its lease ran out"
        finally:
            lost.cancel()

    async def watch(self, lanes: Iterable[Lane]) -> str:
        """Let wait what waited for a confirmation, and return when there is none in time."""
        old = 0
        while old < LOOKS:
            await asyncio.sleep(self.fresh_s / 16)
            if not self.fresh:
                old += 1
                continue
            old = 0
            if self.refused:
                self.refused = False
                for lane in lanes:
                    lane.start_waiting()
        return f"the lock was not confirmed for {self.fresh_s:g} s"


class GuardedBudget(Budget):
    """A budget out of which nothing is taken while the lock is not known to be held."""

    __slots__ = ("_guard",)

    def __init__(self, jobs: int | None, spent: Callable[[], None], guard: Guard) -> None:
        """As `Budget`, below a guard."""
        super().__init__(jobs, spent)
        self._guard = guard

    def take(self) -> bool:
        """Take one, if there is one and the lock is held."""
        if self._guard.fresh:
            return super().take()
        self._guard.refused = True
        return False
