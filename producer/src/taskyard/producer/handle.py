"""What `send` returns: the job's id, and its result if it was asked for."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import (
    ConfigurationError,
    JobCancelled,
    JobError,
    JobFailed,
    JobParked,
    ResultTimeout,
    Unavailable,
)
from taskyard.shared.states import FailureKind

if TYPE_CHECKING:
    from taskyard.producer.replies import Awaited
    from taskyard.shared.duration import Duration
    from taskyard.shared.feed import Reply
    from taskyard.shared.job import Job

R_co = TypeVar("R_co", covariant=True)


class _Sent(Generic[R_co]):
    """A sent job, and where its outcome will be."""

    __slots__ = ("_awaited", "job", "spooled")

    def __init__(self, job: Job[R_co], awaited: Awaited | None, *, spooled: bool = False) -> None:
        self.job = job
        self.spooled = spooled
        """It was stored in the spool (state `pending_publish`), not yet by the broker."""
        self._awaited = awaited

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def done(self) -> bool:
        """Whether an outcome has arrived (False for a job sent without `reply`)."""
        return self._awaited is not None and self._awaited.reply is not None

    @property
    def logical(self) -> str:
        """How it ended by its own logic: `ok`, `completed` or `failed`; empty if that is not known.

        `completed` says that its handler returned without a word on success (`ctx.ok`).
        """
        reply = None if self._awaited is None else self._awaited.reply
        if reply is None:
            return ""
        if reply.outcome == "succeeded":
            return "completed" if reply.ok is None else "ok"
        return "failed" if reply.detail == FailureKind.LOGICAL.value else ""

    @property
    def said(self) -> str:
        """The handler's own words on its success (`ctx.ok`); empty if there are none."""
        reply = None if self._awaited is None else self._awaited.reply
        return (reply.ok or "") if reply is not None else ""

    def __repr__(self) -> str:
        """Show which job it is."""
        return f"{type(self).__name__}(id={self.id!r}, task={self.job.task!r})"

    def _expected(self) -> Awaited:
        if self._awaited is None:
            msg = (
                f"job {self.id} ({self.job.task}) was sent without asking for its result: "
                "send task.job(…).options(reply=True)"
            )
            raise ConfigurationError(msg)
        return self._awaited

    def _value(self, awaited: Awaited) -> R_co:
        if awaited.reply is not None:
            return cast("R_co", value_of(awaited.reply, self.job))
        raise Unavailable(
            f"job {self.id}: {awaited.broken}; the job goes on",
            job_id=self.id,
            queue=self.job.queue,
        )


class Handle(_Sent[R_co]):
    """A job sent by a `Producer`."""

    __slots__ = ()

    def result(self, timeout: Duration | None = None) -> R_co:
        """Wait for the job's end and return its handler's value.

        Args:
            timeout: how long to wait (seconds or text); None waits without a limit.

        Raises:
            JobFailed, JobParked, JobCancelled: how it ended, with the worker's traceback.
            ResultTimeout: it has not ended in time; it goes on, and may be asked again.
            ConfigurationError: the job was sent without `reply=True`.
            Unavailable: the producer was closed, so that no result can arrive.

        """
        awaited = self._expected()
        if not awaited.settled:
            event = threading.Event()
            awaited.subscribe(event.set)
            try:
                if not event.wait(_seconds(timeout)):
                    raise ResultTimeout(self.id, _seconds(timeout) or 0.0)
            finally:
                awaited.unsubscribe(event.set)
        return self._value(awaited)


class AsyncHandle(_Sent[R_co]):
    """A job sent by an `AsyncProducer`."""

    __slots__ = ()

    async def result(self, timeout: Duration | None = None) -> R_co:
        """Wait for the job's end and return its handler's value; as `Handle.result`."""
        awaited = self._expected()
        if not awaited.settled:
            event = asyncio.Event()
            awaited.subscribe(event.set)
            try:
                async with asyncio.timeout(_seconds(timeout)):
                    await event.wait()
            except TimeoutError as error:
                raise ResultTimeout(self.id, _seconds(timeout) or 0.0) from error
            finally:
                awaited.unsubscribe(event.set)
        return self._value(awaited)


def value_of(reply: Reply, job: Job[Any]) -> object:
    """Return a job's value, typed by its handler's annotation where its declaration is at hand.

    Raises:
        JobFailed, JobParked, JobCancelled: it did not succeed.
        JobError: it did, but its value could not travel.

    """
    if reply.outcome != "succeeded":
        raise _error_of(reply)
    if reply.value is None:
        if reply.message:
            raise JobError(reply.job, f"succeeded, but {reply.message}", kind="succeeded")
        return None
    if job.declared is None:
        return msgspec.json.decode(reply.value)
    return job.declared.signature.decode_result(bytes(reply.value))


def _error_of(reply: Reply) -> JobError:
    error = reply.error
    kind: type[JobError] = {"failed": JobFailed, "parked": JobParked}.get(
        reply.outcome, JobCancelled
    )
    said = reply.message or (f"{error.type}: {error.message}" if error else "")
    text = f"{reply.outcome} ({reply.detail})" if reply.detail else reply.outcome
    return kind(
        reply.job,
        f"{text}: {said}" if said else text,
        kind=reply.detail,
        traceback=error.traceback if error else "",
    )


def _seconds(timeout: Duration | None) -> float | None:
    return None if timeout is None else parse_duration(timeout)
