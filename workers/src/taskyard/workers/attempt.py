"""One attempt of a job: its state, and what its handler may ask of the worker while it runs.

The event loop owns it. `touch`, `progress` and what is named `…_from_thread` come from any thread; they
write single numbers only, and leave the rest to the loop.
"""

from __future__ import annotations

from contextvars import copy_context
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.context import Context
from taskyard.shared.errors import ConfigurationError
from taskyard.workers.captured import Captured

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from taskyard.shared.broker import Delivery
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.job import Job
    from taskyard.workers.execute import Executor
    from taskyard.workers.handler import Handler

#: Seconds that an `async` handler may take to end after it was cancelled; then it is abandoned.
PATIENCE_S: Final = 5.0
#: Least notice before a deadline, in seconds, unless the handler asks for another.
_SOON_S: Final = 1.0


class Stop(Enum):
    """Why a running attempt was told to end."""

    TIME_UP = "time up"
    HAND_BACK = "hand back"
    ABORT = "abort"


class Attempt:
    """One execution of a job's handler.

    Attributes:
        delivery: what is settled when it ends; another one after a reconnect.
        envelope: the job, its deliveries counted and its task named in full.
        handler: what runs it.
        context: what its handler sees.
        ttr_s: time to run, in seconds.
        taken_s: when the broker handed it over, on the monotonic clock.
        started_ms: when it started, in milliseconds since the epoch.
        deadline_s: when its time to run ends, on the monotonic clock.
        wake_s: when `Deadlines` looks at it next.
        isolated: it runs in a child process.
        alone: that child is there for nothing else.
        task: runs its coroutine; None while it has none.
        begun: its coroutine has taken its first step.
        stopping: why it was told to end.
        by: who told it to, after an abort.
        ended: its outcome is decided; whatever its handler does from now on counts for nothing.
        announced: the feed was told that it runs.
        progress_seen: what the handler last reported: done, total, note.
        progress_told: what the feed was told of that.
        said: what the handler said of its own success.
        captured: what it printed and logged; None while that is nothing, or not kept.
        called: the ids of jobs that it called, by those that they were made with; None before.

    """

    __slots__ = (
        "_executor",
        "_kept_until_s",
        "_soon",
        "alone",
        "announced",
        "begun",
        "by",
        "called",
        "captured",
        "context",
        "deadline_s",
        "delivery",
        "ended",
        "envelope",
        "handler",
        "isolated",
        "progress_seen",
        "progress_told",
        "said",
        "started_ms",
        "stopping",
        "taken_s",
        "task",
        "ttr_s",
        "wake_s",
    )

    def __init__(
        self,
        delivery: Delivery,
        envelope: Envelope,
        handler: Handler,
        executor: Executor,
        *,
        ttr_s: float,
        taken_s: float,
        now_s: float,
        now_ms: int,
    ) -> None:
        """Begin an attempt at `now_s` (monotonic), which is `now_ms` since the epoch."""
        self.delivery = delivery
        self.envelope = envelope
        self.handler = handler
        self._executor = executor
        self.ttr_s = ttr_s
        self.taken_s = taken_s
        self.started_ms = now_ms
        self.deadline_s = self.wake_s = now_s + ttr_s
        self.isolated = self.alone = False
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.stopping: Stop | None = None
        self.by = ""
        self.ended = False
        self.announced = False
        self.progress_seen: tuple[float, float | None, str] | None = None
        self.progress_told: tuple[float, float | None, str] | None = None
        self.said: str | None = None
        self.captured: Captured | None = None
        self.called: dict[str, str] | None = None
        self._soon: tuple[float, Callable[[], None]] | None = None
        self._kept_until_s: float | None = None
        self.context: Context[Any] = Context(envelope, self, executor.resources, executor.keys)

    # as its handler's context sees it

    @property
    def deadline_ms(self) -> int | None:
        """When the time to run ends, in milliseconds since the epoch."""
        left_s = self.deadline_s - self._executor.clock.monotonic_s()
        return self._executor.now_ms() + round(left_s * 1000)

    def touch(self, ttr_s: float | None) -> None:
        """Restart the time to run from now, at its own length or at `ttr_s` seconds.

        Raises:
            ConfigurationError: the broker would take the job back before that deadline.

        """
        length_s = self.ttr_s if ttr_s is None else ttr_s
        now_s = self._executor.clock.monotonic_s()
        self._executor.check_patience(self, now_s + length_s - self.taken_s)
        if self.stopping is not None or self.ended:
            return
        nearer = now_s + length_s < self.deadline_s
        self.deadline_s = now_s + length_s
        self._plan(ring=nearer)
        if self._kept_until_s is None:
            self._kept_until_s = self.taken_s + self._executor.longest_ttr_s
        if self.deadline_s > self._kept_until_s:
            self._kept_until_s = self.deadline_s + length_s  # so that not every touch asks again
            self._executor.extend(self, self._kept_until_s)

    def postpone(self, delay_s: float) -> None:
        """Let the time to run begin in `delay_s` seconds: its handler waits for a process."""
        self.deadline_s = self._executor.clock.monotonic_s() + delay_s + self.ttr_s
        self._plan(ring=True)

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Keep what was reported, and touch where the broker lets us."""
        self.progress_seen = (done, total, note)
        try:
            self.touch(None)
        except ConfigurationError:
            return  # a report is never an error; the deadline stays

    def on_deadline_soon(self, callback: Callable[[], None], before_s: float | None) -> None:
        """Have `callback` called on the loop `before_s` before the deadline, wherever it moves.

        It is called as the job that it is of, so that what it prints and logs is that job's.
        """
        before_s = max(self.ttr_s / 10, _SOON_S) if before_s is None else before_s
        self._soon = before_s, partial(copy_context().run, callback)
        self._plan(ring=True)

    async def send(self, job: Job[object]) -> str:
        """Send a child job and return its id."""
        return await self._executor.children.send(job)

    def send_from_thread(self, job: Job[object]) -> str:
        """Send a child job from a thread and return its id."""
        return self._executor.children.send_from_thread(job)

    def ok(self, message: str) -> None:
        """Keep what the handler says of its own success."""
        self.said = message

    async def call(self, job: Job[object], timeout_s: float | None) -> object:
        """Send a child job, wait for its end without a slot, and return its value."""
        return await self._executor.calls.call(self, job, timeout_s)

    def call_from_thread(self, job: Job[object], timeout_s: float | None) -> object:
        """Do the same from a thread."""
        return self._executor.calls.call_from_thread(self, job, timeout_s)

    # as the worker sees it

    def capture(self) -> Captured | None:
        """Return where its output goes; None where it is not kept, or the attempt has ended."""
        if self.captured is None and not self.ended and self._executor.keeps(self.handler):
            self.captured = Captured(self._executor.output_limit)
        return None if self.ended else self.captured

    def output(self, *, succeeded: bool) -> str:
        """Return what is kept of its output, given how it ended."""
        if self.captured is None or (succeeded and self.handler.output != "all"):
            return ""
        return self.captured.text()

    def wake(self, now_s: float) -> None:
        """Do what is due: say that the deadline is near, end the time to run, or give up waiting."""
        if self.stopping is not None:
            self._executor.abandon(self)
        elif now_s >= self.deadline_s:
            self._executor.stop(self, Stop.TIME_UP)
        elif self._soon is not None:
            _, callback = self._soon
            self._soon = None
            self._plan(ring=False)
            self._executor.call_back(self, callback)
        else:
            self._plan(ring=False)

    def be_patient(self, now_s: float) -> None:
        """Be woken again when a handler that was told to end has had its time for it."""
        self.wake_s = now_s + PATIENCE_S
        self._executor.deadlines.watch(self)

    def _plan(self, *, ring: bool) -> None:
        """Work out when to be woken next, and `ring` the loop when that may be sooner than before."""
        soon = self._soon
        self.wake_s = self.deadline_s if soon is None else max(self.deadline_s - soon[0], 0.0)
        if ring:
            self._executor.ring(self)
