"""A limit on the bytes that were handed to the database and are not answered yet."""

from __future__ import annotations

import asyncio
from collections import deque


class ByteGate:
    """First come, first served; one that is larger than the limit goes alone."""

    def __init__(self, limit: int) -> None:
        """Let at most `limit` bytes be under way."""
        self._limit = limit
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size: int, deadline_s: float) -> bool:
        """Wait for room for `size` bytes; False when there is none within the deadline."""
        if not self._waiting and self._fits(size):
            self._taken += size
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (size, future)
        self._waiting.append(place)
        try:
            async with asyncio.timeout(deadline_s):
                await future
        except TimeoutError:
            self._withdraw(place)
            return False
        except asyncio.CancelledError:
            self._withdraw(place)
            raise
        return True

    def leave(self, size: int) -> None:
        """Give the room back."""
        self._taken -= size
        self._admit()

    def _fits(self, size: int) -> bool:
        return not self._taken or self._taken + size <= self._limit

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, future = self._waiting.popleft()
            if not future.done():
                self._taken += size
                future.set_result(None)

    def _withdraw(self, place: tuple[int, asyncio.Future[None]]) -> None:
        size, future = place
        if future.done() and not future.cancelled():
            self.leave(size)  # admitted in the very moment of giving up
        elif place in self._waiting:
            self._waiting.remove(place)
            self._admit()
