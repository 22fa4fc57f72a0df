"""Jobs that a handler sends, from the loop or from its thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskyard.producer import AsyncHandle, AsyncProducer
    from taskyard.shared.job import Job


class Children:
    """Sends through the worker's own producer; the running job becomes their parent."""

    def __init__(self, producer: AsyncProducer) -> None:
        """Send through `producer`, on the loop that runs now."""
        self._producer = producer
        self._loop = asyncio.get_running_loop()
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, job: Job[object]) -> str:
        """Send a job and return its id, confirmed (PublishError as for the producer)."""
        return (await self._producer.send(job)).id

    async def ask(self, job: Job[object]) -> AsyncHandle[object]:
        """Send a job whose outcome comes back to this worker, and return its handle.

        Raises:
            PublishError: as for the producer.
            ConfigurationError: the broker has no addresses for replies.

        """
        return await self._producer.send(job.options(reply=True))

    def send_from_thread(self, job: Job[object]) -> str:
        """Send a job from a handler's thread, with its context; blocks until it is confirmed."""
        sent: Future[str] = Future()
        # The loop's own context knows neither the running job nor its propagated values.
        self._loop.call_soon_threadsafe(self._begin, job, sent, context=copy_context())
        return sent.result()

    def _begin(self, job: Job[object], sent: Future[str]) -> None:
        task = self._loop.create_task(self._send(job, sent), name="send from thread")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, job: Job[object], sent: Future[str]) -> None:
        try:
            sent.set_result(await self.send(job))
        except BaseException as error:  # a task's boundary: the thread that waits gets it
            sent.set_exception(error)
            if isinstance(error, asyncio.CancelledError):
                raise
