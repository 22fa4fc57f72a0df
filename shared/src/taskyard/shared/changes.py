"""Changes of jobs that have not started: what is asked, and which publish of a job counts since.

A change is an intent in the control log, which says the generation that the job is going to have. A
coordinator carries it out: it publishes the job anew, in that generation, and writes `changed`, or
`unchanged` where it cannot. The message from before stays where it is, in a queue or on the ladder;
whoever gets it gives it up unrun. Until the change is carried out nobody runs the job: a message
that comes in between is sent back to wait.

A worker that had started the job before it read of the change says so (`started`). Then the job runs
as it was: the change is void, and so is what may have been published for it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec

from taskyard.shared.control import ControlRecord
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.priority import HIGHEST
from taskyard.shared.wire import CHANGED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskyard.shared.envelope import Envelope

B = TypeVar("B", bound=msgspec.Struct)

#: The least that the records of a change are kept: longer than any retry or delay in use.
KEPT_MS: Final = 90 * 86_400_000
#: How long an answer is kept for whoever asked.
ANSWER_KEPT_MS: Final = 3_600_000
#: The last due time that a broker and the ledger bear, far beyond any in use (the year 287396).
_LATEST_MS: Final = 2**53
#: The highest generation, for the same reason; the ledger counts to 2**31.
_MOST: Final = 2**53


class Standing(Enum):
    """Whether a publish of a job is the one that counts."""

    CURRENT = "current"
    """It is: no change is known that it would be older than."""
    UNDECIDED = "undecided"
    """A change is asked for that nobody has carried out yet: it must neither run nor be lost."""
    SUPERSEDED = "superseded"
    """Another publish counts; this one is given up."""


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be different; what is not named stays as it is.

    Attributes:
        priority: from 0 to 9.
        due_ms: when the job is due, in milliseconds since the epoch; 0 is at once.
        arguments: the whole of them.
        suspend: put the job aside until it is resumed (False: resume it).

    """

    priority: Annotated[int, msgspec.Meta(ge=0, le=HIGHEST)] | None = None
    due_ms: Annotated[int, msgspec.Meta(ge=0, le=_LATEST_MS)] | None = None
    arguments: dict[str, Any] | None = None
    suspend: bool | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of a change's record.

    Attributes:
        generation: that the job has from then on; publishes of lower ones are older.
        token: names the asking, so that its answer is known.
        change: what is to be different; None once that is published.

    """

    generation: Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
    token: str
    change: Change | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `started`: a worker was running the job when it read of its change.

    Attributes:
        of: the token of the change.
        attempt: that was running.
        generation: that was running; what is older than that is as old as it was.
        worker: `host:pid`.

    """

    of: str
    attempt: int = 1
    generation: int = 1
    worker: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of something that was asked for.

    Attributes:
        of: the token of the asking.
        done: whether it was done as asked.
        text: why not, or what happened instead, in words.

    """

    of: str
    done: bool
    text: str = ""


class ChangeState(msgspec.Struct, frozen=True, kw_only=True):
    """A change as the control log knows it.

    Attributes:
        asked: the body of its record.
        published: it is carried out.
        void: a worker had started the job before it read of the change.
        ran: the generation that it had started.

    """

    asked: Asked
    published: bool
    void: bool
    ran: int = 1

    @classmethod
    def of(cls, record: ControlRecord, started: ControlRecord | None) -> ChangeState | None:
        """Read a change's record, and what a worker said of it; None where it is not readable."""
        asked = _read(record, Asked)
        if asked is None:
            return None
        start = None if started is None else _read(started, Start)
        published = record.op == "changed"
        if start is None or start.of != asked.token:
            return cls(asked=asked, published=published, void=False)
        return cls(asked=asked, published=published, void=True, ran=start.generation)

    def is_older(self, envelope: Envelope) -> bool:
        """Tell whether a publish of the job is from before this change."""
        return envelope.generation < self.asked.generation


def standing_of(change: ChangeState, envelope: Envelope) -> Standing:
    """Return whether a publish of the job counts, after a change of it."""
    generation = change.asked.generation
    if envelope.generation > generation:
        return Standing.CURRENT
    if envelope.generation == generation:
        # An edit of the job as it was, after it had run and was parked, has this generation as well.
        published = change.void and published_by(envelope) == change.asked.token
        return Standing.SUPERSEDED if published else Standing.CURRENT
    if change.void:
        return Standing.CURRENT if envelope.generation >= change.ran else Standing.SUPERSEDED
    return Standing.SUPERSEDED if change.published else Standing.UNDECIDED


def published_by(envelope: Envelope) -> str | None:
    """Return the token of the change that a job was published by; None where there was none."""
    text = (envelope.extra or {}).get(CHANGED)
    if not isinstance(text, str):
        return None
    try:
        token = msgspec.json.decode(text, type=dict[str, object]).get("token")
    except UNREADABLE:
        return None
    return token if isinstance(token, str) else None


# ---------------------------------------------------------------- records


def change_record(job_id: str, asked: Asked, *, by: str, at_ms: int) -> ControlRecord:
    """Return the intent to change a job."""
    return _record(job_id, "change", "change", asked, by=by, at_ms=at_ms, kept_ms=KEPT_MS)


def changed_record(
    job_id: str, asked: Asked, *, by: str, at_ms: int, until_ms: int
) -> ControlRecord:
    """Return that a change is carried out.

    Args:
        job_id: of the job.
        asked: what was asked for.
        by: who asked.
        at_ms: now, in milliseconds since the epoch.
        until_ms: when the last publish from before is due. It may wait in its queue for long after
            that, so this is known for as long again as a change without a due time.

    """
    done = msgspec.structs.replace(asked, change=None)
    kept_ms = max(until_ms - at_ms, 0) + KEPT_MS
    return _record(job_id, "change", "changed", done, by=by, at_ms=at_ms, kept_ms=kept_ms)


def unchanged_record(job_id: str, asked: Asked, *, by: str, at_ms: int) -> ControlRecord:
    """Return that a change is withdrawn: the job stays as it is."""
    done = msgspec.structs.replace(asked, change=None)
    return _record(job_id, "change", "unchanged", done, by=by, at_ms=at_ms, kept_ms=KEPT_MS)


def start_record(job_id: str, start: Start, *, at_ms: int) -> ControlRecord:
    """Return that a worker had started a job before it read that it is to be changed."""
    return _record(
        job_id, "started", "started", start, by=start.worker, at_ms=at_ms, kept_ms=KEPT_MS
    )


def answer_record(job_id: str, answer: Answer, *, by: str, at_ms: int) -> ControlRecord:
    """Return what became of something that was asked for."""
    return _record(job_id, "answer", "answer", answer, by=by, at_ms=at_ms, kept_ms=ANSWER_KEPT_MS)


def answer_of(record: ControlRecord) -> Answer | None:
    """Return the answer that a record holds; None if it is none."""
    return _read(record, Answer) if record.op == "answer" else None


def start_of(record: ControlRecord) -> Start | None:
    """Return what a worker says of a job that it was running; None if it cannot be read."""
    return _read(record, Start)


def asked_of(record: ControlRecord) -> Asked | None:
    """Return what the record of a change asks for; None if it cannot be read."""
    return _read(record, Asked)


def _record(
    job_id: str,
    aspect: str,
    op: str,
    body: msgspec.Struct,
    *,
    by: str,
    at_ms: int,
    kept_ms: int,
) -> ControlRecord:
    builtins: Mapping[str, object] = msgspec.to_builtins(body)
    return ControlRecord(
        key=f"job:{job_id}:{aspect}",
        op=op,
        by=by,
        at=at_ms,
        expires=at_ms + kept_ms,
        body=dict(builtins),
    )


def _read(record: ControlRecord, type_: type[B]) -> B | None:
    try:
        return msgspec.convert(record.body, type_)
    except msgspec.ValidationError:
        return None
