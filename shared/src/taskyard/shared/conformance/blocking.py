"""The suite's room for a broker that refuses publishes: for brokers that can be made to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from taskyard.shared.broker import (
    Blocked,
    Connected,
    PublishStatus,
    Settlement,
    SettleStatus,
    Unblocked,
)
from taskyard.shared.conformance.scene import (
    Room,
    close,
    eventually,
    finish,
    ids,
    job,
    jobs,
    publish,
    settle,
    take,
)

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker, BrokerEvent
    from taskyard.shared.conformance.harness import Harness


async def alarm(harness: Harness, *handles: Broker) -> None:
    """Block the broker, and make sure that the handles have noticed: some do by publishing."""
    await harness.block()
    for handle in handles:
        if not handle.blocked:
            await handle.publish([job("no-such-queue")], deadline_s=0.5)
    await eventually(harness, lambda: all(h.blocked for h in handles), "blocked")


class BlockedSuite(Room):
    """A blocked broker hangs nobody and can still be drained (promise 7)."""

    async def test_publishes_end_with_their_deadline(self, harness: Harness) -> None:
        """Under an alarm a publish waits as long as its deadline, then says that it may or may
        not have been stored; afterwards publishing works again.
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        await alarm(harness, broker)
        loop = asyncio.get_running_loop()
        started = loop.time()
        receipts = await broker.publish(jobs(queue, 2), deadline_s=0.5)
        assert {r.status for r in receipts} <= {PublishStatus.TIMEOUT, PublishStatus.UNAVAILABLE}
        assert 0.4 <= loop.time() - started <= harness.patience_s
        await harness.unblock()
        await publish(broker, job(queue))
        await eventually(harness, lambda: not broker.blocked, "unblocked")

    async def test_a_waiting_publish_goes_on_afterwards(self, harness: Harness) -> None:
        """A publish whose deadline lies behind the alarm's end is confirmed."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        await alarm(harness, broker)
        sent = job(queue)
        waiting = asyncio.create_task(publish(broker, sent), name="publish")
        await harness.calm()
        assert not waiting.done()
        await harness.unblock()
        await waiting

    async def test_a_blocked_broker_can_be_drained(self, harness: Harness) -> None:
        """Plain settles go on and new jobs come, while those that publish stay undone and ours
        (promise 7, design §7).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = jobs(queue, 6)
        await publish(broker, *sent)
        consumer = await broker.consume(queue, credit=3)
        got = await take(harness, consumer, 3)
        await alarm(harness, broker)
        copy = msgspec.structs.replace(got[1].envelope, attempt=2)
        statuses = await broker.settle(
            [
                Settlement(delivery=got[0]),
                Settlement(delivery=got[1], copies=(copy,)),
                Settlement(delivery=got[2]),
            ],
            deadline_s=0.5,
        )
        assert statuses == [SettleStatus.SETTLED, SettleStatus.UNDONE, SettleStatus.SETTLED]
        more = await take(harness, consumer, 2)
        assert ids([d.envelope for d in more]) == ids(sent[3:5])
        await finish(broker, more)
        await harness.unblock()
        assert await settle(broker, Settlement(delivery=got[1], copies=(copy,))) == [
            SettleStatus.SETTLED
        ]

    async def test_the_alarm_is_told(self, harness: Harness) -> None:
        """`events` and `blocked` say when publishes are refused, and when no more (promise 7)."""
        await harness.queues()
        broker = await harness.open()
        seen: list[BrokerEvent] = []

        async def watch() -> None:
            events = broker.events()
            try:
                async for event in events:
                    seen.insert(len(seen), event)
            finally:
                await close(events)

        task = asyncio.create_task(watch(), name="watch")
        await eventually(harness, lambda: bool(seen), "the first event")
        assert isinstance(seen[0], Connected)
        await alarm(harness, broker)
        await eventually(harness, lambda: any(isinstance(e, Blocked) for e in seen), "blocked")
        await harness.unblock()
        await eventually(harness, lambda: isinstance(seen[-1], Unblocked), "unblocked")
        await broker.close()
        async with asyncio.timeout(harness.patience_s):
            await task

    async def test_records_wait_too(self, harness: Harness) -> None:
        """Outcomes gate the ack: a settle with a record is undone while the feed cannot be
        written, and `record` says that it could not (promise 2).
        """
        (queue,) = await harness.queues(ledger=True)
        broker = await harness.open()
        if not broker.capabilities.feed:
            assert not broker.recording
            return
        from taskyard.shared.conformance.scene import finished

        await publish(broker, job(queue))
        (got,) = await take(harness, await broker.consume(queue, credit=1), 1)
        await alarm(harness, broker)
        assert await broker.settle(
            [Settlement(delivery=got, record=finished(got))], deadline_s=0.5
        ) == [SettleStatus.UNDONE]
        assert not await broker.record([finished(got)], deadline_s=0.5)
        assert await broker.settle([Settlement(delivery=got)], deadline_s=0.5) == [
            SettleStatus.SETTLED
        ]
        await harness.unblock()
