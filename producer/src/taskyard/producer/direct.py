"""Straight to the broker, connecting first if need be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker
    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope

#: Publishes envelopes within so many seconds, and says what became of each.
Publish = Callable[[Sequence["Envelope"], float], Awaitable[list[Receipt]]]


class Direct:
    """Publishes to one broker."""

    def __init__(
        self, broker: Broker, ensure_open: Callable[[float], Awaitable[None]], clock: Clock
    ) -> None:
        """Publish through `broker`; `ensure_open` connects it within so many seconds."""
        self._broker = broker
        self._ensure_open = ensure_open
        self._clock = clock

    async def publish(self, envelopes: Sequence[Envelope], deadline_s: float) -> list[Receipt]:
        """Publish within `deadline_s` seconds and say what became of each."""
        since_s = self._clock.monotonic_s()
        try:
            await self._ensure_open(deadline_s)
            left_s = deadline_s - (self._clock.monotonic_s() - since_s)
            return await self._broker.publish(envelopes, deadline_s=max(left_s, 0.0))
        except Unavailable as error:
            return [Receipt(status=PublishStatus.UNAVAILABLE, detail=str(error))] * len(envelopes)
