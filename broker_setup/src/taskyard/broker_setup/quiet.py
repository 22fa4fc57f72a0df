"""When nothing of some queues runs any more: what a pause with `--wait` waits for.

Known from the broker alone: a paused worker consumes no more and hands back what it has not started,
so what is unsettled then is what still runs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskyard.shared.broker import Broker, QueueStats
    from taskyard.shared.clock import Clock

#: Seconds between two looks.
_LOOK_S: Final = 0.25


class Quiet:
    """Judges what is seen of some queues, one look after another.

    Attributes:
        busy: what was not quiet at the last look, in words, by queue.

    """

    def __init__(self, lag_s: float) -> None:
        """Judge numbers of unsettled jobs that may be `lag_s` seconds old."""
        self._lag_s = lag_s
        self._shut_s: dict[str, float] = {}
        self.busy: dict[str, str] = {}

    def look(self, asked_s: float, answered_s: float, stats: Mapping[str, QueueStats]) -> bool:
        """Take in what was asked and answered then (monotonic); return whether all is quiet."""
        self.busy = {
            queue: text
            for queue, seen in stats.items()
            if (text := self._busy(queue, seen, asked_s, answered_s))
        }
        return not self.busy

    def _busy(self, queue: str, seen: QueueStats, asked_s: float, answered_s: float) -> str:
        """Return why a queue is not known to be quiet; empty when it is."""
        if not seen.exists:
            return ""
        if seen.consumers:
            # Whoever consumes may begin a job at any moment: only from its end on do numbers count.
            self._shut_s.pop(queue, None)
            return f"{seen.consumers} consumers still take jobs, {_number(seen)}"
        shut_s = self._shut_s.setdefault(queue, answered_s)
        if seen.unsettled is None:
            return "the broker does not tell what runs: set TASKYARD_MANAGEMENT_URL"
        if seen.unsettled:
            return _number(seen)
        if self._lag_s and asked_s < shut_s + self._lag_s:
            return f"nothing seems to run, by a number that may be {self._lag_s:g} s old"
        return ""


def _number(seen: QueueStats) -> str:
    if seen.unsettled is None:
        return "an unknown number of jobs runs"
    return f"{seen.unsettled} jobs run" if seen.unsettled != 1 else "1 job runs"


async def wait_quiet(
    broker: Broker, queues: Sequence[str], *, within_s: float, clock: Clock | None = None
) -> dict[str, str]:
    """Wait until nothing of `queues` runs, for `within_s` seconds at most.

    Args:
        broker: to ask.
        queues: that are paused.
        within_s: how long to wait, in seconds.
        clock: measures it.

    Returns:
        what is not quiet by then, in words, by queue; empty when all is.

    """
    clock = clock or SystemClock()
    quiet = Quiet(broker.capabilities.stats_lag_s)
    ends_s = clock.monotonic_s() + within_s
    while True:
        asked_s = clock.monotonic_s()
        stats = await broker.stats(queues)
        if quiet.look(asked_s, clock.monotonic_s(), stats):
            return {}
        left_s = ends_s - clock.monotonic_s()
        if left_s <= 0:
            return quiet.busy
        await asyncio.sleep(min(_LOOK_S, left_s))
