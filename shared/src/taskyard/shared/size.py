"""Sizes of memory as people write them: `300M`, `1G`, `512MiB`, `1073741824`."""

from __future__ import annotations

import re
from typing import Final

from taskyard.shared.errors import ConfigurationError

_PATTERN: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", re.IGNORECASE)
_FACTOR: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_UNITS: Final = ("TiB", "GiB", "MiB", "KiB")


def parse_size(text: str | int) -> int:
    """Return a size in bytes.

    Args:
        text: bytes, or a number with a unit. As for Docker and systemd, units count in steps of
            1024, whether written `M`, `MB` or `MiB`.

    Raises:
        ConfigurationError: it cannot be read, or is less than one byte.

    """
    match = _PATTERN.fullmatch(str(text))
    if match is None:
        msg = (
            f"size {text!r} is not valid: write bytes, or a number with K, M, G or T, such as 300M"
        )
        raise ConfigurationError(msg)
    size = round(float(match[1]) * _FACTOR[match[2].lower()])
    if size < 1:
        raise ConfigurationError(f"size {text!r} is not valid: it must be at least one byte")
    return size


def show_size(size_bytes: int) -> str:
    """Return a size for people, such as `312.5 MiB`."""
    for power, unit in zip(range(4, 0, -1), _UNITS, strict=True):
        if size_bytes >= 1024**power:
            return f"{size_bytes / 1024**power:.1f} {unit}"
    return f"{size_bytes} B"
