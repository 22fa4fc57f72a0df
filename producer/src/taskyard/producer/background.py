"""An event loop in a daemon thread, and how other threads hand it envelopes.

Heartbeats are served there whatever the program does meanwhile. What several threads send at
the same time wakes the loop once and goes to the broker together.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from weakref import WeakSet

from taskyard.producer.publisher import Submission
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.loops import fastest_loop

if TYPE_CHECKING:
    from taskyard.producer.publisher import Publisher
    from taskyard.shared.envelope import Envelope

T = TypeVar("T")

#: Seconds past a deadline that a sender waits for the loop's own answer, which says more.
GRACE_S: Final = 0.25


class Background:
    """An event loop in a daemon thread."""

    def __init__(self, name: str) -> None:
        """Start the thread `name`."""
        self._loop = (fastest_loop() or asyncio.new_event_loop)()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; only its thread-safe methods are for other threads."""
        return self._loop

    @property
    def is_here(self) -> bool:
        """Whether the caller runs in this very thread, so that waiting for it would never end."""
        return threading.get_ident() == self._thread.ident

    def refuse_itself(self) -> None:
        """Raise ConfigurationError when the caller runs in this very thread."""
        if self.is_here:
            msg = (
                "a Producer cannot be used by the handlers that it runs itself on its event loop: "
                "in an async handler send with `await ctx.send(…)` or an AsyncProducer"
            )
            raise ConfigurationError(msg)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop, in the caller's context, and return its future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self, last: Future[None], timeout_s: float) -> None:
        """End the thread once `last` has run there, waiting at most `timeout_s` for both."""
        last.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        if not self.is_here:
            self._thread.join(timeout_s)

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


class Waiter(Submission):
    """A submission that a thread waits for; a bare lock costs far less than a Future."""

    __slots__ = ("_error", "_lock", "_receipt", "_wanted")

    def __init__(self, envelope: Envelope, deadline_s: float, since_s: float) -> None:
        """See `Submission`."""
        super().__init__(envelope, deadline_s, since_s)
        self._lock = threading.Lock()
        self._lock.acquire()
        self._receipt: Receipt | None = None
        self._error: BaseException | None = None
        self._wanted = True

    @property
    def wanted(self) -> bool:
        return self._wanted

    def settle(self, receipt: Receipt) -> None:
        if self._receipt is None and self._error is None:
            self._receipt = receipt
            self._lock.release()

    def fail(self, error: BaseException) -> None:
        if self._receipt is None and self._error is None:
            self._error = error
            self._lock.release()

    def wait(self) -> Receipt:
        """Return the receipt, at the latest shortly after the deadline."""
        try:
            self._lock.acquire(timeout=self.deadline_s + GRACE_S)
        finally:
            self._wanted = False
        if self._error is not None:
            raise self._error
        if self._receipt is None:
            detail = "the producer's own thread got no time to answer"
            return Receipt(status=PublishStatus.TIMEOUT, detail=detail)
        return self._receipt


class Intake:
    """Where threads leave submissions for the loop; one wake-up serves all that are there."""

    __slots__ = ("_left", "_loop", "_publisher", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop, publisher: Publisher) -> None:
        """Pass on to `publisher`, which lives on `loop`."""
        self._loop = loop
        self._publisher = publisher
        self._left: deque[Submission] = deque()
        self._woken = False

    def submit(self, submission: Submission) -> None:
        """Leave a submission; callable from any thread."""
        self._left.append(submission)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError as error:  # its loop has ended: another thread closed the producer
                msg = "the producer is closed"
                raise ConfigurationError(msg) from error

    def _drain(self) -> None:
        self._woken = False  # first: what is left from now on wakes the loop again
        batch: list[Submission] = []
        while self._left:
            batch.append(self._left.popleft())
        self._publisher.submit_all(batch)


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


_forkable: WeakSet[Any] = WeakSet()
#: What a child process inherited and must neither use nor close: its sockets are the parent's.
_inherited: list[object] = []


def on_fork(thing: _Forkable) -> None:
    """Have `thing.after_fork()` called in every child process that is forked from now on."""
    _watch_forks()
    _forkable.add(thing)


def keep_inherited(thing: object) -> None:
    """Keep what the parent process owns alive, so that its end here closes nothing of it."""
    _inherited.append(thing)


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for thing in list(_forkable):
        thing.after_fork()
