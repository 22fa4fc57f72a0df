"""Keeping what a handle holds: its lease, in one row for all jobs, and its locks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.adapters.sql.lease import SqlLease
    from taskyard.shared.adapters.sql.presence import Presence
    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.adapters.sql.timing import Timing


class Keeper:
    """Renews on the loop, not in the thread: a loop that hangs must lose what it holds."""

    def __init__(self, engine: Engine, presence: Presence, timing: Timing) -> None:
        """Hold no lock yet."""
        self._engine = engine
        self._presence = presence
        self._timing = timing
        self._leases: set[SqlLease] = set()
        self._first_lock = asyncio.Event()
        self._ticks = SystemClock()

    def add(self, lease: SqlLease) -> None:
        """Renew this lock, too."""
        self._leases.add(lease)
        self._first_lock.set()

    def discard(self, lease: SqlLease) -> None:
        """Stop renewing a lock."""
        self._leases.discard(lease)
        if not self._leases:
            self._first_lock.clear()

    def lose_all(self) -> None:
        """End every lock, since the handle ends."""
        for lease in list(self._leases):
            lease.lose()

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await self._pause()
            try:
                await self._renew()
            except (StoreError, Unavailable):
                continue  # the leases run on; what is lost meanwhile is noticed by its fence

    async def _pause(self) -> None:
        if self._leases:
            await asyncio.sleep(self._timing.lock_lease_s / 4)
            return
        try:
            async with asyncio.timeout(self._timing.lease_s / 3):
                await self._first_lock.wait()
        except TimeoutError:
            return

    async def _renew(self) -> None:
        at_s = self._ticks.monotonic_s()
        before = list(self._leases)
        ours = await self._engine.write(
            self._write, deadline_s=min(self._timing.lock_lease_s, self._timing.lease_s) / 3
        )
        for lease in before:
            if lease.fence in ours:
                lease.renewed(at_s)
            else:
                lease.lose()

    def _write(self, session: Session) -> set[int]:
        self._presence.renew(session)
        expires = session.lease_ms(self._timing.lock_lease_s)
        session.run(queries.LOCKS_RENEW, {"expires": expires, "owner": self._presence.id})
        rows = session.rows(queries.LOCKS_OF, (self._presence.id,))
        return {int(str(fence)) for (fence,) in rows}
