"""Clearing up after owners that died, or that stopped moving for longer than their lease."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.filelock import FileLock, Sign, look_at
from taskyard.shared.adapters.sql.watch import FEED, QUEUE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from taskyard.shared.adapters.sql.session import Row, Session

#: In comparisons of a lease: no `hold` keeps a dead owner's job.
_ALWAYS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Fallen:
    """An owner to clear up after.

    Attributes:
        id: the owner's.
        lock: its file, locked by us; None when only its lease ran out.
        is_gone: whether nothing is left to live for it (its file was removed, too).

    """

    id: int
    lock: FileLock | None
    is_gone: bool


class Reaper:
    """Looks at every other owner's file and lease. Lives in the engine's thread."""

    def __init__(
        self, folder: Path, own_id: int, transact: Callable[[Callable[[Session], object]], bool]
    ) -> None:
        """Belong to a handle.

        Args:
            folder: of the owners' files.
            own_id: whom not to look at.
            transact: runs a function in a write transaction of the engine's thread and returns
                whether it was committed.

        """
        self._folder = folder
        self._own_id = own_id
        self._transact = transact

    def __call__(self, session: Session) -> None:
        """Clear up, if there is anything to clear up."""
        fallen = self._fallen(session)
        if not fallen:
            return
        try:
            if self._transact(lambda s: self._clear(s, fallen)):
                for one in fallen:
                    if one.lock is not None:
                        one.lock.remove()
        finally:
            for one in fallen:
                if one.lock is not None:
                    one.lock.close()

    def _fallen(self, session: Session) -> list[Fallen]:
        found: list[Fallen] = []
        for row in session.rows(queries.OWNERS_OTHER, (self._own_id,)):
            one = self._judge(session, row)
            if one is not None:
                found.append(one)
        return found

    def _judge(self, session: Session, row: Row) -> Fallen | None:
        id, file, expires, holds = row
        assert isinstance(id, int)  # noqa: S101  # the column's type
        sign, lock = look_at(self._folder / str(file))
        if sign is Sign.DEAD:
            return Fallen(id, lock, is_gone=True)
        if has_expired(session, expires) and (holds or sign is Sign.UNKNOWN):
            return Fallen(id, None, is_gone=sign is Sign.UNKNOWN)
        return None

    def _clear(self, session: Session, fallen: Sequence[Fallen]) -> None:
        for one in fallen:
            row = session.rows(queries.OWNER_OF, (one.id,))
            if not row:
                continue  # it said goodbye meanwhile
            if one.lock is None and not has_expired(session, row[0][1]):
                continue  # it moves again
            if one.is_gone:
                bury(session, one.id)
            else:
                requeue(session, one.id, now=session.lease_ms())


def has_expired(session: Session, expires: object) -> bool:
    """Tell whether a lease is over; one that is absurdly long is from before a restart."""
    left_ms = int(str(expires)) - session.lease_ms()
    return left_ms <= 0 or left_ms > 86_400_000


def requeue(session: Session, owner: int, *, now: int = _ALWAYS) -> None:
    """Put back what an owner holds, charged as a failure.

    Args:
        session: in a write transaction.
        owner: whose.
        now: jobs held (`extend`) for longer than this instant of the leases' clock stay.

    """
    concerned = session.rows(queries.OWNER_QUEUES, (owner,))
    session.run(queries.JOBS_REQUEUE, {"owner": owner, "now": now})
    session.run(queries.PARKED_FREE_OWNER, (owner,))
    if session.run(queries.FEED_FREE_OWNER, (owner,)):
        session.effects.topics.add(FEED)
    session.effects.topics |= {QUEUE + str(name) for (name,) in concerned}


def bury(session: Session, owner: int) -> None:
    """Put back what an owner holds and remove all that was its own."""
    requeue(session, owner)
    for statement in (
        queries.LOCKS_REMOVE_OWNER,
        queries.CONSUMERS_REMOVE_OWNER,
        queries.REPLIES_REMOVE_OWNER,
        queries.INBOXES_REMOVE_OWNER,
        queries.OWNER_REMOVE,
    ):
        session.run(statement, (owner,))


def sweep_files(session: Session, folder: Path, older_than_s: float) -> None:
    """Remove dead files that no row knows; they are of processes that died while they registered.

    Args:
        session: to read the rows.
        folder: of the owners' files.
        older_than_s: on the file system's clock; a younger one may be about to get its row.

    """
    if not folder.is_dir():
        return
    known = {str(name) for (name,) in session.rows(queries.OWNER_FILES)}
    limit_s = session.clock.now_ms() / 1000 - older_than_s
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.name not in known and path.stat().st_mtime < limit_s:
                sign, lock = look_at(path)
                if sign is Sign.DEAD and lock is not None:
                    lock.remove()
