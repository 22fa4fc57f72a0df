"""Parking lots: looked at and emptied without disturbing what stays.

A lot is read by taking all of it at once, unacknowledged, and giving back what stays by closing the
channel. All of it: returned jobs form a line of their own, so a part that comes back would end up
behind the rest. The broker hands a consumer at most 2 000, so a longer lot takes several; nothing
is on its way by halves, whoever is killed when. Two who look at once would each see a part,
so they take turns, by an exclusive queue; after a while the second looks anyway.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.adapters.amqp import wire
from taskyard.shared.adapters.amqp.channel import (
    ACCESS_REFUSED,
    NOT_FOUND,
    Channel,
    ChannelClosed,
)
from taskyard.shared.adapters.amqp.consumer import EXACT_COUNTS
from taskyard.shared.adapters.amqp.intake import Intake
from taskyard.shared.broker import ORPHANS, ParkedJob
from taskyard.shared.envelope import Parking
from taskyard.shared.errors import ConfigurationError, Unavailable, UnknownQueue

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from typing import Self

    from taskyard.shared.adapters.amqp.core import Core
    from taskyard.shared.adapters.amqp.frames import Message
    from taskyard.shared.adapters.amqp.intake import Token
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.broker import Delivery, Selection

_ORPHANED: Final = Parking(reason="unroutable", detail="its queue did not exist any more")

#: The most that RabbitMQ hands to one consumer of a quorum queue.
_PER_CONSUMER: Final = 2000
#: Jobs that do not come within this time are in other hands.
_QUIET_S: Final = 3.0
#: What a reader gives back, or a killed one held, is ready again after a moment. A lot that seems
#: empty is asked for again after these gaps.
_BACK_S: Final = (0.02, 0.05)
_GIVEN_BACK_S: Final = 2.0
#: Gets after the last ack (see `_see_settled`): two, and one in case the second came too soon.
_FLUSH_ROUNDS: Final = 3
#: How long another's look at the same lot is waited for, and how often it is tried.
_TURN_S: Final = 8.0
_POLL_S: Final = 0.4
#: In what the broker says when another consumer has the queue; a lack of permission has that code too.
_TAKEN: Final = "exclusive"
#: How long the broker lets us hold jobs, where that is ours to say.
_PATIENCE_MS: Final = 24 * 3600 * 1000


async def parked(core: Core, queue: str) -> AsyncGenerator[ParkedJob, None]:
    """Yield what is parked, the longest parked first; all stays as it is.

    Raises:
        UnknownQueue: the queue has no parking lot.
        ConfigurationError: this user may not look.
        Unavailable: the connection is lost on the way.

    """
    position = 0
    async with _Lot(core, queue) as lot:
        while (message := await lot.next()) is not None:
            yield ParkedJob(envelope=lot.delivery(message).envelope, position=position)
            position += 1


async def take_parked(
    core: Core, queue: str, select: Selection
) -> AsyncGenerator[Sequence[Delivery], None]:
    """Yield matching jobs out of a lot, in its order, in batches that are each to be settled.

    Only what was in the lot at first: a job that is parked again meanwhile is not met twice.
    What is not settled when this ends stays where it was.

    Raises:
        UnknownQueue: the queue has no parking lot.
        ConfigurationError: this user may not look.
        Unavailable: the connection is lost on the way.

    """
    left = select.limit
    if left == 0:
        return
    batch: list[Delivery] = []
    async with _Lot(core, queue) as lot:
        while (message := await lot.next()) is not None:
            delivery = lot.delivery(message, lot.arrived(message))
            if not select.matches(delivery.envelope):
                continue
            batch.append(delivery)
            if left is not None:
                left -= 1
                if left == 0:
                    break
            if len(batch) == select.batch:
                yield batch
                batch = []
        if batch:
            yield batch


# A class, not a generator in disguise: when a loop ends, asyncio closes all generators at once,
# also those that run inside of others.
class _Turn:
    """The right to look at a lot, or a wait that was long enough."""

    def __init__(self, link: Link, name: str) -> None:
        """Ask for it by an exclusive queue."""
        self._link = link
        self._name = name
        self._channel: Channel | None = None

    async def wait(self) -> None:
        """Wait for our turn."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _TURN_S
        while self._channel is None and loop.time() < until:
            channel = await self._link.channel()
            try:
                await channel.call(
                    "queue_declare", queue=self._name, exclusive=True, auto_delete=True
                )
                # The queue is exclusive to the connection: what tells two readers in one process
                # apart is who consumes it.
                await channel.consume(self._name, _ignore, exclusive=True, no_ack=True)
            except ChannelClosed as refusal:
                if refusal.code == ACCESS_REFUSED and _TAKEN not in refusal.text:
                    return  # this user may not have such a queue: it looks without asking
                await asyncio.sleep(_POLL_S)
            else:
                self._channel = channel

    async def end(self) -> None:
        """Let the next one look."""
        if self._channel is not None:
            await self._channel.close()


def _ignore(_: Message) -> None:
    """Take nothing: the queue is a sign, not a way."""


class _Lot:
    """All of a lot's jobs in our hands, for as long as it is entered."""

    def __init__(self, core: Core, queue: str) -> None:
        """Name the lot of a queue."""
        self._core = core
        self._queue = queue
        self._name = core.names.parked_queue(queue)
        self._count = 0
        self._held = 0
        self._tokens = 0
        self._arrived: deque[Message] = deque()
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Take all that is there now (UnknownQueue if there is no such lot)."""
        self._link = link = await self._core.reader()
        self._turn = _Turn(link, self._core.names.lock(f"lot.{self._queue}"))
        await self._turn.wait()
        try:
            self._channel = await link.channel()
            self._intake = Intake(self._channel)
            await self._fill()
        except ChannelClosed as refusal:
            await self._turn.end()
            if refusal.code == ACCESS_REFUSED:
                raise ConfigurationError(f"this user may not look: {refusal}") from refusal
            if refusal.code != NOT_FOUND:
                raise Unavailable(f"the parking lot of {self._queue!r}: {refusal}") from refusal
            where = f"namespace {self._core.names.prefix!r} at {link.target}"
            raise UnknownQueue(f"there is no queue {self._queue!r} in {where}") from refusal
        except BaseException:
            await self._turn.end()
            raise
        return self

    async def _fill(self) -> None:
        self._count = await self._ready(self._channel)
        for gap_s in _BACK_S:
            if self._count:
                break
            await asyncio.sleep(gap_s)
            self._count = await self._ready(self._channel)
        if self._count == 0:
            return
        self._channel.on_close.append(lambda _: self._news.set())
        await self._channel.call("basic_qos", prefetch_count=_PER_CONSUMER)
        patient = self._link.server_version >= EXACT_COUNTS
        for _ in range(-(-self._count // _PER_CONSUMER)):
            await self._channel.consume(
                self._name,
                self._on_message,
                arguments={"x-consumer-timeout": _PATIENCE_MS} if patient else None,
            )

    async def _ready(self, channel: Channel) -> int:
        answer = await channel.call("queue_declare", queue=self._name, passive=True)
        return int(answer.message_count)

    async def next(self) -> Message | None:
        """Return the next of those that were there at first; None after the last."""
        if self._count == 0:
            return None
        while not self._arrived:
            if self._channel.reason is not None:
                raise Unavailable(f"the parking lot is out of reach: {self._channel.reason}")
            self._news.clear()
            try:
                async with asyncio.timeout(_QUIET_S):
                    await self._news.wait()
            except TimeoutError:
                return None  # the others are in someone's hands
        self._count -= 1
        return self._arrived.popleft()

    def delivery(self, message: Message, token: Token | None = None) -> Delivery:
        """Read a message of this lot."""
        orphan = self._queue == ORPHANS
        found = wire.decode(
            message.properties,
            message.body,
            queue=None if orphan else self._queue,
            redelivered=message.redelivered,
            token=token,
        )
        if orphan and found.envelope.parking is None:
            found.envelope = msgspec.structs.replace(found.envelope, parking=_ORPHANED)
        return found

    def arrived(self, message: Message) -> Token:
        """Return what settles a message; called for each, in order."""
        self._tokens += 1
        return self._intake.arrived(message.tag)

    def _on_message(self, message: Message) -> None:
        self._arrived.append(message)
        self._held += 1
        self._news.set()

    async def __aexit__(self, *_: object) -> None:
        """Give back what is left, and see it back: it takes the broker a moment."""
        try:
            with suppress(ChannelClosed, Unavailable):
                await self._see_settled()
            await self._channel.close()
            with suppress(ChannelClosed, Unavailable):
                await self._wait_returned(self._held - self._tokens + self._intake.unsettled)
        finally:
            await self._turn.end()

    async def _see_settled(self) -> None:
        """Have the broker apply our acks before the channel closes.

        A channel hands a quorum queue 32 commands ahead and keeps the rest until it hears that
        they were applied; what it still keeps when it closes is lost, and jobs that were released
        would stay in the lot too. A get goes the same way as the acks and is answered when it was
        applied: after the first the channel hands over the rest, after the second that is applied.
        Our consumers have taken all there is, so there is nothing to get; what a get does return
        goes back with the others.
        """
        for _ in range(_FLUSH_ROUNDS if self._tokens else 0):
            await self._channel.get(self._name)

    async def _wait_returned(self, count: int) -> None:
        if count == 0 or not self._link.connected:
            return
        channel = await self._link.channel()
        for _ in range(round(_GIVEN_BACK_S / _BACK_S[0])):
            if await self._ready(channel) >= count:
                break
            await asyncio.sleep(_BACK_S[0])
        await channel.close()
