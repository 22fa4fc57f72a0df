"""Whether producers are to send nothing new: a mark that costs one confirm to look for.

The mark is a binding from the exchange `known` to its sink, under a key that no queue can have. While
there is none, which is nearly always, a mandatory and empty publish comes back: no channel is opened
for it, nothing is stored, and no log is read. Only who finds a mark reads the control log, which has
the last word: the mark of a drain that has ended is nobody's harm, and whoever sees it removes it.
Each drain has a mark of its own, told apart by an argument, so that this never removes a later one's.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp.channel import ChannelClosed
from taskyard.shared.adapters.amqp.control import follow_control
from taskyard.shared.adapters.amqp.fields import properties
from taskyard.shared.adapters.amqp.outgoing import Raw
from taskyard.shared.adapters.amqp.survey import Questions
from taskyard.shared.broker import PublishStatus
from taskyard.shared.control import DRAIN_KEY, ControlRecord, ControlUnavailable
from taskyard.shared.errors import Unavailable
from taskyard.shared.intents import in_force
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskyard.shared.adapters.amqp.core import Core

_log = get_logger(__name__)

#: The argument that tells the mark of one drain from another's: when it was asked for.
_AT: Final = "ty-at"


class DrainMark:
    """The mark of one broker, and what this process has read of the log because of it."""

    def __init__(self, core: Core) -> None:
        """Know nothing yet."""
        self._core = core
        self._position: int | None = None
        self._last: ControlRecord | None = None
        self._ended: set[int] = set()

    async def ask(self, deadline_s: float) -> ControlRecord | None:
        """Return the drain in force, if one is.

        Raises:
            Unavailable: the broker does not answer now.

        """
        if not await self._is_set(deadline_s):
            return None
        try:
            async with asyncio.timeout(deadline_s):
                await self._read()
        except (ControlUnavailable, Unavailable, TimeoutError) as error:
            if self._last is None:
                reason = f"its record cannot be read: {str(error) or 'no answer in time'}"
                return ControlRecord(key=DRAIN_KEY, op="drain", body={"reason": reason})
        found = in_force(self._last, self._core.clock.now_ms())
        if found is None:
            await self._tidy()
        return found

    async def keep(self, records: Iterable[ControlRecord]) -> None:
        """Set and remove marks as the records say that were just written to the log.

        Raises:
            ControlUnavailable: that is not possible now; writing the records again is harmless.

        """
        drains = [record for record in records if record.key == DRAIN_KEY]
        if not drains:
            return
        if drains[-1].op == "drain":
            try:
                await self._ask("queue_bind", drains[-1].at)
            except (ChannelClosed, Unavailable) as error:
                msg = f"the intent is recorded, but producers cannot be told of it: {error}"
                raise ControlUnavailable(msg) from error
        try:
            await self._read()
            await self._tidy()
        except (ControlUnavailable, Unavailable) as error:  # whoever sees such a mark removes it
            _log.info("the mark of a drain that has ended is left", problem=str(error))

    async def _is_set(self, deadline_s: float) -> bool:
        publisher, known = self._core.publisher, self._core.names.known
        if known in publisher.forbidden:
            return False  # asking again would end the channel that jobs are published on
        mark = Raw(known, self._core.names.draining, properties(delivery_mode=1), b"")
        (receipt,) = await publisher.publish_raw([mark], deadline_s=deadline_s)
        if known in publisher.forbidden:
            _log.warning(
                "this user may not ask whether producers are to send nothing: jobs are sent in any "
                "case; let it write to the exchange",
                exchange=known,
            )
            return False
        if receipt.status is PublishStatus.UNROUTABLE:
            return False
        if receipt.status in {PublishStatus.CONFIRMED, PublishStatus.REJECTED}:
            return True  # refused by a sink without a majority, but there is a way to it
        raise Unavailable(receipt.detail)

    async def _read(self) -> None:
        """Read what was written to the log since the last time."""
        async with aclosing(follow_control(self._core, self._position)) as batches:
            async for batch in batches:
                if batch.anew:
                    self._last = None
                self._take(batch.records)
                self._position = batch.position
                if batch.caught_up:
                    return

    def _take(self, records: Sequence[ControlRecord]) -> None:
        for record in records:
            if record.key == DRAIN_KEY:
                if self._last is not None and self._last.at != record.at:
                    self._ended.add(self._last.at)
                self._last = record

    async def _tidy(self) -> None:
        """Remove the marks of drains that are over, as far as this user may."""
        last = self._last
        if last is not None and in_force(last, self._core.clock.now_ms()) is None:
            self._ended.add(last.at)
        for at_ms in list(self._ended):
            try:
                await self._ask("queue_unbind", at_ms)
            except (ChannelClosed, Unavailable) as error:
                _log.info("the mark of a drain that has ended is left", problem=str(error))
                return
            self._ended.discard(at_ms)

    async def _ask(self, method: str, at_ms: int) -> None:
        names = self._core.names
        async with Questions(await self._core.reader()) as questions:
            await questions.ask(
                method,
                queue=names.known,
                exchange=names.known,
                routing_key=names.draining,
                arguments={_AT: at_ms},
            )
