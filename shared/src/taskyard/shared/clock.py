"""Where time comes from: UTC instants in milliseconds and monotonic durations.

Everything else is handed a `Clock`, so that tests can turn it by hand.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final, Protocol

#: The start of the year 1 and the last second of the year 9999: what a datetime holds.
_FIRST_MS: Final = -62_135_596_800_000
_LAST_MS: Final = 253_402_300_799_000


class Clock(Protocol):
    """A source of instants and of durations."""

    def now_ms(self) -> int:
        """Return the current instant, in milliseconds since the epoch (UTC)."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never jumps; only differences mean something."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Return the current instant, in milliseconds since the epoch (UTC)."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds on the machine's monotonic clock."""
        return time.monotonic()


class VirtualClock:
    """A clock that stands still until `advance` turns it."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        """Start at `start_ms` (milliseconds since the epoch)."""
        self._now_ms = start_ms
        self._start_ms = start_ms

    def now_ms(self) -> int:
        """Return the current instant, in milliseconds since the epoch."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Return the seconds by which the clock was turned since it was made."""
        return (self._now_ms - self._start_ms) / 1000

    def advance(self, *, ms: int) -> None:
        """Turn the clock forward by `ms` milliseconds (ValueError when negative)."""
        if ms < 0:
            msg = f"a clock only goes forward, not by {ms} ms"
            raise ValueError(msg)
        self._now_ms += ms


def to_datetime(instant_ms: int) -> datetime:
    """Return an instant as an aware datetime in UTC; what no date can name is the nearest one."""
    # Instants come in messages: one that is far off must not keep others from being shown.
    return datetime.fromtimestamp(min(max(instant_ms, _FIRST_MS), _LAST_MS) / 1000, tz=UTC)


def from_datetime(instant: datetime) -> int:
    """Return an aware datetime as milliseconds since the epoch.

    Raises:
        ValueError: the datetime is naive, so that its instant is unknown.

    """
    if instant.tzinfo is None:
        msg = f"{instant.isoformat()} has no time zone: pass an aware datetime, for example in UTC"
        raise ValueError(msg)
    return round(instant.timestamp() * 1000)
