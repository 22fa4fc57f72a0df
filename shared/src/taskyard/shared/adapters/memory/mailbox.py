"""Waking a task from any thread: handles of one state may live on several event loops."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


class Signal:
    """Wakes the one task that waits for it; may be set from any thread."""

    __slots__ = ("_event", "_loop")

    def __init__(self) -> None:
        """Belong to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter, or let its next wait return at once."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            self._event.set()
            return
        with suppress(RuntimeError):  # its loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until set, at most `timeout_s` seconds; returns whether it was set."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Mailbox(Generic[T]):
    """Items put from any thread for one task that takes them."""

    __slots__ = ("_items", "_signal", "closed")

    def __init__(self) -> None:
        """Start empty, on the running loop."""
        self._items: deque[T] = deque()
        self._signal = Signal()
        self.closed = False

    def put(self, item: T) -> None:
        """Add one item."""
        self._items.append(item)
        self._signal.set()

    def put_all(self, items: Iterable[T]) -> None:
        """Add items in order."""
        self._items.extend(items)
        self._signal.set()

    def drain(self) -> list[T]:
        """Return what has arrived, without waiting."""
        items = list(self._items)
        self._items.clear()
        return items

    def close(self) -> None:
        """Let every take return empty once what has arrived is taken."""
        self.closed = True
        self._signal.set()

    def wake(self) -> None:
        """Let a waiting `wait` return, so that its caller looks again."""
        self._signal.set()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait until something is there, it is closed or woken, at most `timeout_s` seconds."""
        if not self._items and not self.closed:
            await self._signal.wait(timeout_s)

    async def take(self) -> list[T]:
        """Wait for items and return all; empty once it is closed."""
        while not self._items and not self.closed:
            await self._signal.wait()
        return self.drain()
