"""What the rooms of the suite share: jobs, collectors, and waiting for what must happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from taskyard.shared.broker import PublishStatus, Settlement, SettleStatus
from taskyard.shared.envelope import Envelope, Parking, mint_id
from taskyard.shared.feed import FINISHED, FeedRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from taskyard.shared.broker import Broker, Capability, Consumer, Delivery, Receipt
    from taskyard.shared.conformance.harness import Harness

#: Seconds that a write may take; far more than any sound broker needs.
DEADLINE_S = 10.0


class Room:
    """One part of the suite. The test class that derives from it gives it the fixture `harness`."""

    pytestmark = pytest.mark.asyncio


def job(
    queue: str,
    *,
    priority: int = 4,
    not_before_ms: int | None = None,
    attempt: int = 1,
    body: bytes = b"{}",
) -> Envelope:
    """Return a new job."""
    return Envelope(
        id=mint_id(),
        queue=queue,
        task=f"{queue}.test",
        body=body,
        priority=priority,
        attempt=attempt,
        not_before_ms=not_before_ms,
        enqueued_ms=1_700_000_000_000,
    )


def jobs(queue: str, count: int) -> list[Envelope]:
    """Return so many new jobs."""
    return [job(queue) for _ in range(count)]


def ids(envelopes: Sequence[Envelope]) -> list[str]:
    """Return the ids of jobs, in order."""
    return [envelope.id for envelope in envelopes]


def content(envelope: Envelope) -> Envelope:
    """Return a job without what differs per publish, for comparisons."""
    extra = dict(envelope.extra) if envelope.extra else None
    return msgspec.structs.replace(envelope, message_id="", extra=extra)


async def publish(broker: Broker, *envelopes: Envelope) -> list[Receipt]:
    """Publish jobs that must be confirmed."""
    receipts = await broker.publish(envelopes, deadline_s=DEADLINE_S)
    assert [receipt.status for receipt in receipts] == [PublishStatus.CONFIRMED] * len(envelopes)
    return receipts


async def settle(broker: Broker, *batch: Settlement) -> list[SettleStatus]:
    """Settle a batch."""
    return await broker.settle(batch, deadline_s=DEADLINE_S)


async def finish(broker: Broker, deliveries: Sequence[Delivery]) -> None:
    """Settle deliveries plainly; each must be ours."""
    statuses = await settle(broker, *(Settlement(delivery=delivery) for delivery in deliveries))
    assert statuses == [SettleStatus.SETTLED] * len(deliveries)


async def park(broker: Broker, delivery: Delivery, parking: Parking) -> None:
    """Put a delivery into the parking lot."""
    parked = msgspec.structs.replace(delivery.envelope, parking=parking)
    assert await settle(broker, Settlement(delivery=delivery, park=parked)) == [
        SettleStatus.SETTLED
    ]


def finished(delivery: Delivery, outcome: str = "succeeded") -> FeedRecord:
    """Return the record of a delivery's end."""
    envelope = delivery.envelope
    return FeedRecord(
        event=FINISHED,
        job=envelope.id,
        queue=envelope.queue,
        task=envelope.task,
        attempt=envelope.attempt,
        deliveries=envelope.deliveries,
        message=envelope.message_id,
        at=1_700_000_000_123,
        outcome=outcome,
    )


async def take(harness: Harness, consumer: Consumer, count: int) -> list[Delivery]:
    """Take exactly so many deliveries; fails when they do not come in time, or more come at once."""
    got: list[Delivery] = []
    async with asyncio.timeout(harness.patience_s):
        while len(got) < count:
            batch = await consumer.take()
            assert batch, f"the consumer ended after {len(got)} of {count} deliveries"
            got.extend(batch)
    assert len(got) == count
    return got


async def close(iterator: AsyncIterator[object]) -> None:
    """End an iteration before its end; `break` alone leaves that to the garbage collector."""
    if isinstance(iterator, AsyncGenerator):
        await iterator.aclose()


async def expect_nothing(harness: Harness, consumer: Consumer) -> None:
    """Fail if anything is delivered within the harness's calm."""
    taking = asyncio.create_task(_first(consumer), name="expect-nothing")
    await harness.calm()
    taking.cancel()
    with suppress(asyncio.CancelledError):
        batch = await taking
        pytest.fail(f"unexpectedly delivered: {ids([d.envelope for d in batch])}")


async def _first(consumer: Consumer) -> Sequence[Delivery]:
    return await consumer.take()


class Collector:
    """Takes from a consumer in the background and notes when each delivery came."""

    def __init__(self, broker: Broker, consumer: Consumer) -> None:
        """Collect from a consumer of a handle."""
        self.got: list[Delivery] = []
        self.came_ms: dict[str, int] = {}
        self._broker = broker
        self._consumer = consumer

    @property
    def envelopes(self) -> list[Envelope]:
        """What was delivered, in order."""
        return [delivery.envelope for delivery in self.got]

    async def run(self) -> None:
        """Collect until the consumer is stopped."""
        while batch := await self._consumer.take():
            now_ms = self._broker.now_ms()
            for delivery in batch:
                self.came_ms.setdefault(delivery.envelope.id, now_ms)
            self.got.extend(batch)

    async def wait(self, harness: Harness, count: int) -> None:
        """Let time pass until so many deliveries have come."""
        await eventually(harness, lambda: len(self.got) >= count, f"{count} deliveries")


@asynccontextmanager
async def collecting(broker: Broker, consumer: Consumer) -> AsyncIterator[Collector]:
    """Run a collector for the time of a block."""
    collector = Collector(broker, consumer)
    task = asyncio.create_task(collector.run(), name="collector")
    try:
        yield collector
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def eventually(harness: Harness, holds: Callable[[], bool], what: str) -> None:
    """Let time pass until a condition holds; fails when it does not within the patience."""

    async def check() -> bool:
        return holds()

    await eventually_async(harness, check, what)


async def eventually_async(
    harness: Harness, holds: Callable[[], Awaitable[bool]], what: str
) -> None:
    """Let time pass until an awaited condition holds; fails when it does not in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + harness.patience_s
    while not await holds():
        assert loop.time() < until, f"not within {harness.patience_s:g} s: {what}"
        await harness.turn(harness.tick_ms)


def is_refused(capability: Capability) -> bool:
    """Tell whether a capability is refused, and insist on a reason in words."""
    if capability:
        return False
    assert len(capability.note.split()) >= 3, "a refused capability says why, in words"
    return True


def assert_in_words(error: BaseException, capability: Capability) -> None:
    """Insist that an error carries the reason for which a capability is refused."""
    assert capability.note in str(error)
