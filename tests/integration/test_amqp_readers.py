"""The feed, addresses for replies, and numbers of queues, on a real RabbitMQ."""

from __future__ import annotations

import asyncio

import pytest

from support.amqp_site import DEADLINE_S, Site, jobs, park, publish
from support.eventually import eventually
from support.proxy import Proxy
from support.rabbitmq import Server
from taskyard.shared.broker import Settlement
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.feed import FINISHED, FeedRecord

pytestmark = pytest.mark.rabbitmq


def record(job, outcome: str = "succeeded") -> FeedRecord:
    return FeedRecord(
        event=FINISHED,
        job=job.id,
        queue=job.queue,
        task=job.task,
        attempt=1,
        deliveries=1,
        message=job.message_id,
        at=1,
        outcome=outcome,
    )


async def gather(feed, count: int) -> list:
    items: list = []
    async with asyncio.timeout(20):
        while len(items) < count:
            batch = await feed.take()
            assert batch, "the feed ended"
            items += batch
    return items


# ---------------------------------------------------------------- the feed


async def test_the_feed_holds_envelopes_and_records(amqp_url: str) -> None:
    """Jobs due now and later, and outcomes, reach the feed as they were sent."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default", ledger=True)
        now = jobs("default", 2)
        later = jobs("default", 2, not_before_ms=broker.now_ms() + 3_600_000, priority=9)
        await publish(broker, [*now, *later])
        assert await broker.record([record(now[0])], deadline_s=DEADLINE_S)
        feed = await broker.feed(credit=100)
        items = await gather(feed, 5)
        sent = [item.envelope for item in items if item.envelope is not None]
        assert {each.id for each in sent} == {job.id for job in (*now, *later)}
        assert {each.queue for each in sent} == {"default"}
        assert {each.id: each.not_before_ms for each in sent} == {
            job.id: job.not_before_ms for job in (*now, *later)
        }
        (found,) = [item.records for item in items if item.records]
        assert found == (record(now[0]),)
        await feed.ack(items)
        await feed.stop()


async def test_the_feed_goes_on_after_a_lost_connection(amqp_url: str) -> None:
    """What was acknowledged is gone, what was not comes again, over reconnects."""
    async with Proxy.to(amqp_url) as proxy, Site(amqp_url) as site:
        await site.set_up("default", ledger=True)
        broker = await site.open(proxy.url(amqp_url))
        first = jobs("default", 6)
        await publish(broker, first)
        feed = await broker.feed(credit=4)
        items = await gather(feed, 4)
        await feed.ack(items[:2])
        assert await gather(feed, 2)  # behind the acks
        proxy.cut()
        seen: list[str] = []
        async with asyncio.timeout(20):
            while seen[-4:] != [job.id for job in first[2:]]:
                seen += [item.envelope.id for item in await feed.take() if item.envelope]
        await feed.ack(items)  # of the lost connection: no harm, no effect
        await feed.stop()
        assert await feed.take() == []
        again = await broker.feed(credit=10)
        assert len(await gather(again, 4)) == 4


async def test_garbage_in_the_feed_stops_nobody(amqp_url: str) -> None:
    """A message that is no array of records is an item without any."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default", ledger=True)
        channel = await (await broker.core.reader()).channel()
        channel.raw.basic_publish("taskyard.lifecycle", "default", b"{nonsense")
        assert await broker.record([record(jobs("default", 1)[0])], deadline_s=DEADLINE_S)
        feed = await broker.feed(credit=10)
        items = await gather(feed, 2)
        assert [item.envelope for item in items] == [None, None]
        assert sorted(len(item.records) for item in items) == [0, 1]
        await feed.ack(items)


async def test_without_a_feed_it_says_so(amqp_url: str) -> None:
    """A broker without `--ledger` names the command that would add it."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        with pytest.raises(ConfigurationError, match="--ledger"):
            await broker.feed(credit=1)


# ---------------------------------------------------------------- replies


async def test_an_address_outlives_reconnects(amqp_url: str) -> None:
    """Replies reach the same address before and after the connection was lost."""
    async with Proxy.to(amqp_url) as proxy, Site(amqp_url) as site:
        worker = await site.set_up("default")
        broker = await site.open(proxy.url(amqp_url))
        inbox = await broker.inbox()
        address = inbox.address

        async def reply(body: bytes) -> bytes:
            await publish(worker, jobs("default", 1))
            consumer = await worker.consume("default", credit=1)
            (delivery,) = await consumer.take()
            settlement = Settlement(delivery=delivery, replies=((address, body),))
            await worker.settle([settlement], deadline_s=DEADLINE_S)
            await consumer.stop()
            async with asyncio.timeout(1):
                (got,) = await inbox.take()
            return got

        assert await reply(b"one") == b"one"
        proxy.cut()

        async def answered() -> bool:
            return await reply(b"two") == b"two"

        await eventually(answered, within=20, hint="a reply after the reconnect")
        assert inbox.address == address
        await inbox.close()
        assert await inbox.take() == []


async def test_a_broker_that_is_not_set_up_takes_no_replies(amqp_url: str) -> None:
    """Without the exchange for replies the error names the command."""
    async with Site(amqp_url) as site:
        broker = await site.open()
        with pytest.raises(ConfigurationError, match="broker apply"):
            await broker.inbox()


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("reachable", [True, False])
async def test_numbers_are_fresh(amqp_url: str, rabbitmq_node: Server, reachable: bool) -> None:
    """Ready and parked jobs are counted at once; what only management knows is None without it."""
    management_url = rabbitmq_node.management_url if reachable else None
    async with Site(amqp_url, management_url) as site:
        broker = await site.set_up("default", "mail")
        await park(broker, "default", 3)
        await publish(broker, jobs("default", 8))
        consumer = await broker.consume("default", credit=2)
        await consumer.take()
        numbers = await broker.stats(["default", "mail", "missing"])
        assert not numbers["missing"].exists
        assert (numbers["default"].ready, numbers["default"].parked) == (6, 3)
        assert (numbers["default"].consumers, numbers["mail"].consumers) == (1, 0)
        assert numbers["default"].scheduled is None
        if not reachable:
            assert (numbers["default"].unsettled, numbers["default"].type) == (None, "")
            with pytest.raises(ConfigurationError, match="TASKYARD_MANAGEMENT_URL"):
                await broker.queues()
            return
        assert numbers["default"].type in {"classic", "quorum"}
        assert await broker.queues() == ["default", "mail"]

        async def unsettled() -> bool:
            return (await broker.stats(["default"]))["default"].unsettled == 2

        await eventually(unsettled, within=20, hint="the management API's counters")


async def test_a_wrong_password_for_management_is_as_none(amqp_url: str, rabbitmq_node: Server):
    """A management API that refuses us is not used, and not an error."""
    url = rabbitmq_node.management_url
    assert url is not None
    _, _, place = url.rpartition("@")
    async with Site(amqp_url, f"http://taskyard:wrong@{place}") as site:
        broker = await site.set_up("default")
        assert (await broker.stats(["default"]))["default"].exists
        assert not (await broker.observe(site.spec("default"))).verified
