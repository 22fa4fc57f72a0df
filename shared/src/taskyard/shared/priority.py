"""Priorities: 0 to 9, the higher one first, everywhere; and the scales of the replaced systems."""

from __future__ import annotations

from typing import Literal

from taskyard.shared.errors import ConfigurationError

_ZEND_NAMES: tuple[str, ...] = ("low", "normal", "high", "urgent")
PriorityName = Literal["low", "normal", "high", "urgent"]
Priority = PriorityName | int

LOWEST = 0
HIGHEST = 9
LOW = 1
NORMAL = 4
HIGH = 7
URGENT = 9

_BY_NAME: dict[str, int] = {"low": LOW, "normal": NORMAL, "high": HIGH, "urgent": URGENT}

#: beanstalkd's (and Lilmuckers') "no special urgency"; smaller is more urgent there.
_BEANSTALK_NORMAL = 1024
_BEANSTALK_MAX = 2**32 - 1


def parse_priority(value: Priority | str | None) -> int:
    """Return a priority as a number from 0 to 9.

    Args:
        value: a name, a number or its text; None means normal.

    Raises:
        ConfigurationError: it is neither a known name nor within 0 to 9.

    """
    if value is None:
        return NORMAL
    if isinstance(value, str):
        if value in _BY_NAME:
            return _BY_NAME[value]
        if value.isdecimal() and len(value) == 1:
            value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and LOWEST <= value <= HIGHEST:
        return value
    msg = f"priority {value!r} is not valid: use low, normal, high, urgent, or 0 to 9 (higher runs first)"
    raise ConfigurationError(msg)


def clamp_priority(value: int | None) -> int:
    """Return a foreign message's priority within 0 to 9; None means normal."""
    if value is None:
        return NORMAL
    return min(max(value, LOWEST), HIGHEST)


def from_beanstalk(value: int | None) -> int:
    """Map beanstalkd's scale (0 most urgent, 1024 usual, 2³²−1 least) to 0-9; None is normal.

    Raises:
        ConfigurationError: it is outside beanstalkd's own range.

    """
    if value is None:
        return NORMAL
    if not 0 <= value <= _BEANSTALK_MAX:
        msg = f"beanstalkd priority {value} is outside 0 to {_BEANSTALK_MAX}"
        raise ConfigurationError(msg)
    if value == 0:
        return URGENT
    if value < _BEANSTALK_NORMAL:
        return 8 - value * 4 // _BEANSTALK_NORMAL  # four even steps: 8, 7, 6, 5
    if value == _BEANSTALK_NORMAL:
        return NORMAL
    return max(LOWEST, 3 - (value.bit_length() - 11) // 6)  # 22 bits of range in four steps: 3 … 0


def from_zend(value: int | None) -> int:
    """Map Zend's scale (0 low, 1 normal, 2 high, 3 urgent) to 0-9; None is normal."""
    if value is None:
        return NORMAL
    if not 0 <= value < len(_ZEND_NAMES):
        msg = f"Zend priority {value} is outside 0 to 3"
        raise ConfigurationError(msg)
    return _BY_NAME[_ZEND_NAMES[value]]


def from_gearman(value: int | None) -> int:
    """Map Lilmuckers' thirds for Gearman (0-340 high, to 682 normal, above low); None is normal.

    Raises:
        ConfigurationError: it is negative. Values above 1024 count as lowest, never as dropped.

    """
    if value is None:
        return NORMAL
    if value < 0:
        msg = f"Gearman priority {value} is negative; nothing was sent"
        raise ConfigurationError(msg)
    if value > _BEANSTALK_NORMAL:
        return LOWEST
    return (HIGH, NORMAL, LOW)[min(value * 3 // _BEANSTALK_NORMAL, 2)]
