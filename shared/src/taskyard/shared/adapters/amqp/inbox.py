"""An address for replies: a queue of this process alone, under a key that outlives reconnects."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from taskyard.shared.adapters.amqp.channel import NOT_FOUND, ChannelClosed
from taskyard.shared.adapters.amqp.subscription import Subscription
from taskyard.shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.adapters.amqp.channel import Channel
    from taskyard.shared.adapters.amqp.core import Core
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.adapters.amqp.names import Names


async def open_inbox(core: Core) -> AmqpInbox:
    """Open an address for replies.

    Raises:
        ConfigurationError: the broker is not set up, or this user may not have a queue.
        Unavailable: there is no connection.

    """
    inbox = AmqpInbox(await core.reader(), core.names)
    await inbox.start()
    return inbox


class AmqpInbox:
    """See the port's `Inbox`. A reply that comes while the connection is away is lost."""

    def __init__(self, link: Link, names: Names) -> None:
        """Prepare it; `start` opens it."""
        self._names = names
        self._target = link.target
        self._address = secrets.token_hex(12)
        self._flow: Subscription[bytes] = Subscription(link, self._begin, name="inbox")

    @property
    def address(self) -> str:
        """What goes into `Envelope.reply`."""
        return self._address

    @property
    def present(self) -> bool:
        """Whether a reply that is sent now would get here."""
        return self._flow.present

    async def start(self) -> None:
        """Open the address (see `open_inbox`)."""
        try:
            await self._flow.start()
        except ChannelClosed as refusal:
            where = f"namespace {self._names.prefix!r} at {self._target}"
            if refusal.code == NOT_FOUND:
                raise ConfigurationError(
                    f"{where} is not set up: run `taskyard broker apply`"
                ) from refusal
            raise ConfigurationError(
                f"{where} lets this user have no replies: {refusal}"
            ) from refusal
        except Unavailable as error:
            raise Unavailable(f"no address for replies: {error}") from error

    async def take(self) -> Sequence[bytes]:
        """Wait for replies and return all that have arrived; empty once it is closed."""
        return await self._flow.take()

    async def close(self) -> None:
        """Give the address up."""
        await self._flow.stop()

    async def _begin(self, channel: Channel, flow: Subscription[bytes]) -> None:
        # A queue of a lost connection may still be there, and is not ours any more: each
        # connection has one of its own, under the same key.
        queue = self._names.reply_queue(self._address, channel.generation)
        await channel.call("queue_declare", queue=queue, exclusive=True, auto_delete=True)
        await channel.call(
            "queue_bind", queue=queue, exchange=self._names.replies, routing_key=self._address
        )
        await channel.consume(
            queue, lambda message: flow.put(message.body), on_cancel=channel.discard, no_ack=True
        )
