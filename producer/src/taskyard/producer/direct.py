"""Straight to the broker, connecting first if need be, unless operators want nothing new."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from taskyard.producer.drain_gate import DrainGate
    from taskyard.shared.broker import Broker
    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope

#: Publishes envelopes within so many seconds, and says what became of each.
Publish = Callable[[Sequence["Envelope"], float], Awaitable[list[Receipt]]]


class Direct:
    """Publishes to one broker."""

    def __init__(
        self,
        broker: Broker,
        ensure_open: Callable[[float], Awaitable[None]],
        clock: Clock,
        *,
        gate: DrainGate,
    ) -> None:
        """Publish through `broker`, as far as `gate` lets jobs through.

        `ensure_open` connects it within so many seconds.
        """
        self._broker = broker
        self._gate = gate
        self._ensure_open = ensure_open
        self._clock = clock

    async def publish(self, envelopes: Sequence[Envelope], deadline_s: float) -> list[Receipt]:
        """Publish within `deadline_s` seconds and say what became of each."""
        since_s = self._clock.monotonic_s()
        try:
            await self._ensure_open(deadline_s)
            ends_s, now_s = since_s + deadline_s, self._clock.monotonic_s()
            if now_s >= self._gate.due_s:
                await self._gate.refresh(envelopes, ends_s - now_s)
                now_s = self._clock.monotonic_s()
            left_s = max(ends_s - now_s, 0.0)
            if self._gate.drain is None:
                return await self._broker.publish(envelopes, deadline_s=left_s)
            publish = partial(self._broker.publish, deadline_s=left_s)
            return await self._gate.guard(envelopes, publish)
        except Unavailable as error:
            return [Receipt(status=PublishStatus.UNAVAILABLE, detail=str(error))] * len(envelopes)
