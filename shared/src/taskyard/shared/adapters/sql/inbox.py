"""An address for replies: rows that are taken and removed in one transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.session import json_list
from taskyard.shared.adapters.sql.watch import INBOX
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.adapters.sql.session import Session

#: How long to wait for the database before looking again.
_AGAIN_S = 0.25


class SqlInbox:
    """See `Inbox`."""

    def __init__(
        self, engine: Engine, address: str, owner: int, *, gone: Callable[[SqlInbox], None]
    ) -> None:
        """Belong to a handle; `register` makes it exist.

        Args:
            engine: of the handle.
            address: unique.
            owner: the handle's id.
            gone: told when it is closed.

        """
        self._engine = engine
        self._address = address
        self._owner = owner
        self._gone = gone
        self._is_closed = False
        self._buffer: list[bytes] = []
        self._something = asyncio.Event()
        self._something.set()
        engine.watch.add(INBOX + address, self._something.set)

    @property
    def address(self) -> str:
        return self._address

    @property
    def present(self) -> bool:
        return not self._is_closed

    async def take(self) -> Sequence[bytes]:
        while not self._buffer:
            if self._is_closed:
                return []
            await self._something.wait()
            self._something.clear()
            try:
                await self._engine.write(self._fetch, probe=self._probe, done=self._arrive)
            except (StoreError, Unavailable):
                self._something.set()
                await asyncio.sleep(_AGAIN_S)
        taken, self._buffer = self._buffer, []
        return taken

    async def close(self) -> None:
        if self._is_closed:
            return
        self.end()
        self._gone(self)
        try:
            await self._engine.write(self._remove)
        except (StoreError, Unavailable):
            return  # it ends with its handle

    def register(self, session: Session) -> None:
        """Make the address known to those who reply."""
        session.run(queries.INBOX_PUT, (self._address, self._owner))

    def end(self) -> None:
        """Let takes return empty for good."""
        self._is_closed = True
        self._engine.watch.discard(INBOX + self._address, self._something.set)
        self._something.set()

    def _arrive(self, replies: list[bytes] | None) -> None:
        """Keep what was fetched, also when the take that asked for it was cancelled."""
        if replies:
            self._buffer += replies
            self._something.set()  # there may be more than one page

    def _probe(self, session: Session) -> list[bytes] | None:
        return None if session.one(queries.REPLY_PROBE, (self._address,)) == (1,) else []

    def _fetch(self, session: Session) -> list[bytes]:
        found = session.packed(
            queries.REPLY_ROWS, {"address": self._address}, numbers=("seq",), blobs=("body",)
        )
        if found:
            session.run(queries.REPLIES_DELETE, (json_list(found.numbers[0]),))
        return found.blobs[0]

    def _remove(self, session: Session) -> None:
        session.run(queries.REPLIES_CLEAR, (self._address,))
        session.run(queries.INBOX_REMOVE, (self._address,))
