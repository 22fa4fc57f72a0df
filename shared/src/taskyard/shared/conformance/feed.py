"""The suite's room for the lifecycle feed: all envelopes and records, under their publish."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from taskyard.shared.broker import QueueSpec, Settlement, SettleStatus, SetupSpec
from taskyard.shared.conformance.scene import (
    DEADLINE_S,
    Room,
    assert_in_words,
    content,
    eventually,
    finished,
    is_refused,
    job,
    jobs,
    publish,
    settle,
    take,
)
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.feed import STARTED
from taskyard.shared.topology import Differs, plan

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker
    from taskyard.shared.conformance.harness import Harness
    from taskyard.shared.feed import FeedItem
    from taskyard.shared.topology import Action


class FeedReader:
    """Reads the feed and keeps the items of one queue, in order."""

    def __init__(self, queue: str, *, acks: bool = True) -> None:
        """Keep what concerns `queue`; `acks` says whether items are given up."""
        self._queue = queue
        self._acks = acks
        self.items: list[FeedItem] = []

    async def run(self, broker: Broker, *, credit: int = 100) -> None:
        """Read until cancelled."""
        consumer = await broker.feed(credit=credit)
        try:
            while batch := await consumer.take():
                self.items.extend(item for item in batch if self.concerns(item))
                if self._acks:
                    await consumer.ack(batch)
        finally:
            await consumer.stop()

    async def until(self, harness: Harness, broker: Broker, count: int) -> None:
        """Read until so many items have come, then a little longer for what must not come."""
        task = asyncio.create_task(self.run(broker), name="feed-reader")
        try:
            await eventually(
                harness, lambda: len(self.items) >= count or task.done(), f"{count} feed items"
            )
            await harness.calm()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def concerns(self, item: FeedItem) -> bool:
        """Tell whether an item is about this reader's queue."""
        if item.envelope is not None:
            return item.envelope.queue == self._queue
        return any(record.queue == self._queue for record in item.records)


async def left(broker: Broker, spec: SetupSpec) -> list[Action]:
    """Return what is known to lie between a broker and what is asked of it."""
    observed = await broker.observe(spec)
    actions = plan(broker.desired(spec, observed), observed)
    return [a for a in actions if isinstance(a, Differs) or not a.unverified]


async def bring(broker: Broker, spec: SetupSpec) -> None:
    """Bring a broker to what is asked of it."""
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))


async def feed_refused(broker: Broker) -> bool:
    """Tell whether the feed is refused, and insist that it is in words."""
    if not is_refused(broker.capabilities.feed):
        return False
    assert not broker.recording
    with pytest.raises(ConfigurationError) as caught:
        await broker.feed(credit=1)
    assert_in_words(caught.value, broker.capabilities.feed)
    return True


class Feeding(Room):
    """Every published envelope and every outcome, in the order the broker saw them (promise 4)."""

    async def test_without_a_ledger_nothing_is_recorded(self, harness: Harness) -> None:
        """Recording is off where no feed was set up, and hinders nothing (design §5)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        assert not broker.recording
        with pytest.raises(ConfigurationError):
            await broker.feed(credit=1)
        await publish(broker, job(queue))
        (got,) = await take(harness, await broker.consume(queue, credit=1), 1)
        record = finished(got)
        assert not await broker.record([record], deadline_s=DEADLINE_S)
        assert await settle(broker, Settlement(delivery=got, record=record)) == [
            SettleStatus.SETTLED
        ]

    async def test_every_publish_is_in_the_feed_once(self, harness: Harness) -> None:
        """Immediate and delayed jobs are there as published, when they are published, and not
        again when they become due (promise 4).
        """
        (queue,) = await harness.queues(ledger=True)
        broker = await harness.open()
        if await feed_refused(broker):
            return
        assert broker.recording
        sent = [job(queue, priority=9), *jobs(queue, 2)]
        if broker.capabilities.delay:
            sent.append(job(queue, not_before_ms=broker.now_ms() + 250))
            sent.append(job(queue, not_before_ms=broker.now_ms() + 3_600_000))
        receipts = await publish(broker, *sent)
        reader = FeedReader(queue)
        await harness.turn(400)
        await reader.until(harness, broker, len(sent))
        envelopes = [item.envelope for item in reader.items if item.envelope is not None]
        assert sorted(e.message_id for e in envelopes) == sorted(r.message_id for r in receipts)
        by_id = {envelope.id: content(envelope) for envelope in envelopes}
        assert by_id == {envelope.id: content(envelope) for envelope in sent}

    async def test_a_queue_can_be_left_out(self, harness: Harness) -> None:
        """What is published to it is not in the feed, but for delayed jobs where the technology
        cannot tell them apart; records are; and it can be taken in again (issue 6, 3).
        """
        queue, other = await harness.queues(2, ledger=True)
        broker = await harness.open()
        if await feed_refused(broker):
            return
        names = (QueueSpec(name=queue), QueueSpec(name=other))
        told = SetupSpec(queues=names, ledger=True)
        untold = SetupSpec(queues=names, ledger=True, left_out=frozenset({queue}))
        await bring(broker, untold)
        # Whoever sets up others has to know of it, and then leaves it alone.
        others = SetupSpec(queues=names[1:], ledger=True, left_out=frozenset({queue}))
        await bring(broker, others)
        assert await left(broker, untold) == []
        assert await left(broker, told) != [] or not (await broker.observe(told)).verified
        await publish(broker, job(queue))
        (got,) = await take(harness, await broker.consume(queue, credit=1), 1)
        record = finished(got)
        assert await settle(broker, Settlement(delivery=got, record=record)) == [
            SettleStatus.SETTLED
        ]
        await bring(broker, told)
        assert await left(broker, told) == []
        sent = job(queue)
        await publish(broker, sent)
        reader = FeedReader(queue)
        await reader.until(harness, broker, 2)
        assert [item.envelope.id for item in reader.items if item.envelope is not None] == [sent.id]
        assert [r for item in reader.items for r in item.records] == [record]

    async def test_outcomes_follow_their_envelopes(self, harness: Harness) -> None:
        """A settlement's record reaches the feed, whole, behind the publish that it ends, and a
        retry's copy is there as well (design §5, GM-04).
        """
        (queue,) = await harness.queues(ledger=True)
        broker = await harness.open()
        if await feed_refused(broker):
            return
        await publish(broker, *jobs(queue, 2))
        one, two = await take(harness, await broker.consume(queue, credit=2), 2)
        success = msgspec.structs.replace(
            finished(one), wait_ms=3, run_ms=5, value=msgspec.Raw(b'{"ok":true}'), worker="höst:1"
        )
        retried = msgspec.structs.replace(finished(two, "retried"), due=1_700_000_000_999)
        copy = msgspec.structs.replace(two.envelope, attempt=2)
        assert (
            await settle(
                broker,
                Settlement(delivery=one, record=success),
                Settlement(delivery=two, record=retried, copies=(copy,)),
            )
            == [SettleStatus.SETTLED] * 2
        )
        reader = FeedReader(queue)
        await reader.until(harness, broker, 4)
        records = [record for item in reader.items for record in item.records]
        assert {record.job: record for record in records} == {
            one.envelope.id: success,
            two.envelope.id: retried,
        }
        places = [
            item.envelope.message_id if item.envelope else item.records[0].message
            for item in reader.items
        ]
        kinds = [item.envelope is not None for item in reader.items]
        for delivery in (one, two):
            first = places.index(delivery.envelope.message_id)
            assert kinds[first], "an outcome came before the envelope that it ends"
        attempts = [i.envelope.attempt for i in reader.items if i.envelope is not None]
        assert sorted(attempts) == [1, 1, 2]

    async def test_records_can_be_added_alone(self, harness: Harness) -> None:
        """`record` says that its records are durable; they come in order (design §5)."""
        (queue,) = await harness.queues(ledger=True)
        broker = await harness.open()
        if await feed_refused(broker):
            return
        await publish(broker, job(queue))
        (got,) = await take(harness, await broker.consume(queue, credit=1), 1)
        started = msgspec.structs.replace(finished(got, ""), event=STARTED)
        assert await broker.record([started, finished(got)], deadline_s=DEADLINE_S)
        reader = FeedReader(queue)
        await reader.until(harness, broker, 2)
        records = [record for item in reader.items for record in item.records]
        assert records == [started, finished(got)]

    async def test_unacknowledged_items_stay(self, harness: Harness) -> None:
        """What a reader did not acknowledge comes again, after its death too; what it did
        acknowledge does not (promise 4).
        """
        (queue,) = await harness.queues(ledger=True)
        broker = await harness.open()
        if await feed_refused(broker):
            return
        sent = jobs(queue, 6)
        await publish(broker, *sent)
        stopped, victim = FeedReader(queue, acks=False), await harness.open()
        await stopped.until(harness, broker, 6)
        assert len(stopped.items) >= 6
        consumer = await victim.feed(credit=500)
        dying: list[FeedItem] = []
        async with asyncio.timeout(harness.patience_s):
            while len(dying) < 6:
                dying.extend(i for i in await consumer.take() if stopped.concerns(i))
        await consumer.ack(dying[:2])
        if broker.recording:
            # An answered call behind it on the same handle: the acks have left before the death.
            await victim.stats([queue])
        await harness.kill(victim)
        reader = FeedReader(queue)
        await reader.until(harness, broker, 4)
        left = {item.envelope.id for item in reader.items if item.envelope is not None}
        assert left >= {item.envelope.id for item in dying[2:] if item.envelope is not None}
        assert len(left) <= 6

    async def test_a_reader_is_not_flooded(self, harness: Harness) -> None:
        """No more than `credit` items are unacknowledged at once (promise 7)."""
        (queue,) = await harness.queues(ledger=True)
        broker = await harness.open()
        if await feed_refused(broker):
            return
        await publish(broker, *jobs(queue, 30))
        reader = FeedReader(queue, acks=False)
        consumer = await broker.feed(credit=5)
        held = 0

        async def read() -> None:
            nonlocal held
            while batch := await consumer.take():
                held += len(batch)

        task = asyncio.create_task(read(), name="reader")
        await eventually(harness, lambda: held >= 5, "five items")
        await harness.calm()
        assert held == 5
        await consumer.stop()
        await task
        assert not reader.items
