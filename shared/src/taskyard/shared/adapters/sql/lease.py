"""Named locks: a row with a lease, and the holder's file lock for those who want it next."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.filelock import Sign, look_at
from taskyard.shared.adapters.sql.reaper import has_expired
from taskyard.shared.adapters.sql.unit import Unit
from taskyard.shared.broker import Owner
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.adapters.sql.session import Session, Value

#: Of the lease: a holder that could not renew stops relying on it this much before others may.
_SAFE_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Grab:
    """An attempt to take a lock, as a transaction.

    Attributes:
        name: of the lock.
        id: of the handle that wants it.
        fence: of this attempt.
        owner: what to tell others.
        lease_s: how long it stays taken without renewal.
        folder: of the owners' files.

    """

    name: str
    id: int
    fence: int
    owner: Owner
    lease_s: float
    folder: Path

    def __call__(self, session: Session) -> Owner | None:
        """Take the lock and return None, or return who has it."""
        for holder, host, pid, since, expires in session.rows(queries.LOCK_HOLDER, (self.name,)):
            if not has_expired(session, expires) and not _is_dead(session, holder, self.folder):
                return Owner(host=str(host), pid=int(str(pid)), since_ms=int(str(since)))
        session.run(
            queries.LOCK_PUT,
            {
                "name": self.name,
                "owner": self.id,
                "fence": self.fence,
                "host": self.owner.host,
                "pid": self.owner.pid,
                "since": self.owner.since_ms,
                "expires": session.lease_ms(self.lease_s),
            },
        )
        return None


def held_locks(session: Session, *, folder: Path) -> dict[str, Owner]:
    """Return who holds which lock; what the dead left behind is held by nobody."""
    return {
        str(name): Owner(host=str(host), pid=int(str(pid)), since_ms=int(str(since)))
        for name, holder, host, pid, since, expires in session.rows(queries.LOCKS_ALL)
        if not has_expired(session, expires) and not _is_dead(session, holder, folder)
    }


def _is_dead(session: Session, holder: Value, folder: Path) -> bool:
    for file, _ in session.rows(queries.OWNER_OF, (holder,)):
        sign, lock = look_at(folder / str(file))
        if lock is not None:
            lock.close()
        return sign is Sign.DEAD
    return False


class SqlLease:
    """See `Lease`."""

    def __init__(
        self,
        engine: Engine,
        grab: Grab,
        *,
        gone: Callable[[SqlLease], None],
    ) -> None:
        """Hold what is about to be grabbed; the lease is counted from now.

        Args:
            engine: of the handle.
            grab: how it is taken.
            gone: told when it is released or lost.

        """
        self.fence = grab.fence
        self._engine = engine
        self._grab = grab
        self._gone = gone
        self._over = asyncio.Event()
        self._ticks = SystemClock()
        self._renewed_s = self._ticks.monotonic_s()

    async def wait_lost(self) -> None:
        while not self._over.is_set():
            left_s = self._renewed_s + self._grab.lease_s * _SAFE_SHARE - self._ticks.monotonic_s()
            if left_s <= 0:
                self.lose()
                return
            try:
                async with asyncio.timeout(left_s):
                    await self._over.wait()
            except TimeoutError:
                continue  # it may have been renewed meanwhile

    async def confirm(self) -> bool:
        if self._over.is_set():
            return False
        at_s = self._ticks.monotonic_s()
        try:
            ours = await self._engine.write(self._renew, deadline_s=self._grab.lease_s * 0.4)
        except (StoreError, Unavailable):
            return False
        if ours:
            self.renewed(at_s)
        else:
            self.lose()
        return ours and not self._over.is_set()

    async def release(self) -> None:
        if self._over.is_set():
            return
        self.lose()
        with contextlib.suppress(StoreError, Unavailable):  # then it ends with its lease
            await self._engine.write(self._remove)

    def abandon(self) -> None:
        """Give the lock up without waiting, if it was taken at all."""
        self.lose()
        with contextlib.suppress(Unavailable):
            until_s = self._ticks.monotonic_s() + self._grab.lease_s
            self._engine.submit(Unit(self._remove, writes=True, deadline_s=until_s))

    def renewed(self, at_s: float) -> None:
        """Note that it was ours when it was renewed, `at_s` on the monotonic clock."""
        self._renewed_s = at_s

    def lose(self) -> None:
        """Tell whoever waits that it is not ours any more."""
        self._over.set()
        self._gone(self)

    def _renew(self, session: Session) -> bool:
        """Renew what is still ours, in one transaction: nobody can take it in between."""
        expires = session.lease_ms(self._grab.lease_s)
        session.run(queries.LOCKS_RENEW, {"expires": expires, "owner": self._grab.id})
        return any(
            fence == self.fence for (fence,) in session.rows(queries.LOCKS_OF, (self._grab.id,))
        )

    def _remove(self, session: Session) -> None:
        session.run(queries.LOCK_REMOVE, (self._grab.name, self._grab.id, self._grab.fence))
