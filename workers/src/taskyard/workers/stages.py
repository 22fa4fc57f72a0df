"""How a worker stops: taking first, then running jobs, then what is unsettled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from taskyard.workers.worker import Worker

_log = get_logger(__name__)

#: Seconds that `async` handlers get to end once they are cancelled.
END_S: Final = 5.0
#: Seconds for the last settlements.
FLUSH_S: Final = 5.0


async def stop_in_stages(worker: Worker) -> None:
    """Stop taking, let running attempts finish within the grace, hand back the rest, flush.

    A second stop cuts the grace, and the patience with handlers that do not end, short.
    """
    _log.info("worker stops", worker=worker.name, reason=worker.signals.reason)
    for lane in worker.lanes.values():
        lane.finish(keep=worker.drained)
    ended = asyncio.gather(*worker.lane_tasks)
    hurry = asyncio.create_task(worker.signals.now.wait(), name="stop now")
    try:
        await _either(ended, hurry, worker.options.grace_s)
        if not ended.done():
            for lane in worker.lanes.values():
                lane.hand_back()
            await _either(ended, hurry, END_S)
        if not ended.done():
            for lane in worker.lanes.values():
                lane.abandon()
            await asyncio.wait({ended}, timeout=FLUSH_S)
        if ended.done():
            ended.result()
    finally:
        hurry.cancel()
        ended.cancel()
        with suppress(asyncio.CancelledError):
            await ended
    with suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            await worker.committer.wait_idle()


async def _either(
    ended: asyncio.Future[list[None]], hurry: asyncio.Task[bool], timeout_s: float
) -> None:
    waited: set[asyncio.Future[list[None]] | asyncio.Task[bool]] = {ended, hurry}
    await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
