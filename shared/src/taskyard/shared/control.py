"""Operators' intents: the records of the control log. `intents.py` says what they add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import TaskyardError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERSION: Final = 1

#: Operations that this version acts on. Others are kept and passed on, never dropped.
Operation = Literal[
    "pause",
    "resume",
    "cancel",
    "uncancel",
    "change",
    "changed",
    "unchanged",
    "started",
    "answer",
    "drain",
    "undrain",
    "concurrency",
    "reset",
    "genesis",
]

#: Records of one message, and its most bytes where it holds several.
ARRAY: Final = 256
ARRAY_BYTES: Final = 1024 * 1024

ALL_QUEUES: Final = "*"

#: What it is about whether producers send.
DRAIN_KEY: Final = f"queue:{ALL_QUEUES}:drain"

#: The operation of a log's first record.
GENESIS: Final = "genesis"


class ControlRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One intent.

    Attributes:
        v: version of the record.
        key: what it is about (`queue:<name>:pause`, `job:<id>:cancel`); the last per key wins.
        op: what is intended.
        by: who asked (`user@host`).
        at: when, in milliseconds since the epoch.
        expires: when it ends by itself, in milliseconds; None means never.
        body: further data of the operation.

    """

    key: str
    op: str
    by: str = ""
    at: int = 0
    expires: int | None = None
    body: dict[str, object] | None = None
    v: int = VERSION


class ControlUnavailable(TaskyardError):
    """The control log cannot be read or written now; the last known intents stay in force."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[ControlRecord])


def encode_records(records: Sequence[ControlRecord]) -> bytes:
    """Return the body of one control message: a JSON array of records."""
    return _encoder.encode(records)


def encode_arrays(records: Sequence[ControlRecord]) -> Iterator[bytes]:
    """Yield the bodies of the control messages that hold these records, in order.

    A record may hold all of a job's arguments, and RabbitMQ takes no message of more than 16 MiB.
    """
    for start in range(0, len(records), ARRAY):
        yield from _halved(records[start : start + ARRAY])


def _halved(records: Sequence[ControlRecord]) -> Iterator[bytes]:
    body = encode_records(records)
    if len(body) <= ARRAY_BYTES or len(records) == 1:
        yield body
        return
    half = len(records) // 2
    yield from _halved(records[:half])
    yield from _halved(records[half:])


def decode_records(body: bytes) -> list[ControlRecord]:
    """Read a control message; a body that is not one counts as no records."""
    try:
        return _decoder.decode(body)
    except UNREADABLE:
        return []


def genesis(at_ms: int) -> ControlRecord:
    """Return the log's first record, so that it is never empty."""
    return ControlRecord(key="log", op=GENESIS, at=at_ms)


def pause_record(
    queue: str, *, by: str, at_ms: int, until_ms: int | None = None, reason: str = ""
) -> ControlRecord:
    """Return the intent to start no job of `queue` (`*` means every queue), until an instant."""
    body: dict[str, object] | None = {"reason": reason} if reason else None
    return ControlRecord(
        key=f"queue:{queue}:pause", op="pause", by=by, at=at_ms, expires=until_ms, body=body
    )


def resume_record(queue: str, *, by: str, at_ms: int) -> ControlRecord:
    """Return the intent to start jobs of `queue` again."""
    return ControlRecord(key=f"queue:{queue}:pause", op="resume", by=by, at=at_ms)


def drain_record(
    *, by: str, at_ms: int, until_ms: int | None = None, reason: str = ""
) -> ControlRecord:
    """Return the intent that producers send nothing new to any queue, until an instant."""
    body: dict[str, object] | None = {"reason": reason} if reason else None
    return ControlRecord(key=DRAIN_KEY, op="drain", by=by, at=at_ms, expires=until_ms, body=body)


def undrain_record(*, by: str, at_ms: int) -> ControlRecord:
    """Return the intent that producers send again."""
    return ControlRecord(key=DRAIN_KEY, op="undrain", by=by, at=at_ms)


def concurrency_record(queue: str, slots: int, *, by: str, at_ms: int) -> ControlRecord:
    """Return the intent that each worker process has so many slots for `queue`."""
    return ControlRecord(
        key=f"queue:{queue}:concurrency",
        op="concurrency",
        by=by,
        at=at_ms,
        body={"slots": slots},
    )


def reset_concurrency_record(queue: str, *, by: str, at_ms: int) -> ControlRecord:
    """Return the intent that workers have as many slots for `queue` as it declares."""
    return ControlRecord(key=f"queue:{queue}:concurrency", op="reset", by=by, at=at_ms)


def cancel_record(
    job_id: str,
    *,
    by: str,
    at_ms: int,
    abort: bool = False,
    until_ms: int | None = None,
    token: str = "",
) -> ControlRecord:
    """Return the intent that a job starts no further attempt; `abort` also ends a running one.

    With a `token` whoever can tell answers what became of it.
    """
    body: dict[str, object] = {}
    if abort:
        body["abort"] = True
    if token:
        body["token"] = token
    return ControlRecord(
        key=f"job:{job_id}:cancel",
        op="cancel",
        by=by,
        at=at_ms,
        expires=until_ms,
        body=body or None,
    )


def token_of(record: ControlRecord) -> str:
    """Return what names a cancel in its answer; empty where nobody waits for one."""
    token = (record.body or {}).get("token")
    return token if isinstance(token, str) else ""


def uncancel_record(job_id: str, *, by: str, at_ms: int) -> ControlRecord:
    """Return the intent that takes a cancel back."""
    return ControlRecord(key=f"job:{job_id}:cancel", op="uncancel", by=by, at=at_ms)
