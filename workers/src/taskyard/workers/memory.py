"""The memory that this process holds, and how it is made to settle before it is judged."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None where the system does not tell."""
    try:
        pages = int(_STATM.read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def settle_memory() -> None:
    """Give back what nobody uses: collect cycles, then let the allocator return its free pages.

    Takes some ten milliseconds, so it is for the moment when a judgement depends on it.
    """
    import ctypes  # a worker that is not judged never needs it

    gc.collect()
    with suppress(OSError, AttributeError):  # a libc without it returns pages by itself, or never
        ctypes.CDLL(None).malloc_trim(0)
