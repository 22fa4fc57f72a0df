"""One timer for all attempts: a timer per job would cost more than many a job."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

    from taskyard.shared.clock import Clock

_NEVER: Final = float("inf")


class Watched(Protocol):
    """Something that wants to be called at an instant, which may move."""

    @property
    def wake_s(self) -> float:
        """When, on the monotonic clock, in seconds."""
        ...

    def wake(self, now_s: float) -> None:
        """Do what was due at `now_s`; afterwards `wake_s` lies ahead, or the object is forgotten."""
        ...


class Deadlines:
    """Wakes whatever is watched when its time has come. Belongs to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """Watch nothing yet."""
        self._loop = loop
        self._clock = clock
        self._watched: dict[Watched, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = _NEVER
        # The timer may be set on behalf of one job, and wake another: it is to run as neither.
        self._base = copy_context()

    def __len__(self) -> int:
        """Return how many are watched."""
        return len(self._watched)

    def watch(self, item: Watched) -> None:
        """Wake `item` at its instant. One that moves later needs no call, one that moves nearer does."""
        self._watched[item] = None
        wake_s = item.wake_s
        if wake_s < self._next_s:
            self._arm(wake_s)

    def forget(self, item: Watched) -> None:
        """Wake it no more. The timer stays as it is: it finds nothing to do."""
        self._watched.pop(item, None)

    def close(self) -> None:
        """Wake nothing any more."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, wake_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_s = wake_s
        self._timer = self._loop.call_later(
            max(wake_s - self._clock.monotonic_s(), 0.0), self._sweep, context=self._base
        )

    def _sweep(self) -> None:
        self._timer = None
        self._next_s = _NEVER
        now_s = self._clock.monotonic_s()
        for item in [item for item in self._watched if item.wake_s <= now_s]:
            item.wake(now_s)
        if self._watched:
            self._arm(min(item.wake_s for item in self._watched))
