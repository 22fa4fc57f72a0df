"""What facts say of a job and of a run, as rows of the tables; and what two of them say together.

Which comes first makes no difference: see `history.py`.
"""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, by the published envelope of the highest rank."""

    request_rank: int
    queue: str
    task: str
    app: str | None
    tenant: str | None
    priority: int
    parent: str | None
    name: str | None
    submitted_from: str | None
    expires_ms: int | None
    ttr_ms: int | None
    facets: str | None
    envelope: bytes


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job stands, by the fact of the highest rank and, of these, of the latest moment."""

    rank: int
    moment: int
    state: str
    attempt: int
    deliveries: int
    generation: int
    detail: str | None = None
    ok: str | None = None
    due_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    worker: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    fingerprint: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """All that some facts say of a job; queue and task also where no envelope was seen."""

    id: str
    queue: str
    task: str
    changed_ms: int
    standing: Standing
    created_ms: int | None = None
    request: Request | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """All that some records say of one run."""

    job: str
    attempt: int
    deliveries: int
    message: str
    generation: int
    queue: str
    task: str
    worker: str | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    wait_ms: int | None = None
    run_ms: int | None = None
    outcome: str | None = None
    detail: str | None = None
    ok: str | None = None
    due_ms: int | None = None
    value: str | None = None
    output: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    fingerprint: str | None = None
    progressed_ms: int | None = None
    progress_done: float | None = None
    progress_of: float | None = None
    progress_note: str | None = None

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Which run it is."""
        return (self.job, self.attempt, self.deliveries, self.message)


class Batch(msgspec.Struct, frozen=True):
    """Rows to be merged into the database, in the order of their keys."""

    jobs: list[Job]
    runs: list[Run]


def merge_jobs(one: Job, other: Job) -> Job:
    """Return what both say of a job; which comes first makes no difference."""
    request = _higher_request(one.request, other.request)
    named = request or min(one, other, key=lambda job: (job.queue, job.task))
    created = [ms for ms in (one.created_ms, other.created_ms) if ms is not None]
    return Job(
        id=one.id,
        queue=named.queue,
        task=named.task,
        created_ms=min(created, default=None),
        changed_ms=max(one.changed_ms, other.changed_ms),
        request=request,
        standing=max(one.standing, other.standing, key=lambda s: (s.rank, s.moment)),
    )


def merge_runs(one: Run, other: Run) -> Run:
    """Return what both say of a run: when it started, how far it came, and the later of its ends."""
    ended = max(one, other, key=lambda run: (run.ended_ms or -1, run.outcome or ""))
    begun = [ms for ms in (one.started_ms, other.started_ms) if ms is not None]
    further = max(one, other, key=lambda run: (run.progressed_ms or -1, run.progress_done or 0.0))
    return msgspec.structs.replace(
        ended,
        started_ms=min(begun, default=None),
        progressed_ms=further.progressed_ms,
        progress_done=further.progress_done,
        progress_of=further.progress_of,
        progress_note=further.progress_note,
    )


def _higher_request(one: Request | None, other: Request | None) -> Request | None:
    if one is None or other is None:
        return one or other
    return one if one.request_rank >= other.request_rank else other
