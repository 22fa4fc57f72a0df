"""A consumer that is opened again after each loss, for what needs no credit of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from taskyard.shared.adapters.amqp.channel import ChannelClosed
from taskyard.shared.errors import Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from taskyard.shared.adapters.amqp.channel import Channel
    from taskyard.shared.adapters.amqp.link import Link

_log = get_logger(__name__)

_AGAIN_S: Final = 0.3

T = TypeVar("T")


class Subscription(Generic[T]):
    """Gathers what arrives until it is taken."""

    def __init__(
        self,
        link: Link,
        begin: Callable[[Channel, Subscription[T]], Awaitable[None]],
        *,
        name: str,
        comes_again: bool = False,
    ) -> None:
        """Prepare it; `start` opens it.

        Args:
            link: to consume on.
            begin: declares and consumes on a fresh channel, and puts what arrives.
            name: for the log.
            comes_again: whether what was not taken when its channel is lost is delivered again.

        """
        self._link = link
        self._begin = begin
        self._name = name
        self._comes_again = comes_again
        self._arrived: list[T] = []
        self._news = asyncio.Event()
        self._stopped = False
        self._channel: Channel | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def present(self) -> bool:
        """Whether the broker knows it now."""
        return self._channel is not None and self._channel.is_open

    async def start(self) -> None:
        """Open it, and keep it open from now on.

        Raises:
            ChannelClosed: the broker refuses.
            Unavailable: there is no connection.

        """
        await self._open()
        self._keeper = asyncio.create_task(self._keep(), name=f"amqp {self._name}")

    def put(self, item: T) -> None:
        """Add what arrived."""
        self._arrived.append(item)
        self._news.set()

    async def take(self) -> list[T]:
        """Wait for something and return all that has arrived; empty once it is stopped.

        Closing the broker stops it too.
        """
        while not self._arrived and not self._stopped:
            self._news.clear()
            await self._news.wait()
        arrived, self._arrived = self._arrived, []
        return arrived

    async def stop(self) -> None:
        """End it; unacknowledged deliveries go back."""
        self._stopped = True
        self._arrived.clear()
        self._news.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._channel is not None:
            await self._channel.close()

    async def _open(self) -> None:
        channel = await self._link.channel()
        try:
            await self._begin(channel, self)
        except BaseException:
            await channel.close()
            raise
        self._channel = channel

    async def _keep(self) -> None:
        while not self._link.closed:
            if self._channel is not None:
                reason = await self._channel.wait_closed()
                if self._comes_again:
                    self._arrived.clear()
                if self._link.closed:
                    break
                _log.info(
                    "consumer lost, it will be opened again", what=self._name, why=str(reason)
                )
                self._channel = None
            try:
                await self._open()
            except (ChannelClosed, Unavailable) as error:
                _log.debug("consumer not opened yet", what=self._name, why=str(error))
                await asyncio.sleep(_AGAIN_S)
        self._stopped = True
        self._news.set()
