"""The suite's room for parking lots: browsing leaves no trace, and taking keeps the order."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from taskyard.shared.broker import ORPHANS, PublishStatus, Selection, Settlement, SettleStatus
from taskyard.shared.conformance.scene import (
    DEADLINE_S,
    Room,
    close,
    content,
    eventually_async,
    expect_nothing,
    finish,
    ids,
    job,
    park,
    publish,
    settle,
    take,
)
from taskyard.shared.envelope import Parking
from taskyard.shared.errors import TaskyardError, UnknownQueue
from taskyard.shared.outcomes import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Broker, Delivery
    from taskyard.shared.conformance.harness import Harness
    from taskyard.shared.envelope import Envelope


async def park_all(
    harness: Harness, broker: Broker, queue: str, reasons: Sequence[str]
) -> list[Envelope]:
    """Park one new job for each reason, in order, and return them as they were sent."""
    # The priorities fall and rise, so that a lot that orders by priority is found out.
    sent = [job(queue, priority=(n * 7 + 3) % 10) for n in range(len(reasons))]
    await publish(broker, *sent)
    consumer = await broker.consume(queue, credit=len(sent))
    got = {d.envelope.id: d for d in await take(harness, consumer, len(sent))}
    for envelope, reason in zip(sent, reasons, strict=True):
        await park(broker, got[envelope.id], Parking(reason=reason, at_ms=broker.now_ms()))
    await consumer.stop()
    return sent


async def park_failed(
    harness: Harness, broker: Broker, queue: str, fingerprints: Sequence[str]
) -> list[str]:
    """Park one new job for each fingerprint (empty: without an error); return their ids."""
    sent = [job(queue) for _ in fingerprints]
    await publish(broker, *sent)
    consumer = await broker.consume(queue, credit=len(sent))
    got = {d.envelope.id: d for d in await take(harness, consumer, len(sent))}
    for envelope, name in zip(sent, fingerprints, strict=True):
        error = ErrorInfo(type="E", fingerprint=name) if name else None
        parking = Parking(reason="held", at_ms=broker.now_ms(), error=error)
        await park(broker, got[envelope.id], parking)
    await consumer.stop()
    return ids(sent)


async def browse(broker: Broker, queue: str) -> list[str]:
    """Return the ids in a parking lot, in its order."""
    return [found.envelope.id async for found in broker.parked(queue)]


async def discard(broker: Broker, queue: str, select: Selection) -> list[str]:
    """Take the selected jobs, settle each plainly, and return their ids in order."""
    gone: list[str] = []
    async for batch in broker.take_parked(queue, select):
        gone += ids([delivery.envelope for delivery in batch])
        await finish(broker, batch)
    return gone


async def release(broker: Broker, queue: str, select: Selection) -> list[str]:
    """Take the selected jobs, send each back to its queue, and return their ids in order."""
    gone: list[str] = []
    async for batch in broker.take_parked(queue, select):
        gone += ids([delivery.envelope for delivery in batch])
        for delivery in batch:
            await send_back(broker, delivery)
    return gone


async def send_back(broker: Broker, delivery: Delivery) -> None:
    """Settle a parked job by a copy into its queue, as a release does."""
    parked = delivery.envelope
    copy = msgspec.structs.replace(
        parked, attempt=parked.attempt + 1, base=parked.attempt, priority=4, parking=None
    )
    assert await settle(broker, Settlement(delivery=delivery, copies=(copy,))) == [
        SettleStatus.SETTLED
    ]


class ParkingLots(Room):
    """A parked job is never lost, never run, and never moved by looking (promise 3)."""

    async def test_parked_jobs_wait_for_a_human(self, harness: Harness) -> None:
        """A parked job leaves its queue and is not delivered again (SQ-04, GM-02, LQ-16)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = await park_all(harness, broker, queue, ["held", "exhausted"])
        assert await browse(broker, queue) == ids(sent)
        await expect_nothing(harness, await broker.consume(queue, credit=5))
        numbers = (await broker.stats([queue]))[queue]
        assert (numbers.ready, numbers.parked) == (0, 2)

    async def test_a_job_is_put_straight_into_its_lot(self, harness: Harness) -> None:
        """It is there as it was given, under an id of its own (ZP-20)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        parking = Parking(reason="suspended", at_ms=broker.now_ms(), detail="by me")
        jobs = [msgspec.structs.replace(job(queue, priority=n), parking=parking) for n in (9, 0, 4)]
        receipts = await broker.park(jobs, deadline_s=DEADLINE_S)
        assert [receipt.status for receipt in receipts] == [PublishStatus.CONFIRMED] * 3
        found = [each.envelope async for each in broker.parked(queue)]
        assert [content(each) for each in found] == [content(each) for each in jobs]
        message_ids = [each.message_id for each in found]
        assert message_ids == [receipt.message_id for receipt in receipts]
        assert len(set(message_ids)) == len(jobs)
        consumer = await broker.consume(queue, credit=5)
        await expect_nothing(harness, consumer)
        assert await release(broker, queue, Selection()) == ids(jobs)
        got = await take(harness, consumer, 3)
        assert {delivery.envelope.id for delivery in got} == set(ids(jobs))

    async def test_what_has_no_lot_is_not_lost(self, harness: Harness) -> None:
        """A job of a queue that is not there is among the orphans, or its receipt says so."""
        broker = await harness.open()
        parking = Parking(reason="suspended", at_ms=broker.now_ms())
        lost = msgspec.structs.replace(job("no-such-queue"), parking=parking)
        (receipt,) = await broker.park([lost], deadline_s=DEADLINE_S)
        if receipt.status is PublishStatus.CONFIRMED:
            assert lost.id in await browse(broker, ORPHANS)
        else:
            assert receipt.status is PublishStatus.UNROUTABLE
            assert "no-such-queue" in receipt.detail

    async def test_browsing_changes_nothing(self, harness: Harness) -> None:
        """However often a lot is browsed, completely or not, its jobs, their order and their
        numbers stay (BS-11, LQ-15).
        """
        (queue,) = await harness.queues()
        broker, other = await harness.open(), await harness.open()
        sent = await park_all(harness, broker, queue, ["held", "poison", "held", "invalid"])
        for _ in range(24):
            assert await browse(broker, queue) == ids(sent)
        partly = other.parked(queue)
        first = await anext(partly)
        await close(partly)
        assert first.envelope.id == sent[0].id
        assert await browse(other, queue) == ids(sent)
        assert (await broker.stats([queue]))[queue].parked == len(sent)
        assert await discard(broker, queue, Selection()) == ids(sent)

    async def test_browsing_survives_deaths(self, harness: Harness) -> None:
        """Whoever dies while browsing takes no job along, however often (promise 3)."""
        (queue,) = await harness.queues()
        keeper = await harness.open()
        sent = await park_all(harness, keeper, queue, ["held", "held", "held"])
        for _ in range(22):
            victim = await harness.open()
            looking = victim.parked(queue)
            await anext(looking)
            await harness.kill(victim)
            with suppress(TaskyardError):
                await close(looking)

        async def all_there() -> bool:
            return await browse(keeper, queue) == ids(sent)

        await eventually_async(harness, all_there, "all parked jobs seen again")
        assert await discard(keeper, queue, Selection()) == ids(sent)

    async def test_the_whole_lot_in_its_order(self, harness: Harness) -> None:
        """The order of release is the order of parking, whatever the priorities (BS-06)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = await park_all(harness, broker, queue, ["held"] * 12)
        assert await release(broker, queue, Selection()) == ids(sent)
        assert await browse(broker, queue) == []
        got = await take(harness, await broker.consume(queue, credit=20), 12)
        assert ids([d.envelope for d in got]) == ids(sent)
        assert {(d.envelope.attempt, d.envelope.base) for d in got} == {(2, 1)}
        assert all(d.envelope.parking is None for d in got)

    async def test_at_most_so_many(self, harness: Harness) -> None:
        """`limit` takes the longest parked first and leaves the rest in order (LQ-16, BS-07)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = ids(await park_all(harness, broker, queue, ["held"] * 5))
        assert await release(broker, queue, Selection(limit=2)) == sent[:2]
        assert await browse(broker, queue) == sent[2:]
        assert await release(broker, queue, Selection(limit=10)) == sent[2:]
        assert await browse(broker, queue) == []

    async def test_by_id(self, harness: Harness) -> None:
        """Named jobs are taken out of the middle; the others keep their places (BS-08)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = ids(await park_all(harness, broker, queue, ["held"] * 6))
        meant = frozenset({sent[4], sent[1], "no such job"})
        assert await discard(broker, queue, Selection(ids=meant)) == [sent[1], sent[4]]
        assert await browse(broker, queue) == [sent[0], sent[2], sent[3], sent[5]]

    async def test_by_reason(self, harness: Harness) -> None:
        """A reason picks its jobs, with a limit if wanted (LQ-16)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        reasons = ["held", "poison", "held", "exhausted", "held"]
        sent = ids(await park_all(harness, broker, queue, reasons))
        assert await discard(broker, queue, Selection(reason="held", limit=2)) == [
            sent[0],
            sent[2],
        ]
        assert await discard(broker, queue, Selection(reason="exhausted")) == [sent[3]]
        assert await browse(broker, queue) == [sent[1], sent[4]]

    async def test_by_fingerprint_and_task(self, harness: Harness) -> None:
        """Jobs are picked by what they failed with, or by their task; those without an error are
        grouped by their reason (LQ-16).
        """
        (queue,) = await harness.queues()
        broker = await harness.open()
        names = ["E at a:f", "E at b:g", "", "E at a:f", "E at a:f"]
        sent = await park_failed(harness, broker, queue, names)
        assert await discard(broker, queue, Selection(fingerprint="E at a:f", limit=2)) == [
            sent[0],
            sent[3],
        ]
        assert await discard(broker, queue, Selection(fingerprint="held")) == [sent[2]]
        assert await discard(broker, queue, Selection(fingerprint="E at a:f", reason="x")) == []
        assert await discard(broker, queue, Selection(task=f"{queue}.none")) == []
        assert await discard(broker, queue, Selection(task=f"{queue}.test", limit=1)) == [sent[1]]
        assert await browse(broker, queue) == [sent[4]]

    async def test_in_small_batches(self, harness: Harness) -> None:
        """Whoever works slowly is handed few at a time; what it leaves keeps its place (SQ-07)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = ids(await park_all(harness, broker, queue, ["held"] * 7))
        sizes: list[int] = []
        gone: list[str] = []
        async for batch in broker.take_parked(queue, Selection(batch=2)):
            sizes.append(len(batch))
            await finish(broker, batch[:1])
            gone += ids([delivery.envelope for delivery in batch[:1]])
        assert sizes == [2, 2, 2, 1]
        assert gone == sent[::2]
        assert await browse(broker, queue) == sent[1::2]

    async def test_an_interrupted_take_loses_nothing(self, harness: Harness) -> None:
        """What was taken and not settled stays parked, in its place (BS-06, SQ-07)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = ids(await park_all(harness, broker, queue, ["held"] * 6))
        taking = broker.take_parked(queue, Selection())
        first, second, third, *_ = await anext(taking)
        assert ids([d.envelope for d in (first, second, third)]) == sent[:3]
        await send_back(broker, second)
        await close(taking)
        rest = [sent[0], *sent[2:]]

        async def all_there() -> bool:
            return await browse(broker, queue) == rest

        await eventually_async(harness, all_there, "the rest parked in order")
        assert await discard(broker, queue, Selection()) == rest

    async def test_a_killed_take_loses_nothing(self, harness: Harness) -> None:
        """The death of a releasing process leaves the rest parked, in order (promise 3)."""
        (queue,) = await harness.queues()
        victim, heir = await harness.open(), await harness.open()
        sent = ids(await park_all(harness, heir, queue, ["held"] * 6))
        taking = victim.take_parked(queue, Selection())
        first, second, *_ = await anext(taking)
        assert ids([d.envelope for d in (first, second)]) == sent[:2]
        await send_back(victim, first)
        await harness.kill(victim)
        with suppress(TaskyardError):
            await close(taking)

        async def all_there() -> bool:
            return await browse(heir, queue) == sent[1:]

        await eventually_async(harness, all_there, "the rest parked in order")
        assert await release(heir, queue, Selection()) == sent[1:]
        got = await take(harness, await heir.consume(queue, credit=10), 6)
        assert ids([d.envelope for d in got]) == sent

    async def test_a_job_can_be_parked_again(self, harness: Harness) -> None:
        """A parked job that is released and parked once more carries the new reason (LQ-14)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        await park_all(harness, broker, queue, ["held"])
        await release(broker, queue, Selection())
        consumer = await broker.consume(queue, credit=1)
        (again,) = await take(harness, consumer, 1)
        parking = Parking(reason="poison", at_ms=broker.now_ms(), detail="once more")
        await park(broker, again, parking)
        (found,) = [entry async for entry in broker.parked(queue)]
        assert content(found.envelope) == content(
            msgspec.structs.replace(again.envelope, parking=parking)
        )

    async def test_lots_are_apart(self, harness: Harness) -> None:
        """Each queue has its own parking lot."""
        (one, two) = await harness.queues(2)
        broker = await harness.open()
        first = await park_all(harness, broker, one, ["held"])
        second = await park_all(harness, broker, two, ["held"])
        assert await browse(broker, one) == ids(first)
        assert await browse(broker, two) == ids(second)

    async def test_an_empty_lot(self, harness: Harness) -> None:
        """Browsing and taking from an empty lot end at once."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        assert await browse(broker, queue) == []
        assert await discard(broker, queue, Selection()) == []

    async def test_an_unknown_lot_is_an_error(self, harness: Harness) -> None:
        """A lot that does not exist raises, naming the queue."""
        await harness.queues()
        broker = await harness.open()
        name = harness.fresh("nobody")
        with pytest.raises(UnknownQueue, match=name):
            await browse(broker, name)
        with pytest.raises(UnknownQueue, match=name):
            await discard(broker, name, Selection())
