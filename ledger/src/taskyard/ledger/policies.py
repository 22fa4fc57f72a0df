"""The recording policies in force, as the control log tells them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.broker_setup.intents import read_intents
from taskyard.shared.control import ControlUnavailable
from taskyard.shared.errors import Unavailable
from taskyard.shared.logs import get_logger
from taskyard.shared.recording import EVERYTHING, Policy, policies_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskyard.shared.broker import Broker

_log = get_logger(__name__)

#: Seconds before a log that cannot be read is tried again.
_TRY_S: Final = 2.0


class Policies:
    """What is recorded of each queue. Belongs to the event loop.

    A queue's first policy is in the control log before the queue exists. So whoever meets a queue
    for the first time reads the log to its end, and knows; `run` follows what changes later.
    """

    def __init__(self, broker: Broker) -> None:
        """Ask a broker's control log."""
        self._broker = broker
        self._known: dict[str, Policy] = {}
        self._seen: set[str] = set()

    def of(self, queue: str) -> Policy:
        """Return the policy of a queue that was looked for."""
        return self._known.get(queue, EVERYTHING)

    async def look(self, queues: Iterable[str]) -> None:
        """See to it that the policies of these queues are known.

        Raises:
            Unavailable: the control log cannot be read now.

        """
        new = set(queues) - self._seen
        if not new or not self._broker.capabilities.control:
            return
        try:
            self._known = policies_of((await read_intents(self._broker)).others)
        except ControlUnavailable as error:
            raise Unavailable(str(error)) from error
        self._seen |= new

    async def run(self) -> None:
        """Follow the log until cancelled."""
        if not self._broker.capabilities.control:
            return
        after: int | None = None
        while True:
            try:
                async for batch in self._broker.follow_control(after):
                    self._known |= policies_of({record.key: record for record in batch.records})
                    after = batch.position
            except (ControlUnavailable, Unavailable) as error:
                _log.debug("recording policies are not followed now", problem=str(error))
            await asyncio.sleep(_TRY_S)
