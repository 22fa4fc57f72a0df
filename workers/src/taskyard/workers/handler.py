"""A task as this worker runs it: everything that can be worked out once instead of per job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskyard.shared.outcomes import OUTCOME_NAMES
from taskyard.shared.task import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskyard.shared.metrics import Count, Histogram, Metrics
    from taskyard.shared.middleware import Middleware
    from taskyard.shared.task import KeptOutput, Queue, Task

#: Label of jobs whose task nobody here knows; a foreign text would make a series of its own.
UNKNOWN_TASK = "unknown"


class Handler:
    """One task, with its signature read and its metric cells at hand.

    Attributes:
        task: as declared.
        inline: whether it may run as a bare thread call (a `def` without middleware).
        threaded: whether its function is called in a thread.
        isolated: whether it runs in a child process.
        output: of which attempts the output is kept: `all`, `failed` or `none`.
        finished: the cell per class of outcome.
        run_seconds: how long its attempts took.

    """

    __slots__ = (
        "finished",
        "inline",
        "isolated",
        "middleware",
        "output",
        "run_seconds",
        "task",
        "threaded",
        "ttr_s",
    )

    def __init__(
        self, task: Task[..., Any], metrics: Metrics, output: KeptOutput = DEFAULT_OUTPUT
    ) -> None:
        """Read the task; `output` is what the worker keeps where its queue does not say.

        Raises:
            ConfigurationError: its signature has no form on the wire.

        """
        _ = task.signature  # read now, so that a broken one stops the start and not a job
        self.task = task
        self.threaded = task.mode == "thread"
        self.isolated = task.mode == "process"
        self.middleware: tuple[Middleware, ...] = task.queue.middleware
        self.inline = self.threaded and not self.middleware
        self.output: KeptOutput = task.queue.output or output
        self.ttr_s: float = task.ttr_s or task.queue.ttr_s
        self.finished: dict[type, Count] = outcome_cells(metrics, task.queue.name, task.name)
        self.run_seconds: Histogram = metrics.histogram(
            "job_run_seconds", task.queue.name, task.name
        )


def outcome_cells(metrics: Metrics, queue: str, task: str) -> dict[type, Count]:
    """Return the counter of finished attempts for each class of outcome."""
    return {
        kind: metrics.count("jobs_finished", queue, task, name)
        for kind, name in OUTCOME_NAMES.items()
    }


def handlers_of(
    queue: Queue[Any], metrics: Metrics, output: KeptOutput = DEFAULT_OUTPUT
) -> dict[str, Handler]:
    """Return the handlers of a queue's tasks, by short and by full name.

    Raises:
        ConfigurationError: a task's signature has no form on the wire.

    """
    found: dict[str, Handler] = {}
    for task in queue.tasks.values():
        found[task.name] = found[task.short_name] = Handler(task, metrics, output)
    return found


def longest_ttr_s(handlers: Iterable[Handler]) -> float:
    """Return the longest time to run that is declared, in seconds."""
    return max((handler.ttr_s for handler in handlers), default=0.0)
