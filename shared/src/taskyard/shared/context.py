"""What a handler may know of its job and ask of its worker."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, cast

from typing_extensions import TypeVar

from taskyard.shared.clock import to_datetime
from taskyard.shared.decide import carried
from taskyard.shared.duration import parse_duration
from taskyard.shared.keyring import NO_KEYS
from taskyard.shared.outcomes import Fail
from taskyard.shared.propagation import decode_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from taskyard.shared.duration import Duration
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.job import Job
    from taskyard.shared.keyring import KeyRing

R = TypeVar("R")
S_co = TypeVar("S_co", covariant=True, default=object)


class JobRuntime(Protocol):
    """What runs an attempt, as its `Context` sees it. Every method is safe from any thread."""

    @property
    def deadline_ms(self) -> int | None:
        """When the attempt's time to run ends; None without a limit."""
        ...

    def touch(self, ttr_s: float | None) -> None:
        """Restart the time to run from now, at its own length or at `ttr_s`."""
        ...

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Report progress, as a best effort."""
        ...

    def on_deadline_soon(self, callback: Callable[[], None], before_s: float | None) -> None:
        """Have `callback` called once shortly before the deadline."""
        ...

    async def send(self, job: Job[object]) -> str:
        """Send a child job from the event loop and return its id."""
        ...

    def send_from_thread(self, job: Job[object]) -> str:
        """Send a child job from a handler's thread and return its id."""
        ...

    def ok(self, message: str) -> None:
        """Keep what the handler says of its own success."""
        ...

    async def call(self, job: Job[object], timeout_s: float | None) -> object:
        """Send a child job from the event loop and return its value when it has ended."""
        ...

    def call_from_thread(self, job: Job[object], timeout_s: float | None) -> object:
        """Send a child job from a handler's thread and return its value when it has ended."""
        ...


class Context(Generic[S_co]):
    """One attempt of a job, as handed to a handler whose first parameter is a `Context`."""

    __slots__ = ("_envelope", "_keys", "_resources", "_runtime", "_values")

    def __init__(
        self,
        envelope: Envelope,
        runtime: JobRuntime,
        resources: S_co,
        keys: KeyRing = NO_KEYS,
    ) -> None:
        """Join a job's envelope, what runs it, its queue's resources, and the keys to its arguments."""
        self._keys = keys
        self._envelope = envelope
        self._runtime = runtime
        self._resources = resources
        self._values: Mapping[str, object] | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._envelope.id

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._envelope.queue

    @property
    def task(self) -> str:
        """The task's full name."""
        return self._envelope.task

    @property
    def attempt(self) -> int:
        """Which attempt this is, counted from 1."""
        return self._envelope.attempt

    @property
    def deliveries(self) -> int:
        """How often this attempt was handed to a worker, this time included."""
        return self._envelope.deliveries

    @property
    def priority(self) -> int:
        """The job's priority, 0 to 9."""
        return self._envelope.priority

    @property
    def app(self) -> str | None:
        """The application that sent the job."""
        return self._envelope.app

    @property
    def parent(self) -> str | None:
        """The id of the job that sent this one."""
        return self._envelope.parent

    @property
    def args(self) -> Mapping[str, object]:
        """The job's arguments: plain JSON, whatever the handler gets of them; secrets as `Secret`.

        Raises:
            Undecryptable: they are encrypted, and this process cannot decrypt them.

        """
        from taskyard.shared.sealing import revealed  # whose log lines carry the job, from here

        return revealed(self._envelope, self._keys)

    @property
    def due(self) -> datetime:
        """When the job was due to start."""
        return to_datetime(self._envelope.due_ms)

    @property
    def envelope(self) -> Envelope:
        """The job as it travelled; for middleware."""
        return self._envelope

    @property
    def runtime(self) -> JobRuntime:
        """What runs the attempt; for the worker's own use."""
        return self._runtime

    @property
    def values(self) -> Mapping[str, object]:
        """The values propagated from the sender (tenant, locale and the like)."""
        if self._values is None:
            self._values = decode_values(self._envelope.context)
        return self._values

    @property
    def resources(self) -> S_co:
        """What the queue's lifespan yielded in this process."""
        return self._resources

    @property
    def deadline(self) -> datetime | None:
        """When the time to run ends; None without a limit. `touch` moves it."""
        deadline_ms = self._runtime.deadline_ms
        return None if deadline_ms is None else to_datetime(deadline_ms)

    def touch(self, ttr: Duration | None = None) -> None:
        """Restart the time to run from now: at its own length, or at `ttr` (seconds or text).

        Raises:
            ConfigurationError: the broker would take the job back before that deadline.

        """
        self._runtime.touch(None if ttr is None else parse_duration(ttr))

    def progress(self, done: float, of: float | None = None, note: str = "") -> None:
        """Report that `done` (of `of`) is done; it also touches. A best effort, never an error."""
        self._runtime.progress(done, of, note)

    def ok(self, message: str = "") -> None:
        """Say that the work has succeeded by its own logic, for whoever asks how the job ended.

        A job whose handler returns without it has `completed`, which says no more than that. It
        ends nothing: return afterwards; an exception or the end of the time to run still count.
        """
        self._runtime.ok(carried(message))

    def fail(self, message: str = "") -> NoReturn:
        """End the job as failed by its own logic, for good; the same as `raise Fail(message)`."""
        raise Fail(message)

    def on_deadline_soon(
        self, callback: Callable[[], None], *, before: Duration | None = None
    ) -> None:
        """Have `callback` called on the event loop `before` the deadline.

        Args:
            callback: takes nothing, must not block.
            before: how long before; None means a tenth of the time to run, at least 1 s.

        """
        self._runtime.on_deadline_soon(callback, None if before is None else parse_duration(before))

    async def send(self, job: Job[object]) -> str:
        """Send a child job (its parent is this job) and return its id, confirmed.

        Raises:
            PublishError: as for `AsyncProducer.send`.

        """
        return await self._runtime.send(job)

    def send_from_thread(self, job: Job[object]) -> str:
        """Send a child job from a `def` handler; blocks until it is confirmed."""
        return self._runtime.send_from_thread(job)

    async def call(self, job: Job[R], timeout: Duration | None = None) -> R:
        """Send a child job and return its handler's value; this job's slot is free meanwhile.

        The time to run of this job goes on. Unless the job's id was chosen, it is sent under one
        that follows from this attempt: should the attempt be delivered again, because its worker
        died or stopped, it means the same job by the same call (docs/handlers.md).

        Args:
            job: to be sent; in this job's own queue it goes ahead of jobs of this priority.
            timeout: how long to wait (seconds or text); None means as long as the time to run.

        Raises:
            JobFailed, JobParked, JobCancelled: how it ended, with the worker's traceback.
            ResultTimeout: it has not ended in time; it goes on.
            PublishError: it was not sent, as for `AsyncProducer.send`.
            ConfigurationError: the broker has no addresses for replies.

        """
        return cast("R", await self._runtime.call(job, _seconds(timeout)))

    def call_from_thread(self, job: Job[R], timeout: Duration | None = None) -> R:
        """Do as `call` does from a `def` handler: its thread waits, its slot is free."""
        return cast("R", self._runtime.call_from_thread(job, _seconds(timeout)))


def _seconds(timeout: Duration | None) -> float | None:
    return None if timeout is None else parse_duration(timeout)


_current: ContextVar[Context[object] | None] = ContextVar("taskyard_job", default=None)


def current_job() -> Context[object] | None:
    """Return the context of the job that runs here, or None outside a job.

    For library code far from the handler; it follows threads that the worker starts.
    """
    return _current.get()


def set_current_job(context: Context[object] | None) -> None:
    """Make `context` the one that `current_job` returns in this execution context."""
    _current.set(context)
