"""What happens to jobs inside a transaction: publish, claim, settle. Runs in the engine's thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.feeding import write_envelopes, write_records
from taskyard.shared.adapters.sql.session import Named, json_list
from taskyard.shared.adapters.sql.watch import INBOX, QUEUE
from taskyard.shared.broker import SettleStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskyard.shared.adapters.sql.rows import JobRow, ParkedRow
    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.feed import FeedRecord

_SCHEDULED: Final = 0
_READY: Final = 1

#: Most jobs that fell due at once and become ready in one transaction.
_PROMOTED: Final = 20_000

#: Most jobs of one claim; bounds the bytes that one statement joins.
_CLAIMED: Final = 256


class Unplaced(NamedTuple):
    """Rows whose queue does not exist: their indexes, and the queues that do."""

    indexes: frozenset[int]
    known: Mapping[str, int]


def insert_jobs(session: Session, rows: Sequence[JobRow]) -> Unplaced:
    """Store publishes in order, and in the feed where there is one."""
    catalogue, seq = session.seqs(len(rows))
    now_ms = session.now_ms()
    queues, left_out = catalogue.queues, catalogue.left_out
    unplaced: set[int] = set()
    untold: set[int] = set()
    jobs: list[tuple[int, int, int, int, int, int]] = []
    payloads: list[tuple[int, bytes, bytes]] = []
    for index, (name, priority, due_ms, blob, body, _) in enumerate(rows):
        queue = queues.get(name)
        if queue is None:
            unplaced.add(index)
            continue
        if due_ms is not None and due_ms > now_ms:
            jobs.append((seq, queue, _SCHEDULED, priority, due_ms, due_ms))
            due = session.effects.due
            due[name] = min(due_ms, due.get(name, due_ms))
        else:
            jobs.append((seq, queue, _READY, priority, now_ms, due_ms or now_ms))
            session.effects.topics.add(QUEUE + name)
        payloads.append((seq, blob, body))
        if name in left_out:
            untold.add(seq)
        seq += 1
    if jobs:
        session.insert(queries.JOB_COLUMNS, jobs)
        session.insert(queries.PAYLOAD_COLUMNS, payloads)
        if catalogue.feed_limit is not None:
            told = [payload[1:] for payload in payloads if payload[0] not in untold]
            if told:
                write_envelopes(session, told, catalogue.feed_limit)
    return Unplaced(frozenset(unplaced), queues)


def insert_parked(session: Session, rows: Sequence[ParkedRow]) -> Unplaced:
    """Put jobs into their queues' parking lots, in order."""
    queues = session.catalogue().queues
    unplaced = frozenset(index for index, row in enumerate(rows) if row.queue not in queues)
    placed = [row for index, row in enumerate(rows) if index not in unplaced]
    if placed:
        session.insert(queries.PARKED_COLUMNS, placed)
    return Unplaced(unplaced, queues)


# ---------------------------------------------------------------- claims


@dataclass(frozen=True, slots=True)
class Claimed:
    """Jobs that are ours now, column by column, in the order in which they are to start."""

    seqs: list[int] = field(default_factory=list[int])
    failures: list[int] = field(default_factory=list[int])
    blobs: list[bytes] = field(default_factory=list[bytes])
    bodies: list[bytes] = field(default_factory=list[bytes])
    is_last: bool = True

    def __len__(self) -> int:
        return len(self.seqs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A wish for jobs of one queue.

    Attributes:
        queue: its name.
        owner: who wants them.
        fence: of this hand-over.
        limit: most jobs.
        note_due: told when the queue's next job is due.

    """

    queue: str
    owner: int
    fence: int
    limit: int
    note_due: Callable[[str, int | None], None]

    def probe(self, session: Session) -> Claimed | None:
        """Return an empty claim if there is nothing to be had, without taking the write lock."""
        queue = session.catalogue().queues.get(self.queue)
        if queue is None or self.limit <= 0:
            return Claimed()
        ready, due = session.one(queries.READY_PROBE, {"queue": queue})
        due_ms = due if isinstance(due, int) else None
        if ready or (due_ms is not None and due_ms <= session.now_ms()):
            return None
        self.note_due(self.queue, due_ms)
        return Claimed()

    def run(self, session: Session) -> Claimed:
        """Take the first ready jobs."""
        queue = session.catalogue().queues.get(self.queue)
        limit = min(self.limit, _CLAIMED)
        if queue is None or limit <= 0:
            return Claimed(is_last=limit > 0)
        self._promote(session, queue)
        found = session.packed(
            queries.READY_ROWS,
            {"queue": queue, "limit": limit},
            numbers=("seq", "failures"),
            blobs=("envelope", "body"),
        )
        if found:
            parameters: Named = {
                "owner": self.owner,
                "fence": self.fence,
                "seqs": json_list(found.numbers[0]),
            }
            session.run(queries.CLAIM, parameters)
        seqs, failures = found.numbers
        blobs, bodies = found.blobs
        return Claimed(seqs, failures, blobs, bodies, is_last=len(found) < limit)

    def _promote(self, session: Session, queue: int) -> None:
        """Give what fell due its place among the ready ones: that of its due time."""
        now_ms = session.now_ms()
        while True:
            (due,) = session.one(queries.NEXT_DUE, {"queue": queue})
            if not isinstance(due, int) or due > now_ms:
                self.note_due(self.queue, due if isinstance(due, int) else None)
                return
            parameters: Named = {"queue": queue, "now": now_ms, "limit": _PROMOTED}
            if session.run(queries.PROMOTE, parameters) == _PROMOTED:
                self.note_due(self.queue, now_ms)
                return  # the next claim goes on: others get the lock in between


# ---------------------------------------------------------------- settling


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One settlement, ready to be carried out.

    Attributes:
        seq: of the row that ends.
        fence: of the hand-over.
        parked: whether the row is in the parking lot.
        copies: rows to add to queues.
        park: row to add to the parking lot.
        record: for the feed.
        replies: (address, body) pairs.

    """

    seq: int
    fence: int
    parked: bool = False
    copies: Sequence[JobRow] = ()
    park: ParkedRow | None = None
    record: FeedRecord | None = None
    replies: Sequence[tuple[str, bytes]] = ()


def settle(session: Session, owner: int, endings: Sequence[Ending]) -> list[SettleStatus]:
    """End deliveries; those that are not ours are left alone, those without a way stay ours."""
    held = _held(session, owner, endings)
    queues = session.catalogue().queues
    statuses: list[SettleStatus] = []
    going: list[Ending] = []
    for ending in endings:
        key = (ending.parked, ending.seq)
        if held.get(key) != ending.fence:
            statuses.append(SettleStatus.LOST)
        elif any(copy.queue not in queues for copy in ending.copies):
            statuses.append(SettleStatus.UNDONE)
        else:
            del held[key]  # a second settlement of the same delivery in one batch is lost
            statuses.append(SettleStatus.SETTLED)
            going.append(ending)
    if going:
        _remove(session, going)
        _write(session, going)
    return statuses


def _held(session: Session, owner: int, endings: Sequence[Ending]) -> dict[tuple[bool, int], int]:
    held: dict[tuple[bool, int], int] = {}
    for parked, sql in ((False, queries.HELD_ROWS), (True, queries.PARKED_HELD_ROWS)):
        seqs = [ending.seq for ending in endings if ending.parked is parked]
        if seqs:
            parameters: Named = {"owner": owner, "seqs": json_list(seqs)}
            found = session.packed(sql, parameters, numbers=("seq", "fence"))
            for seq, fence in zip(*found.numbers, strict=True):
                held[(parked, seq)] = fence
    return held


def _remove(session: Session, going: Sequence[Ending]) -> None:
    jobs = [ending.seq for ending in going if not ending.parked]
    if jobs:
        seqs = json_list(jobs)
        session.run(queries.JOBS_DELETE, (seqs,))
        session.run(queries.PAYLOADS_DELETE, (seqs,))
    parked = [ending.seq for ending in going if ending.parked]
    if parked:
        session.run(queries.PARKED_DELETE, (json_list(parked),))


def _write(session: Session, going: Sequence[Ending]) -> None:
    copies = [copy for ending in going for copy in ending.copies]
    if copies:
        insert_jobs(session, copies)
    parks = [ending.park for ending in going if ending.park is not None]
    if parks:
        session.insert(queries.PARKED_COLUMNS, parks)
    records = [ending.record for ending in going if ending.record is not None]
    if records:
        write_records(session, records)
    replies = [reply for ending in going for reply in ending.replies]
    if replies:
        write_replies(session, replies)


def write_replies(session: Session, replies: Sequence[tuple[str, bytes]]) -> None:
    """Store replies whose inbox still exists; nobody would ever fetch the others."""
    addresses = json_list({address for address, _ in replies})
    living = {address for (address,) in session.rows(queries.INBOXES_KNOWN, (addresses,))}
    found = [reply for reply in replies if reply[0] in living]
    if found:
        session.insert(queries.REPLY_COLUMNS, found)
        session.effects.topics |= {INBOX + address for address, _ in found}
