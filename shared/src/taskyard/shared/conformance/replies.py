"""The suite's room for replies: an address, and what is sent to it under a settle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from taskyard.shared.broker import Settlement, SettleStatus
from taskyard.shared.conformance.scene import (
    Room,
    assert_in_words,
    expect_nothing,
    is_refused,
    job,
    publish,
    settle,
    take,
)
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.feed import Reply, decode_reply, encode_reply

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker, Inbox
    from taskyard.shared.conformance.harness import Harness


async def letters(harness: Harness, inbox: Inbox, count: int) -> list[bytes]:
    """Take so many replies."""
    got: list[bytes] = []
    async with asyncio.timeout(harness.patience_s):
        while len(got) < count:
            batch = await inbox.take()
            assert batch, "the inbox ended"
            got.extend(batch)
    return got


async def replies_refused(broker: Broker) -> bool:
    """Tell whether replies are refused, and insist that they are in words."""
    if not is_refused(broker.capabilities.replies):
        return False
    with pytest.raises(ConfigurationError) as caught:
        await broker.inbox()
    assert_in_words(caught.value, broker.capabilities.replies)
    return True


async def answer(
    harness: Harness, broker: Broker, queue: str, addresses: tuple[str, ...], bodies: list[bytes]
) -> None:
    """Run one job that answers each address with its body."""
    await publish(broker, msgspec.structs.replace(job(queue), reply=addresses))
    consumer = await broker.consume(queue, credit=1)
    (got,) = await take(harness, consumer, 1)
    assert got.envelope.reply == addresses
    replies = tuple(zip(addresses, bodies, strict=True))
    assert await settle(broker, Settlement(delivery=got, replies=replies)) == [SettleStatus.SETTLED]
    await expect_nothing(harness, consumer)
    await consumer.stop()


class Replies(Room):
    """An inbox is an address for the time that its owner listens (ZS-04, GM-07)."""

    async def test_a_reply_reaches_its_inbox(self, harness: Harness) -> None:
        """What a worker answers arrives whole at the producer that asked (ZS-04)."""
        (queue,) = await harness.queues()
        producer, worker = await harness.open(), await harness.open()
        if await replies_refused(producer):
            return
        inbox = await producer.inbox()
        sent = Reply(job="j", attempt=1, outcome="succeeded", value=msgspec.Raw('"☃"'.encode()))
        await answer(harness, worker, queue, (inbox.address,), [encode_reply(sent)])
        (body,) = await letters(harness, inbox, 1)
        assert decode_reply(body) == sent
        await inbox.close()

    async def test_every_address_gets_its_own(self, harness: Harness) -> None:
        """Inboxes have addresses of their own, and replies do not stray (design §12)."""
        (queue,) = await harness.queues()
        one, two, worker = [await harness.open() for _ in range(3)]
        if await replies_refused(one):
            return
        first, second, third = await one.inbox(), await two.inbox(), await two.inbox()
        addresses = (first.address, second.address, third.address)
        assert len(set(addresses)) == 3
        await answer(harness, worker, queue, addresses, [b"one", b"two", b"three"])
        await answer(harness, worker, queue, (second.address,), [b"again"])
        assert await letters(harness, first, 1) == [b"one"]
        assert await letters(harness, second, 2) == [b"two", b"again"]
        assert await letters(harness, third, 1) == [b"three"]

    async def test_nobody_home_hinders_nothing(self, harness: Harness) -> None:
        """A reply to an address that is gone is dropped, and the job settled (a best effort)."""
        (queue,) = await harness.queues()
        victim, producer, worker = [await harness.open() for _ in range(3)]
        if await replies_refused(producer):
            # A job that asks all the same, from elsewhere, is settled as any other.
            await answer(harness, worker, queue, ("an-address-nobody-had",), [b"x"])
            return
        dead, closed = await victim.inbox(), await producer.inbox()
        gone = closed.address
        await closed.close()
        await harness.kill(victim)
        open_inbox = await producer.inbox()
        addresses = (dead.address, gone, "an-address-nobody-had", open_inbox.address)
        await answer(harness, worker, queue, addresses, [b"x", b"y", b"z", b"here"])
        assert await letters(harness, open_inbox, 1) == [b"here"]

    async def test_a_closed_inbox_ends(self, harness: Harness) -> None:
        """`close` lets a waiting take return empty; so does closing the handle."""
        await harness.queues()
        broker = await harness.open()
        if await replies_refused(broker):
            return
        inbox, other = await broker.inbox(), await broker.inbox()
        takes = [asyncio.create_task(_take(each), name="take") for each in (inbox, other)]
        await harness.calm()
        await inbox.close()
        await broker.close()
        async with asyncio.timeout(harness.patience_s):
            assert await asyncio.gather(*takes) == [[], []]


async def _take(inbox: Inbox) -> list[bytes]:
    return list(await inbox.take())
