"""The other end of a producer's test: queues that exist, and somebody who answers from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from taskyard.shared.broker import Broker, QueueSpec, Settlement, SettleStatus, SetupSpec
from taskyard.shared.brokers import connect
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import Reply, encode_reply
from taskyard.shared.topology import plan

Answer = Callable[[Envelope], Reply]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Broker]:
    """A broker that is open for a while."""
    broker = connect(url)
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


async def create_queues(url: str, *names: str) -> None:
    """Set queues up, as `taskyard broker apply` does."""
    async with opened(url) as broker:
        spec = SetupSpec(queues=tuple(QueueSpec(name=name) for name in names))
        observed = await broker.observe(spec)
        await broker.apply(plan(broker.desired(spec, observed), observed))


def succeed(value: object = None) -> Answer:
    """Answer every job with one value."""
    return lambda job: Reply(
        job=job.id,
        attempt=job.attempt,
        outcome="succeeded",
        value=msgspec.Raw(msgspec.json.encode(value)),
    )


async def take(url: str, queue: str, count: int, *, within: float = 20.0) -> list[Envelope]:
    """Take jobs out of a queue for good and return them in the order in which they came."""
    found: list[Envelope] = []
    async with opened(url) as broker, asyncio.timeout(within):
        consumer = await broker.consume(queue, credit=500)
        while len(found) < count:
            deliveries = await consumer.take()
            found += [delivery.envelope for delivery in deliveries]
            await broker.settle([Settlement(delivery=one) for one in deliveries], deadline_s=10)
        await broker.settle(
            [Settlement(delivery=one) for one in await consumer.stop()], deadline_s=10
        )
    return found


@asynccontextmanager
async def answering(url: str, queue: str, answer: Answer) -> AsyncIterator[list[Envelope]]:
    """Answer each job of a queue; yields the list of those answered so far."""
    answered: list[Envelope] = []

    async def run(broker: Broker) -> None:
        consumer = await broker.consume(queue, credit=100)
        while deliveries := await consumer.take():
            batch = [
                Settlement(
                    delivery=one,
                    replies=tuple(
                        (to, encode_reply(answer(one.envelope))) for to in one.envelope.reply
                    ),
                )
                for one in deliveries
            ]
            statuses = await broker.settle(batch, deadline_s=10)
            answered.extend(
                one.envelope
                for one, status in zip(deliveries, statuses, strict=True)
                if status is SettleStatus.SETTLED
            )

    async with opened(url) as broker:
        task = asyncio.create_task(run(broker), name="responder")
        try:
            yield answered
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
