"""Lets jobs through to the broker, or refuses them while operators want nothing new.

Nothing follows the control log for it: the broker is asked before the first job, and again by the
first that is sent two seconds or more after the last answer. Who sends nothing asks nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.errors import TaskyardError
from taskyard.shared.intents import in_force

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.clock import Clock
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope

#: How old an answer may be, in seconds: so long after `taskyard drain on` a job may still be sent.
FRESH_S: Final = 2.0
#: What the question may take of a publish's time, and at most, in seconds.
_SHARE: Final = 0.5
_LONGEST_S: Final = 5.0


class DrainGate:
    """Belongs to one event loop.

    Attributes:
        due_s: when the broker is to be asked again, on the monotonic clock.
        drain: the last answer; it holds while the broker cannot be asked.

    """

    def __init__(self, broker: Broker, clock: Clock) -> None:
        """Ask `broker`."""
        self.due_s = clock.monotonic_s()
        self.drain: ControlRecord | None = None
        self._broker = broker
        self._clock = clock
        self._asking: asyncio.Task[None] | None = None

    async def refresh(self, envelopes: Sequence[Envelope], left_s: float) -> None:
        """Ask the broker before `envelopes` are sent, if an answer could keep one of them back.

        Args:
            envelopes: to be sent.
            left_s: seconds until they are to be confirmed; the question takes half of that at most.

        """
        if not self._broker.connected or self._broker.blocked or all(map(_is_begun, envelopes)):
            return
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="is it drained")
        await asyncio.wait([self._asking], timeout=min(left_s * _SHARE, _LONGEST_S))

    async def guard(
        self,
        envelopes: Sequence[Envelope],
        send: Callable[[Sequence[Envelope]], Awaitable[list[Receipt]]],
    ) -> list[Receipt]:
        """Hand on to `send` what may be sent, and return a receipt for each."""
        drain = None
        if self.drain is not None:
            drain = in_force(self.drain, self._broker.now_ms())
        if drain is None:
            return await send(envelopes)
        refusal = Receipt(PublishStatus.DRAINING, drain=drain)
        begun = [envelope for envelope in envelopes if _is_begun(envelope)]
        sent = iter(await send(begun)) if begun else iter(())
        return [next(sent) if _is_begun(envelope) else refusal for envelope in envelopes]

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        try:
            self.drain = await self._broker.draining(deadline_s=_LONGEST_S)
        except TaskyardError:
            pass  # the last answer holds; that the broker is away shows with the job itself
        finally:
            self.due_s = self._clock.monotonic_s() + FRESH_S
            self._asking = None


def _is_begun(envelope: Envelope) -> bool:
    """Tell whether a job is part of work that runs already, which is to come to its end."""
    return envelope.parent is not None
