"""The suite's room for the control log: ordered, durable, and without gaps for whoever follows."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from taskyard.shared.conformance.scene import (
    Room,
    assert_in_words,
    close,
    eventually,
    is_refused,
)
from taskyard.shared.control import ControlRecord
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.broker import Broker
    from taskyard.shared.conformance.harness import Harness


def intents(harness: Harness, count: int) -> list[ControlRecord]:
    """Return records whose keys are of this test only, numbered."""
    mark = harness.fresh("mark")
    return [
        ControlRecord(key=f"job:{mark}-{n}:cancel", op="cancel", by="suite", at=n + 1)
        for n in range(count)
    ]


class Follower:
    """Reads the control log and keeps the records of one test, and where it got to."""

    def __init__(self, broker: Broker, mine: list[ControlRecord]) -> None:
        """Follow with a handle; `mine` are the records to keep."""
        self._broker = broker
        self._keys = {record.key for record in mine}
        self.seen: list[ControlRecord] = []
        self.positions: list[int] = []
        self.caught_up = False

    async def run(self, after: int | None = None) -> None:
        """Follow until cancelled, or until the handle is closed."""
        following = self._broker.follow_control(after)
        try:
            async for batch in following:
                self.seen.extend(r for r in batch.records if r.key in self._keys)
                self.positions.append(batch.position)
                self.caught_up = self.caught_up or batch.caught_up
        finally:
            await close(following)

    async def until(
        self, harness: Harness, holds: Callable[[], bool], what: str, after: int | None = None
    ) -> None:
        """Follow until a condition holds."""
        task = asyncio.create_task(self.run(after), name="follower")
        try:
            await eventually(harness, lambda: holds() or task.done(), what)
            assert holds(), f"following ended before: {what}"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def log_refused(broker: Broker) -> bool:
    """Tell whether the log is refused, and insist that it is in words."""
    if not is_refused(broker.capabilities.control):
        return False
    with pytest.raises(ConfigurationError) as caught:
        await broker.append_control([ControlRecord(key="log", op="genesis")])
    assert_in_words(caught.value, broker.capabilities.control)
    with pytest.raises(ConfigurationError) as caught:
        await anext(broker.follow_control())
    assert_in_words(caught.value, broker.capabilities.control)
    return True


def saw(follower: Follower, record: ControlRecord) -> bool:
    """Tell whether the last record that a follower saw is this one."""
    return bool(follower.seen) and follower.seen[-1] == record


class ControlLog(Room):
    """An intent is durable before it is acknowledged, and nobody misses one (promise 5)."""

    async def test_a_quiet_log_is_caught_up(self, harness: Harness) -> None:
        """Following a log to which nobody writes says soon that all has been seen."""
        await harness.queues()
        broker = await harness.open()
        if await log_refused(broker):
            return
        follower = Follower(broker, [])
        await follower.until(harness, lambda: follower.caught_up, "caught up")

    async def test_records_come_in_order_and_whole(self, harness: Harness) -> None:
        """Every field of a record survives, and the order is that of writing (ZS-53, ZS-35)."""
        await harness.queues()
        writer, reader = await harness.open(), await harness.open()
        if await log_refused(writer):
            return
        mark = harness.fresh("mark")
        records = [
            ControlRecord(key=f"queue:{mark}:pause", op="pause", by="zoë@höst", at=17, expires=99),
            ControlRecord(key=f"job:{mark}:cancel", op="cancel", at=18, body={"abort": True}),
            ControlRecord(key=f"queue:{mark}:pause", op="resume", by="zoë@höst", at=19),
            ControlRecord(key=f"job:{mark}:later", op="an-operation-of-the-future", at=20),
        ]
        await writer.append_control(records[:1])
        await writer.append_control(records[1:])
        follower = Follower(reader, records)
        await follower.until(harness, lambda: follower.caught_up, "caught up")
        assert follower.seen == records

    async def test_caught_up_means_all_that_was_written(self, harness: Harness) -> None:
        """A thousand confirmed records are seen before a follower claims to have caught up."""
        await harness.queues()
        writer, reader = await harness.open(), await harness.open()
        if await log_refused(writer):
            return
        records = intents(harness, 1000)
        await writer.append_control(records)
        follower = Follower(reader, records)
        await follower.until(harness, lambda: follower.caught_up, "caught up")
        assert follower.seen == records

    async def test_what_is_written_later_comes_by_itself(self, harness: Harness) -> None:
        """Whoever has caught up gets new records as they are written (ZS-53)."""
        await harness.queues()
        writer, reader = await harness.open(), await harness.open()
        if await log_refused(writer):
            return
        records = intents(harness, 3)
        follower = Follower(reader, records)
        task = asyncio.create_task(follower.run(), name="follower")
        try:
            await eventually(harness, lambda: follower.caught_up, "caught up")
            for record in records:
                await writer.append_control([record])
                await eventually(harness, partial(saw, follower, record), "the record")
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert follower.seen == records

    async def test_following_goes_on_behind_a_position(self, harness: Harness) -> None:
        """A position that was reached is where the next follower starts, without gap or repeat."""
        await harness.queues()
        writer, reader = await harness.open(), await harness.open()
        if await log_refused(writer):
            return
        records = intents(harness, 10)
        await writer.append_control(records[:6])
        first = Follower(reader, records)
        await first.until(harness, lambda: len(first.seen) == 6 and first.caught_up, "six")
        await writer.append_control(records[6:])
        second = Follower(await harness.open(), records)
        await second.until(
            harness, lambda: len(second.seen) == 4, "the other four", after=first.positions[-1]
        )
        assert [*first.seen, *second.seen] == records
        assert sorted(set(first.positions)) == first.positions

    async def test_nobody_misses_a_record(self, harness: Harness) -> None:
        """Followers that start while another writes see every record once, in order (promise 5)."""
        await harness.queues()
        writer = await harness.open()
        if await log_refused(writer):
            return
        records = intents(harness, 200)
        followers = [Follower(await harness.open(), records) for _ in range(4)]
        tasks: list[asyncio.Task[None]] = []
        try:
            for n, record in enumerate(records):
                if n % 40 == 20 and len(tasks) < len(followers):
                    tasks.append(asyncio.create_task(followers[len(tasks)].run(), name="follow"))
                await writer.append_control([record])
            await eventually(
                harness, lambda: all(len(f.seen) >= 200 for f in followers), "all records seen"
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert all(follower.seen == records for follower in followers)
        assert all(follower.caught_up for follower in followers)

    async def test_an_intent_outlives_its_author(self, harness: Harness) -> None:
        """What was acknowledged is there after the death of its writer (promise 5, BS-12)."""
        await harness.queues()
        writer = await harness.open()
        if await log_refused(writer):
            return
        records = intents(harness, 2)
        await writer.append_control(records)
        await harness.kill(writer)
        follower = Follower(await harness.open(), records)
        await follower.until(harness, lambda: follower.caught_up, "caught up")
        assert follower.seen == records

    async def test_following_ends_with_the_handle(self, harness: Harness) -> None:
        """`close` ends the iteration of whoever follows."""
        await harness.queues()
        broker = await harness.open()
        if await log_refused(broker):
            return
        follower = Follower(broker, [])
        task = asyncio.create_task(follower.run(), name="follower")
        await eventually(harness, lambda: follower.caught_up, "caught up")
        await broker.close()
        async with asyncio.timeout(harness.patience_s):
            await task
