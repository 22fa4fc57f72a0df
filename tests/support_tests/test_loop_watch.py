"""The watch over an event loop notices what it is there for."""

from __future__ import annotations

import asyncio
import time

from support.loop_watch import LoopWatch


async def test_a_loop_that_is_blocked_is_noticed():
    """Whether it computes or waits; a test that relies on the watch could not fail otherwise."""
    for block in (time.sleep, _compute):
        watch = LoopWatch()
        await asyncio.sleep(0.05)
        block(0.2)
        await asyncio.sleep(0.05)
        assert watch.stop() > 0.1


def _compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
