"""Jobs that a handler waits for: sent as children, their outcomes awaited without a slot."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError as Abandoned, Future
from contextvars import copy_context
from typing import TYPE_CHECKING

from taskyard.shared.errors import TaskyardError
from taskyard.shared.priority import HIGHEST
from taskyard.workers.callee import callee_id

if TYPE_CHECKING:
    from taskyard.shared.job import Job
    from taskyard.workers.attempt import Attempt
    from taskyard.workers.children import Children
    from taskyard.workers.slots import Slots


class Calls:
    """The calls of one queue's attempts. Belongs to the event loop, but for `call_from_thread`."""

    def __init__(self, children: Children, slots: Slots) -> None:
        """Send through `children`, and lend `slots` out meanwhile; on the loop that runs now."""
        self._children = children
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, attempt: Attempt, job: Job[object], timeout_s: float | None) -> object:
        """Send a job, wait for its end without a slot, and return its value.

        Raises:
            PublishError: it was not sent.
            JobFailed, JobParked, JobCancelled, ResultTimeout: as for a handle's `result`.

        """
        own = job.queue == attempt.envelope.queue
        job = named(attempt, job)  # before the first await, so that the order of calls decides
        handle = await self._children.ask(_ahead(attempt, job) if own else job)
        lent = self._slots.lend(attempt, bounded=not own)
        try:
            return await handle.result(timeout_s)
        except asyncio.CancelledError as error:
            error.add_note(
                f"It waited for job {job.id} ({job.task}), which goes on. An outcome that came while "
                "this worker had no connection to the broker is lost."
            )
            raise
        finally:
            if lent:
                await self._slots.take_back(attempt)

    def call_from_thread(
        self, attempt: Attempt, job: Job[object], timeout_s: float | None
    ) -> object:
        """Do the same from a handler's thread, which waits.

        Raises:
            TaskyardError: the attempt has ended meanwhile; see also `call`.

        """
        answer: Future[object] = Future()
        # The loop's own context knows neither the running job nor its propagated values.
        self._loop.call_soon_threadsafe(
            self._begin, attempt, job, timeout_s, answer, context=copy_context()
        )
        try:
            return answer.result()
        except Abandoned as error:
            raise TaskyardError(
                f"job {attempt.envelope.id}: its attempt is over, so it waits for {job.id} no "
                "longer; whatever the handler still does counts for nothing"
            ) from error

    def _begin(
        self,
        attempt: Attempt,
        job: Job[object],
        timeout_s: float | None,
        answer: Future[object],
    ) -> None:
        task = self._loop.create_task(
            self._answer(attempt, job, timeout_s, answer), name="call from thread"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(
        self,
        attempt: Attempt,
        job: Job[object],
        timeout_s: float | None,
        answer: Future[object],
    ) -> None:
        try:
            answer.set_result(await self.call(attempt, job, timeout_s))
        except asyncio.CancelledError:
            answer.cancel()
            raise
        except BaseException as error:  # noqa: BLE001  # a task's boundary: the thread gets it
            answer.set_exception(error)


def named(attempt: Attempt, job: Job[object]) -> Job[object]:
    """Return a job under the id that it has in this attempt; a chosen id stays."""
    if job.resolved.own_id:
        return job
    called = attempt.called
    if called is None:
        called = attempt.called = {}
    if job.id not in called:
        called[job.id] = callee_id(attempt.envelope, job, taken=called.values())
    return job.under(called[job.id])


def _ahead(attempt: Attempt, job: Job[object]) -> Job[object]:
    """Return a job of its caller's own queue so that it overtakes those that have not started.

    Otherwise all of them would start before it, and call, and wait.
    """
    least = min(attempt.envelope.priority + 1, HIGHEST)
    return job if job.resolved.priority >= least else job.options(priority=least)
