"""The suite's room for locks: one holder, and the next one after its death."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from taskyard.shared.broker import Held, Owner
from taskyard.shared.conformance.scene import (
    Room,
    assert_in_words,
    eventually_async,
    is_refused,
)
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker, Lease
    from taskyard.shared.conformance.harness import Harness

_OWNER = Owner(host="höst", pid=4711, since_ms=1_700_000_000_000)


async def acquire(broker: Broker, name: str) -> Lease:
    """Take a lock that must be free."""
    lease = await broker.lock(name, _OWNER)
    assert not isinstance(lease, Held), f"{name} is held: {lease}"
    return lease


async def locks_refused(broker: Broker) -> bool:
    """Tell whether locks are refused, and insist that they are in words."""
    if not is_refused(broker.capabilities.lock):
        return False
    with pytest.raises(ConfigurationError) as caught:
        await broker.lock("any", _OWNER)
    assert_in_words(caught.value, broker.capabilities.lock)
    return True


class Locks(Room):
    """A lock has one holder and dies with it; it is not a fence (CR-04, CR-05)."""

    async def test_a_lock_has_one_holder(self, harness: Harness) -> None:
        """Whoever comes second learns that it is held, and by whom where that is known."""
        await harness.queues()
        one, two = await harness.open(), await harness.open()
        if await locks_refused(one):
            return
        name = harness.fresh("lock")
        lease = await acquire(one, name)
        for broker in (two, one):
            held = await broker.lock(name, Owner(host="other", pid=1, since_ms=2))
            assert isinstance(held, Held)
            assert held.owner in (_OWNER, None)
        await lease.release()

    async def test_locks_are_listed_while_they_are_held(self, harness: Harness) -> None:
        """CR-07: by name, with their owner, and gone when they are released; or refused: some
        brokers tell only with more set up.
        """
        await harness.queues()
        one, two = await harness.open(), await harness.open()
        if await locks_refused(one):
            return
        name = harness.fresh("lock")
        lease = await acquire(one, name)
        with suppress(ConfigurationError):
            held = await two.locks()
            assert held[name] == Held(owner=_OWNER)
            await lease.release()
            assert name not in await two.locks()
        await lease.release()

    async def test_a_released_lock_is_free(self, harness: Harness) -> None:
        """After `release` the next one gets it, again and again."""
        await harness.queues()
        handles = [await harness.open(), await harness.open()]
        if await locks_refused(handles[0]):
            return
        name = harness.fresh("lock")
        for turn in range(4):
            lease = await acquire(handles[turn % 2], name)
            await lease.release()

    async def test_locks_of_other_names_are_free(self, harness: Harness) -> None:
        """Names do not disturb each other, within one handle either."""
        await harness.queues()
        broker = await harness.open()
        if await locks_refused(broker):
            return
        leases = [await acquire(broker, harness.fresh("lock")) for _ in range(3)]
        for lease in leases:
            await lease.release()

    async def test_a_death_frees_the_lock(self, harness: Harness) -> None:
        """The lock of a dead process can be taken over (CR-05)."""
        await harness.queues()
        victim, heir = await harness.open(), await harness.open()
        if await locks_refused(heir):
            return
        name = harness.fresh("lock")
        await acquire(victim, name)
        assert isinstance(await heir.lock(name, _OWNER), Held)
        await harness.kill(victim)
        leases: list[Lease] = []

        async def taken() -> bool:
            got = await heir.lock(name, _OWNER)
            if isinstance(got, Held):
                await asyncio.sleep(0.4)  # polled faster, some brokers never let go
                return False
            leases.append(got)
            return True

        await eventually_async(harness, taken, "takeover after the holder's death")
        await leases[0].release()

    async def test_a_held_lock_is_not_lost(self, harness: Harness) -> None:
        """`wait_lost` waits as long as the lock can be relied on."""
        await harness.queues()
        broker = await harness.open()
        if await locks_refused(broker):
            return
        lease = await acquire(broker, harness.fresh("lock"))
        watching = asyncio.create_task(lease.wait_lost(), name="watch")
        await harness.calm()
        assert not watching.done()
        assert await lease.confirm()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await lease.release()

    async def test_closing_gives_locks_up(self, harness: Harness) -> None:
        """A handle that closes holds nothing any more, and its lease says so."""
        await harness.queues()
        one, two = await harness.open(), await harness.open()
        if await locks_refused(one):
            return
        name = harness.fresh("lock")
        lease = await acquire(one, name)
        await one.close()
        async with asyncio.timeout(harness.patience_s):
            await lease.wait_lost()
        assert not await lease.confirm()
        await (await acquire(two, name)).release()
