"""What a job came to, as `result()` would say: its value, or why there is none. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskyard.shared.errors import JobCancelled, JobError, JobFailed, JobParked, ResultTimeout

if TYPE_CHECKING:
    from taskyard.ledger.lookup import History

_ERRORS: Final[dict[str, type[JobError]]] = {
    "failed": JobFailed,
    "parked": JobParked,
    "cancelled": JobCancelled,
}


def is_outcome(state: str) -> bool:
    """Tell whether a job has come to something: it has ended, or waits for a human."""
    return state == "succeeded" or state in _ERRORS


def result_of(history: History, waited_s: float = 0.0) -> str:
    """Return what a job returned, as JSON.

    Raises:
        JobFailed: it failed.
        JobParked: it waits for a human.
        JobCancelled: it was cancelled.
        ResultTimeout: it is not over; `waited_s` is how long it was waited for.

    """
    job, last = history.job, history.last
    if job.state == "succeeded":
        return "null" if last is None or last.value is None else last.value
    kind = _ERRORS.get(job.state)
    if kind is None:
        raise ResultTimeout(job.id, waited_s)
    text = f"{job.state} ({job.detail})" if job.detail else job.state
    said = f"{job.error_type}: {job.error_message}" if job.error_type else ""
    raise kind(
        job.id,
        f"{text}: {said}" if said else text,
        kind=job.detail or "",
        traceback=(last and last.traceback) or "",
    )
