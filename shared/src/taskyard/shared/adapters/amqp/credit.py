"""How much one channel's deliveries may be, all together, and how that is changed while they flow.

RabbitMQ fixes a consumer's credit when it begins. So credit is the sum of several consumers' on one
channel: more of it is one more consumer, less of it one that is cancelled.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp.intake import Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskyard.shared.adapters.amqp.channel import Channel
    from taskyard.shared.adapters.amqp.frames import Message

_MAX_CREDIT: Final = 65535


class Credit:
    """The consumers of one queue on one channel. Ends with it."""

    def __init__(
        self,
        channel: Channel,
        work_queue: str,
        *,
        arguments: Mapping[str, object],
        take: Callable[[Grant, Message], None],
        on_cancel: Callable[[], None],
    ) -> None:
        """Grant nothing yet.

        Args:
            channel: to consume on.
            work_queue: its name at the broker.
            arguments: of each consumer.
            take: is called for each delivery, from the loop's reader: be brief.
            on_cancel: is called if the broker ends one of the consumers.

        """
        self._channel = channel
        self._work_queue = work_queue
        self._arguments = arguments
        self._take = take
        self._on_cancel = on_cancel
        self._grants: list[Grant] = []
        self._spent: list[Grant] = []
        self._adjusting = asyncio.Lock()

    @property
    def owed(self) -> bool:
        """Whether a consumer that was cancelled may hold some of it until that is settled."""
        return bool(self._spent)

    async def adjust(self, credit: Callable[[], int]) -> None:
        """Bring what is granted to what `credit` wants when its turn comes.

        What a cancelled consumer still holds counts until it is settled.

        Raises:
            ChannelClosed: the broker refuses to let the queue be consumed.
            Unavailable: the channel is gone, or the broker does not answer in time.

        """
        async with self._adjusting:
            if self._channel.is_open:
                await self._shrink(credit())
                await self._grow(credit())

    async def _shrink(self, credit: int) -> None:
        while self._grants and self._granted() > credit:
            grant = self._grants.pop()
            self._spent.append(grant)
            await self._channel.cancel(grant.tag)
        self._spent = [grant for grant in self._spent if grant.unsettled]

    def _granted(self) -> int:
        """How many deliveries may be unsettled now, or are."""
        granted = sum(grant.credit for grant in self._grants)
        return granted + sum(grant.unsettled for grant in self._spent)

    async def _grow(self, credit: int) -> None:
        wanted = min(credit, _MAX_CREDIT) - self._granted()
        if wanted <= 0:
            return
        grant = Grant(wanted)
        await self._channel.call("basic_qos", prefetch_count=wanted)
        grant.tag = self._channel.new_tag()
        self._grants.append(grant)
        await self._channel.consume(
            self._work_queue,
            partial(self._take, grant),
            on_cancel=self._on_cancel,
            arguments=self._arguments,
            tag=grant.tag,
        )
