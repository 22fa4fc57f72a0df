"""The suite's room for numbers: each equals the truth of a scripted scene, or is not told."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
