"""A job as it travels: what the wire carries, whatever the broker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from uuid_utils import uuid7

from taskyard.shared.outcomes import ErrorInfo
from taskyard.shared.priority import NORMAL

JSON: Final = "application/json"

#: What msgspec raises for bytes that are not what was expected: text that is no UTF-8, and nesting
#: without end, are no `DecodeError`.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)


def mint_id() -> str:
    """Return a new job id: a UUID of version 7 (RFC 9562), ordered by time."""
    return str(uuid7())


class Parking(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why and when a job was parked.

    Attributes:
        reason: a `ParkReason`, as text, so that a newer program's reason still reads.
        at_ms: when, in milliseconds since the epoch.
        detail: one line for the operator.
        error: the last attempt's error.
        worker: who parked it (`host:pid`).

    """

    reason: str
    at_ms: int = 0
    detail: str = ""
    error: ErrorInfo | None = None
    worker: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One publish of a job.

    Attributes:
        id: the job's id, kept for ever.
        queue: the queue it belongs to.
        task: the task's full name (`<queue>.<task>`), or the short name of a foreign message.
        body: the encoded arguments, never decoded by a broker.
        content_type: of the body.
        priority: 0 to 9, higher first.
        attempt: which execution this publish is for, counted from 1.
        deliveries: how often this attempt was handed to a worker, this time included.
        enqueued_ms: when the job was first sent.
        not_before_ms: when it is due; None means at once.
        expires_ms: after which it must not start.
        ttr_ms: time to run of the job's own; None takes the task's or the queue's.
        app: the publishing application.
        context: propagated values, a JSON object as text.
        parent: id of the job that sent this one.
        name: what its sender calls it, for people.
        submitted_from: `host:pid` of the process that sent it first.
        generation: raised by each edit of a job that has not started, or is parked.
        base: the attempt after which the retry budget starts anew (raised by a release).
        retry: the job's own retry policy, as JSON text.
        reply: addresses that want the outcome.
        traceparent: W3C trace context.
        enc_key: id of the key that an encrypted body is under.
        enc_nonce: its nonce, in base64.
        message_id: unique per publish; set by the adapter that publishes.
        parking: present on a parked job.
        extra: headers that this version does not know, kept by whoever re-publishes.

    """

    id: str
    queue: str
    task: str
    body: bytes = b"{}"
    content_type: str = JSON
    priority: int = NORMAL
    attempt: int = 1
    deliveries: int = 1
    enqueued_ms: int | None = None
    not_before_ms: int | None = None
    expires_ms: int | None = None
    ttr_ms: int | None = None
    app: str | None = None
    context: str | None = None
    parent: str | None = None
    generation: int = 1
    base: int = 0
    retry: str | None = None
    reply: tuple[str, ...] = ()
    traceparent: str | None = None
    enc_key: str | None = None
    enc_nonce: str | None = None
    name: str | None = None
    submitted_from: str | None = None
    message_id: str = ""
    parking: Parking | None = None
    extra: Mapping[str, object] | None = None

    @property
    def due_ms(self) -> int:
        """When the job may start: its due time, or when it was sent."""
        return self.not_before_ms or self.enqueued_ms or 0
