"""Every error that Taskyard raises, in one tree.

TaskyardError
├── ConfigurationError        a setting, a declaration or an option is wrong; mend it
│   └── UnknownQueue          the queue does not exist where the job was sent
├── InvalidArguments          the arguments do not fit the task's signature
│   └── PayloadTooLarge       the encoded arguments exceed the limit
├── Undecryptable             encrypted arguments cannot be decrypted here
├── PublishError              a job was not, or may not have been, accepted
│   ├── Unroutable            no queue takes it: nothing was stored
│   ├── Rejected              the broker refused it: nothing was stored
│   ├── PublishTimeout        no answer within the deadline: it may have been stored
│   ├── Unavailable           no connection to the broker: nothing was sent
│   ├── Draining              operators want no new jobs now: nothing was sent
│   └── PartialSendError      some jobs of a batch were accepted, some not
├── JobError                  the job itself did not succeed
│   ├── JobFailed             it ended as failed
│   ├── JobParked             it waits for a human
│   └── JobCancelled          it was cancelled
├── ResultTimeout             no outcome arrived in time
├── AlreadyRunning            another process holds the lock that this one needs
├── LockLost                  the lock that let this process work is gone
└── NotFound                  what was named does not exist
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "AlreadyRunning",
    "ConfigurationError",
    "Draining",
    "InvalidArguments",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobParked",
    "LockLost",
    "NotFound",
    "PartialSendError",
    "PayloadTooLarge",
    "PublishError",
    "PublishTimeout",
    "Rejected",
    "ResultTimeout",
    "TaskyardError",
    "Unavailable",
    "Undecryptable",
    "UnknownQueue",
    "Unroutable",
]


class TaskyardError(Exception):
    """The root of all errors raised by Taskyard; catch it to catch them all."""


class ConfigurationError(TaskyardError):
    """A setting, declaration or option is missing or wrong; the text names it. Mend it and retry."""


class InvalidArguments(TaskyardError):
    """The arguments do not fit the task's signature; nothing was sent. Mend the call."""

    def __init__(self, task: str, problem: str) -> None:
        """Say which task (full name) refuses its arguments, and why."""
        super().__init__(f"{task}: {problem}")
        self.task = task
        self.problem = problem


class PayloadTooLarge(InvalidArguments):
    """The encoded arguments exceed the payload limit; nothing was sent. Send a reference instead."""

    def __init__(self, task: str, size_bytes: int, limit_bytes: int) -> None:
        """Name the task, the size of its encoded arguments and the limit, in bytes."""
        super().__init__(
            task,
            f"the encoded arguments are {size_bytes} bytes, the limit is {limit_bytes} "
            "(TASKYARD_PAYLOAD_LIMIT); nothing was sent; store the data elsewhere and send a reference",
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class Undecryptable(TaskyardError):
    """Encrypted arguments cannot be decrypted here. Put the key back, then release the job."""

    def __init__(self, job_id: str, problem: str) -> None:
        """Say of which job, and why."""
        super().__init__(f"job {job_id}: {problem}")
        self.job_id = job_id
        self.problem = problem


class PublishError(TaskyardError):
    """A job was not confirmed by the broker. Sending the same job value again keeps its id."""

    def __init__(self, message: str, *, job_id: str = "", queue: str = "") -> None:
        """Say what happened and, where it concerns one job, to which."""
        super().__init__(message)
        self.job_id = job_id
        self.queue = queue


class Unroutable(PublishError):
    """No queue takes the job; nothing was stored. Create the queue or correct its name."""


class UnknownQueue(Unroutable, ConfigurationError):
    """The queue does not exist in this namespace of the broker; nothing was stored."""


class Rejected(PublishError):
    """The broker refused the job (for example a full queue); nothing was stored. Try later."""


class PublishTimeout(PublishError):
    """The broker did not answer within the deadline; the job may have been stored. Send it again."""


class Unavailable(PublishError):
    """There is no connection to the broker; nothing was sent. Try later."""


class Draining(PublishError):
    """Operators want no new jobs for now; nothing was sent or stored. Send it again later.

    Jobs that a running job sends are not refused. `by` and `reason` say who wants it and why,
    `since_ms` and `until_ms` from when on and until when (None: until further notice), in
    milliseconds since the epoch.
    """

    by: str = ""
    reason: str = ""
    since_ms: int = 0
    until_ms: int | None = None


class SpoolFull(Unavailable):
    """There is no connection to the broker, and no room in the spool; nothing was stored."""


class SpoolFailed(Unavailable):
    """The spool's file cannot be used; nothing was stored in it."""


class PartialSendError(PublishError):
    """Some jobs of a batch were not confirmed; `sent` and `failed` say which."""

    def __init__(self, sent: Sequence[str], failed: Mapping[str, PublishError]) -> None:
        """Carry the ids that were confirmed and, per id that was not, its error."""
        first = next(iter(failed.values()), None)
        super().__init__(
            f"{len(failed)} of {len(failed) + len(sent)} jobs were not confirmed (first: {first}); "
            "send those in `failed` again: their ids stay the same"
        )
        self.sent = list(sent)
        self.failed = dict(failed)


class JobError(TaskyardError):
    """A job whose result was asked for did not succeed."""

    def __init__(self, job_id: str, message: str, *, kind: str = "", traceback: str = "") -> None:
        """Carry the job's id, the kind of its end and the worker's traceback."""
        super().__init__(f"job {job_id} {message}" + (f"\n{traceback}" if traceback else ""))
        self.job_id = job_id
        self.kind = kind
        self.traceback = traceback


class JobFailed(JobError):
    """The job ended as failed; `kind` says how, `traceback` where."""


class JobParked(JobError):
    """The job was set aside and waits for a human; `kind` is the reason. It may still succeed."""


class JobCancelled(JobError):
    """The job was cancelled before it could succeed."""


class ResultTimeout(TaskyardError, TimeoutError):
    """No outcome arrived in time; the job goes on. Ask again, or look it up by its id."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        """Carry the job's id and how long was waited, in seconds."""
        super().__init__(f"no outcome of job {job_id} within {timeout_s:g} s; the job goes on")
        self.job_id = job_id
        self.timeout_s = timeout_s


class AlreadyRunning(TaskyardError):
    """Another process does what only one may do; the text names it. Try again when it has ended."""


class LockLost(TaskyardError):
    """This process stopped because it could no longer rely on its lock. Start it again."""


class NotFound(TaskyardError, LookupError):
    """What was named (a job, a queue, a task) does not exist here."""
