"""A synchronous producer's thread, and its broker there."""

from __future__ import annotations

import asyncio
import queue
from typing import TYPE_CHECKING, Any, TypeVar

from taskyard.producer.background import Background, Intake
from taskyard.producer.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from taskyard.producer.inline import Inline
    from taskyard.producer.replies import Awaited
    from taskyard.shared.job import Job

T = TypeVar("T")


class Running:
    """A producer's thread, and its broker there."""

    def __init__(self, outlet: Session | Inline) -> None:
        self.outlet = outlet
        self._background = Background("taskyard producer")
        self.refuse_itself = self._background.refuse_itself
        if isinstance(outlet, Session):
            self.submit = Intake(self._background.loop, outlet.publisher).submit
        self.start = self._background.start
        self._closing: Future[None] | None = None

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that keeps to its own deadline, and return its value."""
        return self._background.start(coroutine).result()

    def stop(self, timeout_s: float) -> None:
        """Close what is open, within `timeout_s`."""
        self._closing = self._background.start(self.outlet.close())
        self._background.stop(self._closing, timeout_s)

    def raise_failure(self) -> None:
        """Raise what went wrong while closing, if something did."""
        if self._closing is not None and self._closing.done():
            self._closing.result()

    def run_inline(self, inline: Inline, job: Job[Any]) -> Awaited | None:
        """Run a job eagerly: `async def` handlers on the loop, `def` handlers right here."""
        task, envelope = inline.prepare(job)
        works: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

        async def offload(call: Callable[[], object]) -> object:
            return await _hand_out(call, works)

        done = self._background.start(inline.run(task, envelope, offload=offload))
        done.add_done_callback(lambda _: works.put(None))
        try:
            while (work := works.get()) is not None:
                work()
        except BaseException:  # an interrupt ends the program's call, and the job with it
            done.cancel()
            raise
        return done.result()


async def _hand_out(
    call: Callable[[], object], works: queue.SimpleQueue[Callable[[], None] | None]
) -> object:
    """Have `call` run by the thread that takes from `works`, and return its value."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[object, Exception | None]] = loop.create_future()

    def end(value: object, error: Exception | None) -> None:
        if not ended.done():
            ended.set_result((value, error))

    def work() -> None:
        try:
            value = call()
        except Exception as error:  # noqa: BLE001  # raised again below, where the job ends
            loop.call_soon_threadsafe(end, None, error)
        else:
            loop.call_soon_threadsafe(end, value, None)

    works.put(work)
    value, error = await ended
    if error is not None:
        raise error
    return value
