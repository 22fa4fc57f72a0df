"""Durations as people write them: `90`, `90s`, `5m`, `4h`, `30d`, `250ms`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from taskyard.shared.errors import ConfigurationError

_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?\s*")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, None: 1.0}

Duration = float | int | str | timedelta

#: Longest duration, in seconds: a century. Instants that lie further off fit no wire format.
LONGEST_S: Final = 100 * 365.25 * 86_400


def parse_duration(value: Duration) -> float:
    """Return a duration in seconds.

    Args:
        value: seconds as a number, a timedelta, or text with a unit (ms, s, m, h, d, w).

    Raises:
        ConfigurationError: it is negative, longer than a century, or cannot be read.

    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        match = _PATTERN.fullmatch(value)
        if match is None:
            msg = f"duration {value!r} is not valid: write seconds, or a number with ms, s, m, h, d or w"
            raise ConfigurationError(msg)
        seconds = float(match[1]) * _SECONDS[match[2]]
    else:
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"duration {value!r} is not valid: {error}"
            raise ConfigurationError(msg) from error
    if not 0 <= seconds <= LONGEST_S:
        msg = f"duration {value!r} is not valid: it must not be negative or infinite, nor above a century"
        raise ConfigurationError(msg)
    return seconds
