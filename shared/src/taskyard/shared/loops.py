"""Which event loop runs where the choice is ours: in workers, their children, and the sync SDK."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop that can run here; None for the standard one."""
    if not all(map(_is_open, (0, 1, 2))):
        return None  # uvloop would get one of these numbers, and ends the process when it closes it
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
