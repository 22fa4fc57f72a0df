"""Locks on a real RabbitMQ: one holder, gone with its process, told when it is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from support.amqp_site import Site, start
from support.eventually import eventually
from support.proxy import Proxy
from support.rabbitmq import Server
from taskyard.shared.broker import Held, Owner

pytestmark = pytest.mark.rabbitmq

ME = Owner(host="here", pid=os.getpid(), since_ms=1_700_000_000_123)
OTHER = Owner(host="there", pid=1, since_ms=1)


async def taken(broker, name: str, *, within: float):
    """Try until the lock is ours; return it."""

    async def attempt():
        lease = await broker.lock(name, OTHER)
        return None if isinstance(lease, Held) else lease

    return await eventually(attempt, within=within, every=0.4, hint="the lock taken over")


async def test_the_holder_is_known(amqp_url: str, rabbitmq_node: Server) -> None:
    """Who finds a lock taken learns by whom, where the management API can say."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site, Site(amqp_url) as blind:
        one, two, three = await site.open(), await site.open(), await blind.open()
        lease = await one.lock("singleton", ME)
        assert not isinstance(lease, Held)
        assert await two.lock("singleton", OTHER) == Held(owner=ME)
        assert await one.lock("singleton", OTHER) == Held(owner=ME)
        assert await three.lock("singleton", OTHER) == Held(owner=None)
        assert not isinstance(await two.lock("another", OTHER), Held)
        await lease.release()
        assert not isinstance(await two.lock("singleton", OTHER), Held)


async def test_a_killed_holder_is_replaced_at_once(amqp_url: str, tmp_path: Path) -> None:
    """After SIGKILL of the holder another has the lock in less than two seconds."""
    async with Site(amqp_url) as site:
        broker = await site.open()
        with start(tmp_path / "holder.log", "lock", amqp_url, "singleton") as holder:
            await holder.wait_line("locked", within=20)
            assert isinstance(await broker.lock("singleton", OTHER), Held)
            began = time.monotonic()
            holder.kill()
            lease = await taken(broker, "singleton", within=2)
            assert time.monotonic() - began < 2
            await lease.release()


@pytest.mark.parametrize("step", ["linked", "asked", "declared", "consuming"])
async def test_a_death_while_the_lock_is_taken_leaves_none(
    amqp_url: str, tmp_path: Path, step: str
) -> None:
    """SIGKILL between any two steps: another has the lock in less than two seconds."""
    async with Site(amqp_url) as site:
        broker = await site.open()
        with start(tmp_path / "dying.log", "die-locking", amqp_url, "singleton", step) as dying:
            assert await dying.wait_exit(within=20) == -signal.SIGKILL
            assert dying.lines == ["dying"], dying.output
            began = time.monotonic()
            lease = await taken(broker, "singleton", within=2)
            assert time.monotonic() - began < 2
            await lease.release()


@pytest.mark.system
@pytest.mark.slow
async def test_a_frozen_holder_loses_the_lock_and_learns_it(amqp_url: str, tmp_path: Path) -> None:
    """A suspended holder is replaced after missed heartbeats, and knows it when it wakes."""
    async with Site(amqp_url) as site:
        broker = await site.open()
        with start(tmp_path / "holder.log", "lock", amqp_url, "singleton") as holder:
            await holder.wait_line("locked", within=20)
            holder.freeze()
            await taken(broker, "singleton", within=20)
            holder.thaw()
            await holder.wait_line("lost", within=5)


async def test_a_cut_connection_is_a_lost_lock(amqp_url: str) -> None:
    """The holder is told of a cut connection at once, and of a silent one before the broker gives
    the lock away.
    """
    async with Site(amqp_url) as site, Proxy.to(amqp_url) as proxy:
        rival = await site.open()
        holder = await site.open(proxy.url(amqp_url), lock_heartbeat_s=2.0)
        lease = await holder.lock("cut", ME)
        assert not isinstance(lease, Held)
        proxy.cut()
        async with asyncio.timeout(2):
            await lease.wait_lost()
        lease = await eventually(lambda: holder.lock("silent", ME), within=10)
        assert not isinstance(lease, Held)
        proxy.stall()
        winner = asyncio.create_task(taken(rival, "silent", within=20))
        async with asyncio.timeout(5):
            await lease.wait_lost()
        assert not winner.done()
        await winner
        proxy.resume()
