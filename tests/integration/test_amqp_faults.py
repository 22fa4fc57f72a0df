"""The AMQP data plane while things break: nodes, networks, queues and memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from integration.test_amqp_data_plane import collect, job, set_up, settle
from support.eventually import eventually
from support.proxy import Proxy
from support.rabbitmq import Node, RabbitMQRoot, Server
from taskyard.shared.adapters.amqp import connect
from taskyard.shared.adapters.amqp.broker import AmqpBroker
from taskyard.shared.broker import (
    Blocked,
    BrokerEvent,
    BrokerOptions,
    Connected,
    Lost,
    PublishStatus,
    Settlement,
    SettleStatus,
    Unblocked,
)

pytestmark = pytest.mark.rabbitmq

Open = Callable[..., Awaitable[AmqpBroker]]
DEADLINE_S = 20.0


@pytest.fixture
async def open_broker() -> AsyncIterator[Open]:
    """Open handles, dropped after the test."""
    handles: list[AmqpBroker] = []

    async def make(url: str, **options: Any) -> AmqpBroker:
        broker = connect(url, BrokerOptions(**options))
        handles.append(broker)
        await broker.open()
        return broker

    yield make
    for handle in handles:
        await handle.close(abort=True)


@asynccontextmanager
async def background(*work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run endless work beside a block; its failure is the test's."""
    tasks = [asyncio.create_task(_run(each), name=repr(each)) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()


class Load:
    """Publishes and consumes without end, and keeps account."""

    def __init__(self, sender: AmqpBroker, worker: AmqpBroker) -> None:
        self.sender, self.worker = sender, worker
        self.confirmed: set[str] = set()
        self.done: set[str] = set()
        self.statuses: dict[PublishStatus, int] = {}
        self.settled: dict[SettleStatus, int] = {}
        self.slowest_s = 0.0

    async def publish(self) -> None:
        while True:
            jobs = [job() for _ in range(50)]
            began = time.monotonic()
            receipts = await self.sender.publish(jobs, deadline_s=2.0)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            for envelope, receipt in zip(jobs, receipts, strict=True):
                self.statuses[receipt.status] = self.statuses.get(receipt.status, 0) + 1
                if receipt.status is PublishStatus.CONFIRMED:
                    self.confirmed.add(envelope.id)
            await asyncio.sleep(0.002)

    async def consume(self) -> None:
        consumer = await self.worker.consume("work", credit=100)
        while True:
            batch = await consumer.take()
            statuses = await settle(self.worker, batch)
            for delivery, status in zip(batch, statuses, strict=True):
                self.settled[status] = self.settled.get(status, 0) + 1
                if status is SettleStatus.SETTLED:
                    self.done.add(delivery.envelope.id)

    async def grows(self, by: int = 500) -> None:
        """Wait until so many more jobs were confirmed and done."""
        confirmed, done = len(self.confirmed) + by, len(self.done) + by
        await eventually(
            lambda: len(self.confirmed) >= confirmed and len(self.done) >= done,
            within=40,
            hint="the load goes on",
        )

    async def drained(self) -> None:
        await eventually(lambda: self.confirmed <= self.done, within=40, hint="nothing is lost")


async def test_a_killed_node_loses_nothing(
    private_node: Node, private_amqp_url: str, open_broker: Open
) -> None:
    """`kill -9` and restart under load: every confirmed job runs, no publish outlives its
    deadline, and the consumer comes back by itself (ZS-30, BS-19).
    """
    load = Load(await open_broker(private_amqp_url), await open_broker(private_amqp_url))
    await set_up(load.sender, "work")
    async with background(load.consume):
        async with background(load.publish):
            await load.grows()
            await private_node.kill()
            await eventually(lambda: not load.sender.connected and not load.worker.connected)
            await private_node.start()
            await load.grows()
        await load.drained()
    assert load.slowest_s < 3.0
    assert load.statuses.keys() > {PublishStatus.CONFIRMED}


async def test_cut_networks_lose_nothing(amqp_url: str, open_broker: Open) -> None:
    """Connections reset again and again under load: every confirmed job runs; deliveries of a
    lost connection settle as lost, never as settled twice (LQ-07).
    """
    async with Proxy.to(amqp_url) as proxy:
        url = proxy.url(amqp_url)
        load = Load(await open_broker(url), await open_broker(url))
        await set_up(load.sender, "work")
        async with background(load.consume):
            async with background(load.publish):
                for _ in range(6):
                    await load.grows(150)
                    proxy.cut()
                await load.grows(150)
            await load.drained()
        assert load.slowest_s < 3.0


async def test_a_lost_confirm_is_unknown(amqp_url: str, open_broker: Open) -> None:
    """What was written and not answered when the connection went is said to be unknown; what was
    never written is said not to have been sent.
    """
    async with Proxy.to(amqp_url) as proxy:
        broker = await open_broker(proxy.url(amqp_url))
        await set_up(broker, "work")
        proxy.stall()
        writing = asyncio.create_task(broker.publish([job()], deadline_s=DEADLINE_S), name="write")
        await eventually(lambda: broker.core.publisher.unconfirmed_bytes > 0)
        proxy.refuse()
        (receipt,) = await writing
        assert receipt.status is PublishStatus.TIMEOUT
        assert "may have been stored" in receipt.detail
        await eventually(lambda: not broker.connected)
        (receipt,) = await broker.publish([job()], deadline_s=0.2)
        assert receipt.status is PublishStatus.UNAVAILABLE
        assert "nothing was sent" in receipt.detail
        waiting = asyncio.create_task(broker.publish([job()], deadline_s=DEADLINE_S), name="wait")
        await asyncio.sleep(0)
        proxy.resume()
        (receipt,) = await waiting
        assert receipt.status is PublishStatus.CONFIRMED


async def test_a_silent_network_is_noticed(amqp_url: str, open_broker: Open) -> None:
    """Pain 4: No byte in one and a half heartbeats is a lost connection; an idle one is none."""
    async with Proxy.to(amqp_url) as proxy:
        broker = await open_broker(proxy.url(amqp_url), heartbeat_s=1.0)
        await set_up(broker, "work")
        consumer = await broker.consume("work", credit=1)
        generation = broker.core.publish_link.generation
        began = time.monotonic()
        await eventually(lambda: time.monotonic() - began > 3.5, hint="three idle heartbeats")
        assert broker.core.publish_link.generation == generation
        proxy.stall()
        await eventually(lambda: not broker.connected and not consumer.present, within=4)
        proxy.resume()
        await eventually(lambda: broker.connected and consumer.present)


@pytest.mark.system
async def test_a_frozen_node_keeps_nobody_waiting(
    private_node: Node, private_amqp_url: str, open_broker: Open
) -> None:
    """A node that answers nothing lets publish and settle return at their deadlines, and closing
    too.
    """
    broker = await open_broker(private_amqp_url)
    await set_up(broker, "work")
    await broker.publish([job()], deadline_s=DEADLINE_S)
    (held,) = await collect(await broker.consume("work", credit=1), 1)
    private_node.freeze()
    try:
        began = time.monotonic()
        (receipt,) = await broker.publish([job()], deadline_s=0.5)
        (status,) = await broker.settle(
            [Settlement(delivery=held, copies=(held.envelope,))], deadline_s=0.5
        )
        assert time.monotonic() - began < 2.0
        assert receipt.status is PublishStatus.TIMEOUT
        assert status is SettleStatus.UNDONE
        began = time.monotonic()
        await broker.close()
        assert time.monotonic() - began < 8.0
    finally:
        private_node.thaw()


async def test_a_deleted_queue_is_noticed_and_found_again(
    rabbitmq_node: Server, amqp_url: str, open_broker: Open
) -> None:
    """Pain 3: A consumer whose queue goes away is not present, and works again once the queue is back;
    what it held is lost, and another queue's consumer goes on.
    """
    broker = await open_broker(amqp_url)
    await set_up(broker, "work", "other")
    await broker.publish([job(), job("other")], deadline_s=DEADLINE_S)
    consumer = await broker.consume("work", credit=1)
    other = await broker.consume("other", credit=1)
    (held,) = await collect(consumer, 1)
    (safe,) = await collect(other, 1)
    await rabbitmq_node.delete_queue(amqp_url, "taskyard.q.work")
    await eventually(lambda: not consumer.present, within=3)
    assert await settle(broker, [held]) == [SettleStatus.LOST]
    assert await settle(broker, [safe]) == [SettleStatus.SETTLED]
    assert other.present
    await set_up(broker, "work", "other")
    await eventually(lambda: consumer.present, within=5)
    sent = job()
    await broker.publish([sent], deadline_s=DEADLINE_S)
    (delivery,) = await collect(consumer, 1)
    assert delivery.envelope.id == sent.id


async def test_a_batch_settles_each_by_its_own_connection(amqp_url: str, open_broker: Open) -> None:
    """Deliveries of before and after a reconnect in one batch: the old ones are lost, and nothing
    of theirs is published.
    """
    async with Proxy.to(amqp_url) as proxy:
        broker = await open_broker(proxy.url(amqp_url))
        await set_up(broker, "work")
        await broker.publish([job(), job()], deadline_s=DEADLINE_S)
        consumer = await broker.consume("work", credit=5)
        old = await collect(consumer, 2)
        proxy.cut()
        new = await collect(consumer, 2)
        assert all(delivery.redelivered for delivery in new)
        await eventually(lambda: broker.connected)
        await eventually(lambda: broker.core.publisher._channel is not None)
        statuses = await broker.settle(
            [
                *(Settlement(delivery=each, copies=(each.envelope,)) for each in old),
                *(Settlement(delivery=each) for each in new),
            ],
            deadline_s=DEADLINE_S,
        )
        assert statuses == [SettleStatus.LOST] * 2 + [SettleStatus.SETTLED] * 2
        (marker,) = await broker.publish([job()], deadline_s=DEADLINE_S)
        (delivery,) = await collect(consumer, 1)
        assert delivery.envelope.message_id == marker.message_id


async def test_a_memory_alarm_stops_publishes_only(
    private_node: Node, private_amqp_url: str, open_broker: Open
) -> None:
    """Under an alarm publishes end at their deadline and no bytes pile up, plain successes are
    acknowledged, closing does not wait; afterwards all goes on over the same connections.
    """
    broker = await open_broker(private_amqp_url, heartbeat_s=2.0)
    await set_up(broker, "work")
    events: list[BrokerEvent] = []

    async def listen() -> None:
        async for event in broker.events():
            events.append(event)  # noqa: PERF401  # seen while it goes on

    await broker.publish([job() for _ in range(200)], deadline_s=DEADLINE_S)
    consumer = await broker.consume("work", credit=50)
    generation = broker.core.publish_link.generation
    async with background(listen):
        await private_node.set_memory_alarm(on=True)

        async def is_blocked() -> bool:
            receipts = await broker.publish([job(body=b"x" * 100_000)], deadline_s=0.2)
            assert receipts[0].status in {PublishStatus.TIMEOUT, PublishStatus.UNAVAILABLE}
            return broker.blocked

        await eventually(is_blocked)
        written = broker.core.publisher.unconfirmed_bytes
        for _ in range(20):
            receipts = await broker.publish(
                [job(body=b"x" * 100_000) for _ in range(20)], deadline_s=0.05
            )
            assert {receipt.status for receipt in receipts} == {PublishStatus.UNAVAILABLE}
            assert "alarm" in receipts[0].detail
        assert broker.core.publisher.unconfirmed_bytes == written
        drained = 0
        while drained < 200:
            batch = await consumer.take()
            assert set(await settle(broker, batch)) == {SettleStatus.SETTLED}
            drained += len(batch)
        began = time.monotonic()
        await eventually(lambda: time.monotonic() - began > 5, hint="several heartbeats")
        doomed = await open_broker(private_amqp_url)
        await doomed.publish([job(body=b"x" * 1_000_000)], deadline_s=0.2)
        began = time.monotonic()
        await doomed.close(abort=True)
        assert time.monotonic() - began < 1.0
        await private_node.set_memory_alarm(on=False)
        await eventually(lambda: not broker.blocked)
        (receipt,) = await broker.publish([job()], deadline_s=DEADLINE_S)
        assert receipt.status is PublishStatus.CONFIRMED
        assert broker.core.publish_link.generation == generation
    assert [type(event) for event in events] == [Connected, Blocked, Unblocked]


async def test_a_copy_on_its_way_when_an_alarm_begins_is_published_once(
    private_node: Node, private_amqp_url: str, open_broker: Open
) -> None:
    """What was written is read after the alarm: `settle` sits it out, far past its deadline, rather
    than have it tried again and doubled.
    """
    broker = await open_broker(private_amqp_url)
    await set_up(broker, "work", "other")
    await broker.publish([job()], deadline_s=DEADLINE_S)
    (held,) = await collect(await broker.consume("work", credit=1), 1)
    await private_node.set_memory_alarm(on=True)
    # The first publish under an alarm is written, and only then the connection is blocked.
    settling = asyncio.create_task(
        broker.settle([Settlement(delivery=held, copies=(job("other"),))], deadline_s=0.5)
    )
    await eventually(lambda: broker.blocked)
    written = broker.core.publisher.unconfirmed_bytes
    assert written > 0
    done, _ = await asyncio.wait([settling], timeout=1.5)
    assert not done, "given up though it will be read"
    await private_node.set_memory_alarm(on=False)
    assert await settling == [SettleStatus.SETTLED]
    stats = await broker.stats(["other"])
    assert stats["other"].ready == 1


async def test_events_tell_of_the_way_down_and_up(amqp_url: str, open_broker: Open) -> None:
    """`Lost` with a reason, then `Connected`, once each however many connections there are."""
    async with Proxy.to(amqp_url) as proxy:
        broker = await open_broker(proxy.url(amqp_url))
        await set_up(broker, "work")
        await broker.consume("work", credit=1)
        events: list[BrokerEvent] = []

        async def listen() -> None:
            async for event in broker.events():
                events.append(event)  # noqa: PERF401  # seen while it goes on

        async with background(listen):
            await eventually(lambda: events)
            proxy.refuse()
            await eventually(lambda: not any(link.connected for link in broker._links()))
            proxy.resume()
            await eventually(lambda: broker.connected)
            await eventually(lambda: len(events) == 3)
        connected, lost, again = events
        assert isinstance(connected, Connected)
        assert isinstance(lost, Lost)
        assert lost.reason
        assert isinstance(again, Connected)


@pytest.mark.slow
async def test_a_delivery_that_the_broker_took_back_is_lost(rabbitmq_root: RabbitMQRoot) -> None:
    """Where the broker's own patience ends (channel closed), the delivery is lost, comes again,
    and the consumer goes on; where it is ours to choose, a long job stays ours (LQ-08).
    """
    async with Node.of(rabbitmq_root, config=["consumer_timeout = 2000"]) as node:
        broker = connect(node.url)
        await broker.open()
        try:
            await set_up(broker, "work")
            await broker.publish([job()], deadline_s=DEADLINE_S)
            consumer = await broker.consume("work", credit=1, ttr_s=3600)
            (held,) = await collect(consumer, 1)
            if broker.capabilities.max_ttr_s is None:
                began = time.monotonic()
                await eventually(lambda: time.monotonic() - began > 8, within=20)
                assert consumer.present
                assert await settle(broker, [held]) == [SettleStatus.SETTLED]
            else:  # this version looks once a minute
                async with asyncio.timeout(90):
                    (again,) = await consumer.take()
                assert again.redelivered
                assert await settle(broker, [held]) == [SettleStatus.LOST]
                assert await settle(broker, [again]) == [SettleStatus.SETTLED]
        finally:
            await broker.close()
