"""Where one job stands, as a program asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from taskyard.shared.outcomes import ErrorInfo
from taskyard.shared.states import FINAL, FailureKind, State

if TYPE_CHECKING:
    from taskyard.ledger.lookup import History
    from taskyard.ledger.rows import Run


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job's latest attempt said that it is.

    Attributes:
        done: how much.
        of: of how much; None where it did not say.
        note: its own words.
        at_ms: when it said so.

    """

    done: float
    of: float | None
    note: str
    at_ms: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job stands. Instants are milliseconds since the epoch; None is not (yet) known.

    Attributes:
        id: the job's.
        queue: it belongs to.
        task: its full name.
        state: now.
        detail: failure kind or park reason; empty where there is none.
        said: the handler's own words on its success (`ctx.ok`).
        priority: 0 to 9.
        attempt: which is under way or waited for, or was the last.
        deliveries: how often that was handed to a worker.
        parent: the job that sent it.
        name: what its sender calls it.
        submitted_from: `host:pid` that sent it first.
        worker: `host:pid` that had it last.
        created_ms: first sent.
        due_ms: may start.
        started_ms: started last.
        ended_ms: ended last, was parked, or put back to be tried again.
        progress: of its latest run.
        error: of its latest run, with the worker's traceback.

    """

    id: str
    queue: str
    task: str
    state: State
    detail: str
    said: str
    priority: int | None
    attempt: int
    deliveries: int
    parent: str | None
    name: str | None
    submitted_from: str | None
    worker: str | None
    created_ms: int | None
    due_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    progress: Progress | None
    error: ErrorInfo | None

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end, whichever; a parked one has not."""
        return self.state in FINAL

    @property
    def is_running(self) -> bool:
        """Whether a worker has it under way."""
        return self.state is State.RUNNING

    @property
    def numerator(self) -> float | None:
        """How much of `denominator` is done, as far as it said so."""
        return None if self.progress is None else self.progress.done

    @property
    def denominator(self) -> float | None:
        """How much there is to do, as far as it said so."""
        return None if self.progress is None else self.progress.of

    @property
    def logical(self) -> str:
        """How it ended by its own logic: `ok`, `completed` or `failed`; else empty, as of a handle."""
        if self.state is State.SUCCEEDED:
            return "ok" if self.said else "completed"
        return "failed" if self.detail == FailureKind.LOGICAL.value else ""


def status_of(history: History) -> Status:
    """Return where a job stands, of all that is known of it."""
    job = history.job
    latest = history.runs[-1] if history.runs else None
    return Status(
        id=job.id,
        queue=job.queue,
        task=job.task,
        state=State(job.state),
        detail=job.detail or "",
        said=job.ok or "",
        priority=job.priority,
        attempt=job.attempt,
        deliveries=job.deliveries,
        parent=job.parent,
        name=job.name,
        submitted_from=job.submitted_from,
        worker=job.worker,
        created_ms=job.created_ms,
        due_ms=job.due_ms,
        started_ms=job.started_ms,
        ended_ms=job.ended_ms,
        progress=None if latest is None else _progress(latest),
        error=None if latest is None else _error(latest),
    )


def _progress(run: Run) -> Progress | None:
    if run.progressed_ms is None or run.progress_done is None:
        return None
    return Progress(
        done=run.progress_done,
        of=run.progress_of,
        note=run.progress_note or "",
        at_ms=run.progressed_ms,
    )


def _error(run: Run) -> ErrorInfo | None:
    if run.error_type is None:
        return None
    return ErrorInfo(
        type=run.error_type,
        message=run.error_message or "",
        traceback=run.traceback or "",
        fingerprint=run.fingerprint or "",
    )
