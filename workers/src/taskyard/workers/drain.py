"""When a worker that drains has nothing left to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from taskyard.workers.lane import Lane
    from taskyard.workers.worker import Worker

#: Seconds between two looks at the queues.
LOOK_S: Final = 0.1
#: Looks in a row that must find nothing, and nothing taken since: a job may be on its way between
#: broker and worker, and a queue that is fed all the time is not empty between two jobs.
LOOKS: Final = 2


async def wait_drained(worker: Worker) -> None:
    """Wait until nothing runs, nothing is unsettled, and the queues are empty.

    Jobs that are due later do not count, nor do queues that are paused or cannot be set up.
    """
    await worker.follower.ready.wait()
    quiet, taken = 0, -1
    while quiet < LOOKS:
        await asyncio.sleep(LOOK_S)
        before, taken = taken, sum(lane.taken for lane in worker.lanes.values())
        quiet = quiet + 1 if taken == before and await _is_empty(worker) else 0


async def _is_empty(worker: Worker) -> bool:
    every = worker.lanes.values()
    lanes = [lane for lane in every if not lane.paused and not lane.problem]
    if not _is_quiet(worker, lanes):
        return False
    try:
        stats = await worker.broker.stats([lane.queue.name for lane in lanes])
    except Unavailable:
        return False
    return not any(queue.ready for queue in stats.values()) and _is_quiet(worker, lanes)


def _is_quiet(worker: Worker, lanes: list[Lane]) -> bool:
    if not worker.committer.idle:
        return False
    return all(lane.idle and lane.intake.present for lane in lanes)
