"""The suite's room for consuming: order, credit, stopping, and redelivery after a death."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from taskyard.shared.conformance.scene import (
    Room,
    collecting,
    content,
    eventually,
    expect_nothing,
    finish,
    ids,
    is_refused,
    job,
    jobs,
    publish,
    take,
)
from taskyard.shared.errors import UnknownQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Consumer, Delivery
    from taskyard.shared.conformance.harness import Harness


class Consuming(Room):
    """Highest priority first, first in first out inside; never more than the credit."""

    async def test_the_highest_priority_comes_first(self, harness: Harness) -> None:
        """Forty jobs of mixed priorities come in strict order, or first in first out where the
        broker refuses priorities in words (ZS-08, LQ-05, SQ-02, GM-01).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = [job(queue, priority=(7 * n) % 10) for n in range(40)]
        await publish(broker, *sent)
        consumer = await broker.consume(queue, credit=1)
        got: list[str] = []
        for _ in sent:
            (delivery,) = await take(harness, consumer, 1)
            got.append(delivery.envelope.id)
            await finish(broker, [delivery])
        if is_refused(broker.capabilities.priorities):
            assert got == ids(sent)
        else:
            assert got == ids(sorted(sent, key=lambda envelope: -envelope.priority))

    async def test_an_urgent_job_gets_the_next_free_slot(self, harness: Harness) -> None:
        """What is sent later but is more urgent overtakes what waits (ZS-08, BS-02)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        if is_refused(broker.capabilities.priorities):
            return
        waiting = jobs(queue, 5)
        await publish(broker, *waiting)
        consumer = await broker.consume(queue, credit=1)
        (running,) = await take(harness, consumer, 1)
        urgent = job(queue, priority=9)
        await publish(broker, urgent)
        await finish(broker, [running])
        (following,) = await take(harness, consumer, 1)
        assert following.envelope.id == urgent.id

    async def test_credit_is_never_exceeded(self, harness: Harness) -> None:
        """No more than `credit` deliveries are unsettled, and a settle makes room for one."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        await publish(broker, *jobs(queue, 20))
        consumer = await broker.consume(queue, credit=3)
        async with collecting(broker, consumer) as collector:
            await collector.wait(harness, 3)
            await harness.calm()
            assert len(collector.got) == 3
            await finish(broker, collector.got[1:2])
            await collector.wait(harness, 4)
            await harness.calm()
            assert len(collector.got) == 4

    async def test_credit_can_be_raised_and_lowered(self, harness: Harness) -> None:
        """`set_credit` holds at once for what comes next; what is held stays held."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        await publish(broker, *jobs(queue, 20))
        consumer = await broker.consume(queue, credit=1)
        async with collecting(broker, consumer) as collector:
            await collector.wait(harness, 1)
            await consumer.set_credit(5)
            await collector.wait(harness, 5)
            await consumer.set_credit(2)
            await finish(broker, collector.got[:3])
            await harness.calm()
            assert len(collector.got) == 5
            await finish(broker, collector.got[3:4])
            await collector.wait(harness, 6)
            await harness.calm()
            assert len(collector.got) == 6

    async def test_consumers_share_a_queue_without_overlap(self, harness: Harness) -> None:
        """Each job goes to one consumer, whichever process it belongs to (LQ-19, EV-04)."""
        (queue,) = await harness.queues()
        left, right = await harness.open(), await harness.open()
        sent = jobs(queue, 40)
        one = await left.consume(queue, credit=40)
        two = await right.consume(queue, credit=40)
        async with collecting(left, one) as first, collecting(right, two) as second:
            await publish(left, *sent)
            await eventually(
                harness, lambda: len(first.got) + len(second.got) >= 40, "all jobs delivered"
            )
            await harness.calm()
        assert sorted(ids([*first.envelopes, *second.envelopes])) == sorted(ids(sent))

    async def test_a_job_reaches_a_consumer_that_waits(self, harness: Harness) -> None:
        """A consumer opened on an empty queue gets what comes later (LQ-25, SQ-01)."""
        (busy, idle) = await harness.queues(2)
        broker, sender = await harness.open(), await harness.open()
        await broker.consume(busy, credit=1)
        consumer = await broker.consume(idle, credit=1)
        async with collecting(broker, consumer) as collector:
            await harness.calm()
            sent = job(idle)
            await publish(sender, *jobs(busy, 3), sent)
            await collector.wait(harness, 1)
        assert ids(collector.envelopes) == [sent.id]

    async def test_an_unknown_queue_is_an_error(self, harness: Harness) -> None:
        """Consuming what does not exist raises, naming the queue (LQ-18)."""
        await harness.queues()
        broker = await harness.open()
        name = harness.fresh("nobody")
        with pytest.raises(UnknownQueue, match=name):
            await broker.consume(name, credit=1)

    async def test_stop_returns_what_was_never_taken(self, harness: Harness) -> None:
        """After `stop` nothing more comes, and all that came is still ours to settle."""
        (queue,) = await harness.queues()
        broker, other = await harness.open(), await harness.open()
        sent = jobs(queue, 10)
        await publish(broker, *sent)
        consumer = await broker.consume(queue, credit=4)
        got = list(await consumer.take())
        assert consumer.present
        untaken = list(await consumer.stop())
        assert not consumer.present
        assert list(await consumer.take()) == []
        ours = [*got, *untaken]
        assert 1 <= len(ours) <= 4
        witness = await other.consume(queue, credit=20)
        rest = await take(harness, witness, 10 - len(ours))
        assert sorted(ids([d.envelope for d in (*ours, *rest)])) == sorted(ids(sent))
        await finish(broker, ours)
        await expect_nothing(harness, witness)

    async def test_a_take_that_waits_ends_with_its_consumer(self, harness: Harness) -> None:
        """`stop` lets a waiting `take` return empty."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        consumer = await broker.consume(queue, credit=1)
        taking = asyncio.create_task(_take(consumer), name="take")
        await harness.calm()
        async with asyncio.timeout(harness.patience_s):
            assert list(await consumer.stop()) == []
            assert list(await taking) == []

    async def test_a_cancelled_take_loses_nothing(self, harness: Harness) -> None:
        """A `take` may be cancelled at any moment; what came is there for the next."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        consumer = await broker.consume(queue, credit=50)
        sent = jobs(queue, 30)
        got: list[str] = []
        for envelope in sent:
            taking = asyncio.create_task(_take(consumer), name="take")
            await asyncio.sleep(0)
            await publish(broker, envelope)
            taking.cancel()
            with suppress(asyncio.CancelledError):
                got.extend(ids([d.envelope for d in await taking]))
        if len(got) < len(sent):
            rest = await take(harness, consumer, len(sent) - len(got))
            got.extend(ids([d.envelope for d in rest]))
        assert got == ids(sent)

    async def test_a_death_gives_jobs_to_others(self, harness: Harness) -> None:
        """What a dead process held comes again, marked, with the same identity (BS-19, EV-09)."""
        (queue,) = await harness.queues()
        victim, heir = await harness.open(), await harness.open()
        sent = jobs(queue, 3)
        await publish(heir, *sent)
        consumer = await victim.consume(queue, credit=2)
        held = await take(harness, consumer, 2)
        await harness.kill(victim)
        async with collecting(heir, await heir.consume(queue, credit=10)) as collector:
            await collector.wait(harness, 3)
        came = {delivery.envelope.id: delivery for delivery in collector.got}
        assert set(came) == set(ids(sent))
        for delivery in held:
            again = came[delivery.envelope.id]
            assert content(again.envelope) == content(delivery.envelope)
            assert again.envelope.message_id == delivery.envelope.message_id
            assert again.redelivered
            assert again.failures in (1, None)
        untouched = came[sent[2].id]
        assert not untouched.redelivered
        assert untouched.failures in (0, None)

    async def test_failed_hand_overs_are_counted(self, harness: Harness) -> None:
        """Each death counts, where the broker counts; else it is at least known (LQ-14)."""
        (queue,) = await harness.queues()
        keeper = await harness.open()
        await publish(keeper, job(queue))
        for deaths in range(4):
            victim = await harness.open()
            async with collecting(victim, await victim.consume(queue, credit=1)) as collector:
                await collector.wait(harness, 1)
            (delivery,) = collector.got
            assert delivery.redelivered is (deaths > 0)
            assert delivery.failures in (deaths, None)
            await harness.kill(victim)

    async def test_a_copy_starts_a_new_count(self, harness: Harness) -> None:
        """Failures belong to a publish: a re-published job starts at none (design §12)."""
        (queue,) = await harness.queues()
        victim, heir = await harness.open(), await harness.open()
        await publish(heir, job(queue))
        await take(harness, await victim.consume(queue, credit=1), 1)
        await harness.kill(victim)
        consumer = await heir.consume(queue, credit=1)
        async with collecting(heir, consumer) as collector:
            await collector.wait(harness, 1)
            (again,) = collector.got
            await publish(heir, again.envelope)
            await finish(heir, [again])
            await collector.wait(harness, 2)
        copy = collector.got[1]
        assert copy.envelope.id == again.envelope.id
        assert not copy.redelivered
        assert copy.failures in (0, None)


async def _take(consumer: Consumer) -> Sequence[Delivery]:
    return await consumer.take()
