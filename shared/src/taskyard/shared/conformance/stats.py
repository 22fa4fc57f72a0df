"""The suite's room for numbers: each equals the truth of a scripted scene, or is not told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.shared.broker import DELAYED, FEED
from taskyard.shared.conformance.scene import (
    Room,
    eventually_async,
    finish,
    job,
    jobs,
    park,
    publish,
    take,
)
from taskyard.shared.envelope import Parking

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker, QueueStats
    from taskyard.shared.conformance.harness import Harness
    from taskyard.shared.feed import FeedItem


async def numbers(broker: Broker, queue: str) -> QueueStats:
    """Return the numbers of one queue."""
    return (await broker.stats([queue]))[queue]


class Numbers(Room):
    """`stats` tells the truth; what a broker cannot tell is None, never a guess (BS-13)."""

    async def test_a_scripted_scene(self, harness: Harness) -> None:
        """Ready, unsettled, scheduled, parked and consumers are as the scene left them (BS-13,
        ZS-55).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        await publish(broker, *jobs(queue, 10))
        if broker.capabilities.delay:
            await publish(broker, job(queue, not_before_ms=broker.now_ms() + 3_600_000))
        consumer = await broker.consume(queue, credit=4)
        got = await take(harness, consumer, 4)
        await park(broker, got[0], Parking(reason="held"))
        await finish(broker, got[1:2])
        await take(harness, consumer, 2)

        async def told() -> bool:
            seen = await numbers(broker, queue)
            return (
                seen.exists
                and (seen.ready, seen.parked) == (4, 1)
                and seen.unsettled in (4, None)
                and seen.scheduled in (int(bool(broker.capabilities.delay)), None)
                and seen.consumers in (1, None)
            )

        await eventually_async(harness, told, "the numbers of the scene")

    async def test_an_empty_queue(self, harness: Harness) -> None:
        """A new queue has nothing in it, and nothing is old there."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        seen = await numbers(broker, queue)
        assert seen.exists
        assert (seen.ready, seen.parked, seen.oldest_ms) == (0, 0, None)
        assert seen.unsettled in (0, None)
        assert seen.scheduled in (0, None)
        assert seen.consumers in (0, None)

    async def test_a_queue_that_is_not_there(self, harness: Harness) -> None:
        """An unknown queue says that it does not exist, beside one that does."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        name = harness.fresh("nobody")
        seen = await broker.stats([name, queue])
        assert not seen[name].exists
        assert seen[queue].exists

    async def test_the_oldest_job_has_an_age(self, harness: Harness) -> None:
        """Where told, `oldest_ms` is when the oldest ready job was due: ages are never negative
        (SQ-06).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        old = job(queue, priority=0, not_before_ms=broker.now_ms() - 60_000)
        await publish(broker, job(queue, priority=9, not_before_ms=broker.now_ms() - 1_000), old)
        seen = await numbers(broker, queue)
        assert seen.ready == 2
        assert seen.oldest_ms in (old.due_ms, None)

    async def test_what_is_due_later(self, harness: Harness) -> None:
        """Where told, of each queue or of all together: how many jobs are due later, on whichever
        part of their way (B-33).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        if not broker.capabilities.delay:
            return
        before = await later(broker, queue)
        due_ms = broker.now_ms() + 3_600_000
        await publish(
            broker, *(job(queue, not_before_ms=due_ms + 8**level * 100) for level in range(7))
        )

        async def told() -> bool:
            seen = await later(broker, queue)
            return seen is None or (before is not None and seen >= before + 7)

        await eventually_async(harness, told, "what is due later")

    async def test_what_the_feed_holds(self, harness: Harness) -> None:
        """Ready while nobody reads it, then in the reader's hands, then nothing; and whether there
        is one (B-33).
        """
        (queue,) = await harness.queues(ledger=True)
        broker = await harness.open()
        if not broker.recording:
            assert not (await numbers(broker, FEED)).exists
            return
        await publish(broker, *jobs(queue, 3))

        async def waits() -> bool:
            return (await numbers(broker, FEED)).ready >= 3

        await eventually_async(harness, waits, "the feed holds three items")
        reader = await broker.feed(credit=1000)
        got: list[FeedItem] = []
        mine = 0
        while mine < 3:
            items = await reader.take()
            got += items
            mine += sum(i.envelope is not None and i.envelope.queue == queue for i in items)

        async def taken() -> bool:
            seen = await numbers(broker, FEED)
            return seen.ready == 0 and (seen.unsettled is None or seen.unsettled >= 3)

        await eventually_async(harness, taken, "a reader has them in hand")
        await reader.ack(got)

        async def gone() -> bool:
            seen = await numbers(broker, FEED)
            return seen.ready == 0 and not seen.unsettled

        await eventually_async(harness, gone, "the feed is empty")
        await reader.stop()


async def later(broker: Broker, queue: str) -> int | None:
    """Return how many jobs are due later: of the queue, or of all where that is what is told."""
    of_queue = (await numbers(broker, queue)).scheduled
    together = await numbers(broker, DELAYED)
    return of_queue if of_queue is not None else together.scheduled
