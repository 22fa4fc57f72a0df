"""What the ledger's commands print for programs: instants as ISO 8601 in UTC, to the millisecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from taskyard.shared.clock import to_datetime

if TYPE_CHECKING:
    from taskyard.ledger.failures import Failures
    from taskyard.ledger.lookup import History
    from taskyard.ledger.reading import JobRow
    from taskyard.ledger.rows import Run
    from taskyard.ledger.statistics import Mean, Numbers

_DURATIONS: Final = frozenset({"ttr_ms", "wait_ms", "run_ms"})


def job_document(job: JobRow) -> dict[str, Any]:
    """Return a job of a list."""
    fields = msgspec.structs.asdict(job)
    if job.arguments is msgspec.UNSET:
        del fields["arguments"]
    return _with_instants(fields)


def run_document(run: Run) -> dict[str, Any]:
    """Return a run of a job."""
    fields = _with_instants(msgspec.structs.asdict(run))
    del fields["job"]
    if run.value is not None:
        fields["value"] = msgspec.Raw(run.value.encode())
    return fields


def history_document(history: History, now_ms: int) -> dict[str, Any]:
    """Return all of a job."""
    job, last = history.job, history.last
    waits = job.due_ms is not None and job.due_ms > now_ms
    document = job_document(job)
    document.update(
        age_ms=None if job.created_ms is None else max(0, now_ms - job.created_ms),
        delay_ms=job.due_ms - now_ms if waits and job.due_ms is not None else 0,
        trace=history.trace,
        arguments_recorded=history.arguments_recorded,
        counters=msgspec.structs.asdict(history.counters),
        value=None if last is None or last.value is None else msgspec.Raw(last.value.encode()),
        runs=[run_document(run) for run in history.runs],
    )
    return document


def failures_document(group: Failures) -> dict[str, Any]:
    """Return one group of failures."""
    return _with_instants(msgspec.structs.asdict(group))


def numbers_document(numbers: Numbers) -> dict[str, Any]:
    """Return the numbers of a queue, or of all."""
    return {
        "total_complete_jobs": numbers.complete,
        "total_incomplete_jobs": numbers.incomplete,
        "now": numbers.now,
        "changed_in_window": numbers.changed,
        "added_in_window": numbers.added,
        "started_in_window": numbers.started,
        "completed_in_window": numbers.completed,
        "average_in_queue_ms": rounded(numbers.in_queue),
        "average_wait_ms": rounded(numbers.waited),
        "average_run_ms": rounded(numbers.ran),
    }


def rounded(mean: Mean) -> float | None:
    """Return an average to the thousandth of a millisecond; None of nothing."""
    return None if mean.ms is None else round(mean.ms, 3)


def moment(instant_ms: int | None) -> str | None:
    """Return an instant as text."""
    if instant_ms is None:
        return None
    return to_datetime(instant_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _with_instants(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        (f"{name.removesuffix('_ms')}_at" if _is_instant(name) else name): (
            moment(value) if _is_instant(name) else value
        )
        for name, value in fields.items()
    }


def _is_instant(name: str) -> bool:
    return name.endswith("_ms") and name not in _DURATIONS
