"""What the records of the control log add up to.

The log is ordered, and the last record of a key wins. Every worker reads all of it before its first
job, so what records mean is decided here, purely, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskyard.shared.changes import ChangeState, Standing, asked_of, standing_of
from taskyard.shared.control import ALL_QUEUES
from taskyard.shared.wire import RESTARTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope

    #: The records of one kind, by what they are about.
    Table = dict[str, ControlRecord]

PAUSE: Final = "queue:pause"
DRAIN: Final = "queue:drain"
CONCURRENCY: Final = "queue:concurrency"
CANCEL: Final = "job:cancel"
CHANGE: Final = "job:change"
STARTED: Final = "job:started"
#: For whoever asked; nothing follows from it.
ANSWER: Final = "job:answer"

#: Most slots of a queue in one process: RabbitMQ hands no consumer more at a time.
MAX_SLOTS: Final = 65_535

#: The kinds that are looked up, and the operations of each that mean something: after any other the
#: key is as if it had never been written.
_MEANT: Final[Mapping[str, frozenset[str]]] = {
    PAUSE: frozenset({"pause"}),
    DRAIN: frozenset({"drain"}),
    CONCURRENCY: frozenset({"concurrency"}),
    CANCEL: frozenset({"cancel"}),
    CHANGE: frozenset({"change", "changed"}),
    STARTED: frozenset({"started"}),
}


class Intents:
    """What a sequence of control records adds up to. Owned by one task; read by any."""

    __slots__ = (
        "_cancelled",
        "_changed",
        "_others",
        "_paused",
        "_started",
        "_tables",
        "_withdrawn",
    )

    def __init__(self) -> None:
        """Start with no intents."""
        self._others: Table = {}
        self._tables: dict[str, Table] = {kind: {} for kind in _MEANT}
        self._paused = self._tables[PAUSE]
        self._cancelled = self._tables[CANCEL]
        self._changed = self._tables[CHANGE]
        self._started = self._tables[STARTED]
        # The last change of each job that came to nothing.
        self._withdrawn: Table = {}

    def apply(self, records: Iterable[ControlRecord]) -> None:
        """Take in records in the order of the log."""
        for record in records:
            kind, subject = kind_and_subject(record.key)
            table = self._tables.get(kind)
            if table is None:
                self._others[record.key] = record
            elif table is self._changed and self._is_old(subject, record):
                continue
            elif record.op in _MEANT[kind]:
                table[subject] = record
            else:
                table.pop(subject, None)
                if table is self._changed:
                    self._withdrawn[subject] = record

    def _is_old(self, job_id: str, record: ControlRecord) -> bool:
        """Tell whether what is known of a job's changes is newer than this record.

        Of a job's changes that of the highest generation counts, whatever was asked for while it was
        carried out. And one that was answered is not open again: who writes live intents again may
        have read them before the answer, and write them after it.
        """
        asked = asked_of(record)
        if asked is None:
            return True
        latest, ended = (
            None if held is None else asked_of(held)
            for held in (self._changed.get(job_id), self._withdrawn.get(job_id))
        )
        if latest is not None and asked.generation < latest.generation:
            return True
        if record.op != "change":
            return False
        answered = {ended.token} if ended is not None else set[str]()
        if latest is not None and self._changed[job_id].op == "changed":
            answered.add(latest.token)
        return asked.token in answered

    @property
    def others(self) -> Mapping[str, ControlRecord]:
        """The last record of each key of a kind that nothing here looks up."""
        return self._others

    # ------------------------------------------------------------ queues

    def pause_of(self, queue: str, now_ms: int) -> ControlRecord | None:
        """Return the record that pauses `queue` at `now_ms`, if one does."""
        return next(iter(self.pauses_of(queue, now_ms)), None)

    def pauses_of(self, queue: str, now_ms: int) -> list[ControlRecord]:
        """Return the records that pause `queue` at `now_ms`: its own first, then that of all."""
        found = (self._paused.get(name) for name in (queue, ALL_QUEUES))
        return [record for record in found if record is not None and _lives(record, now_ms)]

    def paused(self, now_ms: int) -> dict[str, ControlRecord]:
        """Return the pauses in force at `now_ms`, by queue."""
        return {queue: r for queue, r in self._paused.items() if _lives(r, now_ms)}

    def drain(self, now_ms: int) -> ControlRecord | None:
        """Return the record by which producers send nothing new at `now_ms`, if there is one."""
        return in_force(self._tables[DRAIN].get(ALL_QUEUES), now_ms)

    def concurrency_of(self, queue: str) -> int | None:
        """Return how many slots each worker process is to have for `queue`; None: as declared."""
        record = self._tables[CONCURRENCY].get(queue)
        return None if record is None else slots_of(record)

    def concurrencies(self) -> dict[str, ControlRecord]:
        """Return what was said about slots and is in force, by queue."""
        return {q: r for q, r in self._tables[CONCURRENCY].items() if slots_of(r) is not None}

    # ------------------------------------------------------------ jobs

    @property
    def about_jobs(self) -> bool:
        """Whether any job is to be cancelled or was changed."""
        return bool(self._cancelled) or bool(self._changed)

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
        return None if was_restarted(envelope, record.at) else record

    def change_of(self, job_id: str) -> ChangeState | None:
        """Return the last change of a job that was asked for and not withdrawn, if there is one."""
        record = self._changed.get(job_id)
        return None if record is None else ChangeState.of(record, self._started.get(job_id))

    def changed_ms(self, job_id: str) -> int | None:
        """Return when the last change of a job was asked for, or answered, by the clock of who did."""
        record = self._changed.get(job_id)
        return None if record is None else record.at

    def standing_of(self, envelope: Envelope) -> Standing:
        """Return whether this publish of a job is the one that counts."""
        if not self._changed:
            return Standing.CURRENT
        change = self.change_of(envelope.id)
        return Standing.CURRENT if change is None else standing_of(change, envelope)

    def open_changes(self) -> Iterator[tuple[str, ControlRecord]]:
        """Yield the changes that were asked for and have no answer yet, by the job's id."""
        return ((job_id, r) for job_id, r in self._changed.items() if r.op == "change")

    # ------------------------------------------------------------ the log

    def live(self, now_ms: int) -> list[ControlRecord]:
        """Return the records that still mean something, for compaction."""
        return [r for table in self._every() for r in table.values() if _lives(r, now_ms)]

    def prune(self, now_ms: int) -> None:
        """Forget what has expired."""
        for table in (*self._every(), self._withdrawn):
            for subject in [s for s, r in table.items() if not _lives(r, now_ms)]:
                del table[subject]

    def _every(self) -> Iterator[Table]:
        yield self._others
        yield from self._tables.values()


def was_restarted(envelope: Envelope, at_ms: int) -> bool:
    """Tell whether a job was restarted at an instant or since: cancels from before are void."""
    restarted_ms = (envelope.extra or {}).get(RESTARTED)
    return isinstance(restarted_ms, int) and restarted_ms >= at_ms


def in_force(drain: ControlRecord | None, now_ms: int) -> ControlRecord | None:
    """Return the last record about draining if it asks for it and has not ended by itself."""
    if drain is None or drain.op not in _MEANT[DRAIN] or not _lives(drain, now_ms):
        return None
    return drain


def slots_of(record: ControlRecord) -> int | None:
    """Return the slots that a record asks for; None where it makes no sense, which changes nothing."""
    slots = (record.body or {}).get("slots")
    if not isinstance(slots, int) or isinstance(slots, bool):
        return None
    return slots if 0 < slots <= MAX_SLOTS else None


def kind_and_subject(key: str) -> tuple[str, str]:
    """Return of `queue:shop:pause` the kind `queue:pause` and the subject `shop`."""
    noun, _, rest = key.partition(":")
    subject, _, aspect = rest.rpartition(":")
    return f"{noun}:{aspect}", subject


def _lives(record: ControlRecord, now_ms: int) -> bool:
    return record.expires is None or record.expires > now_ms
