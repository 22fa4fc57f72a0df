"""The lifecycle feed: every published envelope and every outcome, as records.

Envelopes reach the feed as they were published, by a second binding inside the broker. What
happened to them reaches it as records, many to a message (a JSON array).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, TypedDict

import msgspec

from taskyard.shared.envelope import Envelope
from taskyard.shared.outcomes import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from typing_extensions import Unpack

    JsonValue: TypeAlias = msgspec.Raw | None
else:
    # msgspec decodes a union of `Raw` and None as None only; a default it does not check.
    JsonValue = msgspec.Raw

VERSION: Final = 1

STARTED: Final = "started"
PROGRESSED: Final = "progressed"
FINISHED: Final = "finished"
#: An operator has sent a parked job back: it waits, as a new attempt.
RELEASED: Final = "released"


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a job says that it is: `done` of `of`, which it may not know."""

    done: float
    of: float | None = None
    note: str = ""


class Facts(TypedDict, total=False):
    """What a record may say beside whose run it is about; see `FeedRecord`."""

    outcome: str
    detail: str
    due: int | None
    wait_ms: int | None
    run_ms: int | None
    error: ErrorInfo | None
    value: JsonValue
    ok: str | None
    output: str
    progress: Progress | None
    request: Envelope | None
    owed: bool


class FeedRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What happened to one run of a job, identified by (job, attempt, deliveries, message).

    Attributes:
        event: `started` and `progressed` (a best effort both), `finished`, or `released`.
        job: the job's id.
        queue: the queue's name.
        task: the task's full name.
        attempt: counted from 1.
        deliveries: counted from 1, per attempt.
        message: the `message_id` of the publish that was delivered.
        generation: of the envelope.
        at: when, in milliseconds since the epoch.
        outcome: one of `succeeded`, `retried`, `parked`, `failed`, `cancelled`, `handed_back`.
        detail: the park reason, the failure kind, or why it was handed back.
        due: when the next attempt is due, after `retried`.
        wait_ms: from due to start.
        run_ms: from start to end.
        error: the attempt's error.
        value: the returned value as JSON text.
        ok: what the handler said of its own success; None when it merely ended (`completed`).
        worker: `host:pid`.
        output: what the attempt printed and logged, as far as it is kept.
        progress: how far it is, after `progressed`.
        request: the job itself, where its queue's jobs are not in the feed as they are published.
        owed: it is told although its queue does not record it: the job is older than that policy.

    """

    event: str
    job: str
    queue: str
    task: str
    attempt: int
    deliveries: int
    message: str
    at: int
    generation: int = 1
    outcome: str = ""
    detail: str = ""
    due: int | None = None
    wait_ms: int | None = None
    run_ms: int | None = None
    error: ErrorInfo | None = None
    value: JsonValue = None
    ok: str | None = None
    worker: str = ""
    output: str = ""
    progress: Progress | None = None
    request: Envelope | None = None
    owed: bool = False
    v: int = VERSION

    @property
    def bulk(self) -> int:
        """How many bytes there are of what may be large in it: its value, its output, the job."""
        return (
            len(self.output)
            + (0 if self.value is None else len(self.value))
            + (0 if self.request is None else len(self.request.body))
        )

    @classmethod
    def of(
        cls, envelope: Envelope, event: str, *, at_ms: int, worker: str, **facts: Unpack[Facts]
    ) -> Self:
        """Return a record about the run that an envelope was delivered for.

        Args:
            envelope: as it was delivered.
            event: `started`, `progressed` or `finished`.
            at_ms: when, in milliseconds since the epoch.
            worker: who says so.
            facts: the other fields.

        """
        return cls(
            event=event,
            job=envelope.id,
            queue=envelope.queue,
            task=envelope.task,
            attempt=envelope.attempt,
            deliveries=envelope.deliveries,
            message=envelope.message_id,
            generation=envelope.generation,
            at=at_ms,
            worker=worker,
            **facts,
        )


class FeedItem(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the feed: a published envelope, or records.

    Attributes:
        envelope: as it was published; None when the message carries records.
        records: what happened; empty when the message is an envelope.
        token: what the adapter needs to acknowledge it.

    """

    envelope: Envelope | None = None
    records: tuple[FeedRecord, ...] = ()
    token: object = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[FeedRecord, ...])


def encode_feed(records: Sequence[FeedRecord]) -> bytes:
    """Return the body of one feed message."""
    return _encoder.encode(records)


def decode_feed(body: bytes) -> tuple[FeedRecord, ...]:
    """Read a feed message's records.

    Raises:
        ValueError: it is not an array of records.

    """
    return _decoder.decode(body)


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job's end, sent to whoever asked for its result.

    Attributes:
        job: the job's id.
        attempt: which attempt ended it.
        outcome: `succeeded`, `failed`, `parked` or `cancelled`.
        detail: the failure kind or park reason.
        message: one line for people.
        value: the returned value as JSON text, after success.
        ok: what the handler said of its own success; None when it merely ended (`completed`).
        error: the last attempt's error.

    """

    job: str
    attempt: int
    outcome: str
    detail: str = ""
    message: str = ""
    value: JsonValue = None
    ok: str | None = None
    error: ErrorInfo | None = None
    v: int = VERSION


_reply_decoder = msgspec.json.Decoder(Reply)


def encode_reply(reply: Reply) -> bytes:
    """Return the body of a reply message."""
    return _encoder.encode(reply)


def decode_reply(body: bytes) -> Reply:
    """Read a reply (ValueError when it is not one)."""
    return _reply_decoder.decode(body)
