"""The suite's room for delays: never early, in time, of any length, and in nobody's way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from taskyard.shared.broker import PublishStatus, Settlement, SettleStatus
from taskyard.shared.conformance.scene import (
    DEADLINE_S,
    Room,
    assert_in_words,
    collecting,
    content,
    eventually_async,
    expect_nothing,
    finish,
    ids,
    is_refused,
    job,
    publish,
    settle,
    take,
)
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker
    from taskyard.shared.conformance.harness import Harness
    from taskyard.shared.envelope import Envelope

_MONTH_MS: Final = 30 * 86_400_000


def due_in(broker: Broker, queue: str, ms: int, *, priority: int = 4) -> Envelope:
    """Return a job that is due `ms` milliseconds from now."""
    return job(queue, priority=priority, not_before_ms=broker.now_ms() + ms)


async def delays_refused(broker: Broker, queue: str) -> bool:
    """Tell whether delays are refused, and insist that they are in words."""
    if not is_refused(broker.capabilities.delay):
        return False
    with pytest.raises(ConfigurationError) as caught:
        await broker.publish([due_in(broker, queue, 60_000)], deadline_s=DEADLINE_S)
    assert_in_words(caught.value, broker.capabilities.delay)
    return True


class Delays(Room):
    """A job due later is the broker's, not a worker's (promise 6)."""

    async def test_never_early_and_not_late(self, harness: Harness) -> None:
        """Jobs of many delays, sent together, each come within their due time and the lateness
        of the harness: no head-of-line blocking (LQ-06, ZS-11, GM-05).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        if await delays_refused(broker, queue):
            return
        sent = [due_in(broker, queue, 100 + (137 * n) % 1_900) for n in range(40)]
        consumer = await broker.consume(queue, credit=len(sent))
        async with collecting(broker, consumer) as collector:
            await publish(broker, *sent)
            await collector.wait(harness, len(sent))
        late_ms = {e.id: collector.came_ms[e.id] - e.due_ms for e in sent}
        assert min(late_ms.values()) >= 0
        assert max(late_ms.values()) <= harness.lateness_s * 1000

    async def test_delayed_jobs_are_nobodys_burden(self, harness: Harness) -> None:
        """Delayed jobs take no credit and hold up nothing that is ready (promise 6)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        if await delays_refused(broker, queue):
            return
        consumer = await broker.consume(queue, credit=1)
        await publish(broker, *(due_in(broker, queue, 3_600_000, priority=9) for _ in range(5)))
        ready = job(queue, priority=0)
        await publish(broker, ready)
        (got,) = await take(harness, consumer, 1)
        assert got.envelope.id == ready.id
        await finish(broker, [got])
        await expect_nothing(harness, consumer)

    async def test_what_is_due_already_comes_at_once(self, harness: Harness) -> None:
        """A due time in the past is no delay."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = job(queue, not_before_ms=broker.now_ms() - 60_000)
        await publish(broker, sent)
        (got,) = await take(harness, await broker.consume(queue, credit=1), 1)
        assert content(got.envelope) == content(sent)

    async def test_a_month_is_accepted(self, harness: Harness) -> None:
        """A delay of 30 days is confirmed, shown as scheduled where the broker can tell, and not
        delivered (SQ-05).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        if await delays_refused(broker, queue):
            return
        await publish(broker, due_in(broker, queue, _MONTH_MS), due_in(broker, queue, _MONTH_MS))
        await expect_nothing(harness, await broker.consume(queue, credit=5))
        numbers = (await broker.stats([queue]))[queue]
        assert numbers.scheduled in (2, None)
        assert numbers.ready == 0

    async def test_an_unknown_queue_is_unroutable_when_delayed_too(self, harness: Harness) -> None:
        """A delayed job for a queue that does not exist is refused when it is sent, not when it
        is due; its neighbours go on (ZS-15, promise 1).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        if await delays_refused(broker, queue):
            return
        sent = [
            due_in(broker, queue, 100),
            due_in(broker, harness.fresh("nobody"), 60_000),
            job(queue),
        ]
        receipts = await broker.publish(sent, deadline_s=DEADLINE_S)
        assert [receipt.status for receipt in receipts] == [
            PublishStatus.CONFIRMED,
            PublishStatus.UNROUTABLE,
            PublishStatus.CONFIRMED,
        ]
        async with collecting(broker, await broker.consume(queue, credit=5)) as collector:
            await collector.wait(harness, 2)
        assert ids(collector.envelopes) == [sent[2].id, sent[0].id]

    async def test_a_delayed_job_keeps_all_it_carries(self, harness: Harness) -> None:
        """Expiry, priority, due time and unknown headers pass through the delay (design §12)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        if await delays_refused(broker, queue):
            return
        sent = msgspec.structs.replace(
            due_in(broker, queue, 300, priority=7),
            expires_ms=broker.now_ms() + 86_400_000,
            ttr_ms=1_234,
            reply=("inbox.one",),
            extra={"ty-future": "später"},
        )
        await publish(broker, sent)
        async with collecting(broker, await broker.consume(queue, credit=1)) as collector:
            await collector.wait(harness, 1)
        (got,) = collector.got
        assert content(got.envelope) == content(sent)
        assert not got.redelivered

    async def test_a_retry_waits_for_its_gap(self, harness: Harness) -> None:
        """A delayed copy of a settlement comes when it is due, once (ZS-33, BS-05, SQ-03)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        if await delays_refused(broker, queue):
            return
        await publish(broker, job(queue))
        consumer = await broker.consume(queue, credit=1)
        (first,) = await take(harness, consumer, 1)
        copy = msgspec.structs.replace(
            first.envelope, attempt=2, not_before_ms=broker.now_ms() + 400
        )
        assert await settle(broker, Settlement(delivery=first, copies=(copy,))) == [
            SettleStatus.SETTLED
        ]
        async with collecting(broker, consumer) as collector:
            await collector.wait(harness, 1)
        assert content(collector.got[0].envelope) == content(copy)
        assert 0 <= collector.came_ms[copy.id] - copy.due_ms <= harness.lateness_s * 1000

    async def test_delayed_jobs_outlive_their_sender(self, harness: Harness) -> None:
        """The death of the process that sent them changes nothing (promise 1, SQ-05)."""
        (queue,) = await harness.queues()
        sender, worker = await harness.open(), await harness.open()
        if await delays_refused(worker, queue):
            return
        sent = [due_in(sender, queue, 300 + 10 * n) for n in range(5)]
        await publish(sender, *sent)
        await harness.kill(sender)
        async with collecting(worker, await worker.consume(queue, credit=5)) as collector:
            await collector.wait(harness, 5)
        assert sorted(ids(collector.envelopes)) == sorted(ids(sent))

    async def test_what_became_due_is_ordered_by_priority(self, harness: Harness) -> None:
        """Once due, a delayed job queues like any other (ZS-08)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        if await delays_refused(broker, queue) or is_refused(broker.capabilities.priorities):
            return
        sent = [due_in(broker, queue, 200, priority=priority) for priority in (1, 9, 4, 7)]
        await publish(broker, *sent)

        async def all_ready() -> bool:
            return (await broker.stats([queue]))[queue].ready == len(sent)

        await eventually_async(harness, all_ready, "all due")
        consumer = await broker.consume(queue, credit=1)
        got: list[int] = []
        for _ in sent:
            (delivery,) = await take(harness, consumer, 1)
            got.append(delivery.envelope.priority)
            await finish(broker, [delivery])
        assert got == [9, 7, 4, 1]
