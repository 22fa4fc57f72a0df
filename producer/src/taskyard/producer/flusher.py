"""Empties a spool into the broker, in order, as soon as the broker takes jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.broker import PublishStatus, Settlement
from taskyard.shared.clock import SystemClock
from taskyard.shared.envelope import UNREADABLE, Parking
from taskyard.shared.errors import Unavailable
from taskyard.shared.logs import get_logger
from taskyard.shared.spool import unwrap
from taskyard.shared.states import ParkReason

if TYPE_CHECKING:
    from taskyard.producer.direct import Publish
    from taskyard.producer.replies import Replies
    from taskyard.producer.spool import Spool
    from taskyard.shared.broker import Broker, Consumer, Delivery, Receipt
    from taskyard.shared.envelope import Envelope

_log = get_logger(__name__)

#: Seconds that the broker gets for one batch.
_DEADLINE_S: Final = 5.0
#: Seconds between two tries: the first, and the longest.
_PAUSE_FIRST_S: Final = 0.1
_PAUSE_LONGEST_S: Final = 2.0
#: Seconds that the address of replies may be missing before jobs go out all the same, and between
#: two looks.
_ADDRESS_S: Final = 5.0
_ADDRESS_LOOK_S: Final = 0.02
#: Seconds between two looks at a broker that is blocked, or a file that another process empties.
_LOOK_S: Final = 0.1


class Flusher:
    """Belongs to one event loop.

    Attributes:
        moving: whether the last batch went through, so that there will be room soon.
        met: whether the broker was ever reached; until then a publish is what connects.
        sent: jobs that it has handed to the broker.
        ended: entries that are out of the file.

    """

    def __init__(
        self, broker: Broker, publish: Publish, spool: Spool, replies: Replies | None = None
    ) -> None:
        """Empty `spool` through `publish`, while `broker` takes publishes.

        Args:
            broker: see above.
            publish: hands envelopes to it, within so many seconds.
            spool: to be emptied.
            replies: the outcomes that this process waits for, some perhaps of jobs in there.

        """
        self.moving = self.met = False
        self.sent = self.ended = 0
        # What the broker has, and the file did not let go: it comes again, and is not sent again.
        self._handed: set[str] = set()
        self._broker = broker
        self._publish = publish
        self._spool = spool
        self._replies = replies
        self._pause_s = _PAUSE_FIRST_S
        self._clock = SystemClock()

    async def run(self) -> None:
        """Return once the spool is empty, whoever has emptied it."""
        while await self._spool.count():
            lease = await self._spool.lock()
            if lease is None:
                await asyncio.sleep(_LOOK_S)
                continue
            try:
                await self._drain()
            finally:
                await lease.release()
        self.moving = False

    async def _drain(self) -> None:
        consumer = await self._spool.consume()
        try:
            while await self._spool.count():
                await self._forward(await consumer.take())
        finally:
            await _stop(consumer)

    async def _forward(self, batch: Sequence[Delivery]) -> None:
        todo = await self._unsent(await self._readable(batch))
        while todo:
            await self._passable()
            await self._answerable(envelope for _, envelope in todo)
            receipts = await self._publish([envelope for _, envelope in todo], _DEADLINE_S)
            ended, left = self._judge(todo, receipts)
            await self._end(ended)
            todo = left
            self.moving = not left
            if left:
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(self._pause_s * 2, _PAUSE_LONGEST_S)
            else:
                self._pause_s = _PAUSE_FIRST_S

    async def _readable(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, Envelope]]:
        """Open entries; what cannot be read is kept aside."""
        found: list[tuple[Delivery, Envelope]] = []
        damaged: list[Settlement] = []
        for delivery in batch:
            try:
                found.append((delivery, unwrap(delivery.envelope)))
            except UNREADABLE as error:
                damaged.append(self._aside(delivery, ParkReason.INVALID, str(error)))
        await self._end(damaged)
        return found

    async def _unsent(
        self, todo: list[tuple[Delivery, Envelope]]
    ) -> list[tuple[Delivery, Envelope]]:
        """Give up what the broker has got already; return the others."""
        if not self._handed:
            return todo
        handed = [pair for pair in todo if pair[0].envelope.message_id in self._handed]
        left = [pair for pair in todo if pair[0].envelope.message_id not in self._handed]
        await self._end([Settlement(delivery=entry) for entry, _ in handed])
        return left

    async def _end(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            gone = [each for each in settlements if each.park is None]
            entries = {each.delivery.envelope.message_id for each in gone}
            self._handed |= entries
            await self._spool.settle(settlements)
            self._handed -= entries
            self.ended += len(settlements)

    async def _passable(self) -> None:
        """Wait while the broker is known to take nothing: what is written then may arrive late.

        And while it is away again: whether operators want anything new is asked when it is back.
        """
        self.met = self.met or self._broker.connected
        while self._broker.blocked or (self.met and not self._broker.connected):
            self.moving = False
            await asyncio.sleep(_LOOK_S)

    async def _answerable(self, envelopes: Iterable[Envelope]) -> None:
        """Wait for the address of replies, which a lost connection takes along and which is back a
        moment after the broker: the outcome of a job that ends before is lost.
        """
        replies = self._replies
        if replies is None or not any(replies.address in each.reply for each in envelopes):
            return
        ends_s = self._clock.monotonic_s() + _ADDRESS_S
        while True:
            if replies.present or self._clock.monotonic_s() >= ends_s:
                return
            await asyncio.sleep(_ADDRESS_LOOK_S)

    def _judge(
        self, todo: Sequence[tuple[Delivery, Envelope]], receipts: Sequence[Receipt]
    ) -> tuple[list[Settlement], list[tuple[Delivery, Envelope]]]:
        """Return what ends here, and what is tried again."""
        ended: list[Settlement] = []
        left: list[tuple[Delivery, Envelope]] = []
        for (delivery, envelope), receipt in zip(todo, receipts, strict=True):
            if receipt.status is PublishStatus.CONFIRMED:
                self.sent += 1
                ended.append(Settlement(delivery=delivery))
            elif receipt.status is PublishStatus.UNROUTABLE:
                detail = receipt.detail or f"queue {envelope.queue!r} does not exist on the broker"
                ended.append(self._aside(delivery, ParkReason.UNROUTABLE, detail))
            else:
                left.append((delivery, envelope))
        return ended, left

    def _aside(self, delivery: Delivery, reason: ParkReason, detail: str) -> Settlement:
        entry = delivery.envelope
        _log.error(
            "a spooled job is kept aside: see taskyard relay --refused",
            job_id=entry.id,
            spool=self._spool.url,
            reason=reason.value,
            detail=detail,
        )
        parking = Parking(reason=reason.value, at_ms=self._clock.now_ms(), detail=detail)
        return Settlement(delivery=delivery, park=msgspec.structs.replace(entry, parking=parking))


async def _stop(consumer: Consumer) -> None:
    try:
        await consumer.stop()
    except Unavailable:
        return  # the file is closed, and what was taken is there again
