"""Telling whoever listens how the connection is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from taskyard.shared.broker import BrokerEvent


class Announcer:
    """Hands each event to every listener; the end of the handle ends them."""

    def __init__(self) -> None:
        """Have no listeners."""
        self._listeners: set[asyncio.Queue[BrokerEvent | None]] = set()

    def tell(self, event: BrokerEvent) -> None:
        """Hand an event to every listener."""
        for listener in self._listeners:
            listener.put_nowait(event)

    def end(self) -> None:
        """End every listener, once it has heard everything."""
        for listener in self._listeners:
            listener.put_nowait(None)

    async def listen(self, present: Callable[[], BrokerEvent]) -> AsyncIterator[BrokerEvent]:
        """Yield the present state, then each change of it."""
        listener: asyncio.Queue[BrokerEvent | None] = asyncio.Queue()
        listener.put_nowait(present())
        self._listeners.add(listener)
        try:
            while (event := await listener.get()) is not None:
                yield event
        finally:
            self._listeners.discard(listener)
