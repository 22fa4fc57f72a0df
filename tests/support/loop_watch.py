"""How long an event loop stood still by its own doing: the time for which nobody else is to blame."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

#: Seconds between two ticks.
EVERY_S = 0.01

_SCHEDULE = Path("/proc/thread-self/schedstat")


class LoopWatch:
    """Ticks on the loop that runs now, until `stop`; make it on the loop's own thread.

    A tick may be late because the loop was busy, or because the machine was: Linux tells for how
    long a thread was ready to run and waited for a processor, and that time is taken off. What is
    on the heap already, such as other tests' reports, is kept from the garbage collector, whose
    passes over it would count as well.
    """

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        self.worst_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._again()

    def stop(self) -> float:
        """Tick no more; return by how much the worst tick was late, in seconds."""
        self._tick()
        self._timer.cancel()
        gc.unfreeze()
        return self.worst_s

    def _again(self) -> None:
        self._due_s = time.monotonic() + EVERY_S
        self._waited_s = waited_s()
        self._timer = self._loop.call_later(EVERY_S, self._tick)

    def _tick(self) -> None:
        late_s = time.monotonic() - self._due_s - (waited_s() - self._waited_s)
        self.worst_s = max(self.worst_s, late_s)
        self._again()


def waited_s() -> float:
    """Return for how long this thread has waited for a processor in all its life; 0 if unknown."""
    try:
        return int(_SCHEDULE.read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
