"""What applications and every component share: declarations, jobs, and how they travel."""

from __future__ import annotations

from taskyard.shared.context import Context, current_job
from taskyard.shared.errors import (
    ConfigurationError,
    Draining,
    InvalidArguments,
    JobCancelled,
    JobError,
    JobFailed,
    JobParked,
    NotFound,
    PartialSendError,
    PayloadTooLarge,
    PublishError,
    PublishTimeout,
    Rejected,
    ResultTimeout,
    TaskyardError,
    Unavailable,
    Undecryptable,
    UnknownQueue,
    Unroutable,
)
from taskyard.shared.hooks import Hooks
from taskyard.shared.job import Job, Options
from taskyard.shared.middleware import Middleware
from taskyard.shared.outcomes import Fail, Hold, Retry
from taskyard.shared.propagation import bind_values, current_values
from taskyard.shared.retry import RetryPolicy
from taskyard.shared.secret import Secret
from taskyard.shared.task import Queue, Task
from taskyard.shared.work import Work

__all__ = [
    "ConfigurationError",
    "Context",
    "Draining",
    "Fail",
    "Hold",
    "Hooks",
    "InvalidArguments",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobParked",
    "Middleware",
    "NotFound",
    "Options",
    "PartialSendError",
    "PayloadTooLarge",
    "PublishError",
    "PublishTimeout",
    "Queue",
    "Rejected",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "Secret",
    "Task",
    "TaskyardError",
    "Unavailable",
    "Undecryptable",
    "UnknownQueue",
    "Unroutable",
    "Work",
    "bind_values",
    "current_job",
    "current_values",
]
