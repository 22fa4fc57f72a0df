"""The suite's room for settling: copies before acks, one at a time or many, and fencing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from taskyard.shared.broker import Settlement, SettleStatus
from taskyard.shared.conformance.scene import (
    DEADLINE_S,
    Room,
    collecting,
    content,
    expect_nothing,
    finish,
    ids,
    is_refused,
    job,
    jobs,
    publish,
    settle,
    take,
)
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from taskyard.shared.conformance.harness import Harness

_SETTLED = SettleStatus.SETTLED


class Settling(Room):
    """Nothing is given up before all that it needs is durable (promise 2)."""

    async def test_a_settled_delivery_never_returns(self, harness: Harness) -> None:
        """Settled is settled, also after its worker's death (LQ-09, BS-10)."""
        (queue,) = await harness.queues()
        victim, heir = await harness.open(), await harness.open()
        await publish(victim, *jobs(queue, 3))
        got = await take(harness, await victim.consume(queue, credit=3), 3)
        await finish(victim, got)
        await harness.kill(victim)
        await expect_nothing(harness, await heir.consume(queue, credit=3))

    async def test_settling_nothing_is_fine(self, harness: Harness) -> None:
        """An empty batch has no statuses."""
        await harness.queues()
        broker = await harness.open()
        assert await broker.settle([], deadline_s=DEADLINE_S) == []

    async def test_only_what_was_settled_is_gone(self, harness: Harness) -> None:
        """Settling in the middle of what is held acknowledges nothing before it (promise 2)."""
        (queue,) = await harness.queues()
        victim, heir = await harness.open(), await harness.open()
        sent = jobs(queue, 6)
        await publish(victim, *sent)
        got = await take(harness, await victim.consume(queue, credit=6), 6)
        await finish(victim, [got[4], got[1]])
        await finish(victim, [got[2]])
        await harness.kill(victim)
        async with collecting(heir, await heir.consume(queue, credit=6)) as collector:
            await collector.wait(harness, 3)
            await harness.calm()
        assert sorted(ids(collector.envelopes)) == sorted(ids([sent[0], sent[3], sent[5]]))

    async def test_a_retry_is_a_copy_and_an_ack(self, harness: Harness) -> None:
        """The next attempt has the same id and priority and a new message id (GM-04, BS-05)."""
        (queue,) = await harness.queues()
        broker, heir = await harness.open(), await harness.open()
        await publish(broker, job(queue, priority=7))
        consumer = await broker.consume(queue, credit=1)
        (first,) = await take(harness, consumer, 1)
        copy = msgspec.structs.replace(first.envelope, attempt=2, deliveries=1)
        assert await settle(broker, Settlement(delivery=first, copies=(copy,))) == [_SETTLED]
        (second,) = await take(harness, consumer, 1)
        assert content(second.envelope) == content(copy)
        assert second.envelope.message_id not in ("", first.envelope.message_id)
        assert not second.redelivered
        await finish(broker, [second])
        await harness.kill(broker)
        await expect_nothing(harness, await heir.consume(queue, credit=2))

    async def test_a_hand_back_is_uncharged(self, harness: Harness) -> None:
        """A copy with the same attempt and deliveries comes as if never touched (design §12)."""
        (queue,) = await harness.queues()
        broker, other = await harness.open(), await harness.open()
        await publish(broker, job(queue))
        consumer = await broker.consume(queue, credit=1)
        (held,) = await take(harness, consumer, 1)
        untaken = await consumer.stop()
        assert not untaken
        assert await settle(broker, Settlement(delivery=held, copies=(held.envelope,))) == [
            _SETTLED
        ]
        (again,) = await take(harness, await other.consume(queue, credit=2), 1)
        assert content(again.envelope) == content(held.envelope)
        assert not again.redelivered
        assert again.failures in (0, None)

    async def test_a_refused_copy_leaves_the_delivery_ours(self, harness: Harness) -> None:
        """A copy that no queue takes leaves its delivery undone, to be settled again, and its
        neighbours settled (promise 2, promise 3).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        await publish(broker, *jobs(queue, 3))
        consumer = await broker.consume(queue, credit=3)
        got = await take(harness, consumer, 3)
        astray = msgspec.structs.replace(got[1].envelope, queue=harness.fresh("nobody"))
        statuses = await settle(
            broker,
            Settlement(delivery=got[0]),
            Settlement(delivery=got[1], copies=(astray,)),
            Settlement(delivery=got[2], copies=(got[2].envelope,)),
        )
        assert statuses == [_SETTLED, SettleStatus.UNDONE, _SETTLED]
        (copy,) = await take(harness, consumer, 1)
        assert copy.envelope.id == got[2].envelope.id
        await finish(broker, [got[1], copy])
        await expect_nothing(harness, consumer)

    async def test_what_is_undone_survives_a_death(self, harness: Harness) -> None:
        """An undone delivery whose worker then dies runs elsewhere (promise 3)."""
        (queue,) = await harness.queues()
        victim, heir = await harness.open(), await harness.open()
        await publish(victim, job(queue))
        (held,) = await take(harness, await victim.consume(queue, credit=1), 1)
        astray = msgspec.structs.replace(held.envelope, queue=harness.fresh("nobody"))
        assert await settle(victim, Settlement(delivery=held, copies=(astray,))) == [
            SettleStatus.UNDONE
        ]
        await harness.kill(victim)
        async with collecting(heir, await heir.consume(queue, credit=1)) as collector:
            await collector.wait(harness, 1)
        assert collector.got[0].envelope.id == held.envelope.id

    async def test_a_delivery_is_settled_once(self, harness: Harness) -> None:
        """A second settle of one delivery is `LOST` and disturbs nothing (LQ-07)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = jobs(queue, 3)
        await publish(broker, *sent)
        consumer = await broker.consume(queue, credit=2)
        got = await take(harness, consumer, 2)
        await finish(broker, got[:1])
        assert await settle(broker, Settlement(delivery=got[0])) == [SettleStatus.LOST]
        await finish(broker, got[1:])
        (last,) = await take(harness, consumer, 1)
        assert last.envelope.id == sent[2].id

    async def test_a_dead_holder_settles_nothing(self, harness: Harness) -> None:
        """A delivery that another was given is fenced off from its first holder (LQ-07, BS-19)."""
        (queue,) = await harness.queues()
        victim, heir = await harness.open(), await harness.open()
        if is_refused(heir.capabilities.lease):
            return
        await publish(heir, job(queue))
        (held,) = await take(harness, await victim.consume(queue, credit=1), 1)
        await harness.kill(victim)
        async with collecting(heir, await heir.consume(queue, credit=1)) as collector:
            await collector.wait(harness, 1)
        try:
            late = await victim.settle([Settlement(delivery=held)], deadline_s=1.0)
        except Unavailable:
            late = [SettleStatus.LOST]
        assert late == [SettleStatus.LOST]
        await finish(heir, collector.got)

    async def test_a_large_batch_settles_in_order(self, harness: Harness) -> None:
        """A group commit of 256 jobs, each with a copy, keeps their order (promise 2)."""
        (source, target) = await harness.queues(2)
        broker = await harness.open()
        await publish(broker, *jobs(source, 256))
        got = await take(harness, await broker.consume(source, credit=256), 256)
        copies = [msgspec.structs.replace(d.envelope, queue=target, attempt=2) for d in got]
        statuses = await settle(
            broker,
            *(
                Settlement(delivery=delivery, copies=(copy,))
                for delivery, copy in zip(got, copies, strict=True)
            ),
        )
        assert statuses == [_SETTLED] * 256
        moved = await take(harness, await broker.consume(target, credit=256), 256)
        assert [content(d.envelope) for d in moved] == [content(copy) for copy in copies]

    async def test_several_copies_of_one_delivery(self, harness: Harness) -> None:
        """A settlement may publish to several queues (ZS-22)."""
        (queue, other) = await harness.queues(2)
        broker = await harness.open()
        await publish(broker, job(queue))
        consumer = await broker.consume(queue, credit=1)
        (held,) = await take(harness, consumer, 1)
        first, second = job(queue), job(other)
        assert await settle(broker, Settlement(delivery=held, copies=(first, second))) == [_SETTLED]
        (one,) = await take(harness, consumer, 1)
        (two,) = await take(harness, await broker.consume(other, credit=1), 1)
        assert ids([one.envelope, two.envelope]) == [first.id, second.id]

    async def test_extending_keeps_a_delivery_ours(self, harness: Harness) -> None:
        """A touch is granted within what the broker can hold, and refused beyond (LQ-08, BS-09)."""
        (queue,) = await harness.queues()
        broker, other = await harness.open(), await harness.open()
        await publish(broker, job(queue))
        (held,) = await take(harness, await broker.consume(queue, credit=1, ttr_s=60.0), 1)
        assert await broker.extend(held, broker.now_ms() + 60_000)
        longest_s = broker.capabilities.max_ttr_s
        if longest_s is not None:
            beyond_ms = broker.now_ms() + round(longest_s * 1000) + 3_600_000
            assert not await broker.extend(held, beyond_ms)
        await expect_nothing(harness, await other.consume(queue, credit=1))
        await finish(broker, [held])
