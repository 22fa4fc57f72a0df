"""Envelopes as rows: what is queried in columns, the body as it is, the rest in one blob."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec

from taskyard.shared.broker import Delivery, ParkedJob
from taskyard.shared.envelope import JSON, UNREADABLE, Envelope, Parking, mint_id
from taskyard.shared.priority import HIGHEST, LOWEST, NORMAL

if TYPE_CHECKING:
    from collections.abc import Mapping


# What a disk that fails or a foreign hand leaves may be of the right kind and out of all bounds.
_LONGEST: Final = 2**53
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
_Millis = Annotated[int, msgspec.Meta(ge=0, le=_LONGEST)]
_Priority = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31)]


class Stored(msgspec.Struct, array_like=True, gc=False):
    """An envelope without its body, in the order of `encode`. New fields go to the end."""

    id: _Name
    queue: _Name
    task: str
    content_type: str = JSON
    priority: _Priority = NORMAL
    attempt: _Count = 1
    deliveries: _Count = 1
    enqueued_ms: _Millis | None = None
    not_before_ms: _Millis | None = None
    expires_ms: _Millis | None = None
    ttr_ms: _Millis | None = None
    app: str | None = None
    context: str | None = None
    parent: str | None = None
    generation: _Count = 1
    base: _Count = 0
    retry: str | None = None
    reply: tuple[str, ...] = ()
    traceparent: str | None = None
    message_id: str = ""
    parking: Parking | None = None
    extra: dict[str, object] | None = None
    enc_key: str | None = None
    enc_nonce: str | None = None
    name: str | None = None
    submitted_from: str | None = None


class JobRow(NamedTuple):
    """A publish on its way into the tables."""

    queue: str
    priority: int
    due_ms: int | None
    blob: bytes
    body: bytes
    message_id: str


class ParkedRow(NamedTuple):
    """A parked job on its way into the table."""

    queue: str
    job: str
    reason: str
    blob: bytes
    body: bytes


class Token(msgspec.Struct, eq=False):
    """What settles a delivery: the row, and the fence that says whose it is.

    Attributes:
        seq: of the row.
        owner: the handle it was given to.
        fence: of this hand-over.
        flow: the consumer whose credit it takes; None for a parked job.
        done: it is settled or about to be: its credit is given back once only.

    """

    seq: int
    owner: int
    fence: int
    flow: object = None
    done: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Stored).decode


def encode(e: Envelope, message_id: str) -> bytes:
    """Return the blob of an envelope (TypeError when a header cannot be stored)."""
    return _encode(
        (
            e.id, e.queue, e.task, e.content_type, e.priority, e.attempt, e.deliveries,
            e.enqueued_ms, e.not_before_ms, e.expires_ms, e.ttr_ms, e.app, e.context, e.parent,
            e.generation, e.base, e.retry, e.reply, e.traceparent, message_id, e.parking, e.extra,
            e.enc_key, e.enc_nonce, e.name, e.submitted_from,
        )
    )  # fmt: skip


def decode(blob: bytes, body: bytes, *, queue: str = "") -> Envelope:
    """Return the envelope of a row, which lies in `queue` where that is known (or UNREADABLE)."""
    s = _decode(blob)
    return Envelope(
        id=s.id, queue=queue or s.queue, task=s.task, body=body, content_type=s.content_type,
        priority=s.priority, attempt=s.attempt, deliveries=s.deliveries,
        enqueued_ms=s.enqueued_ms, not_before_ms=s.not_before_ms, expires_ms=s.expires_ms,
        ttr_ms=s.ttr_ms, app=s.app, context=s.context, parent=s.parent, generation=s.generation,
        base=s.base, retry=s.retry, reply=s.reply, traceparent=s.traceparent,
        message_id=s.message_id, parking=s.parking, extra=s.extra, enc_key=s.enc_key,
        enc_nonce=s.enc_nonce, name=s.name, submitted_from=s.submitted_from,
    )  # fmt: skip


def job_row(envelope: Envelope) -> JobRow:
    """Return the row of a publish, under a new `message_id`."""
    message_id = mint_id()
    return JobRow(
        envelope.queue,
        min(max(envelope.priority, LOWEST), HIGHEST),
        envelope.not_before_ms,
        encode(envelope, message_id),
        envelope.body,
        message_id,
    )


def parked_row(envelope: Envelope) -> ParkedRow:
    """Return the row of a parked job."""
    reason = envelope.parking.reason if envelope.parking else "poison"
    return ParkedRow(
        envelope.queue,
        envelope.id,
        reason,
        encode(envelope, envelope.message_id or mint_id()),
        envelope.body,
    )


def delivery(blob: bytes, body: bytes, token: Token, *, queue: str, failures: int) -> Delivery:
    """Return what a consumer gets for a row, also for one that cannot be read."""
    try:
        envelope = decode(blob, body, queue=queue)
    except UNREADABLE as error:
        return Delivery(
            envelope=Envelope(id=mint_id(), queue=queue, task="", body=body),
            redelivered=failures > 0,
            failures=failures,
            defect=f"the stored envelope cannot be read: {error}",
            token=token,
        )
    return Delivery(envelope=envelope, redelivered=failures > 0, failures=failures, token=token)


def parked_job(seq: int, blob: bytes, body: bytes, queue: str) -> ParkedJob:
    """Return what browsing shows for a row, also for one that cannot be read."""
    found = delivery(blob, body, Token(seq, 0, 0), queue=queue, failures=0)
    return ParkedJob(envelope=found.envelope, position=seq)


def known(queues: Mapping[str, int]) -> str:
    """Return the queues that exist, for a message."""
    return ", ".join(sorted(queues)) or "none"
