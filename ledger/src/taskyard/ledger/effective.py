"""What holds for a job, and whose word it is: its own, its task's, its queue's, or the default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from taskyard.shared.decide import policy_of, ttr_s_of
from taskyard.shared.errors import ConfigurationError, NotFound
from taskyard.shared.priority import NORMAL
from taskyard.shared.retry import decode_policy
from taskyard.shared.task import DEFAULT_MAX_DELIVERIES, DEFAULT_TTR_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskyard.shared.envelope import Envelope
    from taskyard.shared.task import Queue, Task

Level = Literal["job", "task", "queue", "default"]


class Effective(msgspec.Struct, frozen=True):
    """A value that holds, and at which level it was set."""

    value: object
    by: Level

    def __str__(self) -> str:
        return f"{self.value} ({self.by})"


def effective(envelope: Envelope, queues: Mapping[str, Queue[Any]]) -> dict[str, Effective]:
    """Return what holds for a job as a worker of these queues would run it; times in seconds.

    Raises:
        NotFound: its queue or task is not declared there; the text lists those that are.

    """
    queue = queues.get(envelope.queue)
    if queue is None:
        known = ", ".join(sorted(queues))
        raise NotFound(f"queue {envelope.queue!r} is not declared there (declared: {known})")
    task = queue.find(envelope.task)
    return {
        "priority": Effective(
            envelope.priority, "default" if envelope.priority == NORMAL else "job"
        ),
        "ttr": Effective(ttr_s_of(envelope, task), _ttr_by(envelope, task)),
        "retry": Effective(
            msgspec.to_builtins(policy_of(envelope, task)), _retry_by(envelope, task)
        ),
        "max_deliveries": Effective(
            queue.max_deliveries,
            "default" if queue.max_deliveries == DEFAULT_MAX_DELIVERIES else "queue",
        ),
    }


def _ttr_by(envelope: Envelope, task: Task[..., Any]) -> Level:
    if envelope.ttr_ms:
        return "job"
    if task.ttr_s:
        return "task"
    return "default" if task.queue.ttr_s == DEFAULT_TTR_S else "queue"


def _retry_by(envelope: Envelope, task: Task[..., Any]) -> Level:
    if envelope.retry is not None and _is_policy(envelope.retry):
        return "job"
    if task.retry:
        return "task"
    return "queue" if task.queue.retry else "default"


def _is_policy(text: str) -> bool:
    try:
        decode_policy(text)
    except ConfigurationError:
        return False
    return True
