"""The hooks around a queue's jobs that keep an application's database from being a worry."""

from __future__ import annotations

from typing import Any

from examples.database.pool import Pool
from taskyard.shared import Context, Hooks, Retry


class DatabaseCare(Hooks):
    """Closes connections before a long wait, and tries jobs again that the database let down.

    A server that restarts, or a firewall that forgets, breaks every connection at once: after the
    first error all idle ones are closed, so that the next job does not meet them.
    """

    idle_after_s = 5.0

    def __init__(self, pool: Pool[Any]) -> None:
        """Look after `pool`."""
        self.pool = pool

    async def on_error(self, ctx: Context[object], error: Exception) -> None:
        """Make a broken connection a retry, whatever the handler thinks of the error."""
        if isinstance(error, self.pool.broken):
            await self.pool.close_idle()
            raise Retry(f"database: {error}") from error

    async def on_idle(self) -> None:
        """Keep no connection that nobody needs: others want them too, and idle ones die."""
        await self.pool.close_idle()
