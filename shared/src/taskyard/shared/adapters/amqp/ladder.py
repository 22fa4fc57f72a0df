"""How a delayed job finds its way through the delay ladder: pure arithmetic on ticks.

A delay is a number of ticks, written with one digit per level. A job enters at the queue of its
highest digit that is not zero (through a fanout exchange of that queue's own, so that entering can
be recorded and passing by is not), waits there for that digit's worth, is dead-lettered to the
next level's exchange, and so on down; its routing key spells all digits, then its queue.
docs/decisions/0001-delay-ladder.md says why the radix is what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taskyard.shared.adapters.amqp.names import Names

#: One tick, in milliseconds: a due time is rounded up to it.
UNIT_MS: Final = 100
#: Digits at each level. The key below writes them in octal, so this is not a setting.
RADIX: Final = 8
#: Levels: 2**30 ticks in all, 3.4 years.
LEVELS: Final = 10

MAX_TICKS: Final = RADIX**LEVELS - 1
#: The longest delay of one passage. A longer one comes back early, and whoever receives a job
#: before its `not_before` publishes it again.
MAX_LADDER_MS: Final = MAX_TICKS * UNIT_MS

_BITS: Final = 3


def ticks(delay_ms: int) -> int:
    """Return a delay in ticks, 1 to MAX_TICKS: rounded up, so that no job is early."""
    return min(max(-(-delay_ms // UNIT_MS), 1), MAX_TICKS)


def entry(names: Names, count: int) -> str:
    """Return the exchange to publish to, so that a job waits `count` ticks (1 to MAX_TICKS)."""
    level = (count.bit_length() - 1) // _BITS
    return names.delay_hold(level, count >> level * _BITS)


def routing_key(count: int, queue: str) -> str:
    """Return the key that leads a job through `count` ticks to its queue."""
    return ".".join(f"{count:010o}") + "." + queue


def hops(count: int) -> tuple[tuple[int, int], ...]:
    """Return the (level, digit) queues that a job passes in `count` ticks, in order."""
    passed: list[tuple[int, int]] = []
    for level in reversed(range(LEVELS)):
        digit = count // RADIX**level % RADIX
        if digit:
            passed.append((level, digit))
    return tuple(passed)


def hold_ms(level: int, digit: int) -> int:
    """Return how long the queue of a digit holds a job, in milliseconds."""
    return digit * int(RADIX**level) * UNIT_MS


def level_pattern(level: int, digit: int) -> str:
    """Return the pattern of keys with this digit at this level."""
    return ".".join([*_any(LEVELS - 1 - level), str(digit), *_any(level), "*"])


def deliver_pattern(queue: str) -> str:
    """Return the pattern of all keys that end at a queue."""
    return ".".join([*_any(LEVELS), queue])


def _any(count: int) -> list[str]:
    return ["*"] * count
