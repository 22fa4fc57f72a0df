"""Credit that grows and shrinks while jobs flow, as it does with every memory alarm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import cycle

import pytest

from taskyard.shared.adapters.amqp import connect
from taskyard.shared.adapters.amqp.broker import AmqpBroker
from taskyard.shared.adapters.amqp.consumer import AmqpConsumer
from taskyard.shared.broker import (
    BrokerOptions,
    Consumer,
    QueueSpec,
    Settlement,
    SettleStatus,
    SetupSpec,
)
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.topology import plan

pytestmark = pytest.mark.rabbitmq

JOBS = 20_000
DEADLINE_S = 60.0


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[AmqpBroker]:
    """A handle on the test's virtual host."""
    broker = connect(amqp_url, BrokerOptions())
    await broker.open()
    yield broker
    await broker.close()


async def fill(broker: AmqpBroker, kind: str, number: int) -> set[str]:
    """Make the queue `work` with so many jobs in it, and return their ids."""
    spec = SetupSpec(queues=(QueueSpec(name="work", type=kind),))
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))
    jobs = [Envelope(id=mint_id(), queue="work", task="ok", enqueued_ms=1) for _ in range(number)]
    for first in range(0, number, 2000):
        await broker.publish(jobs[first : first + 2000], deadline_s=DEADLINE_S)
    return {job.id for job in jobs}


async def deliver_late(broker: AmqpBroker, consumer: Consumer) -> str:
    """Deliver one job more for the first consumer tag, which is cancelled, and return its id.

    It is fetched on that channel, and passed on as the broker's own delivery would be.
    """
    job = Envelope(id=mint_id(), queue="work", task="ok", enqueued_ms=1)
    await broker.publish([job], deadline_s=DEADLINE_S)
    assert isinstance(consumer, AmqpConsumer)
    channel = consumer._channel
    assert channel is not None
    while (late := await channel.get("taskyard.q.work")) is None:
        await asyncio.sleep(0.01)
    channel.delivered("taskyard-1", late)
    return job.id


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_no_delivery_is_left_over_when_credit_varies(broker: AmqpBroker, kind: str) -> None:
    """Hundreds of consumers begun and cancelled on one channel: every job is delivered once."""
    ids = await fill(broker, kind, JOBS)
    consumer = await broker.consume("work", credit=64, ttr_s=60.0)
    done: list[str] = []

    async def vary() -> None:
        for credit in cycle((8, 200, 1, 64)):
            await consumer.set_credit(credit)

    varying = asyncio.create_task(vary())
    try:
        async with asyncio.timeout(DEADLINE_S):
            while len(done) < JOBS:
                taken = await consumer.take()
                await broker.settle(
                    [Settlement(delivery=delivery) for delivery in taken], deadline_s=DEADLINE_S
                )
                done.extend(delivery.envelope.id for delivery in taken)
    finally:
        varying.cancel()
    assert len(done) == JOBS
    assert set(done) == ids


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_delivery_after_the_answer_to_cancel_is_taken(
    broker: AmqpBroker, kind: str
) -> None:
    """It used to be dropped, and stayed unacknowledged as long as the channel lived."""
    ids = await fill(broker, kind, 1)
    consumer = await broker.consume("work", credit=4, ttr_s=60.0)
    async with asyncio.timeout(DEADLINE_S):
        first = (await consumer.take())[0]
        await consumer.set_credit(0)
        again = await deliver_late(broker, consumer)
        second = (await consumer.take())[0]
        assert {first.envelope.id, second.envelope.id} == ids | {again}
        statuses = await broker.settle(
            [Settlement(delivery=first), Settlement(delivery=second)], deadline_s=DEADLINE_S
        )
        assert set(statuses) == {SettleStatus.SETTLED}
        await consumer.stop()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_delivery_after_the_stop_goes_back(broker: AmqpBroker, kind: str) -> None:
    """What follows the stop of a flow is no longer taken, and others get it when all is settled."""
    await fill(broker, kind, 1)
    consumer = await broker.consume("work", credit=4, ttr_s=60.0)
    async with asyncio.timeout(DEADLINE_S):
        first = (await consumer.take())[0]
        await consumer.stop()
        again = await deliver_late(broker, consumer)
        await broker.settle([Settlement(delivery=first)], deadline_s=DEADLINE_S)
        other = await broker.consume("work", credit=4, ttr_s=60.0)
        delivery = (await other.take())[0]
        assert delivery.envelope.id == again
        await broker.settle([Settlement(delivery=delivery)], deadline_s=DEADLINE_S)
