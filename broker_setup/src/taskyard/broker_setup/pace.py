"""So many per second, evenly: the pace of a slow release."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from taskyard.shared.clock import Clock

_PATTERN: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(s|sec|m|min|h|d))?\s*")
_SECONDS: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, None: 1}
#: The most that is done at once, in seconds of the pace.
_GRAIN_S: Final = 0.1
#: A delay longer than this (an alarm, a lost connection) is not caught up with.
_SLIP_S: Final = 1.0


def parse_rate(text: str) -> float:
    """Return a rate per second from text such as `5/s`, `100/min` or `20/h`.

    Raises:
        ConfigurationError: it cannot be read, or is nothing.

    """
    match = _PATTERN.fullmatch(text)
    per_s = float(match[1]) / _SECONDS[match[2]] if match else 0.0
    if per_s <= 0:
        msg = f"rate {text!r} is not valid: write a number above 0 with /s, /min or /h, such as 5/s"
        raise ConfigurationError(msg)
    return per_s


class Pace:
    """Says when the next may go. The average is kept over short delays, without a burst."""

    def __init__(self, per_s: float, clock: Clock) -> None:
        """Allow `per_s` a second, from the first one on."""
        self._gap_s = 1 / per_s
        self._clock = clock
        self._due_s = clock.monotonic_s()
        self._earliest_s = self._due_s
        self.grain = max(1, int(per_s * _GRAIN_S))
        """How many go at once: one, unless they would follow each other in milliseconds."""

    def gap_s(self) -> float:
        """Return the seconds until the next may go."""
        now_s = self._clock.monotonic_s()
        self._due_s = max(self._due_s, now_s - _SLIP_S)
        return max(0.0, self._due_s - now_s, self._earliest_s - now_s)

    def went(self, count: int) -> None:
        """Take note that so many went."""
        self._due_s += count * self._gap_s
        # Whoever is late goes at twice the pace, not all at once.
        self._earliest_s = self._clock.monotonic_s() + count * self._gap_s / 2

    async def wait(self) -> None:
        """Wait until the next may go."""
        gap_s = self.gap_s()
        if gap_s > 0:
            await asyncio.sleep(gap_s)
