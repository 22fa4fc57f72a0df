"""A small pool of connections that survives its database, for drivers that bring none.

Where the driver has a pool, use that one, with its check before use (SQLAlchemy: `pool_pre_ping`,
`pool_recycle`), and write `DatabaseCare` on top of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar


class Connection(Protocol):
    """What the pool needs of a driver's connection."""

    async def ping(self) -> None:
        """Make the shortest round trip; raise when the connection is broken."""
        ...

    async def close(self) -> None:
        """Close it, broken or not."""
        ...


C = TypeVar("C", bound=Connection)


class Pool(Generic[C]):
    """Keeps connections between jobs, and hands out none that is known to be broken."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        *,
        broken: tuple[type[Exception], ...] = (OSError, EOFError),
        check_after_s: float = 1.0,
        recycle_after_s: float = 3600.0,
    ) -> None:
        """Open nothing yet.

        Args:
            connect: opens a connection.
            broken: what a connection raises that is not to be used again.
            check_after_s: ask a connection that has lain idle for longer whether it still works.
            recycle_after_s: close a connection that is older, before somebody in between does.

        """
        self.broken = broken
        self._connect = connect
        self._check_after_s = check_after_s
        self._recycle_after_s = recycle_after_s
        #: Connections that nobody uses: when each was opened and last used (monotonic, seconds).
        self._idle: list[tuple[C, float, float]] = []

    @property
    def idle(self) -> int:
        """How many connections are open and not in use."""
        return len(self._idle)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[C]:
        """Lend a connection that works; it comes back unless it broke, or was left in mid-query."""
        connection, opened_s = await self._take()
        try:
            yield connection
        except Exception as error:
            if isinstance(error, self.broken):
                await connection.close()
            else:
                self._idle.append((connection, opened_s, time.monotonic()))
            raise
        except BaseException:  # cancelled: nobody knows what it was doing
            await connection.close()
            raise
        self._idle.append((connection, opened_s, time.monotonic()))

    async def close_idle(self) -> None:
        """Close what nobody uses; the next job opens anew."""
        idle, self._idle = self._idle, []
        for connection, _, _ in idle:
            await connection.close()

    async def _take(self) -> tuple[C, float]:
        while self._idle:
            connection, opened_s, used_s = self._idle.pop()
            now_s = time.monotonic()
            old = now_s - opened_s >= self._recycle_after_s
            fresh = now_s - used_s < self._check_after_s
            if not old and (fresh or await self._works(connection)):
                return connection, opened_s
            await connection.close()
        return await self._connect(), time.monotonic()

    async def _works(self, connection: C) -> bool:
        try:
            await connection.ping()
        except self.broken:
            return False
        return True
