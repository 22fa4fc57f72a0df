"""The suite's room for draining: every producer can learn at once that nothing new is wanted."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from taskyard.shared.conformance.scene import Room, eventually_async, is_refused, jobs, publish
from taskyard.shared.control import cancel_record, drain_record, undrain_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskyard.shared.broker import Broker
    from taskyard.shared.conformance.harness import Harness


@asynccontextmanager
async def drained(harness: Harness) -> AsyncIterator[Broker]:
    """Give a handle that may write drains, and end them afterwards: brokers are shared."""
    await harness.queues()
    writer = await harness.open()
    try:
        yield writer
    finally:
        if not is_refused(writer.capabilities.control):
            last = await harness.open()
            await last.append_control([undrain_record(by="suite", at_ms=last.now_ms())])


class Draining(Room):
    """A drain is known to whoever asks from the moment on in which it is written (BS-15)."""

    async def test_who_asks_is_told(self, harness: Harness) -> None:
        """Other handles learn of it at once, with who and why, and of its end at once (BS-15)."""
        async with drained(harness) as writer:
            early = await harness.open()
            assert await early.draining() is None
            if is_refused(writer.capabilities.control):
                return
            drain = drain_record(by="zoë@höst", at_ms=writer.now_ms(), reason="upgrade")
            await writer.append_control([drain])
            late = await harness.open()
            assert [await h.draining() for h in (early, late, writer)] == [drain] * 3
            await writer.append_control([undrain_record(by="ann", at_ms=writer.now_ms())])
            assert [await h.draining() for h in (early, late, writer)] == [None] * 3

    async def test_it_ends_by_itself(self, harness: Harness) -> None:
        """After its time it is over, and the next one holds (BS-15)."""
        async with drained(harness) as writer:
            if is_refused(writer.capabilities.control):
                return
            asker = await harness.open()
            now_ms = writer.now_ms()
            short = drain_record(by="ann", at_ms=now_ms, until_ms=now_ms + 1000)
            await writer.append_control([short])
            assert await asker.draining() == short

            async def over() -> bool:
                return await asker.draining() is None

            await eventually_async(harness, over, "its end")
            assert asker.now_ms() >= now_ms + 1000
            # What an asker has tidied away of the old one must not take the new one along.
            again = drain_record(by="ann", at_ms=writer.now_ms())
            await writer.append_control([again])
            assert await asker.draining() == again
            assert await (await harness.open()).draining() == again

    async def test_the_last_one_holds(self, harness: Harness) -> None:
        """Asked for anew, and among other intents: whoever asks gets the last (BS-15)."""
        async with drained(harness) as writer:
            if is_refused(writer.capabilities.control):
                return
            asker = await harness.open()
            now_ms = writer.now_ms()
            first = drain_record(by="ann", at_ms=now_ms)
            second = drain_record(by="bob", at_ms=now_ms + 1, until_ms=now_ms + 3_600_000)
            other = cancel_record(harness.fresh("job"), by="ann", at_ms=now_ms)
            await writer.append_control([first, other])
            assert await asker.draining() == first
            await (await harness.open()).append_control([other, second, other])
            assert await asker.draining() == second
            await writer.append_control([other])
            assert await asker.draining() == second

    async def test_it_outlives_its_author(self, harness: Harness) -> None:
        """What was acknowledged holds after the death of its writer (BS-15, promise 5)."""
        async with drained(harness) as writer:
            if is_refused(writer.capabilities.control):
                return
            author = await harness.open()
            drain = drain_record(by="ann", at_ms=author.now_ms())
            await author.append_control([drain])
            await harness.kill(author)
            assert await writer.draining() == drain

    async def test_the_broker_itself_takes_jobs(self, harness: Harness) -> None:
        """A drain is for producers to honour: retries, releases and returned jobs must get in."""
        async with drained(harness) as writer:
            if is_refused(writer.capabilities.control):
                return
            (queue,) = await harness.queues()
            await writer.append_control([drain_record(by="ann", at_ms=writer.now_ms())])
            await publish(writer, *jobs(queue, 3))
