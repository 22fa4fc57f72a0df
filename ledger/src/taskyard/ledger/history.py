"""From feed items to rows: which job was asked for what, where it stands, and each of its runs.

Feed items come in any order, late, and more than once. So nothing here depends on what came before:
a fact has a *rank*, and in each register the fact of the highest rank wins (of one rank, that of the
later *moment*). Taking the higher of two is commutative, associative and idempotent (a join
semilattice, as in state-based CRDTs; Shapiro et al., 2011): here within a batch, and in `writing.py`
between a batch and the database.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.ledger.facets import facets_of, tenant_of
from taskyard.ledger.recording import NotRecorded, arguments_of
from taskyard.ledger.rows import Batch, Job, Request, Run, Standing, merge_jobs, merge_runs
from taskyard.ledger.texts import clean, clean_or_none, label_or_none
from taskyard.shared.envelope import UNREADABLE, Envelope
from taskyard.shared.feed import FINISHED, PROGRESSED, RELEASED, STARTED, FeedItem, FeedRecord
from taskyard.shared.naming import full_task_name
from taskyard.shared.states import State
from taskyard.shared.wire import CHANGED, RELEASED as RELEASE, REPUBLISHED, RESTARTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Of two facts about one delivery of one attempt of one generation, the later phase is the truth.
PUBLISHED: Final = 1
UNDER_WAY: Final = 2  # started, or handed back: the later of these
SET_ASIDE: Final = 3  # retried or parked: by the worker; an operator may end it still
ENDED: Final = 4

_EVENTS: Final = frozenset({STARTED, PROGRESSED, FINISHED, RELEASED})

#: What of a job's error is kept in its own row, for lists; its run has all of it.
_SHORT: Final = 300
#: The most that a column for a small number holds.
_MOST: Final = 2**31 - 1

_PHASE_OF: Final[Mapping[str, tuple[int, State]]] = {
    "succeeded": (ENDED, State.SUCCEEDED),
    "failed": (ENDED, State.FAILED),
    "cancelled": (ENDED, State.CANCELLED),
    "parked": (SET_ASIDE, State.PARKED),
    "retried": (SET_ASIDE, State.QUEUED),
    "handed_back": (UNDER_WAY, State.QUEUED),
}


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
            if record.event == RELEASED:
                continue  # nothing runs yet
            run = run_of(record)
            known = runs.get(run.key)
            runs[run.key] = run if known is None else merge_runs(known, run)
    # Two coordinators that write the same rows in the same order cannot wait for one another.
    return Batch([jobs[key] for key in sorted(jobs)], [runs[key] for key in sorted(runs)])


def _put_job(jobs: dict[str, Job], job: Job) -> None:
    known = jobs.get(job.id)
    jobs[job.id] = job if known is None else merge_jobs(known, job)


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


def phase_of(rank: int) -> int:
    """Return the phase that a rank says."""
    return rank & 0xF


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
        app=clean_or_none(envelope.app),
        tenant=tenant_of(envelope.context),
        priority=envelope.priority,
        parent=clean_or_none(envelope.parent),
        name=label_or_none(envelope.name),
        submitted_from=label_or_none(envelope.submitted_from),
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
        changed_ms=_published_ms(envelope),
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


def _published_ms(envelope: Envelope) -> int:
    """Return when a job was sent, or sent again by who says so in a header of his own."""
    sent_ms, said = envelope.enqueued_ms or 0, envelope.extra
    if not said:
        return sent_ms
    again = [said.get(RESTARTED), said.get(REPUBLISHED)]
    again += [_noted_ms(said[name]) for name in (CHANGED, RELEASE) if name in said]
    return max([sent_ms, *(ms for ms in again if isinstance(ms, int))])


def _noted_ms(text: object) -> object:
    """Return what the note of an operator says of its time."""
    if isinstance(text, str):
        with suppress(*UNREADABLE):
            return msgspec.json.decode(text, type=dict[str, object]).get("at")
    return None


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
    if record.event == RELEASED:
        phase, state = PUBLISHED, State.QUEUED
    elif record.event != FINISHED:
        phase, state = UNDER_WAY, State.RUNNING
    else:
        phase, state = _PHASE_OF.get(record.outcome, (UNDER_WAY, State.QUEUED))
    ended = phase > UNDER_WAY
    error = record.error
    generation, attempt, deliveries = _counts(record)
    return Standing(
        rank=rank_of(generation, attempt, deliveries, phase),
        moment=_moment(record.at, record.message, last=record.event == FINISHED),
        state=state.value,
        detail=clean_or_none(record.detail),
        ok=None if record.ok is None else clean(record.ok),
        attempt=attempt,
        deliveries=deliveries,
        generation=generation,
        due_ms=record.due,
        started_ms=_started_ms(record),
        ended_ms=record.at if ended else None,
        worker=clean_or_none(record.worker),
        error_type=clean(error.type) if error else None,
        error_message=clean(error.message[:_SHORT]) if error else None,
        fingerprint=clean_or_none(error.fingerprint) if error else None,
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
        worker=clean_or_none(record.worker),
        started_ms=_started_ms(record),
        ended_ms=record.at if ended else None,
        wait_ms=record.wait_ms,
        run_ms=record.run_ms if ended else None,
        outcome=clean(record.outcome) if ended else None,
        detail=clean_or_none(record.detail),
        ok=None if record.ok is None else clean(record.ok),
        due_ms=record.due,
        value=None if record.value is None else clean(bytes(record.value).decode()),
        output=clean_or_none(record.output),
        error_type=clean(error.type) if error else None,
        error_message=clean(error.message) if error else None,
        traceback=clean_or_none(error.traceback) if error else None,
        fingerprint=clean_or_none(error.fingerprint) if error else None,
        progressed_ms=record.at if progress else None,
        progress_done=progress.done if progress else None,
        progress_of=progress.of if progress else None,
        progress_note=clean_or_none(progress.note) if progress else None,
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


_pack: Final = msgspec.msgpack.Encoder().encode
_envelope: Final = msgspec.msgpack.Decoder(Envelope)


def unpack(envelope: bytes) -> Envelope:
    """Return a job's envelope as its row holds it, to be sent again.

    Raises:
        NotRecorded: it has been recorded without its arguments.
        ValueError: it is none.

    """
    found = peek(envelope)
    if (kept := arguments_of(found)) != "full":
        raise NotRecorded(
            f"its arguments are not in the ledger (of its queue's, {kept!r} are recorded): send it "
            "anew from where they are known"
        )
    return found


def peek(envelope: bytes) -> Envelope:
    """Return a job's envelope as its row holds it, to be looked at (ValueError when it is none)."""
    return _envelope.decode(envelope)
