"""The suite's room for deaths and closings: what stays, what returns, what ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskyard.shared.broker import Connected, Settlement, SettleStatus
from taskyard.shared.conformance.scene import (
    Room,
    close,
    collecting,
    expect_nothing,
    ids,
    job,
    jobs,
    park,
    publish,
    settle,
    take,
)
from taskyard.shared.envelope import Parking

if TYPE_CHECKING:
    from taskyard.shared.conformance.harness import Harness


class Deaths(Room):
    """A crash yields at worst a duplicate, and never a loss (promises 1 and 2)."""

    async def test_confirmed_jobs_outlive_their_sender(self, harness: Harness) -> None:
        """What was confirmed is there after the sender's death: ready and parked (ZS-30)."""
        (queue,) = await harness.queues()
        sender, worker = await harness.open(), await harness.open()
        held = job(queue)
        await publish(sender, held)
        consumer = await sender.consume(queue, credit=1)
        (got,) = await take(harness, consumer, 1)
        await park(sender, got, Parking(reason="held"))
        await consumer.stop()
        sent = jobs(queue, 100)
        await publish(sender, *sent)
        await harness.kill(sender)
        came = await take(harness, await worker.consume(queue, credit=100), 100)
        assert ids([d.envelope for d in came]) == ids(sent)
        assert [found.envelope.id async for found in worker.parked(queue)] == [held.id]

    async def test_a_death_between_settles_loses_and_doubles_nothing(
        self, harness: Harness
    ) -> None:
        """What was reported settled is done once; all else runs again (promise 2)."""
        (source, target) = await harness.queues(2)
        victim, heir = await harness.open(), await harness.open()
        sent = jobs(source, 10)
        await publish(heir, *sent)
        got = await take(harness, await victim.consume(source, credit=10), 10)
        for delivery in got[:4]:
            moved = job(target)
            statuses = await settle(victim, Settlement(delivery=delivery, copies=(moved,)))
            assert statuses == [SettleStatus.SETTLED]
        await harness.kill(victim)
        async with (
            collecting(heir, await heir.consume(source, credit=20)) as again,
            collecting(heir, await heir.consume(target, credit=20)) as copies,
        ):
            await again.wait(harness, 6)
            await copies.wait(harness, 4)
            await harness.calm()
        assert sorted(ids(again.envelopes)) == sorted(ids(sent[4:]))
        assert len(copies.got) == 4

    async def test_closing_gives_back_what_is_held(self, harness: Harness) -> None:
        """Whatever a closing handle did not settle goes to others, aborted or not (BS-19)."""
        (queue,) = await harness.queues()
        heir = await harness.open()
        sent = jobs(queue, 4)
        await publish(heir, *sent)
        for abort in (False, True):
            broker = await harness.open()
            consumer = await broker.consume(queue, credit=10)
            async with collecting(broker, consumer) as collector:
                await collector.wait(harness, 4)
            async with asyncio.timeout(harness.patience_s):
                await broker.close(abort=abort)
            assert not broker.connected
        async with collecting(heir, await heir.consume(queue, credit=10)) as collector:
            await collector.wait(harness, 4)
        assert sorted(ids(collector.envelopes)) == sorted(ids(sent))

    async def test_closing_ends_what_waits(self, harness: Harness) -> None:
        """`close` lets a waiting take return empty, and may be called twice."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        consumer = await broker.consume(queue, credit=1)
        async with collecting(broker, consumer) as collector:
            await harness.calm()
            await broker.close()
            async with asyncio.timeout(harness.patience_s):
                assert list(await consumer.take()) == []
        await broker.close()
        assert collector.got == []
        assert not consumer.present

    async def test_a_handle_says_that_it_is_connected(self, harness: Harness) -> None:
        """`events` begins with the present state; closing ends it."""
        await harness.queues()
        broker = await harness.open()
        assert broker.connected
        assert not broker.blocked
        events = broker.events()
        async with asyncio.timeout(harness.patience_s):
            assert isinstance(await anext(events), Connected)
        await close(events)

    async def test_a_death_is_only_ones_own(self, harness: Harness) -> None:
        """The death of one process takes nothing from another that goes on working."""
        (queue,) = await harness.queues()
        victim, worker, third = [await harness.open() for _ in range(3)]
        sent = jobs(queue, 2)
        await publish(worker, *sent)
        (held,) = await take(harness, await worker.consume(queue, credit=1), 1)
        (_,) = await take(harness, await victim.consume(queue, credit=1), 1)
        await harness.kill(victim)
        async with collecting(third, await third.consume(queue, credit=5)) as collector:
            await collector.wait(harness, 1)
            await harness.calm()
        assert ids(collector.envelopes) == [sent[1].id]
        assert await settle(worker, Settlement(delivery=held)) == [SettleStatus.SETTLED]
        await expect_nothing(harness, await third.consume(queue, credit=5))
