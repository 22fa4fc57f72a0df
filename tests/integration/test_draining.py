"""Drain mode: producers refuse what is new, and what is under way comes to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from support.amqp_site import Site
from support.eventually import eventually
from support.management import Management
from support.proxy import Proxy
from support.rabbitmq import Server
from support.responder import create_queues
from support.rig import QUEUE, Rig
from taskyard.broker_setup.intents import drain, undrain
from taskyard.producer import AsyncProducer, Producer
from taskyard.producer.drain_gate import FRESH_S
from taskyard.shared import Draining, Job, PartialSendError
from taskyard.shared.adapters.amqp.broker import AmqpBroker
from taskyard.shared.brokers import connect
from taskyard.shared.settings import Settings
from taskyard.shared.spool import connect_spool, survey

TASKS = """
from taskyard.shared import Context, Queue, RetryPolicy

default = Queue("default")


@default.task
async def leaf(ctx: Context) -> None:
    pass


@default.task(retry=RetryPolicy(attempts=3, first=1, factor=1, jitter="none"))
async def parent(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise RuntimeError("once more")
    await ctx.send(leaf.job())
"""


@pytest.fixture
def rig(broker_url, taskyard, tmp_path) -> Rig:
    return Rig(broker_url, taskyard, tmp_path)


def ok() -> Job[Any]:
    return Job(queue=QUEUE, task="ok", args={})


async def command(rig: Rig, *arguments: str, code: int = 0) -> str:
    management = rig.target.management_url
    env = rig.env(**({"TASKYARD_MANAGEMENT_URL": management} if management else {}))
    program = rig._start(*arguments, env=env, cwd=rig.folder)
    assert await program.wait_exit(within=60) == code, program.output
    assert "Traceback" not in program.output
    return program.output


async def refused(producer: AsyncProducer, make: Callable[[], Job[Any]]) -> tuple[Draining, int]:
    """Send until that is refused; return the error, and how many were sent."""
    sent = 0
    while True:
        try:
            await producer.send(make())
        except Draining as error:
            return error, sent
        sent += 1
        await asyncio.sleep(0.02)


async def test_producers_refuse_and_workers_go_on(rig):
    """BS-15: those that run refuse within two seconds, new ones at once, commands with 69; what is
    there is worked off, retries and jobs of jobs included; `off` ends it.
    """
    async with rig:
        (rig.folder / "shop.py").write_text(TASKS)
        await rig.producer.send(rig.job("parent"))
        await rig.producer.send(rig.job("leaf", delay=1.0))
        await command(rig, "drain", "on", "--reason", "upgrade at noon")
        since = time.monotonic()
        error, sent = await refused(rig.producer, lambda: rig.job("leaf"))
        assert time.monotonic() - since < FRESH_S + 1
        assert (error.reason, error.until_ms) == ("upgrade at noon", None)
        assert "@" in error.by
        assert error.since_ms <= rig.broker.now_ms()
        with Producer(rig.target.url) as sync, pytest.raises(Draining):
            sync.send(rig.job("leaf"))
        with pytest.raises(PartialSendError) as partial:
            await rig.producer.send_many(rig.job("leaf") for _ in range(1200))
        assert len(partial.value.failed) == 1200
        assert all(isinstance(each, Draining) for each in partial.value.failed.values())
        assert "upgrade at noon" in await command(rig, "send", f"{QUEUE}:leaf", code=69)
        assert "upgrade at noon" in await command(rig, "drain", "show")
        assert "taskyard drain off" in await command(rig, "doctor", code=1)  # no worker yet
        worker = await rig.worker(module="shop")

        async def all_done() -> bool:
            return await rig.ended_as(worker, "succeeded") == sent + 3

        # The delayed one, the parent's second attempt, and the leaf that this has sent.
        await eventually(all_done, within=30)
        await rig.emptied()
        assert await rig.ended_as(worker, "retried") == 1
        await command(rig, "drain", "off")
        async with AsyncProducer(rig.target.url) as fresh:
            await fresh.send(rig.job("leaf"))
        assert _counted(rig.producer) == 1201
        assert "were not kept" in await command(rig, "drain", "off", code=1)
        await command(rig, "drain", "show", code=1)


def _counted(producer: AsyncProducer) -> float:
    return producer.metrics.count("jobs_published", QUEUE, f"{QUEUE}.leaf", "draining").value


async def test_a_drain_ends_by_itself(rig):
    """BS-12, BS-15: producers that were refused send again at its end, without another command."""
    async with rig:
        await command(rig, "drain", "on", "--for", "4s")
        error, _ = await refused(rig.producer, lambda: rig.job("ok"))
        assert error.until_ms == error.since_ms + 4000

        async def sent() -> bool:
            return bool(await rig.producer.send(rig.job("ok")))

        await eventually(sent, within=10)
        assert 0 <= rig.broker.now_ms() - error.until_ms < 1000


@pytest.mark.rabbitmq
async def test_the_spool_waits_for_the_end(amqp_url: str, taskyard, tmp_path: Path) -> None:
    """BS-15: what was spooled before stays in its file, nothing new gets into it, `relay` says why
    it hands nothing over; afterwards everything arrives.
    """
    await create_queues(amqp_url, QUEUE)
    spool = f"sqlite:///{tmp_path / 'spool.db'}"
    broker = connect(amqp_url, Settings(broker_url=amqp_url).broker_options("test"))
    await broker.open()
    async with Proxy.to(amqp_url) as proxy:
        async with AsyncProducer(proxy.url(amqp_url), spool=spool) as producer:
            await producer.send(ok())
            proxy.refuse()
            await eventually(lambda: "broker_connected 0.0" in producer.metrics.expose().decode())
            assert (await producer.send(ok())).spooled
            await drain(broker, by="ann@ops", for_s=None, reason="upgrade")
            gate = producer._outlet._gate  # type: ignore[union-attr]
            await eventually(lambda: time.monotonic() >= gate.due_s)  # the last answer is too old
            proxy.resume()
            error, _ = await refused(producer, ok)
            assert error.by == "ann@ops"
            state = await _spooled(spool)
            assert state.pending >= 1
            assert (await broker.stats([QUEUE]))[QUEUE].ready == 1
        env = {"TASKYARD_BROKER_URL": amqp_url, "TASKYARD_SPOOL_URL": spool}
        relay = taskyard("relay", env=env, cwd=tmp_path)
        assert await relay.wait_exit(within=30) == 69
        assert "upgrade" in relay.output
        await undrain(broker, by="ann@ops")
        relay = taskyard("relay", env=env, cwd=tmp_path)
        assert await relay.wait_exit(within=30) == 0, relay.output
        assert (await broker.stats([QUEUE]))[QUEUE].ready == 1 + state.pending
    await broker.close()


async def _spooled(spool: str) -> Any:
    store = connect_spool(spool)
    await store.open()
    state = await survey(store)
    await store.close()
    return state


async def marks(broker: AmqpBroker) -> int:
    """Return how many marks there are at the broker."""
    names = broker.core.names
    bindings = await broker.core.management.bindings(f"{names.prefix}.")
    assert bindings is not None
    return sum(each.routing_key == names.draining for each in bindings)


@pytest.mark.rabbitmq
async def test_marks_do_not_pile_up(amqp_url: str, rabbitmq_node: Server) -> None:
    """One drain, one mark: an earlier one's goes, and that of one that has ended by itself is
    removed by the first producer that comes across it.
    """
    async with Site(amqp_url, management_url=rabbitmq_node.management_url) as site:
        broker, other = await site.set_up(QUEUE), await site.open()
        assert await marks(broker) == 0
        assert await other.draining() is None
        assert other._drain_mark is not None
        assert other._drain_mark._position is None  # no log was read for that
        for n in range(3):
            await drain(broker if n % 2 else other, by="ann", for_s=None, reason="")
            assert await marks(broker) == 1
        await undrain(other, by="ann")
        assert await marks(broker) == 0
        await drain(broker, by="ann", for_s=0.5, reason="")
        assert await marks(broker) == 1
        async with AsyncProducer(amqp_url) as producer:

            async def tidied() -> bool:
                await producer.send(ok())
                return await marks(broker) == 0

            await eventually(tidied)


@pytest.mark.rabbitmq
async def test_who_may_not_ask_sends(amqp_url: str, rabbitmq_node: Server) -> None:
    """A user who may publish jobs and nothing else is not hindered by a question that it may not
    ask, and does not ask it for each job.
    """
    management = Management(rabbitmq_node.management_url or "")
    parts = urlsplit(amqp_url)
    vhost, user = parts.path[1:], "only-jobs"
    rights = {"configure": "^$", "write": r"^taskyard\.tasks$", "read": "^$"}
    management.request("PUT", f"users/{user}", {"password": "secret", "tags": ""})
    management.request("PUT", f"permissions/{vhost}/{user}", rights)
    url = urlunsplit(parts._replace(netloc=f"{user}:secret@{parts.netloc.rpartition('@')[2]}"))
    try:
        async with Site(amqp_url, management_url=rabbitmq_node.management_url) as site:
            broker = await site.set_up(QUEUE)
            await drain(broker, by="ann", for_s=None, reason="")
            async with AsyncProducer(url) as producer:
                for n in range(3):
                    await producer.send(Job[Any](queue=QUEUE, task="ok", args={"n": n}))
                gate = producer._outlet._gate  # type: ignore[union-attr]
                gate.due_s = 0.0
                await producer.send(ok())
            assert (await broker.stats([QUEUE]))[QUEUE].ready == 4
    finally:
        management.request("DELETE", f"users/{user}")
