"""The lifecycle feed's reader: envelopes as they were published, and arrays of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp import wire
from taskyard.shared.adapters.amqp.channel import NOT_FOUND, ChannelClosed
from taskyard.shared.adapters.amqp.intake import Intake, Token
from taskyard.shared.adapters.amqp.subscription import Subscription
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.feed import FeedItem, decode_feed
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.adapters.amqp.channel import Channel
    from taskyard.shared.adapters.amqp.core import Core
    from taskyard.shared.adapters.amqp.frames import Message
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.adapters.amqp.names import Names

_log = get_logger(__name__)

_MAX_CREDIT: Final = 65535


async def open_feed(core: Core, *, credit: int) -> AmqpFeedConsumer:
    """Open a flow of the feed.

    Raises:
        ConfigurationError: the broker has none.
        Unavailable: there is no connection.

    """
    flow = AmqpFeedConsumer(await core.reader(), core.names, credit=credit)
    await flow.start()
    return flow


class AmqpFeedConsumer:
    """A flow of feed items, over reconnects: see the port's `FeedConsumer`."""

    def __init__(self, link: Link, names: Names, *, credit: int) -> None:
        """Prepare it; `start` opens it."""
        self._names = names
        self._credit = min(credit, _MAX_CREDIT)
        self._target = link.target
        self._flow: Subscription[FeedItem] = Subscription(
            link, self._begin, name="feed", comes_again=True
        )

    async def start(self) -> None:
        """Open the flow and keep it open (see `open_feed`)."""
        try:
            await self._flow.start()
        except ChannelClosed as refusal:
            if refusal.code == NOT_FOUND:
                raise ConfigurationError(
                    f"namespace {self._names.prefix!r} at {self._target} has no feed: "
                    "run `taskyard broker apply --ledger`"
                ) from refusal
            raise Unavailable(f"the feed cannot be read now: {refusal}") from refusal

    async def take(self) -> Sequence[FeedItem]:
        """Wait for items and return all that have arrived; empty once it is stopped."""
        return await self._flow.take()

    async def ack(self, items: Sequence[FeedItem]) -> None:
        """Give items up for good; those of a lost connection come again."""
        by_intake: dict[Intake, list[Token]] = {}
        for item in items:
            token = item.token
            if isinstance(token, Token) and token.ours:
                by_intake.setdefault(token.intake, []).append(token)
        for intake, tokens in by_intake.items():
            intake.ack(tokens)

    async def stop(self) -> None:
        """End the flow; what was not acknowledged stays in the feed."""
        await self._flow.stop()

    async def _begin(self, channel: Channel, flow: Subscription[FeedItem]) -> None:
        intake = Intake(channel)
        await channel.call("basic_qos", prefetch_count=self._credit)
        await channel.consume(
            self._names.ledger,
            lambda message: flow.put(self._item(message, intake.arrived(message.tag))),
            on_cancel=channel.discard,
        )

    def _item(self, message: Message, token: Token) -> FeedItem:
        names = self._names
        if message.exchange == names.lifecycle:
            try:
                return FeedItem(records=decode_feed(message.body), token=token)
            except ValueError as error:
                _log.warning(
                    "a feed message that is no array of records is skipped", why=str(error)
                )
                return FeedItem(token=token)
        # On its way through the ladder a job's routing key spells its delay: its header names the
        # queue then.
        queue = message.routing_key if message.exchange == names.tasks else None
        found = wire.decode(message.properties, message.body, queue=queue)
        return FeedItem(envelope=found.envelope, token=token)
