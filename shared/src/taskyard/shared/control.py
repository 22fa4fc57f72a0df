"""Operators' intents: the records of the control log, and what they add up to.

The log is ordered, and the last record of a key wins. Records are read by every worker before
its first job, so what they mean is decided here, purely, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import TaskyardError
from taskyard.shared.wire import RESTARTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskyard.shared.envelope import Envelope

VERSION: Final = 1

#: Operations that this version acts on. Others are kept and passed on, never dropped.
Operation = Literal["pause", "resume", "cancel", "uncancel", "genesis"]

ALL_QUEUES: Final = "*"

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


def cancel_record(
    job_id: str, *, by: str, at_ms: int, abort: bool = False, until_ms: int | None = None
) -> ControlRecord:
    """Return the intent that a job starts no further attempt; `abort` also ends a running one."""
    body: dict[str, object] | None = {"abort": True} if abort else None
    return ControlRecord(
        key=f"job:{job_id}:cancel", op="cancel", by=by, at=at_ms, expires=until_ms, body=body
    )


def uncancel_record(job_id: str, *, by: str, at_ms: int) -> ControlRecord:
    """Return the intent that takes a cancel back."""
    return ControlRecord(key=f"job:{job_id}:cancel", op="uncancel", by=by, at=at_ms)


class Intents:
    """What a sequence of control records adds up to. Owned by one task; read by any."""

    __slots__ = ("_cancelled", "_others", "_paused")

    def __init__(self) -> None:
        """Start with no intents."""
        self._paused: dict[str, ControlRecord] = {}
        self._cancelled: dict[str, ControlRecord] = {}
        self._others: dict[str, ControlRecord] = {}

    def apply(self, records: Iterable[ControlRecord]) -> None:
        """Take in records in the order of the log."""
        for record in records:
            kind, _, rest = record.key.partition(":")
            subject = rest.rpartition(":")[0]
            if kind == "job":
                self._put(self._cancelled, subject, record, keep=record.op == "cancel")
            elif kind == "queue":
                self._put(self._paused, subject, record, keep=record.op == "pause")
            else:
                self._others[record.key] = record

    def pause_of(self, queue: str, now_ms: int) -> ControlRecord | None:
        """Return the record that pauses `queue` at `now_ms`, if one does."""
        for name in (queue, ALL_QUEUES):
            record = self._paused.get(name)
            if record is not None and (record.expires is None or record.expires > now_ms):
                return record
        return None

    @property
    def cancels(self) -> bool:
        """Whether any job is to be cancelled."""
        return bool(self._cancelled)

    def cancel_of(self, job_id: str) -> ControlRecord | None:
        """Return the record that cancels a job, if one does."""
        return self._cancelled.get(job_id) if self._cancelled else None

    def cancel_for(self, envelope: Envelope) -> ControlRecord | None:
        """Return the record that cancels this publish of a job: none from before its restart."""
        if not self._cancelled:
            return None
        record = self._cancelled.get(envelope.id)
        if record is None:
            return None
        restarted_ms = (envelope.extra or {}).get(RESTARTED)
        void = isinstance(restarted_ms, int) and restarted_ms >= record.at
        return None if void else record

    def paused(self, now_ms: int) -> dict[str, ControlRecord]:
        """Return the pauses in force at `now_ms`, by queue."""
        return {
            queue: record
            for queue, record in self._paused.items()
            if record.expires is None or record.expires > now_ms
        }

    def live(self, now_ms: int) -> list[ControlRecord]:
        """Return the records that still mean something, for compaction."""
        every = (*self._others.values(), *self._paused.values(), *self._cancelled.values())
        return [r for r in every if r.expires is None or r.expires > now_ms]

    def prune(self, now_ms: int) -> None:
        """Forget what has expired."""
        for table in (self._paused, self._cancelled, self._others):
            for subject in [
                s for s, r in table.items() if r.expires is not None and r.expires <= now_ms
            ]:
                del table[subject]

    @staticmethod
    def _put(
        table: dict[str, ControlRecord], subject: str, record: ControlRecord, *, keep: bool
    ) -> None:
        if keep:
            table[subject] = record
        else:
            table.pop(subject, None)
