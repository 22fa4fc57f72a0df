"""Threads for `def` handlers: daemons, so that one that never ends cannot keep the process alive.

The standard executor joins its threads at exit, and counts its idle ones under a lock for each
call; here the event loop alone decides when a thread is added.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Threads:
    """A pool that grows with the calls under way. Everything but the calls belongs to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        """Start without threads; they are named `name` and a number."""
        self._loop = loop
        self._name = name
        self._calls: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = (
            SimpleQueue()
        )
        self._done: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._collecting = False
        self._threads: list[threading.Thread] = []
        self._busy = 0

    @property
    def busy(self) -> int:
        """How many calls have not returned."""
        return self._busy

    def submit(self, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run `call`, which must not raise, in a thread, and `then` on the loop with its result."""
        self._busy += 1
        self._calls.put((call, then))
        if self._busy > len(self._threads):
            self._add()

    def close(self) -> None:
        """Let idle threads end; busy ones end with their call, or with the process."""
        for _ in self._threads:
            self._calls.put(None)
        self._threads.clear()

    def _add(self) -> None:
        thread = threading.Thread(
            target=self._serve, name=f"{self._name}-{len(self._threads) + 1}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            call, then = item
            result = call()
            self._done.append((then, result))
            del item, call, then, result  # a waiting thread must not keep a job's values alive
            if not self._collecting:
                self._collecting = True
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:
                    return  # the loop is closed: nobody waits for results any more

    def _collect(self) -> None:
        self._collecting = False  # before the look: a result added later rings again
        while self._done:
            then, result = self._done.popleft()
            self._busy -= 1
            try:
                then(result)
            except Exception as error:  # noqa: BLE001  # as for any callback of a loop; others go on
                said = {"message": "the end of a call in a thread failed", "exception": error}
                self._loop.call_exception_handler(said)
