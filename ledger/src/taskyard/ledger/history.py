"""From feed items to rows: which job was asked for what, where it stands, and each of its runs.

Feed items come in any order, late, and more than once. So nothing here depends on what came before:
a fact has a *rank*, and in each register the fact of the highest rank wins (of one rank, that of the
later *moment*). Taking the higher of two is commutative, associative and idempotent (a join
semilattice, as in state-based CRDTs; Shapiro et al., 2011): here within a batch, and in `writing.py`
between a batch and the database.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.envelope import JSON, UNREADABLE, Envelope
from taskyard.shared.feed import FINISHED, PROGRESSED, STARTED, FeedItem, FeedRecord
from taskyard.shared.naming import full_task_name
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Of two facts about one delivery of one attempt of one generation, the later phase is the truth.
PUBLISHED: Final = 1
UNDER_WAY: Final = 2  # started, or handed back: the later of these
SET_ASIDE: Final = 3  # retried or parked: by the worker; an operator may end it still
ENDED: Final = 4

_EVENTS: Final = frozenset({STARTED, PROGRESSED, FINISHED})

#: What of a job's error is kept in its own row, for lists; its run has all of it.
_SHORT: Final = 300
#: Arguments that can be searched by: their largest body, and the longest of them, in bytes.
_SEARCHED_BODY: Final = 64 * 1024
_SEARCHED_TEXT: Final = 200
#: The most that a column for a small number holds.
_MOST: Final = 2**31 - 1
#: What both databases hold in an integer of a facet, and exactly.
_SEARCHED_INT: Final = 2**53

_PHASE_OF: Final[Mapping[str, tuple[int, State]]] = {
    "succeeded": (ENDED, State.SUCCEEDED),
    "failed": (ENDED, State.FAILED),
    "cancelled": (ENDED, State.CANCELLED),
    "parked": (SET_ASIDE, State.PARKED),
    "retried": (SET_ASIDE, State.QUEUED),
    "handed_back": (UNDER_WAY, State.QUEUED),
}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, by the published envelope of the highest rank."""

    request_rank: int
    queue: str
    task: str
    app: str | None
    tenant: str | None
    priority: int
    parent: str | None
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


def fold(items: Iterable[FeedItem]) -> Batch:
    """Return what a number of feed items say, as one row for each job and each run."""
    jobs: dict[str, Job] = {}
    runs: dict[tuple[str, int, int, str], Run] = {}
    for item in items:
        if item.envelope is not None:
            _put_job(jobs, job_of_envelope(item.envelope))
        for record in item.records:
            if record.event not in _EVENTS:
                continue  # of a newer version
            _put_job(jobs, job_of_record(record))
            run = run_of(record)
            known = runs.get(run.key)
            runs[run.key] = run if known is None else merge_runs(known, run)
    # Two coordinators that write the same rows in the same order cannot wait for one another.
    return Batch([jobs[key] for key in sorted(jobs)], [runs[key] for key in sorted(runs)])


def _put_job(jobs: dict[str, Job], job: Job) -> None:
    known = jobs.get(job.id)
    jobs[job.id] = job if known is None else merge_jobs(known, job)


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


def rank_of(generation: int, attempt: int, deliveries: int, phase: int) -> int:
    """Return the place of a fact in a job's life, as one integer of 63 bits.

    A higher generation is an edit of the job, a higher attempt a retry or a release, more deliveries
    come after a death; what is beyond their room counts as the most that there is room for.
    """
    return (
        (min(generation, 2**20 - 1) << 42)
        | (min(attempt, 2**20 - 1) << 22)
        | (min(deliveries, 2**18 - 1) << 4)
        | phase
    )


def _moment(at_ms: int, message: str, *, last: bool = False) -> int:
    """Return when a fact came to be, as an integer that no two facts share (but one in 2^19).

    Args:
        at_ms: by the clock of whoever says so.
        message: the publish that it is about.
        last: of two facts about one publish in one millisecond, it is the later.

    """
    return (at_ms << 20) | (last << 19) | (zlib.crc32(message.encode()) & 0x7FFFF)


def job_of_envelope(envelope: Envelope) -> Job:
    """Return what a published envelope says of its job."""
    generation, attempt, deliveries = _counts(envelope)
    rank = rank_of(generation, attempt, deliveries, PUBLISHED)
    queue = clean(envelope.queue)
    request = Request(
        request_rank=rank,
        queue=queue,
        task=clean(full_task_name(queue, envelope.task)),
        app=_clean_or_none(envelope.app),
        tenant=_tenant(envelope.context),
        priority=envelope.priority,
        parent=_clean_or_none(envelope.parent),
        expires_ms=envelope.expires_ms,
        ttr_ms=envelope.ttr_ms,
        facets=facets_of(envelope),
        # A hand-back differs from what was handed back in this alone, and either will do.
        envelope=_pack(msgspec.structs.replace(envelope, message_id="")),
    )
    at_ms = envelope.enqueued_ms or 0
    return Job(
        id=clean(envelope.id),
        queue=queue,
        task=request.task,
        created_ms=envelope.enqueued_ms,
        changed_ms=at_ms,
        request=request,
        standing=Standing(
            rank=rank,
            moment=_moment(at_ms, envelope.message_id),
            state=State.QUEUED.value,
            attempt=attempt,
            deliveries=deliveries,
            generation=generation,
            due_ms=envelope.due_ms or None,
        ),
    )


def job_of_record(record: FeedRecord) -> Job:
    """Return what a record says of its job."""
    queue = clean(record.queue)
    return Job(
        id=clean(record.job),
        queue=queue,
        task=clean(full_task_name(queue, record.task)),
        changed_ms=record.at,
        standing=_standing_of(record),
    )


def _standing_of(record: FeedRecord) -> Standing:
    if record.event != FINISHED:
        phase, state = UNDER_WAY, State.RUNNING
    else:
        phase, state = _PHASE_OF.get(record.outcome, (UNDER_WAY, State.QUEUED))
    ended = phase != UNDER_WAY
    error = record.error
    generation, attempt, deliveries = _counts(record)
    return Standing(
        rank=rank_of(generation, attempt, deliveries, phase),
        moment=_moment(record.at, record.message, last=record.event == FINISHED),
        state=state.value,
        detail=_clean_or_none(record.detail),
        ok=None if record.ok is None else clean(record.ok),
        attempt=attempt,
        deliveries=deliveries,
        generation=generation,
        due_ms=record.due,
        started_ms=_started_ms(record),
        ended_ms=record.at if ended else None,
        worker=_clean_or_none(record.worker),
        error_type=clean(error.type) if error else None,
        error_message=clean(error.message[:_SHORT]) if error else None,
        fingerprint=_clean_or_none(error.fingerprint) if error else None,
    )


def run_of(record: FeedRecord) -> Run:
    """Return what a record says of the run that it is about."""
    ended = record.event == FINISHED
    error = record.error
    progress = record.progress if record.event == PROGRESSED else None
    queue = clean(record.queue)
    generation, attempt, deliveries = _counts(record)
    return Run(
        job=clean(record.job),
        attempt=attempt,
        deliveries=deliveries,
        message=clean(record.message),
        generation=generation,
        queue=queue,
        task=clean(full_task_name(queue, record.task)),
        worker=_clean_or_none(record.worker),
        started_ms=_started_ms(record),
        ended_ms=record.at if ended else None,
        wait_ms=record.wait_ms,
        run_ms=record.run_ms if ended else None,
        outcome=clean(record.outcome) if ended else None,
        detail=_clean_or_none(record.detail),
        ok=None if record.ok is None else clean(record.ok),
        due_ms=record.due,
        value=None if record.value is None else clean(bytes(record.value).decode()),
        output=_clean_or_none(record.output),
        error_type=clean(error.type) if error else None,
        error_message=clean(error.message) if error else None,
        traceback=_clean_or_none(error.traceback) if error else None,
        fingerprint=_clean_or_none(error.fingerprint) if error else None,
        progressed_ms=record.at if progress else None,
        progress_done=progress.done if progress else None,
        progress_of=progress.of if progress else None,
        progress_note=_clean_or_none(progress.note) if progress else None,
    )


def _counts(about: Envelope | FeedRecord) -> tuple[int, int, int]:
    return (
        min(about.generation, _MOST),
        min(about.attempt, _MOST),
        min(about.deliveries, _MOST),
    )


def _started_ms(record: FeedRecord) -> int | None:
    if record.event == STARTED:
        return record.at
    return None if record.run_ms is None else record.at - record.run_ms


_json = msgspec.json.Encoder()
_pack = msgspec.msgpack.Encoder().encode
_object = msgspec.json.Decoder(dict[str, object])
_envelope = msgspec.msgpack.Decoder(Envelope)


def unpack(envelope: bytes) -> Envelope:
    """Return a job's envelope as its row holds it (ValueError when it is none)."""
    return _envelope.decode(envelope)


def facets_of(envelope: Envelope) -> str | None:
    """Return those arguments that a job can be searched by, a JSON object as text.

    That is what is plain (text, numbers, truth) and short, at the top. Encrypted ones are objects,
    and stay what they are.
    """
    if envelope.content_type != JSON or not 2 < len(envelope.body) <= _SEARCHED_BODY:
        return None
    try:
        arguments = _object.decode(envelope.body)
    except UNREADABLE:
        return None
    plain = {clean(name): value for name, value in arguments.items() if _is_searched(value)}
    return _json.encode(plain).decode() if plain else None


def _is_searched(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _SEARCHED_TEXT and "\0" not in value
    if isinstance(value, int):  # truth values are integers
        return abs(value) <= _SEARCHED_INT
    return isinstance(value, float)


def _tenant(context: str | None) -> str | None:
    if not context or "tenant" not in context:
        return None
    try:
        tenant = _object.decode(context).get("tenant")
    except UNREADABLE:
        return None
    return clean(str(tenant)) if isinstance(tenant, (str, int)) else None


def clean(text: str) -> str:
    """Return text that PostgreSQL stores: it knows no NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def _clean_or_none(text: str | None) -> str | None:
    return clean(text) if text else None
